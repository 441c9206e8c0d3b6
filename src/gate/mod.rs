//! Verdicts: whether a gate holds and whether a trigger is breached.
//!
//! Missing, NaN, stale or too little data never passes a gate and never trips a trigger; both then begin to count anew.
//! Nothing in here measures or acts.

use crate::metrics::{Distribution, Metrics, OpKind, Sample};
use crate::route::Side;
use crate::runtime::Micros;

mod baseline;
pub mod compare;
mod evidence;
mod state;
mod trigger;

pub use baseline::{Baseline, Figure};
pub use state::GateState;
pub use trigger::{TriggerState, Tripped};

/// Data up to this old is fresh whatever the window.
pub const FRESH: Micros = Micros::from_secs(3);
/// A verdict that has not been evaluated for longer than this counts as interrupted.
pub const MAX_GAP: Micros = Micros::from_secs(5);

/// Where verdicts get their figures.
pub trait MetricSource {
    /// A metric over the last `window`; `None` when nothing is known of it. See [`Metrics::sample`].
    fn sample(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample>;

    /// The same, reaching back before the stage where the metric may. See [`Metrics::sample_across`].
    fn sample_across(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample> {
        self.sample(metric, side, window, now)
    }

    /// Latencies as they were measured. See [`Metrics::distribution`].
    fn distribution(&self, op: OpKind, side: Side, window: Micros, now: Micros) -> Option<Distribution>;
}

impl MetricSource for Metrics {
    fn sample(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample> {
        Metrics::sample(self, metric, side, window, now)
    }

    fn sample_across(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample> {
        Metrics::sample_across(self, metric, side, window, now)
    }

    fn distribution(&self, op: OpKind, side: Side, window: Micros, now: Micros) -> Option<Distribution> {
        Metrics::distribution(self, op, side, window, now)
    }
}

/// How old the newest sample may be: 3 s, or a tenth of the window if that is longer, at most 30 s.
#[must_use]
pub fn max_age(window: Micros) -> Micros {
    FRESH.max(Micros(window.0 / 10)).min(Micros(FRESH.0 * 10))
}

/// Counts how long something has been true without interruption.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Which of the two it is, and since when.
    since: Option<(bool, Micros)>,
    last: Option<Micros>,
}

impl Held {
    /// Nothing has held before `now`.
    fn from(now: Micros) -> Self {
        Held { since: None, last: Some(now) }
    }

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

/// The one of two samples that `pick` says, as few samples and as old as the poorer of the two. NaN if either is.
fn both(a: Sample, b: Sample, pick: fn(f64, f64) -> f64) -> Sample {
    let value = if a.value.is_nan() || b.value.is_nan() { f64::NAN } else { pick(a.value, b.value) };
    Sample { value, samples: a.samples.min(b.samples), age: a.age.max(b.age) }
}

#[cfg(test)]
mod compare_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trigger_tests;
