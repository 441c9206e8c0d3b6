//! What was left behind on next, once it answers again (DESIGN rule 12): every key changed there is kept in quarantine first, then
//! carried to legacy where no application has written it since the flip. The others are conflicts, and a person's.
//!
//! Nothing here writes on next but the validator that refuses everybody else. Each step may be begun again: a key's record says what
//! became of it, and is written in the same transaction.

mod changes;
mod conflicts;
mod record;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

pub(super) use conflicts::conflicts;

use self::changes::{Touched, changed, compare_owned};
use self::record::{keep, outcome, read, record, record_id, records};
use self::verdict::{Verdict, judge};
use super::ctx::{Ctx, Halt, lock};
use super::cutover::Held;
use super::lossy;
use super::planted::Bug;
use super::quarantine::quarantine_ns;
use super::sides::{Pair, side_by_side};
use super::strand::{self, await_fenced};
use super::tasks::{all_follow, seal};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{ClusterTime, Doc, Key, TxnOp};
use crate::rollout::Event;
use crate::route::{Bucket, Side};
use crate::runtime::Micros;

/// Keys looked at together.
const PART: usize = 100;
/// Attempts at one key that applications keep writing.
const ATTEMPTS: usize = 50;

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
                return Err(Halt::Broken(format!(
                    "{} cannot be salvaged to legacy: every attempt was aborted",
                    part[0]
                )));
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
        let version = |d: &Doc| lossy::version(ctx, d, legacy[i].as_deref()).ok_or(());
        let wanted = next[i].as_ref().map(version).transpose();
        let verdict = judge(wanted, legacy[i].as_deref(), touched.first(key));
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
            // Another document has a value of it that must be unique: which one is right is a person's to say.
            Err(NotCommitted::Duplicate(_)) if let [key] = part => {
                let doc = record(ctx, key, "conflict", next[0].as_ref(), legacy[0].as_ref());
                match writer.commit(&[TxnOp::Put { ns: quarantine_ns(), doc }], None).await {
                    Ok(_) => found = vec![(key, "conflict".to_owned())],
                    Err(NotCommitted::Halt(h)) => return Err(h),
                    Err(_) => return Ok(false),
                }
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
    let (mut equal, mut open) = (0, BTreeSet::new());
    let judge = move |ctx: &Ctx, pairs: Vec<Pair>| compare_owned(ctx, below, pairs);
    side_by_side(ctx, false, judge, |(same, others)| {
        equal += same;
        open.extend(others);
        Ok(())
    })
    .await?;
    touched.advance(ctx).await?;
    if touched.lost {
        return Ok(Err("legacy's oplog no longer reaches back to the flip".into()));
    }
    let told = ctx.strand.conflicts();
    open.retain(|key| touched.first(key).is_none() && !told.contains_key(&key.to_string()));
    match open.first() {
        None => Ok(Ok(equal)),
        Some(first) => {
            let n = open.len();
            Err(Halt::Broken(format!("after the salvage {n} keys differ between both sides, {first} first")))
        }
    }
}
