//! The raw measurements a verdict stood on, as the journal keeps them: counts, classes of the histograms, windows and ages.

use serde_json::{Map, Value, json};

use super::state::{GateState, Look};
use super::{MetricSource, compare};
use crate::metrics::{Classes, Distribution, Sample, names};
use crate::plan::Bound;
use crate::route::Side;
use crate::runtime::Micros;

impl GateState {
    /// The numbers the last verdict stood on. Costs a few merges of histograms: for decisions, not for every frame. `source` must
    /// still be what was evaluated.
    #[must_use]
    pub fn evidence(&self, source: &dyn MetricSource) -> Value {
        let Some((at, view)) = &self.last else { return Value::Null };
        let g = &self.gate;
        let mut out = json!({
            "gate": view.name,
            "verdict": view.verdict,
            "actual": view.actual,
            "relation": view.relation,
            "limit": view.limit,
            "unit": view.unit,
            "held_ms": view.held.as_ms(),
            "hold_for_ms": view.hold_for.as_ms(),
            "samples": view.samples,
            "min_samples": view.min_samples,
            "age_ms": view.age.map(Micros::as_ms),
            "metric": g.metric,
            "window_ms": g.window.as_ms(),
        });
        let sides: Vec<Option<Side>> = match g.bound {
            Bound::LikeLegacy { .. } => {
                out["looks"] = json!(self.looks());
                out["comparison"] = self.look.as_ref().map_or(Value::Null, |l| look(l, *at));
                return out;
            }
            Bound::MaxRatioToLegacy(_) => vec![Some(Side::Next), Some(Side::Legacy)],
            _ => vec![g.side],
        };
        if let Bound::MaxRatioToBaseline(_) = g.bound {
            out["baseline"] = json!(self.baseline.as_ref().and_then(|b| b.figure(&g.metric, g.window)));
        }
        let mut measured: Vec<Value> =
            sides.iter().map(|s| measurement(source, &g.metric, *s, g.window, *at)).collect();
        if let Some(long) = g.long_window {
            measured.push(sample(source.sample_across(&g.metric, g.side, long, *at), g.side, long).into());
        }
        out["measured"] = measured.into();
        out
    }
}

/// A metric as it was measured, with the classes of its histogram when it has one.
pub(super) fn measurement(
    source: &dyn MetricSource,
    metric: &str,
    side: Option<Side>,
    window: Micros,
    at: Micros,
) -> Value {
    let mut out = sample(source.sample(metric, side, window, at), side, window);
    if let (Some((op, _)), Some(side)) = (names::latency(metric), side)
        && let Some(d) = source.distribution(op, side, window, at)
    {
        out.insert("classes_us".into(), classes(&d.classes));
    }
    out.into()
}

fn sample(s: Option<Sample>, side: Option<Side>, window: Micros) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(side) = side {
        out.insert("side".into(), side.name().into());
    }
    out.insert("window_ms".into(), window.as_ms().into());
    // A value that is not finite becomes null.
    out.insert("value".into(), s.map_or(Value::Null, |s| json!(s.value)));
    out.insert("samples".into(), s.map_or(0, |s| s.samples).into());
    out.insert("age_ms".into(), json!(s.map(|s| s.age.as_ms())));
    out
}

/// `[[upper end in µs, operations], …]`.
fn classes(c: &Classes) -> Value {
    c.iter().map(|(us, n)| json!([us, n])).collect()
}

fn look(l: &Look, now: Micros) -> Value {
    let side =
        |d: &Distribution| json!({ "samples": d.count, "age_ms": d.age.as_ms(), "classes_us": classes(&d.classes) });
    let tails: Vec<Value> = l
        .result
        .tails
        .iter()
        .map(|t| json!({ "above_us": t.above, "next": t.next, "legacy": t.legacy, "chance": t.p }))
        .collect();
    json!({
        "test": compare::NAME,
        "looked_ms_ago": now.since(l.at).as_ms(),
        "chance": l.result.p,
        "body": { "mann_whitney_u": l.result.u, "chance": l.result.body },
        "tails": tails,
        "next": side(&l.next),
        "legacy": side(&l.legacy),
    })
}
