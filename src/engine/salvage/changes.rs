//! Which keys changed: on next since the last that legacy has, on legacy since the flip.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::ctx::{Ctx, Halt};
use super::super::planted::Bug;
use super::super::quarantine;
use super::super::reconcile::compare;
use super::super::sides::{Pair, side_by_side};
use crate::cluster::{ChangeKind, ClusterTime, Failed, Key, Reason, StreamPos};
use crate::rollout::Sealed;
use crate::route::{Bucket, Side, bucket_of};
use crate::runtime::Micros;

/// Every key changed on next since the last that legacy has, by next's change stream; by comparing everything when it no longer
/// reaches back so far. And by which of the two.
pub(super) async fn changed(ctx: &Arc<Ctx>, sealed: &Sealed) -> Result<(BTreeSet<Key>, &'static str), Halt> {
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
        quarantine::put_aside(ctx, Side::Next, &key, kind, at).await;
    }
    // Legacy never had these: they were refused before the seal, and the reverse tail has gone on past their events.
    let refused = quarantine::left(ctx, Side::Next).await?;
    keys.extend(refused.into_iter().filter(|k| bucket_of(k).is_ok_and(|b| b < sealed.below)));
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
    let mut open = BTreeSet::new();
    let judge = move |ctx: &Ctx, pairs: Vec<Pair>| compare_owned(ctx, below, pairs).1;
    side_by_side(ctx, false, judge, |page| {
        open.extend(page);
        Ok(())
    })
    .await?;
    Ok(open)
}

/// Of the keys that next owned: how many have two documents that say the same, and the others.
pub(super) fn compare_owned(ctx: &Ctx, below: Bucket, pairs: Vec<Pair>) -> (u64, Vec<Key>) {
    let (mut equal, mut open) = (0, Vec::new());
    for (key, l, n) in pairs {
        if !bucket_of(&key).is_ok_and(|b| b < below) {
            continue;
        }
        match compare(ctx, Side::Next, l.as_deref(), n.as_deref()).is_equal() {
            true => equal += 1,
            false => open.push(key),
        }
    }
    (equal, open)
}

/// What applications have written on legacy since the flip.
pub(super) struct Touched {
    pos: StreamPos,
    keys: BTreeMap<Key, ChangeKind>,
    /// Legacy's stream no longer reaches back to the flip: any key may have been written.
    pub(super) lost: bool,
}

impl Touched {
    pub(super) fn new(flip: ClusterTime) -> Touched {
        Touched { pos: StreamPos { token: None, at: flip }, keys: BTreeMap::new(), lost: false }
    }

    /// Takes in everything up to now.
    pub(super) async fn advance(&mut self, ctx: &Arc<Ctx>) -> Result<(), Halt> {
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

    /// The first that was done to a key; what cannot be known counts as an update.
    pub(super) fn first(&self, key: &Key) -> Option<ChangeKind> {
        let unknown = self.lost.then_some(ChangeKind::Update);
        self.keys.get(key).copied().or(unknown)
    }
}
