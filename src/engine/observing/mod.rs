//! Observing a migration that another tool carries out (docs/observe.md): nothing is written on either cluster.
//!
//! Both streams are followed, and every key with an event is compared again until it matches: that is the lag, and after the first whole
//! comparison it keeps the counts true. There is no lease, no fence, no route and no marker: what a marker's time is elsewhere, the time
//! of a snapshot read is here. What remains of a stage is to wait for what the other tool must have reached.

mod changed;
mod follow;
mod keep;
mod reached;

use std::sync::Arc;

use serde_json::Value;

pub(super) use changed::Observing;

use super::ctx::{Ctx, Halt};
use super::cutover::Held;
use super::live_view::LiveView;
use super::publish::Publisher;
use super::{answers, observe, served, strand, throttle};
use crate::cluster::{ClusterTime, PageLimit};
use crate::rollout::{State, Status, Task};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::{RestView, WayBack};

/// A time of a side's cluster, not before anything that was acknowledged there when this was called: a stream that has passed it has
/// shown everything before it.
pub(super) async fn time_of(ctx: &Ctx, side: Side) -> Result<ClusterTime, Halt> {
    // Legacy is there; next may not be yet, and has no snapshot then.
    let on = if ctx.one_cluster { Side::Legacy } else { side };
    let one = PageLimit { docs: 1, bytes: 1 };
    let after = ctx.seen(side);
    let page = ctx.retry("asking for the time", || ctx.db(on).scan(ctx.ns(on), None, one, after)).await?;
    let at = match page.docs.is_empty() {
        false => page.at,
        true => ctx.retry("asking for the time", || ctx.db(on).observe()).await?.majority.max(page.at),
    };
    ctx.saw(side, at);
    Ok(at)
}

/// Begins to follow both sides. What was compared by an earlier process is compared again.
pub(super) async fn open(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    for side in Side::BOTH {
        follow::start(ctx, side).await?;
    }
    Ok(())
}

pub(super) fn spawn_watchers(ctx: &Arc<Ctx>, publisher: &Arc<Publisher>) {
    if !ctx.one_cluster {
        ctx.spawn("next answers", strand::listen(ctx.clone()));
    }
    ctx.spawn("keep", keep::keep(ctx.clone(), publisher.clone()));
    ctx.spawn("compare afresh", keep::compare_afresh(ctx.clone(), publisher.clone()));
    ctx.spawn("meter", keep::meter(ctx.clone()));
    ctx.spawn("throttle", throttle::watch(ctx.clone()));
    ctx.spawn("lag", observe::measure_lag(ctx.clone(), Side::Legacy));
    for side in Side::BOTH {
        ctx.spawn("served", served::follow(ctx.clone(), side));
        if side == Side::Legacy || !ctx.one_cluster {
            ctx.spawn("watch", observe::watch_cluster(ctx.clone(), side));
        }
    }
}

/// Carries out one task of a stage. `None` when the engine is stopping.
pub(super) async fn run(
    ctx: &Arc<Ctx>,
    observing: &Observing,
    task: Task,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    match task {
        Task::IndexesThere => reached::indexes(ctx, held).await,
        Task::Reconcile => reached::reconciled(ctx, observing, held).await,
        Task::Answers { whole, indexes } => answers::until_alike(ctx, whole, indexes, held).await,
        other => Err(Halt::Broken(format!("an observed rollout has no task `{}`", other.name()))),
    }
}

/// The way back is not tidegate's.
pub(super) fn way_back() -> WayBack {
    WayBack { text: "nothing is written here: the tool that migrates goes back".into(), ..WayBack::default() }
}

/// Where everything is when it is over, as far as an onlooker can say.
pub(super) fn rest(ctx: &Ctx, state: &State, live: &LiveView) -> Option<RestView> {
    if state.status != Status::Completed {
        return None;
    }
    let proof = match &live.reconcile.last {
        Some(r) if r.is_clean() => format!("{} documents compared and equal on both sides", r.matched),
        Some(r) => format!(
            "{} documents match; missing {}, extra {}, differing {}, in flight {}",
            r.matched, r.missing, r.extra, r.differing, r.in_flight
        ),
        None => "the two sides were not compared".to_owned(),
    };
    Some(RestView {
        applications: "which side applications use, the tool that migrates says".into(),
        collections: vec![
            format!("{} is where legacy was", ctx.ns(Side::Legacy)),
            format!("{} is where next was; nothing was written on either", ctx.ns(Side::Next)),
        ],
        proof,
    })
}

/// A difference younger than this may be the other tool's lag, and is in flight.
fn grace(ctx: &Ctx) -> Micros {
    ctx.plan.max_staleness
}
