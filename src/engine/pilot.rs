//! Moving the pilot cohort by itself: forward ahead of the buckets, and back alone.
//!
//! Its writes change hands as a range of buckets does (see [`super::cutover`]), with every bucket frozen for that moment: a cohort
//! lies across all of them. What is compared is what changes hands.

use std::sync::Arc;

use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::cutover::{Done, Held, Shift, ready, shift, wait};
use super::routing::change;
use crate::route::{BUCKETS, Goes, Pilot, Route, Side};

/// The route with the cohort's reads and writes going elsewhere.
fn with(route: &Route, (reads, writes): (Goes, Goes)) -> Route {
    Route { pilot: route.pilot.clone().map(|p| Pilot { reads, writes, ..p }), ..route.clone() }
}

fn now(route: &Route) -> (Goes, Goes) {
    route.pilot.as_ref().map_or_else(Default::default, |p| (p.reads, p.writes))
}

/// No component further ahead than `most`.
pub(super) fn lowered(route: &Route, most: (Goes, Goes)) -> (Goes, Goes) {
    let (reads, writes) = now(route);
    (reads.min(most.0), writes.min(most.1))
}

fn text((reads, writes): (Goes, Goes)) -> String {
    format!("the pilot cohort: reads {}, writes {}", reads.name(), writes.name())
}

/// The cutover that takes the cohort to `goes`; `None` when no key of it changes hands.
fn moving(route: &Route, src: Side, goes: (Goes, Goes), hard: bool) -> Option<Shift> {
    let below = route.writes_next_below;
    let all = Shift { src, from: 0, to: BUCKETS, below, reads_below: BUCKETS, pilot: Some(goes), hard };
    (!with(route, goes).owns_as(route)).then_some(all)
}

/// Takes the cohort forward, its reads as soon as next is fresh enough and then its writes. `None` when the task is left.
pub(super) async fn forward(ctx: &Arc<Ctx>, reads: Goes, writes: Goes, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let raised = |route: &Route| {
        let (r, w) = now(route);
        (r.max(reads), w.max(writes))
    };
    let had = loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.pilot.is_none() {
            return Err(Halt::Broken("the route names no pilot cohort: it was made by another plan".into()));
        }
        let (r, w) = now(&route);
        if r >= reads {
            break w;
        }
        let lag = lock(&ctx.live).apply_lag(Side::Legacy, ctx.rt.now());
        match lag {
            Some(lag) if lag <= ctx.plan.max_staleness => {
                let to = with(&route, (reads, w));
                change(ctx, &route, to, &format!("reads of the pilot cohort from {}", reads.name())).await?;
            }
            Some(lag) => wait(ctx, held, format!("apply lag {lag} > max_staleness {}", ctx.plan.max_staleness)).await,
            None => wait(ctx, held, "apply lag is not known yet".into()).await,
        }
    };
    // A cohort that goes with the buckets has nothing to confirm.
    if writes == Goes::Buckets && had >= Goes::Buckets {
        return Ok(settled(ctx));
    }
    let open = |route: &Route| moving(route, Side::Legacy, raised(route), false);
    let done = Done { text: text((reads, writes)), confirm: true };
    let evidence = shift(ctx, &open, &done, held).await?;
    match evidence {
        None => Ok(None),
        // Where no key changes hands, only the word does.
        Some(evidence) => Ok(say(ctx, raised).await?.then_some(evidence)),
    }
}

/// Brings the cohort back as far as it is further ahead than `reads` and `writes`. `None` when the task is left.
pub(super) async fn back(
    ctx: &Arc<Ctx>,
    reads: Goes,
    writes: Goes,
    hard: bool,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let target = |route: &Route| lowered(route, (reads, writes));
    let open = |route: &Route| moving(route, Side::Next, target(route), hard);
    // Both sides are compared whole by a task that follows.
    let done = Done { text: text((reads, writes)), confirm: false };
    match shift(ctx, &open, &done, held).await? {
        None => Ok(None),
        Some(evidence) => Ok(say(ctx, target).await?.then_some(evidence)),
    }
}

/// Changes where the cohort goes without a key changing hands. False when the task is left.
async fn say(ctx: &Arc<Ctx>, target: impl Fn(&Route) -> (Goes, Goes) + Send + Sync) -> Result<bool, Halt> {
    loop {
        let Some(route) = ready(ctx).await else { return Ok(false) };
        let goes = target(&route);
        if route.pilot.is_none() || now(&route) == goes {
            return Ok(true);
        }
        change(ctx, &route, with(&route, goes), &text(goes)).await?;
    }
}

fn settled(ctx: &Ctx) -> Option<Value> {
    let route = ctx.ownership.route()?;
    Some(json!({ "text": text(now(&route)), "epoch": route.epoch }))
}
