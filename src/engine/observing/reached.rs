//! Waiting for what the other tool must have reached. Nothing here mends anything: what is not reached is said, and looked at again.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::coherence;
use super::super::ctx::{Ctx, Halt, lock};
use super::super::cutover::Held;
use super::super::reconcile::{self, Outcome};
use super::super::tasks::{kind, note_counts};
use super::Observing;
use crate::cluster::{AdminDone, AdminOp, CollKind};
use crate::route::Side;
use crate::runtime::Micros;

/// How often what is not reached is looked at again.
const AGAIN: Micros = Micros::from_secs(2);

/// Waits until next has the plan's indexes, as planned. `None` when the engine is stopping.
pub(super) async fn indexes(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let wanted = ctx.plan.collections.first().map_or(0, |c| c.indexes.len());
    while !ctx.is_leaving() {
        if ctx.is_paused() {
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        let Some(why) = coherence::index_lacking(ctx).await? else {
            return Ok(Some(json!({ "text": format!("next has the {wanted} indexes of the plan") })));
        };
        held(why);
        ctx.sleep(AGAIN).await;
    }
    Ok(None)
}

/// Waits until both sides, compared whole, are equal. `None` when the engine is stopping.
pub(super) async fn reconciled(ctx: &Arc<Ctx>, observing: &Observing, held: Held<'_>) -> Result<Option<Value>, Halt> {
    while !ctx.is_leaving() {
        if ctx.is_paused() {
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        if let Some(why) = too_early(ctx).await? {
            held(why);
            ctx.sleep(AGAIN).await;
            continue;
        }
        let Some(out) = compare_whole(ctx, observing).await? else { return Ok(None) };
        if out.is_clean() {
            return Ok(Some(out.evidence()));
        }
        held(format!(
            "missing {}, extra {}, differing {}, in flight {}: {}",
            out.missing,
            out.extra,
            out.differing,
            out.in_flight,
            out.examples.join(", ")
        ));
        ctx.sleep(Micros::from_secs(5)).await;
    }
    Ok(None)
}

/// Compares both sides whole, with every change in between known. `None` when the engine is stopping.
pub(super) async fn compare_whole(ctx: &Arc<Ctx>, observing: &Observing) -> Result<Option<Outcome>, Halt> {
    let _alone = observing.comparing.lock().await;
    loop {
        let breaks = observing.breaks();
        let out = reconcile::pass(ctx).await?;
        // From here on the changed keys are remembered elsewhere.
        *lock(&ctx.dirty) = None;
        let Some(out) = out else { return Ok(None) };
        if observing.breaks() == breaks {
            note_counts(ctx, &out);
            return Ok(Some(out));
        }
        // A stream began anew meanwhile: what it did not show may have been compared before.
        observing.lose();
    }
}

/// A copy that has hardly begun is not worth reading both sides for. Counts are estimates, so that a tenth more or less says nothing.
async fn too_early(ctx: &Arc<Ctx>) -> Result<Option<String>, Halt> {
    // Two that are not there would be equal.
    for side in [Side::Legacy, Side::Next] {
        let ns = ctx.ns(side);
        match kind(ctx, side, ns).await? {
            CollKind::Collection => {}
            CollKind::Absent if side == Side::Next => return Ok(Some(format!("{ns} is not there yet"))),
            CollKind::Absent => return Ok(Some(format!("{ns} is not there"))),
            _ => return Ok(Some(format!("{ns} is no plain collection"))),
        }
    }
    let mut counts = [0, 0];
    for side in Side::BOTH {
        let op = AdminOp::Count { ns: ctx.ns(side).clone() };
        match ctx.admin(side, "counting documents", op).await? {
            AdminDone::Count(n) => counts[side as usize] = n,
            _ => return Ok(None),
        }
    }
    let [legacy, copied] = counts;
    let early = copied < legacy.saturating_sub((legacy / 10).max(1_000));
    Ok(early.then(|| format!("next has about {copied} of {legacy} documents")))
}
