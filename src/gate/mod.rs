//! Verdicts: whether a gate holds and whether a trigger is breached.
//!
//! Missing, NaN, stale or too little data never passes a gate and never trips a trigger; both then begin to count anew.
//! Nothing in here measures or acts.

use serde_json::{Value, json};

use crate::metrics::names::{self, Quantile};
use crate::metrics::{Metrics, Sample};
use crate::plan::{Bound, Gate};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::{GateView, Verdict};

mod trigger;

pub use trigger::{TriggerState, Tripped};

/// Data up to this old is fresh whatever the window.
pub const FRESH: Micros = Micros::from_secs(3);
/// A verdict that has not been evaluated for longer than this counts as interrupted.
pub const MAX_GAP: Micros = Micros::from_secs(5);

/// Where verdicts get their figures.
pub trait MetricSource {
    /// A metric over the last `window`; `None` when nothing is known of it. See [`Metrics::sample`].
    fn sample(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample>;
}

impl MetricSource for Metrics {
    fn sample(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample> {
        Metrics::sample(self, metric, side, window, now)
    }
}

/// How old the newest sample may be: 3 s, or a tenth of the window if that is longer.
#[must_use]
pub fn max_age(window: Micros) -> Micros {
    FRESH.max(Micros(window.0 / 10))
}

/// Counts how long something has been true without interruption.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Which of the two it is, and since when.
    since: Option<(bool, Micros)>,
    last: Option<Micros>,
}

impl Held {
    /// `None` is unknown and begins anew. Answers how long `what` has held.
    fn update(&mut self, what: Option<bool>, now: Micros) -> Micros {
        let interrupted = self.last.is_some_and(|last| now < last || now.since(last) > MAX_GAP);
        self.last = Some(now);
        let Some(what) = what else {
            self.since = None;
            return Micros::ZERO;
        };
        match self.since {
            Some((was, since)) if was == what && !interrupted => now.since(since),
            _ => {
                self.since = Some((what, now));
                Micros::ZERO
            }
        }
    }
}

/// A gate and how long it has held.
#[derive(Clone, Debug)]
pub struct GateState {
    gate: Gate,
    name: String,
    min_samples: u64,
    held: Held,
}

impl GateState {
    /// A gate that has not been looked at yet.
    #[must_use]
    pub fn new(gate: Gate) -> Self {
        let name = match gate.bound {
            Bound::MaxRatioToLegacy(_) => format!("next/legacy {}", names::label(&gate.metric, None)),
            _ => names::label(&gate.metric, gate.side),
        };
        // A percentile of a handful of operations is no figure, whatever the plan says.
        let quantile = names::latency(&gate.metric).map_or(1, |(_, q): (_, Quantile)| q.min_samples());
        let min_samples = gate.min_samples.max(quantile);
        GateState { gate, name, min_samples, held: Held::default() }
    }

    /// The gate as the plan has it.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A stage begins: nothing has held yet.
    pub fn reset(&mut self, now: Micros) {
        self.held = Held { since: None, last: Some(now) };
    }

    /// Looks at the figures and says how the gate stands. Call it at least every [`MAX_GAP`]; a longer silence starts
    /// `held` anew.
    pub fn evaluate(&mut self, source: &dyn MetricSource, now: Micros) -> GateView {
        let g = &self.gate;
        let (unit, scale) = match g.bound {
            Bound::MaxRatioToLegacy(_) => ("x", 1.0),
            _ => names::unit(&g.metric),
        };
        let (limit, at_most) = match g.bound {
            Bound::Max(v) | Bound::MaxRatioToLegacy(v) => (v, true),
            Bound::Min(v) => (v, false),
        };
        let sample = match g.bound {
            Bound::MaxRatioToLegacy(_) => self.ratio(source, now),
            _ => source.sample(&g.metric, g.side, g.window, now),
        };
        let actual = sample.map(|s| s.value).filter(|v| v.is_finite());
        let judged = match (sample, actual) {
            (Some(s), _) if s.age > max_age(g.window) => Err(Verdict::Stale),
            (Some(s), Some(v)) if s.samples >= self.min_samples && limit.is_finite() => {
                Ok(if at_most { v <= limit } else { v >= limit })
            }
            _ => Err(Verdict::Inconclusive),
        };
        let held = self.held.update(judged.ok(), now);
        let verdict = match judged {
            Err(verdict) => verdict,
            Ok(false) => Verdict::Fail,
            Ok(true) if held >= g.hold_for => Verdict::Pass,
            Ok(true) => Verdict::Holding,
        };
        GateView {
            name: self.name.clone(),
            actual: actual.map(|v| v * scale),
            limit: limit * scale,
            relation: if at_most { "<=" } else { ">=" },
            unit,
            room: actual.map(|v| room(v, limit, at_most)),
            verdict,
            held,
            hold_for: g.hold_for,
            samples: sample.map_or(0, |s| s.samples),
            min_samples: self.min_samples,
            age: sample.map(|s| s.age),
        }
    }

    /// Next's figure as a multiple of legacy's over the same window; as few samples and as old as the poorer of the
    /// two.
    fn ratio(&self, source: &dyn MetricSource, now: Micros) -> Option<Sample> {
        let side = |side| source.sample(&self.gate.metric, Some(side), self.gate.window, now);
        let (next, legacy) = (side(Side::Next)?, side(Side::Legacy)?);
        // Next as fast as a legacy that takes no time: nothing to compare with.
        let value = if legacy.value > 0.0 { next.value / legacy.value } else { f64::NAN };
        Some(Sample { value, samples: next.samples.min(legacy.samples), age: next.age.max(legacy.age) })
    }
}

/// What is left up to the limit as a share of it; negative when broken.
fn room(v: f64, limit: f64, at_most: bool) -> f64 {
    let left = if at_most { limit - v } else { v - limit };
    if limit != 0.0 {
        left / limit.abs()
    } else if left < 0.0 {
        -1.0
    } else {
        0.0
    }
}

/// The numbers a decision stood on, for the journal.
#[must_use]
pub fn evidence(view: &GateView) -> Value {
    json!({
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
    })
}

#[cfg(test)]
mod tests;
