//! Which hooks are to be called, as the fold of the journal: what was recorded and not settled is called, by whoever runs it next.

use std::collections::BTreeMap;

use serde_json::Value;

use super::event::Event;
use super::payload::payload;
use crate::journal::{By, Record};
use crate::plan::{Hook, Occasion, Plan};

/// Calls that one hook may have outstanding; the oldest gives way to a newer one then, and the journal says so.
const OUTSTANDING_MAX: usize = 50;

fn must_succeed(hook: &str) -> String {
    format!("the hook `{hook}` must succeed before the stage's work begins")
}

/// The hooks that must succeed before the work of the current stage begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Awaits {
    /// The number of the record that entered the stage.
    entered: u64,
    /// Each with how it failed, when it has.
    open: BTreeMap<String, Option<String>>,
}

impl Awaits {
    pub(super) fn apply(&mut self, number: u64, event: &Event, plan: &Plan) {
        match event {
            Event::StageEntered { id, .. } => {
                self.entered = number;
                let required = |h: &&Hook| h.required && h.listens(Occasion::StageBegin, Some(id));
                self.open = plan.hooks.iter().filter(required).map(|h| (h.id.clone(), None)).collect();
            }
            // The stage had begun before, or does not go on.
            Event::Returned { .. } => self.open.clear(),
            Event::HookSettled { hook, of, ok: true, .. } if *of == self.entered => drop(self.open.remove(hook)),
            Event::HookSettled { hook, of, outcome, .. } if *of == self.entered => {
                if let Some(failed) = self.open.get_mut(hook) {
                    *failed = Some(outcome.clone());
                }
            }
            Event::Continued {} | Event::Resumed { .. } => self.open.values_mut().for_each(|f| *f = None),
            _ => {}
        }
    }

    /// A hook that has not succeeded yet.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.open.keys().next().map(String::as_str)
    }

    /// What the stage's work waits for.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        self.first().map(must_succeed)
    }

    /// Why the stage's work cannot begin without a person.
    pub(super) fn refusal(&self) -> Option<String> {
        let (hook, how) = self.open.iter().find_map(|(hook, failed)| Some((hook, failed.as_ref()?)))?;
        let way = "continue calls it again, and going back needs no hook";
        Some(format!("{}, and it did not: {how}; {way}", must_succeed(hook)))
    }
}

/// One hook to be called for one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The hook's index in the plan.
    pub hook: usize,
    /// The number of the record.
    pub of: u64,
    /// The occasion.
    pub on: Occasion,
    /// The same for this hook and record whenever it is called, and for no other.
    pub event_id: String,
    /// It may have been called before.
    pub again: bool,
    /// What it is told.
    pub body: Value,
}

/// Calls that are due, by hook, in the order of the journal.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    due: BTreeMap<(usize, u64), Delivery>,
    /// Required ones that have failed: called again when somebody goes on.
    failed: Vec<Delivery>,
    stage: Option<usize>,
}

impl Outbox {
    /// Folds a durable record in.
    pub fn note(&mut self, plan: &Plan, record: &Record, event: &Event) {
        if plan.hooks.is_empty() {
            return;
        }
        match event {
            Event::StageEntered { stage, .. } | Event::Returned { stage, .. } => {
                self.stage = Some(*stage);
                self.failed.clear();
            }
            Event::Continued {} | Event::Resumed { .. } => {
                let again = std::mem::take(&mut self.failed);
                self.due.extend(again.into_iter().map(|d| ((d.hook, d.of), Delivery { again: true, ..d })));
            }
            Event::HookCalled { hook, of, .. } => {
                let called = index(plan, hook).and_then(|i| self.due.get_mut(&(i, *of)));
                called.into_iter().for_each(|d| d.again = true);
            }
            Event::HookSettled { hook, of, ok, .. } => {
                let Some(settled) = index(plan, hook).and_then(|i| self.due.remove(&(i, *of))) else { return };
                if !ok && is_awaited(plan, &settled) {
                    self.failed.push(settled);
                }
            }
            _ => {}
        }
        self.add(plan, record, event);
    }

    fn add(&mut self, plan: &Plan, record: &Record, event: &Event) {
        let stage = self.stage.and_then(|s| plan.stages.get(s));
        for on in occasions(event, &record.by) {
            for (hook, h) in plan.hooks.iter().enumerate().filter(|(_, h)| h.listens(on, stage.map(|s| s.id.as_str())))
            {
                // The hash tells this rollout from another one of the same plan.
                let event_id = format!("{}.{}.{}.{}", record.rollout, record.seq, short(&record.hash), h.id);
                let body = payload(plan, self.stage, record, event, on, &event_id);
                let of = record.seq;
                // One record is one call of a hook, whichever of its occasions comes first.
                self.due.entry((hook, of)).or_insert(Delivery { hook, of, on, event_id, again: false, body });
            }
        }
    }

    /// The call of a hook that is due first.
    #[must_use]
    pub fn next(&self, hook: usize) -> Option<&Delivery> {
        self.due.range((hook, 0)..=(hook, u64::MAX)).next().map(|(_, d)| d)
    }

    /// A call that gives way, because its hook has too many outstanding. Never one that a stage waits for, nor `busy`.
    #[must_use]
    pub fn surplus(&self, plan: &Plan, hook: usize, busy: Option<u64>) -> Option<&Delivery> {
        let mut all = self.due.range((hook, 0)..=(hook, u64::MAX)).map(|(_, d)| d);
        let over = all.clone().count() > OUTSTANDING_MAX;
        all.find(|d| over && busy != Some(d.of) && !is_awaited(plan, d))
    }

    /// Nothing is due.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

fn is_awaited(plan: &Plan, d: &Delivery) -> bool {
    d.on == Occasion::StageBegin && plan.hooks.get(d.hook).is_some_and(|h| h.required)
}

fn index(plan: &Plan, id: &str) -> Option<usize> {
    plan.hooks.iter().position(|h| h.id == id)
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// What a record means to hooks; the more telling first.
fn occasions(event: &Event, by: &By) -> Vec<Occasion> {
    let mut on = Vec::new();
    match event {
        Event::StageEntered { .. } => on.push(Occasion::StageBegin),
        Event::StagePassed { .. } => on.push(Occasion::StagePassed),
        Event::Paused { .. } => on.push(Occasion::Pause),
        Event::Continued {} => on.push(Occasion::Continue),
        Event::RollbackBegan { .. } => on.push(Occasion::Rollback),
        Event::NeedsOperator { .. } => on.push(Occasion::NeedsOperator),
        Event::Completed { .. } => on.push(Occasion::Completed),
        Event::RolledBack { .. } => on.push(Occasion::RolledBack),
        _ => {}
    }
    if *by == By::Trigger && !on.is_empty() {
        on.push(Occasion::Trigger);
    }
    on
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
