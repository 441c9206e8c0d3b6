//! Carrying out the tasks of the core. Each may have been begun before, by this process or another, and begins again safely.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::cutover::{Held, Home, move_reads, move_writes, set_shadow};
use super::in_place::undo_ns;
use super::refusal::Refusal;
use super::routing::await_acks;
use super::switch;
use super::{
    answers, back, backfill, cutover, enforce, in_place, observe, pilot, reconcile, routing, salvage, server_gate,
    tail, ttl, unique,
};
use crate::cluster::{AdminDone, AdminOp, ClusterTime, CollKind, Failed, IndexSpec, Ns, Reason};
use crate::rollout::{State, Task};
use crate::route::{Goes, Route, Side};
use crate::runtime::Micros;

/// Carries out one task. `None` when the engine is stopping; the task is then begun again by whoever resumes.
pub(super) async fn run(ctx: &Arc<Ctx>, state: &State, task: Task, held: Held<'_>) -> Result<Option<Value>, Halt> {
    if let Some(place) = &ctx.in_place {
        return in_place::run(ctx, place, state, task, held).await;
    }
    if let Some(observing) = &ctx.observing {
        return super::observing::run(ctx, observing, task, held).await;
    }
    if state.back.is_some() && ctx.ownership.route().is_none() {
        match observe::read_route(ctx).await? {
            Some(route) => ctx.ownership.set(route),
            None if task != Task::Isolate => {
                return Ok(Some(json!({ "text": "there was no route yet: nothing had moved" })));
            }
            None => {}
        }
    }
    match task {
        Task::Baseline => back::baseline(ctx).await,
        Task::Create => create(ctx).await.map(Some),
        Task::StartTail => start_tail(ctx, Side::Legacy).await.map(Some),
        Task::SuspendTtl => ttl::suspend(ctx).await.map(Some),
        Task::RestoreTtl => {
            let stays = if state.back.is_some() { Side::Legacy } else { Side::Next };
            ttl::restore(ctx, stays).await.map(Some)
        }
        Task::StartReverse => start_tail(ctx, Side::Next).await.map(Some),
        Task::Backfill => {
            let copied = backfill::run(ctx).await?;
            lock(&ctx.live).progress = None;
            Ok(copied.map(|n| json!({ "text": format!("{n} documents copied"), "copied": n })))
        }
        Task::Indexes => indexes(ctx, held).await,
        Task::Reconcile => reconcile_until_clean(ctx, held).await,
        Task::Answers { whole, indexes } => answers::until_alike(ctx, whole, indexes, held).await,
        Task::Shadow { percent } => set_shadow(ctx, percent, held).await,
        Task::MoveReads { below } => move_reads(ctx, below, held).await,
        Task::MoveWrites { from, to } => move_writes(ctx, from, to, held).await,
        Task::StopReverse => stop_reverse(ctx, held).await,
        Task::Quarantine => quarantine(ctx).await,
        Task::Pilot { .. } if state.cohort_stays => {
            let text = "the pilot cohort stays on legacy: a rollback of it alone holds it there";
            Ok(Some(json!({ "text": text })))
        }
        Task::Pilot { reads, writes } => pilot::forward(ctx, reads, writes, held).await,
        Task::ReturnPilot { reads, writes, hard } => pilot::back(ctx, reads, writes, hard, held).await,
        Task::ReturnWrites { below, reads_below, hard, pilot } => {
            cutover::return_writes(ctx, Home { below, reads_below, pilot }, hard, held).await
        }
        Task::ReturnReads { below } => back::return_reads(ctx, below, held).await,
        Task::Recover => back::recover(ctx, state.before.as_ref(), held).await,
        Task::Isolate => back::isolate(ctx, held).await,
        Task::IndexesThere => Ok(Some(json!({ "text": "only an observed rollout waits for them" }))),
        Task::Undo { .. } | Task::Quiet => Ok(Some(json!({ "text": "nothing changes in place" }))),
        Task::Salvage => salvage::salvage(ctx, held).await,
        Task::Conflicts => salvage::conflicts(ctx).await,
    }
}

pub(super) async fn kind(ctx: &Arc<Ctx>, side: Side, ns: &Ns) -> Result<CollKind, Halt> {
    match ctx.admin(side, "looking at a collection", AdminOp::Kind { ns: ns.clone() }).await? {
        AdminDone::Kind(k) => Ok(k),
        _ => Err(Halt::Broken("the cluster answered Kind with something else".into())),
    }
}

pub(super) async fn index_list(ctx: &Arc<Ctx>, side: Side) -> Result<Vec<IndexSpec>, Halt> {
    match ctx.admin(side, "listing indexes", AdminOp::Indexes { ns: ctx.ns(side).clone() }).await? {
        AdminDone::Indexes(list) => Ok(list),
        _ => Err(Halt::Broken("the cluster answered Indexes with something else".into())),
    }
}

async fn create(ctx: &Arc<Ctx>) -> Result<Value, Halt> {
    let (legacy, next) = (ctx.ns(Side::Legacy), ctx.ns(Side::Next));
    if kind(ctx, Side::Legacy, legacy).await? != CollKind::Collection {
        return Err(Refusal::NotPlain(legacy.clone()).into());
    }
    unique::check(ctx).await?;
    if !matches!(kind(ctx, Side::Next, next).await?, CollKind::Absent | CollKind::Collection) {
        return Err(Refusal::NextNotPlain(next.clone()).into());
    }
    let filled = |n: &AdminDone| matches!(n, AdminDone::Count(n) if *n > 0);
    if super::observe::read_route(ctx).await?.is_none()
        && filled(&ctx.admin(Side::Next, "looking into next", AdminOp::Count { ns: next.clone() }).await?)
    {
        return Err(Refusal::NextFilled(next.clone()).into());
    }
    ctx.admin(Side::Next, "creating next", AdminOp::Create { ns: next.clone() }).await?;
    ttl::quiet_next(ctx).await?;
    let enforced = enforce::like_legacy(ctx).await?;
    if ctx.transform.is_lossy() {
        // Before the first transaction: one that has to make a collection conflicts with others that do.
        ctx.admin(Side::Legacy, "creating the store of pre-images", AdminOp::Create { ns: undo_ns() }).await?;
    }
    routing::create(ctx).await?;
    if let Some(route) = ctx.ownership.route() {
        server_gate::put_up(ctx, &route).await?;
    }
    let more = enforced.map_or(String::new(), |t| format!("; {t}"));
    Ok(json!({ "text": format!("{next} and the route created{more}") }))
}

/// Fixes the time from which a side's changes are followed.
pub(super) async fn start_tail(ctx: &Arc<Ctx>, side: Side) -> Result<Value, Halt> {
    let from = ctx.marker(side).await?;
    tail::start(ctx, side, from).await?;
    Ok(
        json!({ "text": format!("changes of {} are followed from {from}", ctx.ns(side)), "from": [from.secs, from.inc] }),
    )
}

/// Builds the plan's indexes. `None` when the engine is stopping.
pub(super) async fn indexes(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let wanted = ctx.plan.collections.first().map_or(&[][..], |c| &c.indexes);
    for index in wanted {
        if !build(ctx, index, held).await? {
            return Ok(None);
        }
    }
    let there = index_list(ctx, Side::Next).await?;
    match wanted.iter().find(|w| !there.iter().any(|t| t.name == w.name && t.keys == w.keys)) {
        Some(lacking) => Err(Halt::Broken(format!("the index `{}` is not there after it was built", lacking.name))),
        None => Ok(Some(json!({ "text": format!("{} indexes built", wanted.len()) }))),
    }
}

/// False when the engine is stopping. Two documents of the copy may hold one value for a moment, while the tail has brought the one and
/// not yet the other: a unique index is tried again then.
async fn build(ctx: &Arc<Ctx>, index: &IndexSpec, held: Held<'_>) -> Result<bool, Halt> {
    let there = index_list(ctx, Side::Next).await?;
    // One of that name that is another is refused by the server when it is built.
    if there.iter().any(|t| ttl::is_as_planned(t, index)) {
        return Ok(true);
    }
    let op = AdminOp::CreateIndex { ns: ctx.ns(Side::Next).clone(), index: ttl::as_built(ctx, index).await? };
    loop {
        let built = || async {
            match ctx.db(Side::Next).admin(&op).await {
                Err(Failed::NotDone(Reason::DuplicateKey { message, .. })) => Ok(Some(message)),
                other => other.map(|_| None),
            }
        };
        let Some(message) = ctx.retry("building an index", built).await? else { return Ok(true) };
        if ctx.is_leaving() {
            return Ok(false);
        }
        let name = crate::scrub::short(&index.name, 60);
        let why = crate::scrub::short(&message, 200);
        held(format!("the unique index `{name}` cannot be built yet, two documents hold one value: {why}"));
        ctx.sleep(Micros::from_secs(2)).await;
    }
}

/// Compares both sides until nothing differs. `None` when the engine is stopping.
pub(super) async fn reconcile_until_clean(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        if ctx.is_paused() && !ctx.is_leaving() {
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        let Some(out) = reconcile::pass(ctx).await? else { return Ok(None) };
        note_counts(ctx, &out);
        if out.is_clean() {
            return Ok(Some(out.evidence()));
        }
        let lasting = out.missing + out.extra + out.differing > 0;
        let mend = if lasting { "; `tidegate repair PLAN` says how to mend what stays" } else { "" };
        held(format!(
            "missing {}, extra {}, differing {}, in flight {}: {}{mend}",
            out.missing,
            out.extra,
            out.differing,
            out.in_flight,
            out.examples.join(", ")
        ));
        ctx.sleep(Micros::from_secs(5)).await;
    }
}

pub(super) fn note_counts(ctx: &Ctx, out: &reconcile::Outcome) {
    let now = ctx.rt.now();
    let mut live = lock(&ctx.live);
    for (name, n) in [("missing", out.missing), ("extra", out.extra), ("differing", out.differing)] {
        let name = match name {
            "missing" => "reconcile.missing",
            "extra" => "reconcile.extra",
            _ => "reconcile.differing",
        };
        live.metrics.set(name, None, now, n as f64);
    }
    live.metrics.set("reconcile.checked_ratio", None, now, 1.0);
}

/// The point of no return: next's changes are no longer carried back.
async fn stop_reverse(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let behind = |r: &Route| r.writes_to_next() && r.pilot.as_ref().is_some_and(|p| p.writes == Goes::Legacy);
    if ctx.ownership.route().as_ref().is_some_and(behind) {
        return Err(Halt::Broken("the pilot cohort is held on legacy: legacy cannot go".into()));
    }
    let owns = ctx.ownership.route().is_some_and(|r| r.writes_to_next());
    if owns && ctx.returning.load(Ordering::SeqCst) && ctx.strand.sealed().is_none() {
        return Err(Halt::Broken("next still takes writes: it is followed until legacy has them all".into()));
    }
    if !all_follow(ctx, held).await? {
        return Ok(None);
    }
    let tail = &ctx.tails[Side::Next as usize];
    let at = if tail.is_running() { ctx.marker(Side::Next).await? } else { ClusterTime::ZERO };
    while tail.is_running() && !tail.drain(ctx, at, ctx.rt.now() + Micros::from_secs(5)).await {
        held("waiting for legacy to have everything next has".into());
        if ctx.is_leaving() {
            return Ok(None);
        }
    }
    if tail.is_running() {
        tail.stop(ctx).await?;
    }
    if ctx.strand.sealed().is_some() {
        return Ok(Some(json!({ "text": "nothing follows next any more: it was left behind and salvaged" })));
    }
    Ok(Some(
        json!({ "text": format!("reverse tail stopped; legacy has everything up to {at}"), "through": at.to_string() }),
    ))
}

/// Waits until every process has acknowledged the route in force. False when the task is left.
pub(super) async fn all_follow(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<bool, Halt> {
    if !switch::told(ctx, held).await? {
        return Ok(false);
    }
    let epoch = ctx.ownership.route().map_or(0, |r| r.epoch);
    while !ctx.is_leaving() {
        match await_acks(ctx, epoch, ctx.rt.now() + Micros::from_secs(3)).await? {
            Ok(()) => return Ok(true),
            Err(late) => held(late),
        }
    }
    Ok(false)
}

/// Has the server refuse every write on a side's collection.
pub(super) async fn seal(ctx: &Arc<Ctx>, side: Side) -> Result<(), Halt> {
    let refuse = bson::doc! { "_id": { "$exists": false } };
    let op = AdminOp::SetValidator { ns: ctx.ns(side).clone(), validator: Some(refuse) };
    ctx.admin(side, &format!("refusing writes on {}", side.name()), op).await.map(drop)
}

/// Renames a side's collection to `kept` and leaves an empty view, so that late reads and writes fail loudly.
pub(super) async fn put_away(ctx: &Arc<Ctx>, side: Side, kept: &Ns) -> Result<(), Halt> {
    let ns = ctx.ns(side);
    // A runner cut off half-way, or still at it while this one took over, may have done any part of this.
    if kind(ctx, side, ns).await? == CollKind::Collection || kind(ctx, side, kept).await? != CollKind::Collection {
        let op = AdminOp::Rename { from: ns.clone(), to: kept.clone() };
        ctx.admin(side, &format!("renaming {}", side.name()), op).await?;
    }
    let op = AdminOp::CreateEmptyView { ns: ns.clone(), on: kept.clone() };
    ctx.admin(side, "leaving an empty view", op).await?;
    if kind(ctx, side, kept).await? != CollKind::Collection || kind(ctx, side, ns).await? != CollKind::View {
        return Err(Halt::Broken(format!("{ns} could not be replaced by a view, or {kept} is not there")));
    }
    Ok(())
}

/// Where legacy is kept.
pub(super) fn quarantine_ns(legacy: &Ns, plan: &str) -> Ns {
    Ns::new(&legacy.db, &format!("{}.quarantine.{plan}", legacy.coll))
}

/// True once legacy has been renamed away by this rollout.
pub(super) async fn is_quarantined(ctx: &Arc<Ctx>) -> Result<bool, Halt> {
    let kept = quarantine_ns(ctx.ns(Side::Legacy), &ctx.plan.id);
    Ok(kind(ctx, Side::Legacy, &kept).await? == CollKind::Collection)
}

/// Refuses writes on legacy, lets the last events pass, renames it away and leaves an empty view (DESIGN rule 15).
async fn quarantine(ctx: &Arc<Ctx>) -> Result<Option<Value>, Halt> {
    let legacy = ctx.ns(Side::Legacy).clone();
    let kept = quarantine_ns(&legacy, &ctx.plan.id);
    server_gate::take_down(ctx, Side::Next).await?;
    if kind(ctx, Side::Legacy, &legacy).await? == CollKind::Collection {
        seal(ctx, Side::Legacy).await?;
        let at = ctx.marker(Side::Legacy).await?;
        let tail = &ctx.tails[Side::Legacy as usize];
        while tail.is_running() && !tail.drain(ctx, at, ctx.rt.now() + Micros::from_secs(5)).await {
            if ctx.is_leaving() {
                return Ok(None);
            }
        }
        if tail.is_running() {
            tail.stop(ctx).await?;
        }
    }
    put_away(ctx, Side::Legacy, &kept).await?;
    let text = format!("{legacy} is kept as {kept}; an empty view refuses late writes");
    Ok(Some(json!({ "text": text, "kept": kept.to_string() })))
}
