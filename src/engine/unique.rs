//! Unique indexes other than `_id` (DESIGN rule 11): what must hold before anything is copied, and what is done when two documents of a
//! copy hold one value.
//!
//! On the owner's side one document gives a value up before another takes it. A tail may bring the second first: the copy refuses it
//! then, and with it the whole transaction. The key and whoever holds its values on the copy are then brought together, deleted and
//! inserted in one transaction, while no other worker of the tail writes. What is refused even so is put aside for a person.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{Document, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::ctx::{Ctx, Halt, lock};
use super::lossy::{self, Wanted};
use super::quarantine;
use super::refusal::Refusal;
use super::resync::fresh;
use super::tasks::index_list;
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{AdminDone, AdminOp, Doc, Held, IndexSpec, Key, TxnOp};
use crate::plan::{PilotLevel, Plan};
use crate::route::{Side, bucket_of};
use crate::runtime::Micros;
use crate::transform::Transform;

/// Aborted transactions after which a group is given up.
const ABORTS: u32 = 60;
/// The most documents of a group.
pub(super) const GROUP: usize = 64;
/// Attempts at a group that is refused again, before its first key is put aside. Others move on meanwhile.
const ATTEMPTS: u64 = 8;
/// How often a key that was put aside is tried again.
const AGAIN: Micros = Micros::from_secs(10);

/// Keys whose copy could not be written, by the side that owns them, and when each is tried again.
#[derive(Default)]
pub(super) struct Aside([std::sync::Mutex<BTreeMap<Key, Micros>>; 2]);

impl Aside {
    /// How many keys of a side have no right copy.
    pub(super) fn count(&self, src: Side) -> usize {
        lock(&self.0[src as usize]).len()
    }

    /// True for a key that has no right copy.
    pub(super) fn has(&self, src: Side, key: &Key) -> bool {
        lock(&self.0[src as usize]).contains_key(key)
    }

    /// Those that are due now; the next time is some while from here.
    pub(super) fn due(&self, src: Side, now: Micros, mine: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut all = lock(&self.0[src as usize]);
        let due: Vec<Key> = all.iter().filter(|(k, at)| **at <= now && mine(k)).map(|(k, _)| k.clone()).collect();
        all.extend(due.iter().map(|k| (k.clone(), now + AGAIN)));
        due
    }

    /// These have been written, but for those of which nobody can say what they should be.
    pub(super) fn written(&self, src: Side, keys: &[Key], unclear: &[Key]) {
        let mut all = lock(&self.0[src as usize]);
        if !all.is_empty() {
            all.retain(|k, _| !keys.contains(k) || unclear.contains(k));
        }
    }
}

/// What an earlier runner has put aside is tried again at once; what is in order by then is written like any other key.
pub(super) async fn remember(ctx: &Arc<Ctx>, src: Side) -> Result<(), Halt> {
    if ctx.in_place.is_none() {
        let keys = quarantine::left(ctx, src).await?;
        lock(&ctx.aside.0[src as usize]).extend(keys.into_iter().map(|k| (k, ctx.rt.now())));
    }
    Ok(())
}

fn others(list: Vec<IndexSpec>) -> Vec<IndexSpec> {
    list.into_iter().filter(|i| i.unique && i.name != "_id_").collect()
}

fn name(index: &IndexSpec) -> String {
    crate::scrub::short(&index.name, 60)
}

/// Looks whether next will refuse what legacy refuses, before anything is made.
pub(super) async fn check(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    let on_legacy = index_list(ctx, Side::Legacy).await?;
    let on_next = index_list(ctx, Side::Next).await?;
    match refusal(&ctx.plan, &ctx.transform, &on_legacy, &on_next) {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// Why next could not refuse what the unique indexes of legacy refuse; `None` when it can. Each needs one on next over the same values,
/// and all writes must move in one step.
pub(crate) fn refusal(plan: &Plan, t: &Transform, legacy: &[IndexSpec], next: &[IndexSpec]) -> Option<Refusal> {
    let collection = plan.collections.first()?;
    let on_legacy = others(legacy.to_vec());
    let refuse = |index: &IndexSpec, why: String| {
        Some(Refusal::Unique { ns: collection.legacy.clone(), index: name(index), why })
    };
    let first = on_legacy.first()?;
    if let Some(stage) = plan.stages.iter().find(|s| !matches!(s.writes, 0 | 100) || s.pilot == PilotLevel::Writes) {
        let why = format!(
            ", and stage `{}` moves only some of the writes: no server sees both halves, so two documents could take one value; move writes \
             from 0 to 100 in one stage",
            stage.id
        );
        return refuse(first, why);
    }
    for index in &on_legacy {
        let wanted = match wanted(t, index) {
            Ok(wanted) => wanted,
            Err(why) => return refuse(index, why.to_owned()),
        };
        let same = |i: &IndexSpec| {
            i.unique && !i.is_narrow() && i.keys.len() == wanted.len() && wanted.iter().all(|f| i.keys.contains_key(f))
        };
        if !collection.indexes.iter().chain(next).any(same) {
            let keys: Vec<String> = wanted.iter().map(|f| format!("\"{}\" = 1", crate::scrub::short(f, 60))).collect();
            let why = format!(
                " and {} has none like it: what next accepts would not fit back; add to `indexes`: {{ keys = {{ {} }}, name = \"{}\", \
                 unique = true }}",
                collection.next,
                keys.join(", "),
                name(index)
            );
            return refuse(index, why);
        }
    }
    None
}

/// The fields that a unique index of next must have for one of legacy.
fn wanted(t: &Transform, index: &IndexSpec) -> Result<Vec<String>, &'static str> {
    if index.is_narrow() {
        return Err(
            ", which is sparse, partial or has a collation: what it refuses cannot be told from its fields, so next cannot be made to \
             refuse the same",
        );
    }
    let field = |path: &String| match path.split('.').next() {
        Some("_id") => Some(path.clone()),
        _ => t.carried(path),
    };
    let all: Option<Vec<String>> = index.keys.keys().map(field).collect();
    all.ok_or(
        ", which is over a field that a step changes: which values are equal on next is not known; only fields that stay as they are, \
         or are renamed, can be carried",
    )
}

/// What became of a group.
pub(super) enum Group {
    /// So many documents were written.
    Done(usize),
    /// Refused again and again: fewer keys may pass.
    Refused,
    /// The one key was put aside; its checkpoint is not stored yet.
    Aside,
}

/// What became of one attempt.
enum Attempt {
    Done(usize),
    Duplicate(String),
    /// Nothing was learnt.
    Again,
    /// Not a group that this worker may write, and why.
    Not(String),
}

/// Brings keys whose values others hold on the copy, together with those others.
pub(super) async fn carry_group(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    keys: &[Key],
    checkpoint: Option<&RawDocumentBuf>,
) -> Result<Group, Halt> {
    let mut why = String::new();
    let attempts = if keys.len() > 1 { 2 } else { ATTEMPTS };
    let (mut refused, mut aborted) = (0, 0);
    while refused < attempts {
        let attempt = {
            // Nobody else of this tail is between its read and its commit.
            let _alone = ctx.together[src as usize].write().await;
            attempt(ctx, writer, src, keys, checkpoint).await?
        };
        match attempt {
            Attempt::Done(n) => return Ok(Group::Done(n)),
            Attempt::Again if aborted >= ABORTS && keys.len() > 1 => return Ok(Group::Refused),
            Attempt::Again if aborted >= ABORTS => {
                return Err(Halt::Broken(format!(
                    "{} and the documents of {} that hold its unique values cannot be written together: every transaction was aborted",
                    keys.first().map(ToString::to_string).unwrap_or_default(),
                    ctx.ns(src.other())
                )));
            }
            Attempt::Again => aborted += 1,
            Attempt::Duplicate(m) => (refused, why) = (refused + 1, m),
            Attempt::Not(m) => (refused, why) = (attempts, m),
        }
        ctx.sleep(Micros::from_ms(20 * (refused + 1))).await;
    }
    let [key] = keys else { return Ok(Group::Refused) };
    let why = format!("another document of {} holds a value that must be unique: {why}", ctx.ns(src.other()));
    put_aside(ctx, src, key, &why).await?;
    Ok(Group::Aside)
}

/// An owner's document that its copy cannot have: listed for a person, and tried again now and then.
pub(super) async fn put_aside(ctx: &Arc<Ctx>, src: Side, key: &Key, why: &str) -> Result<(), Halt> {
    lock(&ctx.aside.0[src as usize]).insert(key.clone(), ctx.rt.now() + AGAIN);
    quarantine::leave(ctx, src, key, &crate::scrub::short(why, 300)).await
}

async fn attempt(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    first: &[Key],
    checkpoint: Option<&RawDocumentBuf>,
) -> Result<Attempt, Halt> {
    let dst = src.other();
    let indexes = others(index_list(ctx, dst).await?);
    let mut group: BTreeSet<Key> = first.iter().cloned().collect();
    loop {
        let keys: Vec<Key> = group.iter().cloned().collect();
        let made = made_up(ctx, src, &keys).await?;
        let before = group.len();
        for holder in holders(ctx, dst, &indexes, &made.new).await? {
            let owner = bucket_of(&holder).map(|b| ctx.ownership.owner_now(&holder, b));
            if owner != Ok(src) {
                return Ok(Attempt::Not(format!("{holder} is not owned by {}", src.name())));
            }
            group.insert(holder);
        }
        if group.len() > GROUP {
            return Ok(Attempt::Not(format!("more than {GROUP} documents are in each other's way")));
        }
        if group.len() > before {
            continue;
        }
        let written = made.new.len().max(made.gone.len());
        let ns = ctx.ns(dst).clone();
        let mut ops = lossy::keep(ctx, &made.kept).await?;
        if !made.gone.is_empty() {
            ops.push(TxnOp::Delete { ns: ns.clone(), keys: made.gone });
        }
        if !made.new.is_empty() {
            ops.push(TxnOp::Insert { ns, docs: made.new });
        }
        return match writer.commit(&ops, checkpoint.cloned()).await {
            Ok(_) => {
                ctx.aside.written(src, &keys, &made.unclear);
                Ok(Attempt::Done(written))
            }
            Err(NotCommitted::Duplicate(m)) => Ok(Attempt::Duplicate(m)),
            Err(NotCommitted::Refused(m)) => Ok(Attempt::Not(m)),
            Err(NotCommitted::Aborted(_) | NotCommitted::Again) => Ok(Attempt::Again),
            Err(NotCommitted::Halt(h)) => Err(h),
        };
    }
}

/// A group's transaction in the making: what differs is deleted and inserted.
#[derive(Default)]
struct Made {
    gone: Vec<Key>,
    new: Vec<RawDocumentBuf>,
    /// What legacy has of them, where that must be kept.
    kept: Vec<(Key, Option<Doc>)>,
    unclear: Vec<Key>,
}

async fn made_up(ctx: &Arc<Ctx>, src: Side, keys: &[Key]) -> Result<Made, Halt> {
    let (owned, copies) = fresh(ctx, src, keys).await?;
    let mut made = Made::default();
    for ((key, own), copy) in keys.iter().zip(owned).zip(copies) {
        match own {
            None if copy.is_none() => continue,
            None => {}
            Some(own) => match lossy::wanted(ctx, src, &own, copy.as_deref()) {
                Wanted::Same => continue,
                Wanted::Write(doc) => made.new.push(doc),
                Wanted::Unclear(why) => {
                    lossy::unclear(ctx, src, key, &why).await?;
                    made.unclear.push(key.clone());
                    continue;
                }
            },
        }
        if copy.is_some() {
            made.gone.push(key.clone());
        }
        if lossy::applies(ctx, src) {
            made.kept.push((key.clone(), copy));
        }
    }
    Ok(made)
}

/// Who holds a value of these documents on the copy, by any of the indexes.
async fn holders(
    ctx: &Arc<Ctx>,
    dst: Side,
    indexes: &[IndexSpec],
    images: &[RawDocumentBuf],
) -> Result<Vec<Key>, Halt> {
    let values = |i: &IndexSpec| images.iter().filter_map(|d| values_of(&i.keys, d, i.is_narrow())).collect::<Vec<_>>();
    let any: Vec<Held> = indexes.iter().flat_map(values).collect();
    if any.is_empty() {
        return Ok(Vec::new());
    }
    let op = AdminOp::Holders { ns: ctx.ns(dst).clone(), any };
    match ctx.admin(dst, "looking for who holds a value", op).await? {
        AdminDone::Keys(keys) => Ok(keys),
        _ => Err(Halt::Broken("the cluster answered Holders with something else".into())),
    }
}

/// The values under which an index files a document. `None` for one that a narrow index need not file at all.
fn values_of(keys: &Document, doc: &RawDocument, narrow: bool) -> Option<Held> {
    let values = |path: &String| {
        let mut found = Vec::new();
        collect(RawBsonRef::Document(doc), path, &mut found);
        match (found.is_empty(), narrow) {
            (true, true) => return None,
            (true, false) => found.push(RawBson::Null),
            (false, _) => {}
        }
        Some((path.clone(), found))
    };
    keys.keys().map(values).collect()
}

/// What stands at a path, through arrays too; of an array at its end each element and the array itself.
fn collect(at: RawBsonRef<'_>, path: &str, out: &mut Vec<RawBson>) {
    match at {
        RawBsonRef::Array(a) => {
            a.into_iter().flatten().for_each(|v| collect(v, path, out));
            if path.is_empty() {
                out.push(RawBson::from(at));
            }
        }
        _ if path.is_empty() => out.push(RawBson::from(at)),
        RawBsonRef::Document(d) => {
            let (head, rest) = path.split_once('.').unwrap_or((path, ""));
            if let Ok(Some(v)) = d.get(head) {
                collect(v, rest, out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{doc, rawdoc};

    #[test]
    fn the_values_of_a_document_are_those_an_index_files_it_under() {
        let d = rawdoc! { "_id": 1, "a": { "b": 5 }, "t": ["x", "y"], "items": [{ "sku": 1 }, { "sku": 2 }] };
        let one = |path: &str| values_of(&doc! { path: 1 }, &d, false).unwrap().remove(0).1;
        assert_eq!(one("a.b"), [RawBson::Int32(5)]);
        assert_eq!(one("none"), [RawBson::Null]);
        assert_eq!(one("t").len(), 3);
        assert_eq!(one("items.sku"), [RawBson::Int32(1), RawBson::Int32(2)]);
        assert!(values_of(&doc! { "none": 1 }, &d, true).is_none());
    }
}
