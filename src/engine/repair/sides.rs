//! Keys whose two documents differ: which, how, and writing the copies afresh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::RawDocument;

use super::mend::{Mended, mend_keys, mends};
use super::strays::key_text;
use super::{ROUNDS, RepairFate, RepairItem, Scope, Survey, Work};
use crate::cluster::{Doc, Key};
use crate::engine::ctx::{Ctx, Halt};
use crate::engine::lossy::image_over;
use crate::engine::reconcile::{Finding, owner_of, pass_naming, read};
use crate::engine::writer::SlotWriter;
use crate::plan::RepairKind;
use crate::rollout::State;
use crate::route::Side;

/// Keys whose difference is told field by field; the others are named only.
const TOLD: usize = 200;
/// Fields named of one document.
const FIELDS: usize = 3;

/// Compares both sides whole. `None` when the engine is stopping.
pub(super) async fn survey(ctx: &Arc<Ctx>, scope: &Scope<'_>, state: &State) -> Result<Option<Survey>, Halt> {
    let Some(out) = pass_naming(ctx, ROUNDS).await? else { return Ok(None) };
    let stray: BTreeSet<&str> = state.strays.iter().map(|id| key_text(id)).collect();
    let (mut keys, mut would, mut other) = (Vec::new(), Vec::new(), Vec::new());
    let (mut beside, mut told) = (0u64, BTreeMap::new());
    let taken: Vec<&(Key, Finding)> = out.found.iter().filter(|(key, _)| scope.takes(key)).collect();
    let first: Vec<Key> = taken.iter().take(TOLD).map(|(key, _)| key.clone()).collect();
    for (key, words) in tell(ctx, &first).await? {
        told.insert(key, words);
    }
    for (key, finding) in taken {
        if !mends(scope.action.kind, *finding) {
            beside += 1;
            continue;
        }
        let side = Some(owner_of(ctx, key).other());
        let what = told.remove(key).unwrap_or_else(|| finding.word().to_owned());
        let item = RepairItem { key: key.to_string(), side, what, fate: RepairFate::Would };
        if stray.contains(item.key.as_str()) {
            let what = "a stray write of it is in quarantine: `carry-stray` or `release` comes first".to_owned();
            other.push(RepairItem { what, fate: RepairFate::Person, ..item });
        } else {
            keys.push(key.clone());
            would.push(item);
        }
    }
    for name in scope.named().into_iter().filter(|n| !out.found.iter().any(|(key, _)| key.to_string() == **n)) {
        let what = "does not differ, or is on neither side; keys are written as the journal shows them".to_owned();
        let key = crate::scrub::short(name, 100);
        other.push(RepairItem { key, side: None, what, fate: RepairFate::Nothing });
    }
    let beyond = (out.missing + out.extra + out.differing).saturating_sub(out.found.len() as u64);
    let mut notes = Vec::new();
    if beyond > 0 {
        notes.push(format!("{beyond} more keys differ than are listed: repair again afterwards"));
    }
    if beside > 0 {
        notes.push(format!("{beside} other keys differ in ways that this does not mend"));
    }
    if out.in_flight > 0 {
        notes.push(format!("{} keys are being written and cannot be judged at this moment", out.in_flight));
    }
    Ok(Some(Survey { work: Work::Copies(keys), would, other, beyond, notes }))
}

/// What is wrong with each key, in a few words.
async fn tell(ctx: &Arc<Ctx>, keys: &[Key]) -> Result<Vec<(Key, String)>, Halt> {
    let mut told = Vec::with_capacity(keys.len());
    for owner in Side::BOTH {
        let owned: Vec<Key> = keys.iter().filter(|k| owner_of(ctx, k) == owner).cloned().collect();
        for part in owned.chunks(20) {
            let (own, copies) = (read(ctx, owner, part).await?, read(ctx, owner.other(), part).await?);
            for ((key, own), copy) in part.iter().zip(&own).zip(&copies) {
                told.push((key.clone(), words(ctx, owner, own.as_ref(), copy.as_ref())));
            }
        }
    }
    Ok(told)
}

fn words(ctx: &Ctx, owner: Side, own: Option<&Doc>, copy: Option<&Doc>) -> String {
    let (owner_name, other) = (owner.name(), owner.other().name());
    match (own, copy) {
        (Some(_), None) => format!("missing on {other}: written from {owner_name}'s document"),
        (None, Some(_)) => {
            format!("extra on {other}: {owner_name}, its owner, has none; removed, and kept in quarantine")
        }
        (None, None) => "on neither side by now".to_owned(),
        (Some(own), Some(copy)) => match image_over(ctx, owner, own, Some(copy)) {
            Err(why) => why,
            Ok(wanted) => {
                format!("{} on {other}: written afresh from {owner_name}'s document", difference(&wanted, copy))
            }
        },
    }
}

/// The first fields that differ.
fn difference(wanted: &RawDocument, copy: &RawDocument) -> String {
    let fields = |d: &RawDocument| d.iter().flatten().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    let same = |name: &str| wanted.get(name).ok().flatten() == copy.get(name).ok().flatten();
    let mut all = fields(wanted);
    all.extend(fields(copy).into_iter().filter(|name| wanted.get(name).ok().flatten().is_none()));
    let odd: Vec<String> = all.iter().filter(|name| !same(name)).map(|n| crate::scrub::short(n, 40)).collect();
    match odd.len() {
        0 => "the same fields in another order".to_owned(),
        n if n > FIELDS => format!("differs in {} and {} more fields", odd[..FIELDS].join(", "), n - FIELDS),
        _ => format!("differs in {}", odd.join(", ")),
    }
}

/// Writes the copies afresh. Answers what became of each, and the keys to compare again.
pub(super) async fn mend(
    ctx: &Arc<Ctx>,
    kind: RepairKind,
    keeper: &mut SlotWriter,
    keys: &[Key],
    would: Vec<RepairItem>,
) -> Result<(Vec<RepairItem>, BTreeSet<Key>), Halt> {
    let mended: BTreeMap<Key, Mended> = mend_keys(ctx, keeper, kind, keys).await?.into_iter().collect();
    let became = |key: &Key, item: RepairItem| match mended.get(key) {
        Some(Mended::Done) => RepairItem { fate: RepairFate::Done, ..item },
        Some(Mended::Equal) => RepairItem { what: "equal by now".into(), fate: RepairFate::Nothing, ..item },
        Some(Mended::Other) => {
            RepairItem { what: "differs in another way by now".into(), fate: RepairFate::Nothing, ..item }
        }
        Some(Mended::Failed(why)) => {
            RepairItem { what: crate::scrub::short(why, 300), fate: RepairFate::Person, ..item }
        }
        // Not come to: the repair is being stopped.
        Some(Mended::Changed) | None => item,
    };
    let items = keys.iter().zip(would).map(|(key, item)| became(key, item)).collect();
    Ok((items, keys.iter().cloned().collect()))
}

#[cfg(test)]
mod tests {
    use super::difference;
    use bson::rawdoc;

    #[test]
    fn a_difference_names_its_fields() {
        let wanted = rawdoc! { "_id": 1, "a": 1, "b": 2, "c": 3, "d": 4 };
        assert_eq!(difference(&wanted, &rawdoc! { "_id": 1, "a": 1, "b": 3, "c": 3, "d": 4 }), "differs in b");
        assert_eq!(difference(&wanted, &rawdoc! { "_id": 1, "x\u{202e}": 1 }).matches(',').count(), 2);
        let turned = rawdoc! { "_id": 1, "b": 2, "a": 1, "c": 3, "d": 4 };
        assert_eq!(difference(&wanted, &turned), "the same fields in another order");
    }
}
