//! What was left behind on next, once it answers again (DESIGN rule 12): every key changed there is kept in quarantine first, then
//! carried to legacy where no application has written it since the flip. The others are conflicts, and a person's.
//!
//! Nothing here writes on next but the validator that refuses everybody else. Each step may be begun again: a key's record says what
//! became of it, and is written in the same transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{RawBson, RawDocument, RawDocumentBuf, Timestamp};
use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::cutover::Held;
use super::planted::Bug;
use super::reconcile::{Cursor, compare, pair};
use super::resync::image;
use super::strand::{self, await_fenced};
use super::tasks::{all_follow, seal};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{CONTROL_DB, ChangeKind, ClusterTime, Doc, Failed, Key, Ns, Reason, StreamPos, TxnOp};
use crate::rollout::{Event, Sealed};
use crate::route::{Bucket, Side, bucket_of};
use crate::runtime::Micros;

/// Keys looked at together.
const PART: usize = 100;
/// Bytes copied to quarantine in one transaction, unless a single document has more.
const BYTES: usize = 4 << 20;
/// Attempts at one key that applications keep writing.
const ATTEMPTS: usize = 50;
/// Conflicts named where there is no room for all of them.
const NAMED: usize = 5;

fn quarantine_ns() -> Ns {
    Ns::new(CONTROL_DB, "quarantine")
}

/// What is to become of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Legacy says the same already.
    Equal,
    /// Legacy gets next's version.
    Write(RawDocumentBuf),
    /// Legacy gets rid of it, as next did.
    Delete,
    /// Both sides have moved on: a person decides.
    Conflict,
}

/// Judges one key: `wanted` is next's version in legacy's shape (`Err` when it has none there), `legacy` what legacy holds, and
/// `touched` whether an application may have written it on legacy since the flip.
pub(super) fn judge(wanted: Result<Option<RawDocumentBuf>, ()>, legacy: Option<&RawDocument>, touched: bool) -> Verdict {
    let Ok(wanted) = wanted else { return Verdict::Conflict };
    match (wanted, legacy) {
        (None, None) => Verdict::Equal,
        (Some(w), Some(l)) if w.as_bytes() == l.as_bytes() => Verdict::Equal,
        _ if touched => Verdict::Conflict,
        (Some(w), _) => Verdict::Write(w),
        (None, Some(_)) => Verdict::Delete,
    }
}

/// The task. `None` when it is left.
pub(super) async fn salvage(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let Some(sealed) = ctx.strand.sealed() else {
        return Ok(Some(json!({ "text": "nothing was left behind" })));
    };
    if ctx.planted.has(Bug::SalvageSkipped) {
        return Ok(Some(json!({ "text": "salvaged" })));
    }
    while strand::silence(ctx).is_some() {
        if ctx.is_leaving() {
            return Ok(None);
        }
        held(format!("salvage outstanding: {}", silent_words(ctx)));
        ctx.sleep(Micros::from_ms(500)).await;
    }
    await_fenced(ctx, Side::Next).await?;
    // Whoever had a write under way on next when it fell silent learns now what became of it; after that nobody writes there.
    if !all_follow(ctx, held).await? {
        return Ok(None);
    }
    seal(ctx, Side::Next).await?;
    let (keys, how) = changed(ctx, &sealed).await?;
    let keys: Vec<Key> = keys.into_iter().collect();
    if ctx.is_leaving() {
        return Ok(None);
    }
    let mut writer = SlotWriter::open(ctx, Side::Legacy, "salvage").await?;
    keep(ctx, &mut writer, &keys).await?;
    let flip = ClusterTime { secs: sealed.flip.0, inc: sealed.flip.1 };
    let mut touched = Touched::new(flip);
    let mut counts = Counts::default();
    let mut rest = &keys[..];
    while !rest.is_empty() {
        if ctx.is_leaving() {
            return Ok(None);
        }
        let (part, after) = rest.split_at(writer.batch(rest.len().min(PART)));
        if carry(ctx, &mut writer, part, &mut touched, &mut counts).await? {
            writer.went_well();
            rest = after;
        } else if part.len() > 1 {
            writer.halve();
        } else {
            counts.attempts += 1;
            if counts.attempts > ATTEMPTS {
                return Err(Halt::Broken(format!("{} cannot be salvaged to legacy: every attempt was aborted", part[0])));
            }
            continue;
        }
        counts.attempts = 0;
        *lock(&ctx.strand.progress) = Some(((keys.len() - rest.len()) as u64, keys.len() as u64));
    }
    let compared = compare_sides(ctx, sealed.below, &mut touched).await?;
    Ok(Some(counts.evidence(keys.len(), how, compared)))
}

fn silent_words(ctx: &Ctx) -> String {
    match strand::silence(ctx) {
        Some(t) => format!("next has not answered for {}s", t.0 / 1_000_000),
        None => "next answers".to_owned(),
    }
}

/// What became of the keys so far.
#[derive(Default)]
struct Counts {
    carried: u64,
    deleted: u64,
    equal: u64,
    conflicts: u64,
    attempts: usize,
}

impl Counts {
    fn evidence(&self, changed: usize, how: &str, compared: Result<u64, String>) -> Value {
        let carried = self.carried + self.deleted;
        let conflicts = match self.conflicts {
            0 => "no conflict".to_owned(),
            1 => "1 conflict for a person".to_owned(),
            n => format!("{n} conflicts for a person"),
        };
        json!({
            "text": format!("salvaged {changed} keys changed on next: {carried} carried to legacy, {} equal, {conflicts}", self.equal),
            "found_by": how,
            "changed": changed,
            "carried": carried,
            "deleted": self.deleted,
            "equal": self.equal,
            "conflicts": self.conflicts,
            "compared": compared.as_ref().ok(),
            "not_compared": compared.as_ref().err(),
        })
    }
}

/// Every key changed on next since the last that legacy has, by next's change stream; by comparing everything when it no longer
/// reaches back so far. And by which of the two.
async fn changed(ctx: &Arc<Ctx>, sealed: &Sealed) -> Result<(BTreeSet<Key>, &'static str), Halt> {
    let end = ctx.marker(Side::Next).await?;
    let through = ClusterTime { secs: sealed.through.0, inc: sealed.through.1 };
    let mut keys = BTreeSet::new();
    let mut strays = Vec::new();
    let mut pos = StreamPos { token: None, at: through };
    let complete = through > ClusterTime::ZERO
        && follow(ctx, Side::Next, &mut pos, end, &mut |key, kind, at| {
            let tombstone = kind == ChangeKind::Delete && ctx.planted.has(Bug::TombstoneIgnored);
            match bucket_of(key) {
                Ok(b) if b < sealed.below && !tombstone => drop(keys.insert(key.clone())),
                Ok(b) if b >= sealed.below => strays.push((key.clone(), kind, at)),
                _ => {}
            }
        })
        .await?;
    for (key, kind, at) in strays {
        super::quarantine::put_aside(ctx, Side::Next, &key, kind, at).await;
    }
    match complete {
        true => Ok((keys, "stream")),
        false => Ok((different(ctx, sealed.below).await?, "scan")),
    }
}

/// Tells `each` of every event on a side's stream from `pos` to `end` that is not tidegate's own. False when the stream no longer
/// reaches back so far.
async fn follow(
    ctx: &Arc<Ctx>,
    side: Side,
    pos: &mut StreamPos,
    end: ClusterTime,
    each: &mut (dyn FnMut(&Key, ChangeKind, ClusterTime) + Send),
) -> Result<bool, Halt> {
    while pos.at < end {
        let mut stream = match ctx.db(side).changes(ctx.ns(side), pos).await {
            Ok(stream) => stream,
            Err(f) if again(ctx, side, &f).await? => continue,
            Err(_) => return Ok(false),
        };
        while pos.at < end {
            let batch = match stream.next(Micros::from_ms(100)).await {
                Ok(batch) => batch,
                Err(f) if again(ctx, side, &f).await? => break,
                Err(_) => return Ok(false),
            };
            for event in batch.events.iter().filter(|e| !ctx.is_own(e.session)) {
                match &event.key {
                    Some(key) => each(key, event.kind, event.at),
                    None => return Err(Halt::Broken(format!("{} was dropped or renamed", ctx.ns(side)))),
                }
            }
            ctx.saw(side, batch.pos.at);
            *pos = batch.pos;
            if ctx.lets_go() {
                return Err(Halt::LetGo);
            }
        }
    }
    Ok(true)
}

/// Waits before another try; false when the history is lost.
async fn again(ctx: &Arc<Ctx>, side: Side, f: &Failed) -> Result<bool, Halt> {
    match f.reason() {
        Some(Reason::HistoryLost(_)) => return Ok(false),
        _ if f.is_transient() => {}
        _ => return Err(Halt::Broken(format!("the changes of {} cannot be followed: {f}", ctx.ns(side)))),
    }
    if ctx.lets_go() {
        return Err(Halt::LetGo);
    }
    ctx.sleep(Micros::from_ms(200)).await;
    Ok(true)
}

/// Every key that next owned and whose two documents do not say the same.
async fn different(ctx: &Arc<Ctx>, below: Bucket) -> Result<BTreeSet<Key>, Halt> {
    let mut sides = [Cursor::default(), Cursor::default()];
    let mut open = BTreeSet::new();
    loop {
        for side in Side::BOTH {
            sides[side as usize].fill(ctx, side).await?;
        }
        let [legacy, next] = &mut sides;
        while let Some((key, l, n)) = pair(legacy, next) {
            let owned = bucket_of(&key).is_ok_and(|b| b < below);
            if owned && !compare(ctx, Side::Next, l.as_deref(), n.as_deref()).is_equal() {
                open.insert(key);
            }
        }
        if sides.iter().all(Cursor::is_done) {
            return Ok(open);
        }
    }
}

/// What applications have written on legacy since the flip.
struct Touched {
    pos: StreamPos,
    keys: BTreeMap<Key, ChangeKind>,
    /// Legacy's stream no longer reaches back to the flip: any key may have been written.
    lost: bool,
}

impl Touched {
    fn new(flip: ClusterTime) -> Touched {
        Touched { pos: StreamPos { token: None, at: flip }, keys: BTreeMap::new(), lost: false }
    }

    /// Takes in everything up to now.
    async fn advance(&mut self, ctx: &Arc<Ctx>) -> Result<(), Halt> {
        if self.lost {
            return Ok(());
        }
        let end = ctx.marker(Side::Legacy).await?;
        let keys = &mut self.keys;
        let mut note = |key: &Key, kind, _| {
            keys.entry(key.clone()).or_insert(kind);
        };
        self.lost = !follow(ctx, Side::Legacy, &mut self.pos, end, &mut note).await?;
        Ok(())
    }

    fn has(&self, key: &Key) -> bool {
        self.lost || self.keys.contains_key(key)
    }
}

async fn read(ctx: &Arc<Ctx>, side: Side, keys: &[Key]) -> Result<Vec<Option<Doc>>, Halt> {
    let after = ctx.seen(side);
    let found = ctx.retry("reading to salvage", || ctx.db(side).read(ctx.ns(side), keys, after)).await?;
    ctx.saw(side, found.at);
    Ok(found.docs)
}

/// The `_id` of a key's record in quarantine.
fn record_id(ctx: &Ctx, key: &Key) -> String {
    format!("{}/salvage/{key}", ctx.plan.id)
}

async fn records(ctx: &Arc<Ctx>, ids: &[String]) -> Result<Vec<Option<Doc>>, Halt> {
    let (ns, ids) = (quarantine_ns(), ids.iter().map(|id| Key::from(id.as_str())).collect::<Vec<_>>());
    let after = ctx.seen(Side::Legacy);
    let found = ctx.insist("reading the quarantine", || ctx.db(Side::Legacy).read(&ns, &ids, after)).await?;
    Ok(found.docs)
}

fn outcome(record: Option<&Doc>) -> Option<&str> {
    record.and_then(|r| r.get_str("outcome").ok()).filter(|o| *o != "kept")
}

fn record(ctx: &Ctx, key: &Key, outcome: &str, next: Option<&Doc>, legacy: Option<&Doc>) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), record_id(ctx, key));
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("event"), "salvage");
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("outcome"), outcome);
    d.append(bson::cstr!("at"), Timestamp::from(ctx.seen(Side::Legacy)));
    for (name, doc) in [(bson::cstr!("next"), next), (bson::cstr!("legacy"), legacy)] {
        match doc {
            Some(doc) => d.append(name, &**doc),
            None => d.append(name, RawBson::Null),
        }
    }
    d
}

/// Copies next's version of every key to quarantine before anything else is done with it.
async fn keep(ctx: &Arc<Ctx>, writer: &mut SlotWriter, keys: &[Key]) -> Result<(), Halt> {
    for part in keys.chunks(PART) {
        let ids: Vec<String> = part.iter().map(|k| record_id(ctx, k)).collect();
        let (docs, known) = (read(ctx, Side::Next, part).await?, records(ctx, &ids).await?);
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for ((key, doc), known) in part.iter().zip(&docs).zip(&known) {
            if known.is_some() {
                continue;
            }
            let doc = record(ctx, key, "kept", doc.as_ref(), None);
            if bytes + doc.as_bytes().len() > BYTES && !ops.is_empty() {
                put(writer, &std::mem::take(&mut ops)).await?;
                bytes = 0;
            }
            bytes += doc.as_bytes().len();
            ops.push(TxnOp::Put { ns: quarantine_ns(), doc });
        }
        put(writer, &ops).await?;
    }
    Ok(())
}

/// Commits what nobody else writes.
async fn put(writer: &mut SlotWriter, ops: &[TxnOp]) -> Result<(), Halt> {
    while !ops.is_empty() {
        match writer.commit(ops, None).await {
            Ok(_) => break,
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => {}
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Err(Halt::Broken(format!("what is on next cannot be kept in tidegate.quarantine: {why}")));
            }
        }
    }
    Ok(())
}

/// Carries some keys to legacy, or finds that a person must decide. False when applications wrote one of them meanwhile: it is to be
/// judged afresh.
async fn carry(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    part: &[Key],
    touched: &mut Touched,
    counts: &mut Counts,
) -> Result<bool, Halt> {
    touched.advance(ctx).await?;
    let ids: Vec<String> = part.iter().map(|k| record_id(ctx, k)).collect();
    let known = records(ctx, &ids).await?;
    let (legacy, next) = (read(ctx, Side::Legacy, part).await?, read(ctx, Side::Next, part).await?);
    let (mut ops, mut found) = (Vec::new(), Vec::new());
    for (i, key) in part.iter().enumerate() {
        if let Some(outcome) = outcome(known[i].as_ref()) {
            // Decided by an earlier attempt, or a person since: what legacy holds by now is nobody's business here.
            found.push((key, outcome.to_owned()));
            continue;
        }
        let wanted = next[i].as_ref().map(|d| image(ctx, Side::Next, d)).transpose().map_err(drop);
        let verdict = judge(wanted, legacy[i].as_deref(), touched.has(key));
        let ns = ctx.ns(Side::Legacy);
        let outcome = match &verdict {
            Verdict::Equal => "equal",
            Verdict::Write(_) => "carried",
            Verdict::Delete => "deleted",
            Verdict::Conflict => "conflict",
        };
        if matches!(verdict, Verdict::Write(_) | Verdict::Delete) {
            ops.push(TxnOp::Expect { ns: ns.clone(), key: key.clone(), doc: legacy[i].clone() });
        }
        match verdict {
            Verdict::Write(doc) => ops.push(TxnOp::Put { ns: ns.clone(), doc }),
            Verdict::Delete => ops.push(TxnOp::Delete { ns: ns.clone(), keys: vec![key.clone()] }),
            Verdict::Equal | Verdict::Conflict => {}
        }
        let both = legacy[i].as_ref().filter(|_| outcome != "equal");
        ops.push(TxnOp::Put { ns: quarantine_ns(), doc: record(ctx, key, outcome, next[i].as_ref(), both) });
        found.push((key, outcome.to_owned()));
    }
    if !ops.is_empty() {
        match writer.commit(&ops, None).await {
            Ok(_) => {}
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Refused(why)) if part.len() == 1 => {
                return Err(Halt::Broken(format!("{} cannot be salvaged: {why}", part[0])));
            }
            Err(_) => return Ok(false),
        }
    }
    let told = ctx.strand.conflicts();
    for (key, outcome) in found {
        match outcome.as_str() {
            "equal" => counts.equal += 1,
            "carried" => counts.carried += 1,
            "deleted" => counts.deleted += 1,
            _ => {
                counts.conflicts += 1;
                if !told.contains_key(&key.to_string()) {
                    let kept = record_id(ctx, key);
                    ctx.record(Event::ConflictFound { key: key.to_string(), kept }).await;
                }
            }
        }
    }
    Ok(true)
}

/// The last comparison, of every key that next owned: what legacy's applications have not written since is equal on both sides, or a
/// conflict. How many are equal; the inner `Err` says why it could not be made.
async fn compare_sides(ctx: &Arc<Ctx>, below: Bucket, touched: &mut Touched) -> Result<Result<u64, String>, Halt> {
    let mut equal = 0;
    let mut open = BTreeSet::new();
    let mut sides = [Cursor::default(), Cursor::default()];
    loop {
        for side in Side::BOTH {
            sides[side as usize].fill(ctx, side).await?;
        }
        let [legacy, next] = &mut sides;
        while let Some((key, l, n)) = pair(legacy, next) {
            if !bucket_of(&key).is_ok_and(|b| b < below) {
                continue;
            }
            match compare(ctx, Side::Next, l.as_deref(), n.as_deref()).is_equal() {
                true => equal += 1,
                false => drop(open.insert(key)),
            }
        }
        if sides.iter().all(Cursor::is_done) {
            break;
        }
    }
    touched.advance(ctx).await?;
    if touched.lost {
        return Ok(Err("legacy's oplog no longer reaches back to the flip".into()));
    }
    let told = ctx.strand.conflicts();
    open.retain(|key| !touched.has(key) && !told.contains_key(&key.to_string()));
    match open.first() {
        None => Ok(Ok(equal)),
        Some(first) => {
            let n = open.len();
            Err(Halt::Broken(format!("after the salvage {n} keys differ between both sides, {first} first")))
        }
    }
}

/// The task that a person's decisions end: carries out those that came with this process, then asks for the others.
pub(super) async fn conflicts(ctx: &Arc<Ctx>) -> Result<Option<Value>, Halt> {
    let all = ctx.strand.conflicts();
    for (key, side) in &ctx.strand.resolve {
        if all.get(key) == Some(&None) {
            resolve(ctx, key, *side).await?;
        }
    }
    let open: Vec<String> = ctx.strand.conflicts().into_iter().filter(|(_, c)| c.is_none()).map(|(k, _)| k).collect();
    if open.is_empty() {
        let text = if all.is_empty() { "no conflict is left" } else { "every conflict is resolved" };
        return Ok(Some(json!({ "text": text, "conflicts": all.len() })));
    }
    let more = open.len().saturating_sub(NAMED);
    let named = open.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Halt::Broken(format!(
        "{} keys were written on both sides, legacy holds its own version: {named}{more}; both versions are in \
         tidegate.quarantine, say which is right with `tidegate repair PLAN --resolve KEY=legacy|next`",
        open.len()
    )))
}

/// Carries out one decision. What legacy holds now is kept in the record before it is replaced.
async fn resolve(ctx: &Arc<Ctx>, text: &str, side: Side) -> Result<(), Halt> {
    let id = format!("{}/salvage/{text}", ctx.plan.id);
    let found = records(ctx, std::slice::from_ref(&id)).await?.into_iter().next().flatten();
    let missing = || Halt::Broken(format!("{id} is not in tidegate.quarantine"));
    let kept = found.ok_or_else(missing)?;
    let key = kept.get("key").ok().flatten().and_then(|v| Key::new(v).ok()).ok_or_else(missing)?;
    let next = kept.get_document("next").ok().map(Doc::from);
    let mut writer = SlotWriter::open(ctx, Side::Legacy, "salvage").await?;
    for _ in 0..ATTEMPTS {
        let legacy = read(ctx, Side::Legacy, std::slice::from_ref(&key)).await?.into_iter().next().flatten();
        let ns = ctx.ns(Side::Legacy);
        let mut ops = Vec::new();
        if side == Side::Next {
            ops.push(TxnOp::Expect { ns: ns.clone(), key: key.clone(), doc: legacy.clone() });
            ops.push(match &next {
                Some(doc) => TxnOp::Put { ns: ns.clone(), doc: image(ctx, Side::Next, doc)? },
                None => TxnOp::Delete { ns: ns.clone(), keys: vec![key.clone()] },
            });
        }
        let outcome = format!("resolved: {}", side.name());
        ops.push(TxnOp::Put {
            ns: quarantine_ns(),
            doc: record(ctx, &key, &outcome, next.as_ref(), legacy.as_ref()),
        });
        match writer.commit(&ops, None).await {
            Ok(_) => {
                ctx.record(Event::ConflictResolved { key: text.to_owned(), side: side.name().to_owned() }).await;
                return Ok(());
            }
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Err(Halt::Broken(format!("{text} cannot be resolved: {why}")));
            }
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => {}
        }
    }
    Err(Halt::Broken(format!("{text} is being written all the time: resolve it again in a moment")))
}
