//! Moving the writes of a range of buckets to next (DESIGN rule 8), and reads ahead of them (rule 9).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::planted::Bug;
use super::proof;
use super::reconcile::{self, compare_again};
use super::routing::{Changed, await_acks, change, unfreeze};
use super::tasks::reconcile_until_clean;
use crate::cluster::{ClusterTime, Key};
use crate::route::{Bucket, Frozen, Route, Side, bucket_of};
use crate::runtime::Micros;

/// Apply lag above which a freeze is not begun: the drain would take too long.
const LAG_MAX: Micros = Micros::from_secs(2);
/// Pause between attempts.
const AGAIN: Micros = Micros::from_secs(3);

/// Reports why a task waits; the runner journals it once per reason.
pub(super) type Held<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Moves reads of the buckets below `below` to next. `None` when the engine is stopping.
pub(super) async fn move_reads(ctx: &Arc<Ctx>, below: Bucket, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.reads_next_below >= below {
            return Ok(Some(
                json!({ "text": format!("reads below bucket {below} come from next"), "epoch": route.epoch }),
            ));
        }
        let lag = lock(&ctx.live).apply_lag(Side::Legacy, ctx.rt.now());
        match lag {
            Some(lag) if lag <= ctx.plan.max_staleness => {
                let to = Route { reads_next_below: below, ..route.clone() };
                change(ctx, &route, to, &format!("reads below bucket {below} from next")).await?;
            }
            Some(lag) => wait(ctx, held, format!("apply lag {lag} > max_staleness {}", ctx.plan.max_staleness)).await,
            None => wait(ctx, held, "apply lag is not known yet".into()).await,
        }
    }
}

/// Sets the percentage of shadowed reads, and waits until every process knows.
pub(super) async fn set_shadow(ctx: &Arc<Ctx>, percent: u8, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.shadow != percent {
            change(ctx, &route, Route { shadow: percent, ..route.clone() }, &format!("shadow {percent}% of reads"))
                .await?;
            continue;
        }
        match await_acks(ctx, route.epoch, ctx.rt.now() + AGAIN).await? {
            Ok(()) => {
                return Ok(Some(json!({ "text": format!("{percent}% of reads are shadowed"), "epoch": route.epoch })));
            }
            Err(late) => held(late),
        }
    }
}

/// The route, once nothing is paused; `None` when the engine is stopping.
async fn ready(ctx: &Arc<Ctx>) -> Option<Route> {
    loop {
        if ctx.is_stopping() {
            return None;
        }
        if let Some(route) = ctx.ownership.route().filter(|_| !ctx.is_paused()) {
            return Some(route);
        }
        ctx.sleep(Micros::from_ms(50)).await;
    }
}

async fn wait(ctx: &Arc<Ctx>, held: Held<'_>, why: String) {
    held(why);
    ctx.sleep(Micros::from_ms(250)).await;
}

/// Moves writes of the buckets `from..to` to next. `None` when the engine is stopping.
pub(super) async fn move_writes(
    ctx: &Arc<Ctx>,
    from: Bucket,
    to: Bucket,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let mut attempts = 0;
    loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.frozen.is_some() {
            unfreeze(ctx).await?;
            continue;
        }
        if route.writes_next_below >= to {
            return confirm_all(ctx, &route, from, to, held).await;
        }
        if let Some(why) = not_ready(ctx) {
            wait(ctx, held, why).await;
            continue;
        }
        if lock(&ctx.dirty).is_none() {
            // A reconciliation of an earlier process says nothing about what was touched since.
            match reconcile::pass(ctx).await? {
                None => return Ok(None),
                Some(out) if !out.is_clean() => {
                    wait(ctx, held, format!("both sides differ: {}", out.examples.join(", "))).await;
                    *lock(&ctx.dirty) = None;
                }
                Some(_) => {}
            }
            continue;
        }
        attempts += 1;
        match attempt(ctx, &route, from.max(route.writes_next_below), to).await? {
            Ok(evidence) => {
                let mut evidence = evidence;
                evidence["attempts"] = json!(attempts);
                return Ok(Some(evidence));
            }
            Err(why) => {
                unfreeze(ctx).await?;
                held(why);
                // What was touched meanwhile is compared outside a freeze: the next one must not be longer than this one.
                *lock(&ctx.dirty) = None;
                ctx.sleep(AGAIN).await;
            }
        }
    }
}

/// Rule 8 (a): what must hold before writes are held.
fn not_ready(ctx: &Ctx) -> Option<String> {
    if ctx.planted.has(Bug::DrainSkipped) {
        return None;
    }
    if let Some(silent) = silent_process(ctx) {
        return Some(format!(
            "application process {silent} has not renewed its acknowledgement; if it is gone for good, delete its document in \
             tidegate.route_acks"
        ));
    }
    for side in Side::BOTH {
        if !ctx.tails[side as usize].is_running() {
            return Some(format!("the changes of {} are not followed yet", side.name()));
        }
        match lock(&ctx.live).apply_lag(side, ctx.rt.now()) {
            None => return Some(format!("the lag of {}'s changes is not known yet", side.name())),
            Some(lag) if lag > LAG_MAX => return Some(format!("{}'s changes are {lag} behind", side.name())),
            Some(_) => {}
        }
    }
    None
}

/// A process whose lease has run out without a renewal: it would hold up a freeze for nothing.
fn silent_process(ctx: &Ctx) -> Option<String> {
    let limit = ctx.plan.lease + Micros::from_secs(2);
    let now = ctx.rt.now();
    let live = lock(&ctx.live);
    live.applications.iter().find(|(_, a)| now.since(a.last_change) > limit).map(|(name, _)| name.clone())
}

/// One freeze, from (b) to (e). The inner `Err` says why ownership stays what it was.
async fn attempt(ctx: &Arc<Ctx>, route: &Route, from: Bucket, to: Bucket) -> Result<Result<Value, String>, Halt> {
    let began = ctx.rt.now();
    let deadline = began + Micros(ctx.plan.freeze_max.0 * 9 / 10);
    let server = ctx.retry("asking for the time", || ctx.db(Side::Legacy).observe()).await?;
    let until_ms = server.server_ms + ctx.plan.freeze_max.as_ms() as i64;
    let frozen = Route { frozen: Some(Frozen { from, to, until_ms }), ..route.clone() };
    let frozen = match change(ctx, route, frozen, &format!("buckets {from}..{to} frozen")).await? {
        Changed::Won(r) => r,
        Changed::Lost(r) => return Ok(Err(format!("the route moved to epoch {} meanwhile", r.epoch))),
    };
    if let Err(late) = await_acks(ctx, frozen.epoch, deadline).await? {
        return Ok(Err(late));
    }
    let marker = ctx.marker(Side::Legacy).await?;
    if let Err(why) = drain(ctx, marker, deadline).await {
        return Ok(Err(why));
    }
    let touched = in_range(lock(&ctx.dirty).as_ref(), from, to);
    let differing = differing(ctx, &touched).await?;
    if !differing.is_empty() && !ctx.planted.has(Bug::DrainSkipped) && !ctx.planted.has(Bug::FlipWithBatchInFlight) {
        return Ok(Err(format!("{} keys differ after the drain, {} first", differing.len(), differing[0])));
    }
    if let Err(why) = hold(ctx, from, to, &touched, deadline).await? {
        ctx.ownership.set(frozen);
        return Ok(Err(why));
    }
    if ctx.rt.now() >= deadline {
        ctx.ownership.set(frozen);
        return Ok(Err(format!("it took longer than freeze_max {}", ctx.plan.freeze_max)));
    }
    let flipped = Route { frozen: None, writes_next_below: to, applied_through: marker, ..frozen.clone() };
    let flipped = match change(ctx, &frozen, flipped, &format!("buckets {from}..{to} to next")).await? {
        Changed::Won(r) => r,
        Changed::Lost(r) => return Ok(Err(format!("the freeze was undone by epoch {} first", r.epoch))),
    };
    let took = ctx.rt.now().since(began);
    lock(&ctx.live).metrics.set("freeze.duration", None, ctx.rt.now(), took.0 as f64);
    confirm(ctx, &touched).await?;
    Ok(Ok(json!({
        "text": format!("buckets {from}..{to} belong to next, writes held for {}ms", took.as_ms()),
        "epoch": flipped.epoch,
        "freeze_us": took.0,
        "compared": touched.len(),
        "drained_through": marker.to_string(),
    })))
}

/// Rule 8 (b): from here on no batch of the range is written until ownership is decided, and none is under way. What was touched
/// after the drain, by a process that does not follow the route, is compared too.
async fn hold(
    ctx: &Arc<Ctx>,
    from: Bucket,
    to: Bucket,
    compared: &[Key],
    deadline: Micros,
) -> Result<Result<(), String>, Halt> {
    if ctx.planted.has(Bug::FlipWithBatchInFlight) || ctx.planted.has(Bug::DrainSkipped) {
        return Ok(Ok(()));
    }
    ctx.ownership.undecided(from, to);
    while ctx.ownership.is_writing(from, to) {
        if ctx.rt.now() >= deadline {
            return Ok(Err("a batch of the range was still under way at the end of freeze_max".into()));
        }
        ctx.sleep(Micros::from_ms(2)).await;
    }
    let mut late = in_range(lock(&ctx.dirty).as_ref(), from, to);
    late.retain(|k| !compared.contains(k));
    let differing = differing(ctx, &late).await?;
    Ok(match differing.first() {
        Some(key) => Err(format!("{key} was written on legacy while the range was frozen")),
        None => Ok(()),
    })
}

/// Rule 8 (c): nothing written on legacy before the marker is still on its way, and no restart will see it again.
async fn drain(ctx: &Arc<Ctx>, marker: ClusterTime, deadline: Micros) -> Result<(), String> {
    if ctx.planted.has(Bug::DrainSkipped) {
        return Ok(());
    }
    let tail = &ctx.tails[Side::Legacy as usize];
    tail.store_after(marker);
    let drained = if ctx.planted.has(Bug::FlipWithBatchInFlight) {
        return if tail.read_past(ctx, marker, deadline).await { Ok(()) } else { Err("not read".into()) };
    } else {
        tail.drain(ctx, marker, deadline).await
    };
    if !drained {
        return Err("legacy's changes were not applied within freeze_max".into());
    }
    if !tail.checkpoint(ctx, marker, deadline).await {
        return Err("the tail's position was not stored within freeze_max".into());
    }
    Ok(())
}

fn in_range(dirty: Option<&BTreeSet<Key>>, from: Bucket, to: Bucket) -> Vec<Key> {
    let inside = |k: &&Key| bucket_of(k).is_ok_and(|b| (from..to).contains(&b));
    dirty.map(|d| d.iter().filter(inside).cloned().collect()).unwrap_or_default()
}

async fn differing(ctx: &Arc<Ctx>, keys: &[Key]) -> Result<Vec<Key>, Halt> {
    let found = compare_again(ctx, keys).await?;
    Ok(found.into_iter().filter(|(_, f)| !f.is_equal()).map(|(k, _)| k).collect())
}

/// The flip was made by an attempt that did not come to its end: which keys it would have confirmed is not known any more, so both
/// sides are compared whole.
async fn confirm_all(
    ctx: &Arc<Ctx>,
    route: &Route,
    from: Bucket,
    to: Bucket,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let Some(mut evidence) = reconcile_until_clean(ctx, held).await? else { return Ok(None) };
    evidence["text"] = json!(format!("buckets {from}..{to} belong to next; {} documents match", evidence["matched"]));
    evidence["epoch"] = json!(route.epoch);
    Ok(Some(evidence))
}

/// After a grace period: the same keys once more, now that next owns them and legacy follows.
async fn confirm(ctx: &Arc<Ctx>, keys: &[Key]) -> Result<(), Halt> {
    let mut open = keys.to_vec();
    for round in 0u64..30 {
        ctx.sleep(Micros::from_ms(500 + 200 * round)).await;
        let at = ctx.marker(Side::Next).await?;
        ctx.tails[Side::Next as usize].drain(ctx, at, ctx.rt.now() + Micros::from_secs(10)).await;
        open = differing(ctx, &open).await?;
        if round >= reconcile::BUSY_ROUND as u64 {
            let judged = proof::judge_moving(ctx, &open).await;
            open.retain(|key| !judged.iter().any(|(k, finding)| k == key && finding.is_equal()));
        }
        if open.is_empty() || ctx.is_stopping() {
            return Ok(());
        }
    }
    Err(Halt::Broken(format!(
        "after the cutover {} keys still differ between both sides, {} first",
        open.len(),
        open[0]
    )))
}
