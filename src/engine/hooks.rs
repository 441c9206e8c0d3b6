//! Calling a plan's hooks: beside everything else, so that nothing waits for them but the beginning of a stage that says so.
//!
//! A call is journalled before it is made and again with its outcome. What was recorded and not settled is called by whoever
//! resumes, under the same event id: at least once, never silently lost or repeated.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ctx::Ctx;
use crate::hooks::{Attempt, Call};
use crate::journal::Record;
use crate::plan::{Hook, Plan};
use crate::rollout::{Delivery, Event, Outbox};
use crate::runtime::Micros;

/// The pause after the first failed attempt; it doubles with each.
const PAUSE: Micros = Micros::from_secs(1);
/// The longest pause between two attempts.
const PAUSE_MAX: Micros = Micros::from_secs(60);
/// How long an engine that stops waits for calls; the rest is for whoever resumes.
const STOPPING: Micros = Micros::from_secs(10);

/// The calls of one runner.
#[derive(Default)]
pub(super) struct Calls {
    outbox: Outbox,
    /// By hook, the number of the record it is being called for.
    busy: BTreeMap<usize, u64>,
    stopping_since: Option<Micros>,
}

/// What is journalled next, and what is called once it is durable.
pub(super) struct Step {
    pub(super) event: Event,
    pub(super) call: Option<Delivery>,
}

impl Calls {
    /// Folds a durable record in.
    pub(super) fn note(&mut self, plan: &Plan, record: &Record, event: &Event) {
        if let Event::HookSettled { hook, of, .. } = event {
            self.busy.retain(|i, n| n != of || plan.hooks.get(*i).is_none_or(|h| h.id != *hook));
        }
        self.outbox.note(plan, record, event);
    }

    /// Calls are due or under way.
    pub(super) fn are_open(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// True while an engine that stops still waits for them.
    pub(super) fn hold_stop(&mut self, now: Micros) -> bool {
        let since = *self.stopping_since.get_or_insert(now);
        self.are_open() && now.since(since) < STOPPING
    }

    /// The next thing to do, if there is one: every hook has one call under way at most.
    pub(super) fn next(&mut self, plan: &Plan) -> Option<Step> {
        for (i, hook) in plan.hooks.iter().enumerate() {
            let busy = self.busy.get(&i).copied();
            if let Some(d) = self.outbox.surplus(plan, i, busy) {
                let outcome = "not called: too many calls of this hook are outstanding";
                return Some(Step {
                    event: settled(hook, d, 0, Attempt { outcome: outcome.into(), ..Attempt::default() }),
                    call: None,
                });
            }
            if busy.is_none()
                && let Some(d) = self.outbox.next(i)
            {
                let event =
                    Event::HookCalled { hook: hook.id.clone(), of: d.of, on: d.on.name().into(), again: d.again };
                self.busy.insert(i, d.of);
                return Some(Step { event, call: Some(d.clone()) });
            }
        }
        None
    }
}

fn settled(hook: &Hook, d: &Delivery, attempts: u32, a: Attempt) -> Event {
    let Attempt { ok, outcome, exit, status, output, .. } = a;
    Event::HookSettled {
        hook: hook.id.clone(),
        of: d.of,
        on: d.on.name().into(),
        ok,
        attempts,
        outcome,
        exit,
        status,
        output,
    }
}

/// Makes the attempts of one call and has the outcome journalled.
pub(super) async fn deliver(ctx: Arc<Ctx>, d: Delivery) {
    let Some(hook) = ctx.plan.hooks.get(d.hook) else { return };
    let (on, event_id, body) = (d.on.name().to_owned(), d.event_id.clone(), d.body.to_string());
    let call = Call { hook: hook.clone(), on, event_id, body, env: Vec::new() };
    let (mut attempts, mut pause) = (0, PAUSE);
    let outcome = loop {
        attempts += 1;
        let attempt = ctx.hooks.0.call(&ctx.rt, &call).await;
        if attempt.ok || !attempt.again || attempts >= hook.attempts {
            break attempt;
        }
        tracing::debug!(hook = hook.id, attempts, outcome = attempt.outcome, "a hook is called again");
        ctx.sleep(pause).await;
        pause = Micros((pause.0 * 2).min(PAUSE_MAX.0));
    };
    ctx.record(settled(hook, &d, attempts, outcome)).await;
}
