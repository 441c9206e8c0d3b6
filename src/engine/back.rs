//! The tasks of a rollback that are no cutover: the baseline it has to come back to, reads, recovery, and putting next out of reach.
//!
//! Nothing in here drops data: next is sealed, renamed away and kept.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::cutover::{Held, ready};
use super::routing::change;
use super::server_gate;
use super::switch;
use super::tasks::{all_follow, kind, put_away, seal};
use crate::cluster::{CollKind, Ns};
use crate::metrics::names;
use crate::route::{Bucket, Route, Side};
use crate::runtime::Micros;

/// How long legacy is watched before anything changes.
const BASELINE: Micros = Micros::from_secs(5);
/// The window in which metrics must be back at the baseline.
const WINDOW: Micros = Micros::from_secs(10);
/// For how long they must be.
const HOLD: Micros = Micros::from_secs(5);
/// Below this a difference in latency is nothing a user notices, microseconds.
const LATENCY_FLOOR_US: f64 = 5_000.0;
/// How many more operations may fail than at the baseline, as a share.
const ERRORS_MORE: f64 = 0.005;

/// The metrics of a baseline, all of legacy's side.
const METRICS: [&str; 8] = [
    "latency.read.p50",
    "latency.read.p90",
    "latency.read.p99",
    "latency.write.p50",
    "latency.write.p90",
    "latency.write.p99",
    "errors.read.rate",
    "errors.write.rate",
];

/// Watches legacy for a while and writes down what its metrics are like. Metrics with too few samples are left out.
pub(super) async fn baseline(ctx: &Arc<Ctx>) -> Result<Option<Value>, Halt> {
    let until = ctx.rt.now() + BASELINE;
    while ctx.rt.now() < until {
        if ctx.is_leaving() {
            return Ok(None);
        }
        ctx.sleep(Micros::from_ms(100)).await;
    }
    let measured: Map<String, Value> =
        METRICS.iter().filter_map(|m| Some(((*m).to_owned(), figure(ctx, m)?))).collect();
    let text = match (measured.get("latency.read.p50"), measured.is_empty()) {
        (_, true) => "no application reports yet: there is no baseline".to_owned(),
        (Some(p50), _) => format!("baseline taken, read p50 {:.1} ms", p50["value"].as_f64().unwrap_or(0.0) / 1e3),
        (None, _) => "baseline taken".to_owned(),
    };
    Ok(Some(json!({ "text": text, "baseline": measured })))
}

fn figure(ctx: &Ctx, metric: &str) -> Option<Value> {
    let least = names::latency(metric).map_or(100, |(_, q)| q.min_samples());
    let live = lock(&ctx.live);
    let s = live.metrics.sample(metric, Some(Side::Legacy), WINDOW, ctx.rt.now())?;
    (s.value.is_finite() && s.samples >= least).then(|| json!({ "value": s.value, "samples": s.samples }))
}

/// Brings reads of every bucket from `below` on back to legacy, which owns them or is kept in step with their owner.
pub(super) async fn return_reads(ctx: &Arc<Ctx>, below: Bucket, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.reads_next_below <= below {
            if !switch::told(ctx, held).await? {
                return Ok(None);
            }
            let text = match below {
                0 => "every read comes from legacy".to_owned(),
                _ => format!("reads from bucket {below} on come from legacy"),
            };
            return Ok(Some(json!({ "text": text, "epoch": route.epoch })));
        }
        let to = Route { reads_next_below: below.max(route.writes_next_below), ..route.clone() };
        change(ctx, &route, to, &format!("reads from bucket {below} on from legacy")).await?;
    }
}

/// Waits until legacy's metrics have been back at the baseline for a while.
pub(super) async fn recover(ctx: &Arc<Ctx>, baseline: Option<&Value>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let Some(Value::Object(baseline)) = baseline.filter(|b| b.as_object().is_some_and(|m| !m.is_empty())) else {
        return Ok(Some(json!({ "text": "no baseline had been taken: recovery was not measured", "measured": false })));
    };
    let began = ctx.rt.now();
    let mut good_since = None;
    loop {
        if ctx.is_leaving() {
            return Ok(None);
        }
        ctx.sleep(Micros::from_ms(500)).await;
        if ctx.plan.mode.is_told() {
            let text = "applications report nothing to tidegate in this mode: recovery was not measured";
            return Ok(Some(json!({ "text": text, "measured": false })));
        }
        if lock(&ctx.live).applications.is_empty() {
            return Ok(Some(
                json!({ "text": "no application is running: recovery was not measured", "measured": false }),
            ));
        }
        match not_recovered(ctx, baseline, began) {
            None => {
                let since = *good_since.get_or_insert(ctx.rt.now());
                if ctx.rt.now().since(since) >= HOLD {
                    break;
                }
            }
            Some(why) => {
                good_since = None;
                held(why);
            }
        }
    }
    let now: Map<String, Value> = baseline.keys().filter_map(|m| Some((m.clone(), figure(ctx, m)?))).collect();
    let took = ctx.rt.now().since(began);
    Ok(Some(json!({
        "text": format!("the metrics are back at the baseline after {took}"),
        "measured": true, "baseline": baseline, "now": now,
    })))
}

/// The first metric that is not back yet, or not known.
fn not_recovered(ctx: &Ctx, baseline: &Map<String, Value>, began: Micros) -> Option<String> {
    let now = ctx.rt.now();
    // Operations of before the way back do not count.
    let window = Micros(WINDOW.0.min(now.since(began).0));
    for (metric, was) in baseline {
        let was = was.get("value").and_then(Value::as_f64).unwrap_or(f64::NAN);
        let label = names::label(metric, Some(Side::Legacy));
        let sample = lock(&ctx.live).metrics.sample(metric, Some(Side::Legacy), window, now);
        let Some(s) = sample.filter(|s| s.value.is_finite() && s.age <= crate::gate::max_age(window)) else {
            return Some(format!("{label}: no fresh data to compare with the baseline"));
        };
        let (limit, unit, scale) = if names::latency(metric).is_some() {
            ((was * ctx.plan.baseline_ratio).max(was + LATENCY_FLOOR_US), " ms", 1e-3)
        } else {
            (was + ERRORS_MORE, "%", 100.0)
        };
        if s.value > limit {
            let (is, most) = (s.value * scale, limit * scale);
            return Some(format!("{label} is {is:.1}{unit}, the baseline allows {most:.1}{unit}"));
        }
    }
    None
}

/// Where next is kept after a rollback.
pub(super) fn isolated_ns(next: &Ns, plan: &str) -> Ns {
    Ns::new(&next.db, &format!("{}.isolated.{plan}", next.coll))
}

/// Seals next, renames it away and leaves an empty view, so that late reads and writes fail loudly. It is kept whole.
pub(super) async fn isolate(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let next = ctx.ns(Side::Next).clone();
    let kept = isolated_ns(&next, &ctx.plan.id);
    if !all_follow(ctx, held).await? {
        return Ok(None);
    }
    for side in Side::BOTH {
        if ctx.tails[side as usize].is_running() {
            ctx.tails[side as usize].stop(ctx).await?;
        }
    }
    server_gate::take_down(ctx, Side::Legacy).await?;
    if kind(ctx, Side::Next, &next).await? == CollKind::Collection {
        seal(ctx, Side::Next).await?;
    } else if kind(ctx, Side::Next, &kept).await? != CollKind::Collection {
        return Ok(Some(json!({ "text": format!("{next} was never created: there is nothing to keep") })));
    }
    put_away(ctx, Side::Next, &kept).await?;
    Ok(Some(json!({ "text": format!("{next} is sealed and kept as {kept}"), "kept": kept.to_string() })))
}
