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
        Input::Tripped { why } if state.paused.is_none() => vec![Event::Paused { why: why.clone() }],
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
        Command::Pause => Ok(vec![Event::Paused { why: "by the operator".into() }]),
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
    match plan.stages.get(state.stage + 1) {
        Some(next) => events.push(Event::StageEntered { stage: state.stage + 1, id: next.id.clone(), at_ms }),
        None => {
            events.push(Event::Completed { evidence: totals.clone() });
            events.push(Event::Closed { outcome: "completed".into() });
        }
    }
    events
}

fn decide_tick(state: &State, plan: &Plan, at_ms: i64, gates: &GateSummary, totals: &Value) -> Vec<Event> {
    if state.needs_operator.is_some() {
        return Vec::new();
    }
    match state.status {
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
        Status::New | Status::Completed => Vec::new(),
    }
}
