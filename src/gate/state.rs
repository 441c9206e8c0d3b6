//! A gate and how it stands.

use std::sync::Arc;

use super::compare::{self, Comparison};
use super::{Baseline, Held, MetricSource, both, max_age};
use crate::metrics::names::{self, Quantile};
use crate::metrics::{Distribution, Sample};
use crate::plan::{Bound, Gate};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::{GateView, Verdict};

/// A gate and how long it has held.
#[derive(Clone, Debug)]
pub struct GateState {
    pub(super) gate: Gate,
    name: String,
    min_samples: u64,
    held: Held,
    pub(super) baseline: Option<Arc<Baseline>>,
    /// The last look at two distributions, which stands until the next.
    pub(super) look: Option<Look>,
    /// The last verdict, for evidence.
    pub(super) last: Option<(Micros, GateView)>,
}

/// One comparison of two distributions with what it was made from.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Micros,
    pub(super) next: Distribution,
    pub(super) legacy: Distribution,
    pub(super) result: Comparison,
}

impl GateState {
    /// A gate that has not been looked at yet.
    #[must_use]
    pub fn new(gate: Gate) -> Self {
        let name = match gate.bound {
            Bound::MaxRatioToLegacy(_) => format!("next/legacy {}", names::label(&gate.metric, None)),
            Bound::MaxRatioToBaseline(_) => match gate.side {
                Some(side) => format!("{}/baseline {}", side.name(), names::label(&gate.metric, None)),
                None => format!("{}/baseline", names::label(&gate.metric, None)),
            },
            Bound::LikeLegacy { .. } => format!("next {}s like legacy", names::label(&gate.metric, None)),
            _ => names::label(&gate.metric, gate.side),
        };
        // A percentile of a handful of operations is no figure, whatever the plan says.
        let least = match gate.bound {
            Bound::LikeLegacy { .. } => Quantile::P99.min_samples(),
            _ => names::latency(&gate.metric).map_or(1, |(_, q): (_, Quantile)| q.min_samples()),
        };
        let min_samples = gate.min_samples.max(least);
        GateState { gate, name, min_samples, held: Held::default(), baseline: None, look: None, last: None }
    }

    /// Gives it what its metric was before the first stage. A gate on a baseline that has none is inconclusive.
    #[must_use]
    pub fn with_baseline(mut self, baseline: Option<Arc<Baseline>>) -> Self {
        self.baseline = baseline;
        self
    }

    /// The gate as the plan has it.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A stage begins: nothing has held yet.
    pub fn reset(&mut self, now: Micros) {
        self.held = Held::from(now);
        self.look = None;
        self.last = None;
    }

    /// Looks at the figures and says how the gate stands. Call it at least every [`super::MAX_GAP`]; a longer silence starts
    /// `held` anew.
    pub fn evaluate(&mut self, source: &dyn MetricSource, now: Micros) -> GateView {
        let (limit, at_most) = self.limit();
        let (unit, scale) = match self.gate.bound {
            Bound::MaxRatioToLegacy(_) | Bound::MaxRatioToBaseline(_) => ("x", 1.0),
            Bound::LikeLegacy { .. } => ("%", 100.0),
            _ => names::unit(&self.gate.metric),
        };
        let sample = self.measure(source, now);
        let actual = sample.map(|s| s.value).filter(|v| v.is_finite());
        let judged = match (sample, actual) {
            (Some(s), _) if s.age > max_age(self.gate.window) => Err(Verdict::Stale),
            (Some(s), Some(v)) if s.samples >= self.min_samples && limit.is_finite() => {
                Ok(if at_most { v <= limit } else { v >= limit })
            }
            _ => Err(Verdict::Inconclusive),
        };
        if judged.is_err() {
            // Whatever was seen before the interruption is not looked at again.
            self.look = None;
        }
        let held = self.held.update(judged.ok(), now);
        let verdict = match judged {
            Err(verdict) => verdict,
            Ok(false) => Verdict::Fail,
            Ok(true) if held >= self.gate.hold_for => Verdict::Pass,
            Ok(true) => Verdict::Holding,
        };
        let compared = matches!(self.gate.bound, Bound::LikeLegacy { .. });
        let view = GateView {
            name: self.name.clone(),
            actual: actual.map(|v| v * scale),
            limit: limit * scale,
            relation: if at_most { "<=" } else { ">=" },
            unit,
            // A chance has no room: one that is ten times as large is not ten times as good.
            room: actual.map(|v| room(v, limit, at_most)).map(|r| if compared { r.clamp(-1.0, 1.0) } else { r }),
            verdict,
            held,
            hold_for: self.gate.hold_for,
            samples: sample.map_or(0, |s| s.samples),
            min_samples: self.min_samples,
            age: sample.map(|s| s.age),
        };
        self.last = Some((now, view.clone()));
        view
    }

    /// The limit in the metric's own unit, and whether it is an upper one.
    fn limit(&self) -> (f64, bool) {
        match self.gate.bound {
            Bound::Max(v) | Bound::MaxRatioToLegacy(v) | Bound::MaxRatioToBaseline(v) => (v, true),
            Bound::Min(v) => (v, false),
            Bound::LikeLegacy { false_alarm, .. } => (false_alarm / self.looks() as f64, false),
        }
    }

    /// The looks that one attempt of the gate takes: one at its beginning and one at the end of each window of `for`. The chance of a
    /// false alarm is shared out among them, so that it is that of the attempt (Bonferroni).
    pub(super) fn looks(&self) -> u64 {
        1 + self.gate.hold_for.0 / self.gate.window.0.max(1)
    }

    fn measure(&mut self, source: &dyn MetricSource, now: Micros) -> Option<Sample> {
        let g = &self.gate;
        match g.bound {
            Bound::MaxRatioToLegacy(_) => self.ratio(source, now),
            Bound::MaxRatioToBaseline(_) => self.to_baseline(source, now),
            Bound::LikeLegacy { max_ratio, .. } => self.compared(source, max_ratio, now),
            Bound::Max(_) | Bound::Min(_) => {
                let short = source.sample(&g.metric, g.side, g.window, now)?;
                let Some(long) = g.long_window else { return Some(short) };
                let long = source.sample_across(&g.metric, g.side, long, now)?;
                // A gate stands on the worse of its two windows.
                Some(both(short, long, if matches!(g.bound, Bound::Min(_)) { f64::min } else { f64::max }))
            }
        }
    }

    /// Next's figure as a multiple of legacy's over the same window; as few samples and as old as the poorer of the two.
    fn ratio(&self, source: &dyn MetricSource, now: Micros) -> Option<Sample> {
        let side = |side| source.sample(&self.gate.metric, Some(side), self.gate.window, now);
        let (next, legacy) = (side(Side::Next)?, side(Side::Legacy)?);
        // Next as fast as a legacy that takes no time: nothing to compare with.
        Some(both(next, legacy, |n, l| if l > 0.0 { n / l } else { f64::NAN }))
    }

    fn to_baseline(&self, source: &dyn MetricSource, now: Micros) -> Option<Sample> {
        let g = &self.gate;
        let was = self.baseline.as_ref()?.figure(&g.metric, g.window)?;
        let is = source.sample(&g.metric, g.side, g.window, now)?;
        let value = if was.value > 0.0 { is.value / was.value } else { f64::NAN };
        Some(Sample { value, samples: is.samples.min(was.samples), age: is.age })
    }

    /// The chance of the last look, which stands for a window: windows that hardly overlap are the looks that were counted.
    fn compared(&mut self, source: &dyn MetricSource, max_ratio: f64, now: Micros) -> Option<Sample> {
        let (op, window) = (names::distribution(&self.gate.metric)?, self.gate.window);
        let due = self.look.as_ref().is_none_or(|l| now < l.at || now.since(l.at) >= window);
        if !due {
            // Only whether there is still data, and enough of it.
            let median = format!("{}.p50", self.gate.metric);
            let side = |side| source.sample(&median, Some(side), window, now);
            let (next, legacy) = (side(Side::Next)?, side(Side::Legacy)?);
            let p = self.look.as_ref().map_or(f64::NAN, |l| l.result.p);
            return Some(Sample { value: p, ..both(next, legacy, f64::max) });
        }
        let side = |side| source.distribution(op, side, window, now);
        let (next, legacy) = (side(Side::Next)?, side(Side::Legacy)?);
        let (samples, age) = (next.count.min(legacy.count), next.age.max(legacy.age));
        if samples < self.min_samples || age > max_age(window) {
            return Some(Sample { value: f64::NAN, samples, age });
        }
        let result = compare::slower(&next.classes, &legacy.classes, max_ratio);
        let value = result.p;
        self.look = Some(Look { at: now, next, legacy, result });
        Some(Sample { value, samples, age })
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
