//! Strays: what was written on a side that does not own the key is put onto the owner's document, by comparing with what was there
//! when the stray was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};

use super::carry::{Carry, Seen, judge};
use super::mend::{Mended, mend_keys, put};
use super::{RepairFate, RepairItem, Scope, Survey, Work};
use crate::cluster::{ClusterTime, Doc, Key, TxnOp};
use crate::engine::ctx::{Ctx, Halt};
use crate::engine::lossy::image_over;
use crate::engine::quarantine::quarantine_ns;
use crate::engine::reconcile::{compare, owner_of, pass_markers, read};
use crate::engine::writer::{NotCommitted, SlotWriter};
use crate::plan::RepairKind;
use crate::rollout::{Event, State};
use crate::route::Side;
use crate::runtime::Micros;

/// Attempts at a key that is written all the time.
const ATTEMPTS: usize = 20;
/// What became of a stray that is on the owner's document.
const CARRIED: &str = "carried onto the owner's document";
/// Records read together; each may hold two large documents.
const TOGETHER: usize = 20;

/// One stray as its record has it.
#[derive(Clone)]
pub(super) struct Stray {
    pub id: String,
    pub side: Side,
    pub record: Doc,
    at: ClusterTime,
    /// What became of it, should a repair have been cut off before that was told.
    outcome: Option<String>,
}

/// The open strays of one key on one side, in the order in which they were written.
pub(super) struct Group {
    pub key: Key,
    pub side: Side,
    pub strays: Vec<Stray>,
    /// What became of all of them, should a repair have been cut off before that was told.
    outcome: Option<String>,
}

/// The key in the `_id` of a stray's record: `<plan>/<side>/<time>/<key>`.
pub(super) fn key_text(id: &str) -> &str {
    id.splitn(4, '/').nth(3).unwrap_or(id)
}

/// The open strays that quarantine has, by key and side, and the `_id`s that it has not.
pub(super) async fn load(ctx: &Arc<Ctx>, state: &State) -> Result<(Vec<Group>, Vec<String>), Halt> {
    let mut groups: BTreeMap<(Key, Side, Option<String>), Vec<Stray>> = BTreeMap::new();
    let mut lacking = Vec::new();
    let ids: Vec<&String> = state.strays.iter().collect();
    for part in ids.chunks(TOGETHER) {
        for (id, record) in part.iter().zip(records(ctx, part).await?) {
            match record.and_then(|r| stray(id, r)) {
                Some((key, stray)) => {
                    groups.entry((key, stray.side, stray.outcome.clone())).or_default().push(stray);
                }
                None => lacking.push((*id).clone()),
            }
        }
    }
    let mut all = Vec::with_capacity(groups.len());
    for ((key, side, outcome), mut strays) in groups {
        strays.sort_by_key(|s| s.at);
        all.push(Group { key, side, strays, outcome });
    }
    Ok((all, lacking))
}

pub(super) async fn records(ctx: &Arc<Ctx>, ids: &[&String]) -> Result<Vec<Option<Doc>>, Halt> {
    let (ns, keys) = (quarantine_ns(), ids.iter().map(|id| Key::from(id.as_str())).collect::<Vec<_>>());
    let after = ctx.seen(Side::Legacy);
    let found = ctx.insist("reading the quarantine", || ctx.db(Side::Legacy).read(&ns, &keys, after)).await?;
    Ok(found.docs)
}

fn stray(id: &str, record: Doc) -> Option<(Key, Stray)> {
    let key = Key::new(record.get("key").ok().flatten()?).ok()?;
    let side = Side::BOTH.into_iter().find(|s| record.get_str("side").is_ok_and(|name| name == s.name()))?;
    let at = record.get_timestamp("at").ok()?.into();
    let outcome = record.get_str("outcome").ok().map(str::to_owned);
    Some((key, Stray { id: id.to_owned(), side, at, outcome, record }))
}

fn kept(record: &Doc, side: Side) -> Option<Doc> {
    record.get_document(side.name()).ok().map(Doc::from)
}

/// Judges the open strays. `None` when the engine is stopping.
pub(super) async fn survey(ctx: &Arc<Ctx>, scope: &Scope<'_>, state: &State) -> Result<Option<Survey>, Halt> {
    // What the owner wrote before is on the copy by then.
    if pass_markers(ctx).await?.is_none() {
        return Ok(None);
    }
    let (all, lacking) = load(ctx, state).await?;
    let (mut groups, mut would, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for group in all.into_iter().filter(|g| scope.takes(&g.key)) {
        let (owner_now, stray_now) = both(ctx, &group).await?;
        let verdict = verdict(ctx, &group, owner_now.as_ref(), stray_now.as_ref());
        let item =
            |what: String, fate| RepairItem { key: group.key.to_string(), side: Some(group.side.other()), what, fate };
        match verdict {
            Carry::Person(why) => other.push(item(why, RepairFate::Person)),
            verdict => {
                would.push(item(words(&group, &verdict), RepairFate::Would));
                groups.push(group);
            }
        }
    }
    for id in lacking.iter().filter(|id| scope.names(key_text(id))) {
        let what = format!(
            "{} is no write that could be carried: a document that is refused, or a record gone from tidegate.quarantine; once it is in order, \
             `release` says that it is resolved",
            crate::scrub::short(id, 120)
        );
        other.push(RepairItem {
            key: crate::scrub::short(key_text(id), 100),
            side: None,
            what,
            fate: RepairFate::Person,
        });
    }
    let known: BTreeSet<&str> = state.strays.iter().map(|id| key_text(id)).collect();
    for name in scope.named().into_iter().filter(|n| !known.contains(n.as_str())) {
        let what = "no open stray of this rollout".to_owned();
        let key = crate::scrub::short(name, 100);
        other.push(RepairItem { key, side: None, what, fate: RepairFate::Nothing });
    }
    Ok(Some(Survey { work: Work::Strays(groups), would, other, beyond: 0, notes: Vec::new() }))
}

fn words(group: &Group, verdict: &Carry) -> String {
    let (stray, owner) = (group.side.name(), group.side.other().name());
    let what = match verdict {
        Carry::Already => format!("{owner}'s document says the same already"),
        Carry::Write(_) => format!("written on {stray}, carried onto {owner}'s document"),
        Carry::Delete => format!("deleted on {stray}, deleted on {owner} too"),
        Carry::Person(why) => why.clone(),
    };
    match group.strays.len() {
        1 => what,
        n => format!("{what} ({n} stray writes, the last one stands)"),
    }
}

/// What the owner and the stray's side hold now.
async fn both(ctx: &Arc<Ctx>, group: &Group) -> Result<(Option<Doc>, Option<Doc>), Halt> {
    let key = std::slice::from_ref(&group.key);
    let owner = read(ctx, group.side.other(), key).await?.into_iter().next().flatten();
    let stray = read(ctx, group.side, key).await?.into_iter().next().flatten();
    Ok((owner, stray))
}

fn verdict(ctx: &Ctx, group: &Group, owner_now: Option<&Doc>, stray_now: Option<&Doc>) -> Carry {
    let owner = group.side.other();
    if group.outcome.is_some() {
        return Carry::Already;
    }
    if owner_of(ctx, &group.key) != owner {
        return Carry::Person(format!("{} owns the key by now: what it wrote there stands", group.side.name()));
    }
    let docs: Vec<(Option<Doc>, Option<Doc>, bool)> = group
        .strays
        .iter()
        .map(|s| {
            (kept(&s.record, owner), kept(&s.record, s.side), s.record.get_str("event").is_ok_and(|e| e == "delete"))
        })
        .collect();
    let seen: Vec<Seen<'_>> = docs
        .iter()
        .map(|(own, stray, deleted)| {
            let (own, stray) = (own.as_deref(), stray.as_deref());
            let (legacy, next) = if owner == Side::Legacy { (own, stray) } else { (stray, own) };
            let agreed = compare(ctx, owner, legacy, next).is_equal();
            Seen { owner: own, stray, deleted: *deleted, agreed }
        })
        .collect();
    let last = docs.last().and_then(|(_, stray, _)| stray.as_ref());
    let wanted = last.map(|doc| image_over(ctx, group.side, doc, owner_now.map(|d| &**d))).transpose();
    judge(&seen, wanted, owner_now.map(|d| &**d), stray_now.map(|d| &**d))
}

/// Carries each group over, writes the copies afresh and tells that the strays are resolved. Answers what became of each, and the keys to
/// compare again.
pub(super) async fn carry(
    ctx: &Arc<Ctx>,
    keeper: &mut SlotWriter,
    groups: Vec<Group>,
    would: Vec<RepairItem>,
) -> Result<(Vec<RepairItem>, BTreeSet<Key>), Halt> {
    let mut writers = Writers::new(ctx);
    let (mut items, mut keys) = (Vec::new(), BTreeSet::new());
    for (group, item) in groups.into_iter().zip(would) {
        if ctx.is_leaving() {
            items.push(item);
            continue;
        }
        let done = carry_one(ctx, keeper, &mut writers, &group).await?;
        keys.insert(group.key.clone());
        items.push(match done {
            Err(why) => RepairItem { what: crate::scrub::short(&why, 300), fate: RepairFate::Person, ..item },
            Ok(how) => {
                for stray in &group.strays {
                    resolved(ctx, &group.key, stray, &how).await;
                }
                RepairItem { fate: RepairFate::Done, ..item }
            }
        });
    }
    Ok((items, keys))
}

/// Tells that a stray is resolved.
pub(super) async fn resolved(ctx: &Ctx, key: &Key, stray: &Stray, how: &str) {
    let (side, kept) = (stray.side.name().to_owned(), stray.id.clone());
    ctx.record(Event::StrayResolved { key: key.to_string(), side, kept, how: how.to_owned() }).await;
}

/// The slots that owners' documents are written through.
pub(super) struct Writers {
    ctx: Arc<Ctx>,
    open: [Option<SlotWriter>; 2],
}

impl Writers {
    pub(super) fn new(ctx: &Arc<Ctx>) -> Writers {
        Writers { ctx: ctx.clone(), open: [None, None] }
    }

    pub(super) async fn of(&mut self, side: Side) -> Result<&mut SlotWriter, Halt> {
        let slot = &mut self.open[side as usize];
        if slot.is_none() {
            *slot = Some(SlotWriter::open(&self.ctx, side, &format!("repair-{}", side.name())).await?);
        }
        slot.as_mut().ok_or_else(|| Halt::Broken("a slot that was just opened is gone".into()))
    }
}

/// The inner `Err` says why it is a person's.
async fn carry_one(
    ctx: &Arc<Ctx>,
    keeper: &mut SlotWriter,
    writers: &mut Writers,
    group: &Group,
) -> Result<Result<String, String>, Halt> {
    let owner = group.side.other();
    let mark = |s: &Stray| TxnOp::Put { ns: quarantine_ns(), doc: with_outcome(&s.record, CARRIED) };
    let marked: Vec<TxnOp> = if group.outcome.is_none() { group.strays.iter().map(mark).collect() } else { Vec::new() };
    let mut marks = marked.clone();
    let mut settled = None;
    for _ in 0..ATTEMPTS {
        let (owner_now, stray_now) = both(ctx, group).await?;
        let verdict = verdict(ctx, group, owner_now.as_ref(), stray_now.as_ref());
        let ns = ctx.ns(owner);
        let op = match &verdict {
            Carry::Person(why) => return Ok(Err(why.clone())),
            Carry::Already => {
                settled = Some(group.outcome.as_deref().unwrap_or("the owner's document said the same"));
                break;
            }
            Carry::Write(doc) => TxnOp::Put { ns: ns.clone(), doc: doc.clone() },
            Carry::Delete => TxnOp::Delete { ns: ns.clone(), keys: vec![group.key.clone()] },
        };
        let mut ops = vec![TxnOp::Expect { ns: ns.clone(), key: group.key.clone(), doc: owner_now }, op];
        let together = owner == Side::Legacy || ctx.one_cluster;
        if together {
            ops.extend(marked.iter().cloned());
        }
        match writers.of(owner).await?.commit(&ops, None).await {
            Ok(_) => {
                settled = Some(CARRIED);
                if together {
                    marks.clear();
                }
                break;
            }
            Err(NotCommitted::Halt(halt)) => return Err(halt),
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Ok(Err(format!("it is refused: {why}")));
            }
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => ctx.sleep(Micros::from_ms(20)).await,
        }
    }
    let Some(how) = settled else { return Ok(Err("the owner's document is being written all the time".into())) };
    if let Err(why) = put(keeper, &marks).await? {
        return Ok(Err(format!("it is carried, but its record cannot be written: {why}")));
    }
    // The tail takes what tidegate wrote itself for its own echo: the copy is written here.
    let mended = mend_keys(ctx, keeper, RepairKind::CarryStray, std::slice::from_ref(&group.key)).await?;
    match mended.into_iter().next() {
        Some((_, Mended::Failed(why))) => Ok(Err(format!("it is carried, but its copy cannot be written: {why}"))),
        Some(_) => Ok(Ok(how.to_owned())),
        None => Ok(Err("it is carried; the repair was stopped before its copy was looked at".into())),
    }
}

/// The record with what became of it.
pub(super) fn with_outcome(record: &Doc, outcome: &str) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    for (name, value) in record.iter().flatten() {
        if name.as_str() != "outcome" {
            d.append(name, RawBson::from(value));
        }
    }
    d.append(bson::cstr!("outcome"), outcome);
    d
}
