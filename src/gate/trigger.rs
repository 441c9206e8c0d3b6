//! Triggers: tripped by a breach that lasts.

use serde_json::{Value, json};

use super::{Held, MetricSource, max_age};
use crate::metrics::Sample;
use crate::metrics::names;
use crate::plan::{Action, Trigger};
use crate::route::Side;
use crate::runtime::Micros;

/// A trigger was tripped.
#[derive(Clone, Debug, PartialEq)]
pub struct Tripped {
    /// What is to be done: the plan's action, or a pause in place of a rollback while legacy breaches too.
    pub action: Action,
    /// One plain sentence.
    pub text: String,
    /// The numbers it stood on.
    pub evidence: Value,
}

/// A trigger and how long it has been breached.
#[derive(Clone, Debug)]
pub struct TriggerState {
    trigger: Trigger,
    name: String,
    held: Held,
    /// It has tripped on the breach that still goes on.
    tripped: bool,
}

impl TriggerState {
    /// A trigger that has not been looked at yet.
    #[must_use]
    pub fn new(trigger: Trigger) -> Self {
        let name = names::label(&trigger.metric, trigger.side);
        TriggerState { trigger, name, held: Held::default(), tripped: false }
    }

    /// The trigger as the plan has it.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Counts anew, after a pause was ended for instance: a breach that still lasts trips it again.
    pub fn reset(&mut self, now: Micros) {
        self.held = Held { since: None, last: Some(now) };
        self.tripped = false;
    }

    /// Looks at the figures. Answers once for each breach that lasts for `hold_for`, and again only after it has ended
    /// or a reset. Call it at least every [`super::MAX_GAP`].
    pub fn evaluate(&mut self, source: &dyn MetricSource, now: Micros) -> Option<Tripped> {
        let t = &self.trigger;
        let usable = |s: Sample| {
            let fresh = s.age <= max_age(t.window);
            (s.value.is_finite() && s.samples >= min_samples(&t.metric) && fresh).then_some(s)
        };
        let sample = source.sample(&t.metric, t.side, t.window, now).and_then(usable);
        let breached = sample.map(|s| s.value > t.above);
        let held = self.held.update(breached, now);
        let Some(sample) = sample.filter(|_| breached == Some(true)) else {
            self.tripped = false;
            return None;
        };
        if held < t.hold_for {
            // A breach that was interrupted unseen is another breach.
            self.tripped = false;
            return None;
        }
        if self.tripped {
            return None;
        }
        self.tripped = true;
        let legacy = (t.side == Some(Side::Next))
            .then(|| source.sample(&t.metric, Some(Side::Legacy), t.window, now).and_then(usable))
            .flatten();
        Some(self.tripped_by(sample, legacy, held))
    }

    fn tripped_by(&self, sample: Sample, legacy: Option<Sample>, held: Micros) -> Tripped {
        let t = &self.trigger;
        let (unit, scale) = names::unit(&t.metric);
        let figure = |v: f64| {
            let text = format!("{:.2}", v * scale);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            if unit.is_empty() { text.to_owned() } else { format!("{text} {unit}") }
        };
        let (actual, limit) = (figure(sample.value), figure(t.above));
        let legacy_too = legacy.is_some_and(|s| s.value > t.above);
        let (action, too) = match (t.action, legacy_too) {
            (Action::Rollback(_), true) => {
                (Action::Pause, "; legacy breaches too, so going back would not help: paused instead of rolled back")
            }
            (action, true) => (action, "; legacy breaches too"),
            (action, false) => (action, ""),
        };
        Tripped {
            action,
            text: format!("{} is {actual}, above {limit} for {held}{too}", self.name),
            evidence: json!({
                "metric": t.metric,
                "side": t.side,
                "value": sample.value,
                "above": t.above,
                "legacy": legacy.map(|s| s.value),
                "window_ms": t.window.as_ms(),
                "held_ms": held.as_ms(),
                "samples": sample.samples,
                "age_ms": sample.age.as_ms(),
            }),
        }
    }
}

/// Triggers are meant to be quick: a percentile needs only n·(1−q) ≥ 1.
fn min_samples(metric: &str) -> u64 {
    names::latency(metric).map_or(1, |(_, q)| q.min_samples().div_ceil(10))
}
