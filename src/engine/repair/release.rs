//! What a person decides about something in quarantine, by name and with a reason: a stray is resolved as it is, or what a repair has
//! replaced or removed is put onto the owner's document, where that is as it was then.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::mend::{Mended, kept_prefix, mark, mend_keys, put};
use super::strays::{Group, Stray, Writers, key_text, load, records, resolved, with_outcome};
use super::{RepairFate, RepairItem, Scope, Survey, Work};
use crate::cluster::{Doc, Key, TxnOp};
use crate::engine::ctx::{Ctx, Halt};
use crate::engine::lossy::image_over;
use crate::engine::quarantine::quarantine_ns;
use crate::engine::reconcile::{owner_of, read};
use crate::engine::writer::{NotCommitted, SlotWriter};
use crate::plan::RepairKind;
use crate::rollout::{Event, State};
use crate::route::Side;
use crate::runtime::Micros;

/// Attempts at a key that is written all the time.
const ATTEMPTS: usize = 20;

/// Something in quarantine that was named.
pub(super) enum Named {
    /// A stray: the owner's version stands. The copy is written afresh unless another stray of the key stays open.
    Stray { key: Key, stray: Stray, last: bool },
    /// A stray that quarantine has no record of.
    Lost(String),
    /// What a repair has replaced or removed on a side.
    Kept { key: Key, side: Side, record: Doc },
}

/// Looks up each name: the `_id` of a record, or the key of open strays.
pub(super) async fn survey(ctx: &Arc<Ctx>, scope: &Scope<'_>, state: &State) -> Result<Survey, Halt> {
    let (groups, lacking) = load(ctx, state).await?;
    let (mut named, mut would, mut other) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |found: Named, item: RepairItem| {
        named.push(found);
        would.push(item);
    };
    for name in scope.named() {
        let item = |key: String, side, what: &str, fate| RepairItem { key, side, what: what.to_owned(), fate };
        let strays = of_name(&groups, name);
        let gone: Vec<&String> = lacking.iter().filter(|id| *id == name || key_text(id) == name).collect();
        let mut found = !(strays.is_empty() && gone.is_empty());
        for (key, stray) in strays {
            let what = format!("stray of {}: the owner's version stands", stray.id);
            add(
                Named::Stray { key: key.clone(), stray: stray.clone(), last: false },
                item(key.to_string(), Some(stray.side), &what, RepairFate::Would),
            );
        }
        for id in gone {
            let what = "said to be in order: a document that was refused, or a stray that quarantine has no record of";
            add(Named::Lost(id.clone()), item(crate::scrub::short(key_text(id), 100), None, what, RepairFate::Would));
        }
        let ours = name.starts_with(&kept_prefix(&ctx.plan.id));
        if ours && let Some((key, side, record)) = kept_record(ctx, name).await? {
            found = true;
            let what = format!("kept of {}: put onto {}'s document", side.name(), side.other().name());
            let shown = key.to_string();
            add(Named::Kept { key, side, record }, item(shown, Some(side.other()), &what, RepairFate::Would));
        }
        if !found {
            let what = if name.contains("/salvage/") {
                "conflicts of a salvage are resolved with `--resolve KEY=legacy|next`"
            } else {
                "neither an open stray nor a document kept by a repair"
            };
            other.push(item(crate::scrub::short(name, 120), None, what, RepairFate::Person));
        }
    }
    let ids: BTreeSet<String> = named
        .iter()
        .filter_map(|n| if let Named::Stray { stray, .. } = n { Some(stray.id.clone()) } else { None })
        .collect();
    for found in &mut named {
        if let Named::Stray { key, last, .. } = found {
            *last = groups.iter().filter(|g| g.key == *key).all(|g| g.strays.iter().all(|s| ids.contains(&s.id)));
        }
    }
    Ok(Survey { work: Work::Release(named), would, other, beyond: 0, notes: Vec::new() })
}

fn of_name<'a>(groups: &'a [Group], name: &str) -> Vec<(&'a Key, &'a Stray)> {
    let all = groups.iter().flat_map(|g| g.strays.iter().map(move |s| (&g.key, s)));
    all.filter(|(key, stray)| stray.id == name || key.to_string() == name).collect()
}

async fn kept_record(ctx: &Arc<Ctx>, id: &String) -> Result<Option<(Key, Side, Doc)>, Halt> {
    let found = records(ctx, &[id]).await?.into_iter().next().flatten();
    Ok(found.and_then(|record| {
        let key = Key::new(record.get("key").ok().flatten()?).ok()?;
        let side = Side::BOTH.into_iter().find(|s| record.get_str("side").is_ok_and(|name| name == s.name()))?;
        Some((key, side, record))
    }))
}

/// Carries out what a person decided. Answers what became of each, and the keys to compare again.
pub(super) async fn release(
    ctx: &Arc<Ctx>,
    keeper: &mut SlotWriter,
    named: &[Named],
    would: Vec<RepairItem>,
    reason: Option<&str>,
) -> Result<(Vec<RepairItem>, BTreeSet<Key>), Halt> {
    let how = format!("released: {}", reason.unwrap_or("no reason given"));
    let mut writers = Writers::new(ctx);
    let (mut items, mut keys) = (Vec::new(), BTreeSet::new());
    for (named, item) in named.iter().zip(would) {
        if ctx.is_leaving() {
            items.push(item);
            continue;
        }
        let done = match named {
            Named::Lost(id) => {
                let key = crate::scrub::short(key_text(id), 100);
                let side = id.split('/').nth(1).unwrap_or("").to_owned();
                // Of a document that was refused there is a record: refused again, it is told again.
                if let Some(record) = records(ctx, &[id]).await?.into_iter().next().flatten() {
                    let op = TxnOp::Put { ns: quarantine_ns(), doc: with_outcome(&record, &how) };
                    if let Err(why) = put(keeper, &[op]).await? {
                        let what = crate::scrub::short(&why, 300);
                        items.push(RepairItem { what, fate: RepairFate::Person, ..item });
                        continue;
                    }
                }
                ctx.record(Event::StrayResolved { key, side, kept: id.clone(), how: how.clone() }).await;
                Ok(())
            }
            Named::Stray { key, stray, last } => {
                let op = TxnOp::Put { ns: quarantine_ns(), doc: with_outcome(&stray.record, &how) };
                let stored = put(keeper, &[op]).await?;
                if stored.is_ok() {
                    resolved(ctx, key, stray, &how).await;
                }
                match (stored, last) {
                    (Ok(()), true) => {
                        keys.insert(key.clone());
                        rewrite(ctx, keeper, key, "it is resolved").await?
                    }
                    (stored, _) => stored,
                }
            }
            Named::Kept { key, side, record } => {
                keys.insert(key.clone());
                take_back(ctx, keeper, &mut writers, key, *side, record, &how).await?
            }
        };
        items.push(match done {
            Ok(()) => RepairItem { fate: RepairFate::Done, ..item },
            Err(why) => RepairItem { what: crate::scrub::short(&why, 300), fate: RepairFate::Person, ..item },
        });
    }
    Ok((items, keys))
}

/// Puts what was kept of `side` onto the owner's document, then writes the copy afresh. The inner `Err` says why it is a person's.
async fn take_back(
    ctx: &Arc<Ctx>,
    keeper: &mut SlotWriter,
    writers: &mut Writers,
    key: &Key,
    side: Side,
    record: &Doc,
    how: &str,
) -> Result<Result<(), String>, Halt> {
    let owner = side.other();
    if owner_of(ctx, key) != owner {
        return Ok(Err(format!("{} owns the key by now", side.name())));
    }
    let document = match record.get_document("document") {
        Ok(document) => document,
        Err(e) => return Ok(Err(format!("its record cannot be read: {e}"))),
    };
    let then = record.get("owner").ok().flatten().map(bson::RawBson::from);
    let mut written = false;
    for _ in 0..ATTEMPTS {
        let now = read(ctx, owner, std::slice::from_ref(key)).await?.into_iter().next().flatten();
        let wanted = match image_over(ctx, side, document, now.as_deref()) {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Err(why)),
        };
        if now.as_ref().is_some_and(|d| *d == wanted) {
            written = true;
            break;
        }
        if Some(mark(now.as_ref())) != then {
            return Ok(Err("the owner's document has changed since the repair".into()));
        }
        let ns = ctx.ns(owner);
        let ops = [
            TxnOp::Expect { ns: ns.clone(), key: key.clone(), doc: now },
            TxnOp::Put { ns: ns.clone(), doc: wanted.clone() },
        ];
        match writers.of(owner).await?.commit(&ops, None).await {
            Ok(_) => {
                written = true;
                break;
            }
            Err(NotCommitted::Halt(halt)) => return Err(halt),
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Ok(Err(format!("it is refused: {why}")));
            }
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => ctx.sleep(Micros::from_ms(20)).await,
        }
    }
    if !written {
        return Ok(Err("the owner's document is being written all the time".into()));
    }
    let op = TxnOp::Put { ns: quarantine_ns(), doc: with_outcome(record, how) };
    if let Err(why) = put(keeper, &[op]).await? {
        return Ok(Err(format!("it is put back, but its record cannot be written: {why}")));
    }
    // The tail takes what tidegate wrote itself for its own echo: the copy is written here.
    rewrite(ctx, keeper, key, "it is put back").await
}

/// Writes the copy of a key afresh. The inner `Err` says why it is a person's.
async fn rewrite(ctx: &Arc<Ctx>, keeper: &mut SlotWriter, key: &Key, done: &str) -> Result<Result<(), String>, Halt> {
    match mend_keys(ctx, keeper, RepairKind::Release, std::slice::from_ref(key)).await?.into_iter().next() {
        Some((_, Mended::Failed(why))) => Ok(Err(format!("{done}, but its copy cannot be written: {why}"))),
        _ => Ok(Ok(())),
    }
}
