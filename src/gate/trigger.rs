//! Triggers: tripped by a breach that lasts.

use serde_json::{Value, json};

use super::evidence::measurement;
use super::{Held, MetricSource, both, max_age};
use crate::metrics::Sample;
use crate::metrics::names;
use crate::plan::{Action, RollbackMode, Trigger};
use crate::route::Side;
use crate::runtime::Micros;

/// A trigger was tripped.
#[derive(Clone, Debug, PartialEq)]
pub struct Tripped {
    /// What is to be done: the plan's action, or a pause in place of a rollback while legacy breaches too.
    pub action: Action,
    /// One plain sentence.
    pub text: String,
    /// The raw measurements it stood on.
    pub evidence: Value,
}

/// A trigger and how long it has been breached.
#[derive(Clone, Debug)]
pub struct TriggerState {
    trigger: Trigger,
    name: String,
    breach: Held,
    clear: Held,
    /// It has tripped and has not cleared since.
    tripped: bool,
}

impl TriggerState {
    /// A trigger that has not been looked at yet.
    #[must_use]
    pub fn new(trigger: Trigger) -> Self {
        let name = names::label(&trigger.metric, trigger.side);
        TriggerState { trigger, name, breach: Held::default(), clear: Held::default(), tripped: false }
    }

    /// The trigger as the plan has it.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Counts anew, after a pause was ended for instance: a breach that still lasts trips it again.
    pub fn reset(&mut self, now: Micros) {
        self.breach = Held::from(now);
        self.clear = Held::from(now);
        self.tripped = false;
    }

    /// Looks at the figures. Answers once for each breach that lasts for `hold_for`, and again only after it has cleared
    /// or a reset; what is not known clears nothing. Call it at least every [`super::MAX_GAP`].
    pub fn evaluate(&mut self, source: &dyn MetricSource, now: Micros) -> Option<Tripped> {
        let sample = self.usable(source, self.trigger.side, now);
        let clear = sample.map(|s| s.value <= self.trigger.clear.below);
        let cleared_for = self.clear.update(clear, now);
        if clear == Some(true) && cleared_for >= self.trigger.clear.hold_for {
            self.tripped = false;
        }
        let breached = sample.map(|s| s.value > self.trigger.above);
        let held = self.breach.update(breached, now);
        let sample = sample.filter(|_| breached == Some(true) && held >= self.trigger.hold_for && !self.tripped)?;
        self.tripped = true;
        let compared = matches!(self.trigger.side, Some(Side::Next)) || names::slo(&self.trigger.metric).is_some();
        let legacy = compared.then(|| self.usable(source, Some(Side::Legacy), now)).flatten();
        Some(self.trip(source, sample, legacy, held, now))
    }

    /// The figure on a side, if it is fresh and stands on enough. Of two windows it is the smaller one: both must breach (Google SRE
    /// workbook, chapter 5: the long one says that it matters, the short one that it goes on).
    fn usable(&self, source: &dyn MetricSource, side: Option<Side>, now: Micros) -> Option<Sample> {
        let t = &self.trigger;
        let mut sample = source.sample(&t.metric, side, t.window, now)?;
        if let Some(long) = t.long_window {
            sample = both(sample, source.sample_across(&t.metric, side, long, now)?, f64::min);
        }
        let fresh = sample.age <= max_age(t.window);
        (sample.value.is_finite() && sample.samples >= t.min_samples.max(1) && fresh).then_some(sample)
    }

    fn trip(
        &self,
        source: &dyn MetricSource,
        sample: Sample,
        legacy: Option<Sample>,
        held: Micros,
        now: Micros,
    ) -> Tripped {
        let t = &self.trigger;
        let (unit, scale) = names::unit(&t.metric);
        let figure = |v: f64| {
            let text = format!("{:.2}", v * scale);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            if unit.is_empty() { text.to_owned() } else { format!("{text} {unit}") }
        };
        let legacy_too = legacy.is_some_and(|s| s.value > t.above);
        let (action, note) = match (t.action, legacy_too) {
            (Action::Rollback(_), true) => {
                (Action::Pause, "; legacy breaches too, so going back would not help: paused instead of rolled back")
            }
            (Action::Pause, true) => (Action::Pause, "; legacy breaches too"),
            (action, false) => (action, ""),
        };
        let mut measured = vec![measurement(source, &t.metric, t.side, t.window, now)];
        if t.side == Some(Side::Next) || legacy.is_some() {
            measured.push(measurement(source, &t.metric, Some(Side::Legacy), t.window, now));
        }
        let long = t.long_window.and_then(|w| source.sample_across(&t.metric, t.side, w, now));
        Tripped {
            action,
            text: format!("{} is {}, above {} for {held}{note}", self.name, figure(sample.value), figure(t.above)),
            evidence: json!({
                "metric": t.metric,
                "side": t.side,
                "value": sample.value,
                "above": t.above,
                "legacy": legacy.map(|s| s.value),
                "window_ms": t.window.as_ms(),
                "long_window_ms": t.long_window.map(Micros::as_ms),
                "long_value": long.map(|s| s.value),
                "for_ms": t.hold_for.as_ms(),
                "held_ms": held.as_ms(),
                "samples": sample.samples,
                "min_samples": t.min_samples,
                "age_ms": sample.age.as_ms(),
                "wanted": word(t.action),
                "action": word(action),
                "measured": measured,
            }),
        }
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Pause => "pause",
        Action::Rollback(RollbackMode::Soft) => "soft rollback",
        Action::Rollback(RollbackMode::Hard) => "hard rollback",
    }
}
