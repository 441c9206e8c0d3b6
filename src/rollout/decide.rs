//! What may happen next.

use serde_json::{Value, json};

use super::event::Event;
use super::state::{State, Status};
use super::task::tasks_of;
use crate::plan::{Advance, Plan};
use crate::snapshot::Command;

/// What the gates of the current stage say, all together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateSummary {
    /// Every gate passes (also when the stage has none).
    pub pass: bool,
    /// The first reason why not, in words.
    pub why: String,
    /// Each gate with its numbers.
    pub evidence: Value,
}

/// What the outside world tells the core. Times are wall-clock milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A new rollout.
    Start {
        /// `--advance`.
        advance: Option<Advance>,
        /// Who runs it.
        holder: String,
    },
    /// An existing one, taken up again.
    Resume {
        /// Who runs it now.
        holder: String,
        /// Why it was taken from a live holder.
        reason: Option<String>,
    },
    /// An operator's command.
    Command {
        /// What.
        command: Command,
        /// When.
        at_ms: i64,
        /// What the gates say at that moment.
        gates: GateSummary,
    },
    /// A trigger breached.
    Tripped {
        /// Which and by how much.
        why: String,
        /// The raw measurements it stood on; null for a stray.
        evidence: Value,
    },
    /// Time passed.
    Tick {
        /// When.
        at_ms: i64,
        /// What the gates say now.
        gates: GateSummary,
        /// Totals, should the rollout complete on this tick.
        totals: Value,
    },
    /// The task under way is done.
    TaskDone {
        /// What it found or changed.
        evidence: Value,
    },
    /// The task under way cannot be done now.
    TaskHeld {
        /// Why.
        why: String,
    },
    /// The task under way cannot be done without a person.
    TaskFailed {
        /// What is wrong and what to do.
        why: String,
    },
    /// Something outside the task under way stopped for good.
    Broken {
        /// What is wrong and what to do.
        why: String,
    },
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The events that `input` leads to, in order; none when nothing changes.
///
/// # Errors
/// Only for commands: why the command is refused.
pub fn decide(state: &State, plan: &Plan, input: &Input) -> Result<Vec<Event>, Refusal> {
    if state.closed {
        return match input {
            Input::Command { .. } => Err(Refusal("the rollout is over".into())),
            _ => Ok(Vec::new()),
        };
    }
    Ok(match input {
        Input::Start { advance, holder } => vec![Event::Started {
            plan_hash: plan.hash.clone(),
            advance: advance.map(|a| if a == Advance::Auto { "auto" } else { "operator" }.to_owned()),
            holder: holder.clone(),
        }],
        Input::Resume { holder, reason } => vec![Event::Resumed { holder: holder.clone(), reason: reason.clone() }],
        Input::Command { command, at_ms, gates } => return decide_command(state, plan, *command, *at_ms, gates),
        Input::Tripped { why, evidence } if state.paused.is_none() => {
            vec![Event::Paused { why: why.clone(), evidence: evidence.clone() }]
        }
        Input::Tripped { .. } => Vec::new(),
        Input::Tick { at_ms, gates, totals } => decide_tick(state, plan, *at_ms, gates, totals),
        Input::TaskDone { evidence } if state.intended => {
            vec![Event::TaskDone { index: state.tasks_done, evidence: evidence.clone() }]
        }
        Input::TaskHeld { why } if state.intended && state.held.as_ref() != Some(why) => {
            vec![Event::TaskHeld { index: state.tasks_done, why: why.clone() }]
        }
        Input::TaskFailed { why } | Input::Broken { why } if state.needs_operator.as_ref() != Some(why) => {
            vec![Event::NeedsOperator { why: why.clone() }]
        }
        Input::TaskDone { .. } | Input::TaskHeld { .. } | Input::TaskFailed { .. } | Input::Broken { .. } => Vec::new(),
    })
}

fn decide_command(
    state: &State,
    plan: &Plan,
    command: Command,
    at_ms: i64,
    gates: &GateSummary,
) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::Pause if state.paused.is_some() => Ok(Vec::new()),
        Command::Pause => Ok(vec![Event::Paused { why: "by the operator".into(), evidence: Value::Null }]),
        Command::Continue if state.paused.is_none() && state.needs_operator.is_none() => {
            Err(Refusal("it is not paused".into()))
        }
        Command::Continue => Ok(vec![Event::Continued {}]),
        Command::Stop => Ok(Vec::new()),
        Command::Advance { stage } => {
            let seen = plan.stages.get(stage).map_or("?", |s| s.id.as_str());
            if stage != state.stage {
                let now = plan.stages.get(state.stage).map_or("?", |s| s.id.as_str());
                return Err(Refusal(format!("it was asked for stage {seen}; the stage is {now} now")));
            }
            if let Some(why) = may_not_advance(state, plan, at_ms, gates) {
                return Err(Refusal(why));
            }
            Ok(leave_stage(state, plan, at_ms, gates, &Value::Null))
        }
    }
}

/// Why the current stage cannot be left now; `None` when it can.
fn may_not_advance(state: &State, plan: &Plan, at_ms: i64, gates: &GateSummary) -> Option<String> {
    if let Some(why) = &state.needs_operator {
        return Some(why.clone());
    }
    if let Some(why) = &state.paused {
        return Some(format!("paused: {why}; continue first"));
    }
    if state.passed {
        return Some("the stage has passed".into());
    }
    let Status::Soaking { since_ms } = state.status else { return Some("the stage's work is not done".into()) };
    let soak_ms = plan.stages.get(state.stage).map_or(0, |s| s.soak.as_ms()) as i64;
    let left = soak_ms - (at_ms - since_ms);
    if left > 0 {
        return Some(format!("it soaks for another {}s", (left + 999) / 1000));
    }
    if !gates.pass {
        return Some(gates.why.clone());
    }
    None
}

fn leave_stage(state: &State, plan: &Plan, at_ms: i64, gates: &GateSummary, totals: &Value) -> Vec<Event> {
    let id = plan.stages.get(state.stage).map_or_else(String::new, |s| s.id.clone());
    let evidence = json!({ "at_ms": at_ms, "gates": gates.evidence });
    let mut events = vec![Event::StagePassed { stage: state.stage, id, evidence }];
    events.extend(after_stage(state, plan, at_ms, totals));
    events
}

/// What follows a stage that has passed. A runner may be cut off between any two of these records.
fn after_stage(state: &State, plan: &Plan, at_ms: i64, totals: &Value) -> Vec<Event> {
    match plan.stages.get(state.stage + 1) {
        Some(next) => vec![Event::StageEntered { stage: state.stage + 1, id: next.id.clone(), at_ms }],
        None => vec![Event::Completed { evidence: totals.clone() }, closed()],
    }
}

fn closed() -> Event {
    Event::Closed { outcome: "completed".into() }
}

fn decide_tick(state: &State, plan: &Plan, at_ms: i64, gates: &GateSummary, totals: &Value) -> Vec<Event> {
    if state.needs_operator.is_some() {
        return Vec::new();
    }
    match state.status {
        Status::Completed => vec![closed()],
        _ if state.passed => after_stage(state, plan, at_ms, totals),
        Status::New if !state.plan_hash.is_empty() => {
            plan.stages.first().map(|s| Event::StageEntered { stage: 0, id: s.id.clone(), at_ms }).into_iter().collect()
        }
        Status::Working if state.intended || state.paused.is_some() => Vec::new(),
        Status::Working => match tasks_of(plan, state.stage).get(state.tasks_done) {
            Some(task) => vec![Event::TaskIntended { index: state.tasks_done, task: *task }],
            None => vec![Event::SoakBegan { at_ms }],
        },
        Status::Soaking { .. } => {
            let last = state.stage + 1 == plan.stages.len();
            let auto = last || state.advance_mode(plan) == Advance::Auto;
            if auto && may_not_advance(state, plan, at_ms, gates).is_none() {
                leave_stage(state, plan, at_ms, gates, totals)
            } else {
                Vec::new()
            }
        }
        Status::New => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A plan of two stages without gates, and its rollout run to the end by itself.
    fn rollout() -> (Plan, Vec<Event>) {
        let plan = r#"
            schema = 1
            plan = { id = "p", title = "t", version = 1, owner = "o" }
            route = { mode = "route" }
            [[collection]]
            legacy = "a.b"
            next = "a.c"
            steps = [{ set = "v", value = 2 }]
            [[stage]]
            id = "copy"
            do = ["create", "backfill"]
            advance = "auto"
            [[stage]]
            id = "shadow"
            shadow = 10
        "#;
        let plan = Plan::parse(plan, "plan.toml").map_err(|d| d.render(false)).unwrap();
        let mut events = decide(&State::default(), &plan, &Input::Start { advance: None, holder: "a".into() }).unwrap();
        let mut state = State::default();
        events.iter().for_each(|e| state.apply(e, &plan));
        go_on(&mut state, &plan, &mut events);
        (plan, events)
    }

    /// Ticks until nothing more happens; tasks are done at once.
    fn go_on(state: &mut State, plan: &Plan, events: &mut Vec<Event>) {
        loop {
            let gates = GateSummary { pass: true, ..GateSummary::default() };
            let input = match state.intended {
                true => Input::TaskDone { evidence: Value::Null },
                false => Input::Tick { at_ms: 5, gates, totals: Value::Null },
            };
            let new = decide(state, plan, &input).unwrap();
            if new.is_empty() {
                return;
            }
            new.iter().for_each(|e| state.apply(e, plan));
            events.extend(new);
        }
    }

    #[test]
    fn a_rollout_cut_off_after_any_record_is_resumed_to_the_same_records() {
        let (plan, whole) = rollout();
        assert!(matches!(whole.last(), Some(Event::Closed { .. })), "{whole:?}");
        for cut in 1..whole.len() {
            let mut events = whole[..cut].to_vec();
            let mut state = State::default();
            events.iter().for_each(|e| state.apply(e, &plan));
            for e in decide(&state, &plan, &Input::Resume { holder: "b".into(), reason: None }).unwrap() {
                state.apply(&e, &plan);
            }
            go_on(&mut state, &plan, &mut events);
            assert_eq!(events, whole, "cut off after {cut} records");
        }
    }
}
