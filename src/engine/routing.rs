//! Changing the route document: intended in the journal, then a compare-and-set on its epoch, then settled in the journal.

use std::sync::Arc;

use bson::Bson;
use serde_json::json;

use super::ctx::{Ctx, Halt, lock};
use super::observe::{Ack, acks, read_route, take_acks};
use super::planted::Bug;
use super::server_gate;
use super::switch;
use crate::cluster::{Expect, Failed, Key, Reason, WriteOp};
use crate::rollout::Event;
use crate::route::client::routes_ns;
use crate::route::{BUCKETS, Goes, Pilot, Route, Side};
use crate::runtime::Micros;

/// Draw stream of route nonces.
const NONCES: u32 = 0x6e6f_6e63;

/// What became of a change.
pub(super) enum Changed {
    /// It is in force.
    Won(Route),
    /// Another change was first; this is the route in force.
    Lost(Route),
}

/// A nonce that tells this attempt from every other.
pub(super) fn nonce(ctx: &Ctx, epoch: i64) -> i64 {
    (ctx.rt.draw(NONCES, ctx.epoch as u64, epoch as u64 ^ ctx.rt.now().0.rotate_left(20)) >> 1) as i64
}

/// The plan's cohort where everybody is.
fn nowhere(ctx: &Ctx) -> Option<Pilot> {
    ctx.plan.pilot.clone().map(|cohort| Pilot { cohort, reads: Goes::Buckets, writes: Goes::Buckets })
}

/// Puts the first route document there, or takes the one that is there.
pub(super) async fn create(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    if let Some(route) = read_route(ctx).await? {
        ctx.ownership.set(route);
        return take_over(ctx).await;
    }
    let route = Route {
        plan: ctx.plan.id.clone(),
        epoch: 1,
        lease_ms: ctx.plan.lease.as_ms() as i32,
        shadow: 0,
        reads_next_below: 0,
        writes_next_below: 0,
        frozen: None,
        pilot: nowhere(ctx),
        applied_through: Default::default(),
        legacy: ctx.ns(Side::Legacy).clone(),
        next: ctx.ns(Side::Next).clone(),
        stranded_below: 0,
        nonce: nonce(ctx, 1),
    };
    intend(ctx, &route, "everything on legacy").await;
    let op = WriteOp::Insert { ns: routes_ns(), doc: route.to_raw() };
    ctx.insist("creating the route", || async {
        match ctx.db(Side::Legacy).write(&op).await {
            Ok(w) => {
                ctx.saw(Side::Legacy, w.at);
                Ok(())
            }
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(()),
            Err(f) => Err(f),
        }
    })
    .await?;
    // A duplicate is this runner's own earlier attempt, or an older runner's: either way it is read back.
    match read_route(ctx).await? {
        Some(route) => {
            settled(ctx, &route, true).await;
            ctx.ownership.set(route);
            Ok(())
        }
        None => Err(Halt::Broken("the route document is gone right after it was written".into())),
    }
}

/// The route that is there: this rollout's own, or that of an earlier one, which may have been another version of the plan.
async fn take_over(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    while let Some(route) = ctx.ownership.route() {
        let to = Route {
            lease_ms: ctx.plan.lease.as_ms() as i32,
            legacy: ctx.ns(Side::Legacy).clone(),
            next: ctx.ns(Side::Next).clone(),
            pilot: nowhere(ctx),
            stranded_below: 0,
            ..route.clone()
        };
        if to == route {
            break;
        }
        if route.uses_next() || route.writes_to_next() {
            return Err(Halt::Broken(format!(
                "the route of `{}` in tidegate.routes is of another plan with the same id, and is not on legacy alone; give the plan another id",
                ctx.plan.id
            )));
        }
        change(ctx, &route, to, "the route of an earlier rollout, for this plan").await?;
    }
    Ok(())
}

async fn intend(ctx: &Arc<Ctx>, to: &Route, text: &str) {
    let event = Event::RouteIntended {
        epoch: to.epoch,
        change: json!({
            "text": text,
            "shadow": to.shadow,
            "reads_next_below": to.reads_next_below,
            "writes_next_below": to.writes_next_below,
            "pilot": to.pilot.as_ref().map(|p| json!({ "reads": p.reads, "writes": p.writes })),
            "frozen": to.frozen.map(|f| json!({ "from": f.from, "to": f.to, "until_ms": f.until_ms })),
        }),
    };
    if ctx.planted.has(Bug::EffectBeforeRecord) {
        // The planted mistake: the record follows the effect.
        let ctx2 = ctx.clone();
        ctx.spawn("late record", async move {
            ctx2.sleep(Micros::from_ms(200)).await;
            ctx2.record(event).await;
        });
        return;
    }
    ctx.record(event).await;
}

/// Writes down which route is in force.
pub(super) async fn settled(ctx: &Arc<Ctx>, route: &Route, won: bool) {
    ctx.record(Event::RouteSettled {
        epoch: route.epoch,
        won,
        writes_next_below: route.writes_next_below,
        reads_next_below: route.reads_next_below,
        shadow: route.shadow,
        pilot: route.pilot.as_ref().map(|p| (p.reads, p.writes)),
    })
    .await;
}

/// Replaces `from` by `to` (one epoch on), if `from` is still in force. The outcome is known when this returns.
pub(super) async fn change(ctx: &Arc<Ctx>, from: &Route, to: Route, text: &str) -> Result<Changed, Halt> {
    let to = Route { epoch: from.epoch + 1, nonce: nonce(ctx, from.epoch + 1), ..to };
    intend(ctx, &to, text).await;
    server_gate::open_for(ctx, from, &to).await?;
    let cohort = |r: &Route| r.pilot.as_ref().map(|p| p.writes);
    if cohort(&to) != cohort(from) {
        ctx.ownership.undecided(0, BUCKETS);
    } else if to.writes_next_below != from.writes_next_below {
        let (a, b) = (from.writes_next_below, to.writes_next_below);
        ctx.ownership.undecided(a.min(b), a.max(b));
    }
    let route = compare_and_set(ctx, from, &to).await?;
    let won = route.nonce == to.nonce && route.epoch == to.epoch;
    ctx.ownership.set(route.clone());
    lock(&ctx.live).frozen_since = route.frozen.map(|_| ctx.rt.now());
    settled(ctx, &route, won).await;
    if route.frozen.is_none() {
        server_gate::apply(ctx, &route).await?;
    }
    Ok(if won { Changed::Won(route) } else { Changed::Lost(route) })
}

/// The route in force after the attempt.
async fn compare_and_set(ctx: &Arc<Ctx>, from: &Route, to: &Route) -> Result<Route, Halt> {
    let op = WriteOp::Replace {
        ns: routes_ns(),
        key: Key::from(ctx.plan.id.as_str()),
        only_if: (!ctx.planted.has(Bug::RouteWithoutCompare))
            .then(|| Expect { field: "epoch", value: Bson::Int64(from.epoch) }),
        doc: to.to_raw(),
        upsert: false,
    };
    // An attempt of unknown outcome is repeated until it is known: once the epoch has moved, none can land any more.
    let attempt = || async {
        match ctx.db(Side::Legacy).write(&op).await {
            Err(Failed::Unknown(r)) => Err(Failed::Unknown(Reason::Network(r.to_string()))),
            other => other,
        }
    };
    let written = ctx.insist("changing the route", attempt).await?;
    ctx.saw(Side::Legacy, written.at);
    match read_route(ctx).await? {
        Some(route) => Ok(route),
        None => Err(Halt::Broken("the route document is gone".into())),
    }
}

/// Undoes a freeze that an older runner (or this one) left behind: the old owner keeps the buckets.
pub(super) async fn unfreeze(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    while let Some(route) = ctx.ownership.route().filter(|r| r.frozen.is_some()) {
        if !switch::is_even(ctx, &route).await? {
            break;
        }
        change(ctx, &route, Route { frozen: None, ..route.clone() }, "unfrozen, ownership as before").await?;
    }
    Ok(())
}

/// Waits until every process that follows the route has acked `epoch`. `Err` names those that have not by `deadline`.
pub(super) async fn await_acks(ctx: &Arc<Ctx>, epoch: i64, deadline: Micros) -> Result<Result<(), String>, Halt> {
    loop {
        let list: Vec<Ack> = acks(ctx).await?;
        take_acks(ctx, &list);
        let late: Vec<&str> = list
            .iter()
            .filter(|a| a.epoch < epoch && !server_gate::need_not_ack(ctx, &a.process))
            .map(|a| a.process.as_str())
            .collect();
        if late.is_empty() {
            return Ok(Ok(()));
        }
        if ctx.rt.now() >= deadline {
            let more = late.len().saturating_sub(3);
            let named = late.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            let text = if more > 0 { format!("{named} and {more} more") } else { named };
            return Ok(Err(format!("no acknowledgement of route {epoch} from {text}")));
        }
        ctx.sleep(Micros::from_ms(20)).await;
    }
}
