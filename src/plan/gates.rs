//! Gates and triggers as a plan says them. How they are judged is the business of `crate::gate`.

use crate::route::Side;
use crate::runtime::Micros;

/// What a gate compares its metric with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At most this (latencies and ages in microseconds, ratios as 0..1, counts plain).
    Max(f64),
    /// At least this.
    Min(f64),
    /// At most so many times the same metric on legacy over the same window.
    MaxRatioToLegacy(f64),
    /// At most so many times what the metric was before the first stage.
    MaxRatioToBaseline(f64),
    /// Next's latencies are no slower than legacy's over the same window, as a statistical test of the two distributions
    /// sees it.
    LikeLegacy {
        /// The chance that a next as fast as legacy is held up by one attempt of the gate.
        false_alarm: f64,
        /// How many times slower than legacy is still taken as equal.
        max_ratio: f64,
    },
}

/// A gate: must hold to advance.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// A name from the metric registry; `latency.read` or `latency.write` for [`Bound::LikeLegacy`].
    pub metric: String,
    /// The side, for metrics that have one.
    pub side: Option<Side>,
    /// What it is compared with.
    pub bound: Bound,
    /// What the metric is computed over.
    pub window: Micros,
    /// A second, longer window that must hold too; for burn rates.
    pub long_window: Option<Micros>,
    /// How long it must hold.
    pub hold_for: Micros,
    /// Samples needed in the window (in each of the two distributions, when they are compared).
    pub min_samples: u64,
}

/// What a tripped trigger does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Stops advancing and copying; an operator decides.
    #[default]
    Pause,
    /// Goes back, unless legacy breaches too: then it pauses.
    Rollback(RollbackMode),
}

/// How a trigger goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollbackMode {
    /// Stage by stage, verified at each step.
    #[default]
    Soft,
    /// Everything back now.
    Hard,
}

/// When a trigger that has tripped may trip again (hysteresis).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clear {
    /// Once the metric is at most this, in the unit of [`Trigger::above`] and no larger than it,
    pub below: f64,
    /// for so long.
    pub hold_for: Micros,
}

/// A trigger: acts when breached.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// A name from the metric registry.
    pub metric: String,
    /// The side, for metrics that have one.
    pub side: Option<Side>,
    /// Breached when above this.
    pub above: f64,
    /// What the metric is computed over.
    pub window: Micros,
    /// A second, longer window that must be breached too; for burn rates.
    pub long_window: Option<Micros>,
    /// How long it must be breached.
    pub hold_for: Micros,
    /// Samples needed in the window.
    pub min_samples: u64,
    /// When it may trip again; at [`Trigger::above`] and at once when the plan does not say.
    pub clear: Clear,
    /// What it does.
    pub action: Action,
}
