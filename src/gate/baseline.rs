//! What metrics were before the first stage: measured once, kept in the journal, compared with ever after.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MetricSource, max_age};
use crate::metrics::names;
use crate::plan::{Bound, Plan};
use crate::route::Side;
use crate::runtime::Micros;

/// One metric as it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its value, in the unit of [`crate::metrics::Sample::value`]; always finite.
    pub value: f64,
    /// The samples it stood on.
    pub samples: u64,
}

/// Metrics as they were before the first stage, on legacy for those that have a side: there is no next then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// By metric name and window in milliseconds: `latency.read.p99/60000`.
    pub figures: BTreeMap<String, Figure>,
}

impl Baseline {
    fn key(metric: &str, window: Micros) -> String {
        format!("{metric}/{}", window.as_ms())
    }

    /// The figure a gate is compared with.
    #[must_use]
    pub fn figure(&self, metric: &str, window: Micros) -> Option<Figure> {
        self.figures.get(&Self::key(metric, window)).copied().filter(|f| f.value.is_finite())
    }

    /// What the plan's gates compare with a baseline: metric, window, samples needed; empty when none does.
    #[must_use]
    pub fn wanted(plan: &Plan) -> Vec<(String, Micros, u64)> {
        let gates = plan.stages.iter().flat_map(|s| &s.gates);
        let mut all: BTreeMap<(String, Micros), u64> = BTreeMap::new();
        for g in gates.filter(|g| matches!(g.bound, Bound::MaxRatioToBaseline(_))) {
            let samples = all.entry((g.metric.clone(), g.window)).or_default();
            *samples = g.min_samples.max(*samples);
        }
        all.into_iter().map(|((metric, window), samples)| (metric, window, samples)).collect()
    }

    /// Measures what is `wanted` now, whole windows of it: `measured_for` says how long there has been measurement.
    ///
    /// # Errors
    /// What is still missing, in words.
    pub fn take(
        wanted: &[(String, Micros, u64)],
        source: &dyn MetricSource,
        measured_for: Micros,
        now: Micros,
    ) -> Result<Baseline, String> {
        let mut baseline = Baseline::default();
        for (metric, window, samples) in wanted {
            let has_side = crate::plan::metric(metric).is_some_and(|m| m.has_side);
            let side = has_side.then_some(Side::Legacy);
            let name = names::label(metric, side);
            if measured_for < *window {
                return Err(format!("{name} is measured for {measured_for} of {window}"));
            }
            match source.sample(metric, side, *window, now) {
                Some(s) if s.value.is_finite() && s.age <= max_age(*window) && s.samples >= *samples => {
                    baseline.figures.insert(Self::key(metric, *window), Figure { value: s.value, samples: s.samples });
                }
                s => return Err(format!("{name} has {} of {samples} samples", s.map_or(0, |s| s.samples))),
            }
        }
        Ok(baseline)
    }
}
