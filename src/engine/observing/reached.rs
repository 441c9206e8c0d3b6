//! Waiting for what the other tool must have reached. Nothing here mends anything: what is not reached is said, and looked at again.

use std::sync::Arc;

use bson::{Bson, Document};
use serde_json::{Value, json};

use super::super::ctx::{Ctx, Halt, lock};
use super::super::cutover::Held;
use super::super::reconcile::{self, Outcome};
use super::super::tasks::{index_list, kind, note_counts};
use super::Observing;
use crate::cluster::{AdminDone, AdminOp, CollKind, IndexSpec};
use crate::route::Side;
use crate::runtime::Micros;

/// How often what is not reached is looked at again.
const AGAIN: Micros = Micros::from_secs(2);

/// Waits until next has the plan's indexes, as planned. `None` when the engine is stopping.
pub(super) async fn indexes(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let wanted = ctx.plan.collections.first().map_or(&[][..], |c| &c.indexes);
    while !ctx.is_leaving() {
        if ctx.is_paused() {
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        let (there, building) = match kind(ctx, Side::Next, ctx.ns(Side::Next)).await? {
            // The list has those that are being built too.
            CollKind::Collection => (index_list(ctx, Side::Next).await?, building(ctx).await?),
            _ => (Vec::new(), Vec::new()),
        };
        let ready = |t: &IndexSpec| !building.contains(&t.name);
        let Some(lacking) = wanted.iter().find(|w| !there.iter().any(|t| serves(t, w) && ready(t))) else {
            return Ok(Some(json!({ "text": format!("next has the {} indexes of the plan", wanted.len()) })));
        };
        let keys = crate::scrub::short(&lacking.keys.to_string(), 100);
        let name = crate::scrub::short(&lacking.name, 60);
        let likely = there.iter().any(|t| t.name == lacking.name || same_keys(&t.keys, &lacking.keys));
        held(match likely {
            _ if there.iter().any(|t| serves(t, lacking)) => format!("next's index over {keys} is still being built"),
            true => format!("the index `{name}` over {keys} is another on next than the plan has it"),
            false => format!("next has no index over {keys} yet (`{name}` in the plan)"),
        });
        ctx.sleep(AGAIN).await;
    }
    Ok(None)
}

/// The indexes of next that are being built, as far as the server tells.
async fn building(ctx: &Arc<Ctx>) -> Result<Vec<String>, Halt> {
    let op = AdminOp::Building { ns: ctx.ns(Side::Next).clone() };
    match ctx.admin(Side::Next, "looking for indexes that are being built", op).await? {
        AdminDone::Names(names) => Ok(names),
        _ => Err(Halt::Broken("the cluster answered Building with something else".into())),
    }
}

/// Does what the planned one is for. Another tool has names of its own, and may write directions as other numbers.
fn serves(there: &IndexSpec, planned: &IndexSpec) -> bool {
    let hidden = there.options.get_bool("hidden").unwrap_or(false);
    let as_planned = there.unique == planned.unique && there.expire_after == planned.expire_after;
    as_planned && !hidden && !there.is_narrow() && same_keys(&there.keys, &planned.keys)
}

fn same_keys(a: &Document, b: &Document) -> bool {
    let number = |v: &Bson| match v {
        Bson::Int32(n) => Some(f64::from(*n)),
        Bson::Int64(n) => Some(*n as f64),
        Bson::Double(x) => Some(*x),
        _ => None,
    };
    let same = |(x, v): (&String, &Bson), (y, w): (&String, &Bson)| {
        x == y && (v == w || (number(v).is_some() && number(v) == number(w)))
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
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

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn an_index_of_another_name_serves_and_one_that_covers_less_does_not() {
        let planned = IndexSpec { name: "by_n".into(), keys: doc! { "n": 1_i64, "m": -1 }, ..IndexSpec::default() };
        let there = IndexSpec { name: "n_1_m_-1".into(), keys: doc! { "n": 1.0, "m": -1 }, ..IndexSpec::default() };
        assert!(serves(&there, &planned));
        let with = |options| IndexSpec { options, ..there.clone() };
        assert!(!serves(&with(doc! { "hidden": true }), &planned));
        assert!(!serves(&with(doc! { "sparse": true }), &planned));
        assert!(!serves(&IndexSpec { unique: true, ..there.clone() }, &planned));
        assert!(!serves(&IndexSpec { keys: doc! { "m": -1, "n": 1 }, ..there.clone() }, &planned));
        assert!(!serves(&IndexSpec { keys: doc! { "n": 1 }, ..there }, &planned));
    }
}
