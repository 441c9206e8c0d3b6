//! What may happen next.

use serde_json::{Value, json};

use super::event::Event;
use super::state::{State, Status};
use super::task::Task;
use crate::plan::{Advance, PilotLevel, Plan};
use crate::route::{Bucket, Goes, below_for_percent};
use crate::snapshot::Command;

/// Reasons for an operator that are told before one has acted: with these the rest is known to be broken too.
const REASONS_MAX: usize = 20;

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
        /// What going back would cost at that moment.
        forecast: Value,
    },
    /// A trigger breached.
    Tripped {
        /// Which and by how much.
        why: String,
        /// What it does: a rollback (hard when true), or a pause.
        rollback: Option<bool>,
        /// The measurements it stood on.
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
        /// Hooks are still to be called, or have not answered: the journal stays open for their outcome.
        calling: bool,
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
    /// The task under way was left at a safe point, because the engine stops: whoever resumes begins it again.
    TaskStopped,
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
        Input::Command { command: Command::Rollback { hard, to }, forecast, .. } => {
            return decide_rollback(state, plan, *hard, (*to, None), "by the operator", forecast);
        }
        Input::Command { command: Command::RollbackRange { hard, from }, forecast, .. } => {
            if plan.mode.is_told() {
                let why =
                    format!("mode `{}` switches everything at once: there is no range to bring back", plan.mode.name());
                return Err(Refusal(why));
            }
            let rest = rest_below(state, plan, *from)?;
            return decide_rollback(state, plan, *hard, rest, "by the operator", forecast);
        }
        Input::Command { command: Command::LeaveBehind, forecast, .. } => {
            return decide_strand(state, plan, forecast);
        }
        Input::Command { command: Command::RollbackCohort { hard }, forecast, .. } => {
            return decide_cohort_back(state, plan, *hard, forecast);
        }
        Input::Command { command, at_ms, gates, .. } => return decide_command(state, plan, *command, *at_ms, gates),
        Input::Tripped { why, rollback, evidence } => decide_tripped(state, plan, why, *rollback, evidence),
        Input::Tick { at_ms, gates, totals, calling } => decide_tick(state, plan, *at_ms, gates, (totals, *calling)),
        Input::TaskDone { evidence } if state.intended => {
            vec![Event::TaskDone { index: state.tasks_done, evidence: evidence.clone() }]
        }
        Input::TaskHeld { why } if state.intended && state.held.as_ref() != Some(why) => {
            vec![Event::TaskHeld { index: state.tasks_done, why: why.clone() }]
        }
        Input::TaskFailed { why } | Input::Broken { why } if !is_told(state, why) => {
            vec![Event::NeedsOperator { why: why.clone() }]
        }
        Input::TaskDone { .. }
        | Input::TaskHeld { .. }
        | Input::TaskStopped
        | Input::TaskFailed { .. }
        | Input::Broken { .. } => Vec::new(),
    })
}

/// Where a rollback is asked for twice, the one under way stands; a hard one, or one that goes further, takes its place.
fn decide_rollback(
    state: &State,
    plan: &Plan,
    hard: bool,
    (to, keep): Rest,
    why: &str,
    evidence: &Value,
) -> Result<Vec<Event>, Refusal> {
    if let Some(why) = no_way_back(state, plan) {
        return Err(Refusal(why.to_owned()));
    }
    if plan.in_place() && to.is_some() {
        return Err(Refusal("documents that change in place go back whole, not to a stage".into()));
    }
    if let Some(to) = to.filter(|t| *t >= state.stage) {
        let id = plan.stages.get(to).map_or("?", |s| s.id.as_str());
        return Err(Refusal(format!("stage {id} is not before the current one")));
    }
    // A rollback of the cohort alone gives way to one of everybody.
    let whole = state.back.as_ref().filter(|b| !b.cohort);
    if let Some(back) = whole {
        // Everything is on legacy, and next is being put away: there is nothing left to hasten, and nothing to compare with.
        if state.isolating || state.reverse_stopped {
            return Ok(Vec::new());
        }
        let further = (to, keep) < (back.to, back.keep);
        if !further && (back.hard || !hard) {
            return Ok(Vec::new());
        }
    }
    let hard = hard || whole.is_some_and(|b| b.hard);
    let (to, keep) = whole.map_or((to, keep), |b| (b.to, b.keep).min((to, keep)));
    Ok(vec![Event::RollbackBegan { hard, why: why.to_owned(), to, evidence: evidence.clone(), cohort: false, keep }])
}

/// The stage to come to rest in, and below which bucket next keeps what it has all the same. The further back, the smaller.
type Rest = (Option<usize>, Option<Bucket>);

/// Where a rollback of the buckets from `from` on comes to rest: the last stage that moves no more writes than stay.
fn rest_below(state: &State, plan: &Plan, from: Bucket) -> Result<Rest, Refusal> {
    let owned = state.writes_next_below;
    if plan.in_place() {
        return Err(Refusal("documents that change in place go back whole, not by bucket".into()));
    }
    if from == 0 {
        return Ok((None, None));
    }
    // Where a value must be unique, no server may see only one half (rule 11).
    if plan.stages.iter().all(|s| matches!(s.writes, 0 | 100)) {
        return Err(Refusal("this plan moves all writes in one step, and so they go back: without a range".into()));
    }
    if from >= owned {
        let has = if owned == 0 { "none".to_owned() } else { format!("those below {owned}") };
        return Err(Refusal(format!("the buckets from {from} on are on legacy; of all buckets next has {has}")));
    }
    let fits = |stage: &crate::plan::Stage| below_for_percent(stage.writes) <= from;
    match plan.stages.iter().take(state.stage).rposition(fits) {
        Some(to) => Ok((Some(to), Some(from))),
        None => Err(Refusal("there is no earlier stage to come to rest in: bring everything back".into())),
    }
}

/// Only the cohort goes back, from whatever the stage is doing.
fn decide_cohort_back(state: &State, plan: &Plan, hard: bool, evidence: &Value) -> Result<Vec<Event>, Refusal> {
    let refuse = |why: &str| Err(Refusal(why.to_owned()));
    if plan.pilot.is_none() {
        return refuse("the plan names no pilot cohort");
    }
    if let Some(why) = no_way_back(state, plan) {
        return refuse(why);
    }
    if state.route_epoch == 0 {
        return refuse("there is no route yet: nothing of the cohort has moved");
    }
    match &state.back {
        Some(back) if !back.cohort => return refuse("everything is going back, the cohort with it"),
        Some(back) if back.hard || !hard => return Ok(Vec::new()),
        Some(_) => {}
        None if state.pilot == Some((Goes::Legacy, Goes::Legacy)) => {
            return refuse("the cohort is held on legacy already");
        }
        None if plan.stages.get(state.stage).is_some_and(|s| s.irreversible) => {
            return refuse("this stage does without legacy: only everything together can go back");
        }
        None => {}
    }
    let why = "by the operator".to_owned();
    Ok(vec![Event::RollbackBegan { hard, why, to: None, evidence: evidence.clone(), cohort: true, keep: None }])
}

/// Why the cohort cannot go forward again; `None` when it can.
fn may_not_go_forward(state: &State, plan: &Plan) -> Option<String> {
    let level = plan.stages.get(state.stage).map_or(PilotLevel::Off, |s| s.pilot);
    if plan.pilot.is_none() {
        Some("the plan names no pilot cohort".into())
    } else if state.back.is_some() {
        Some("it is going back".into())
    } else if !state.cohort_stays && !state.cohort_is_held() {
        Some("the cohort is not held on legacy".into())
    } else if state.passed {
        Some("the stage has passed".into())
    } else if level == PilotLevel::Off {
        Some("this stage does not move the cohort".into())
    } else {
        None
    }
}

/// Writes may be left behind: everything goes back at once, since a sealed next can be in no stage. Twice changes nothing.
fn decide_strand(state: &State, plan: &Plan, evidence: &Value) -> Result<Vec<Event>, Refusal> {
    if let Some(why) = no_way_back(state, plan) {
        return Err(Refusal(why.to_owned()));
    }
    if state.sealed.is_some() {
        return Err(Refusal("next is sealed already".into()));
    }
    let why = match evidence.get("reason").and_then(Value::as_str) {
        Some(reason) => format!("by the operator: {reason}"),
        None => "by the operator".to_owned(),
    };
    let mut events = Vec::new();
    if state.back.as_ref().is_none_or(|b| !b.hard || b.to.is_some()) {
        events.push(Event::RollbackBegan {
            hard: true,
            why: why.clone(),
            to: None,
            cohort: false,
            keep: None,
            evidence: evidence.clone(),
        });
    }
    if state.strand.is_none() {
        events.push(Event::StrandDecided { why, evidence: evidence.clone() });
    }
    Ok(events)
}

/// Why legacy cannot take everything back any more; `None` while it can.
#[must_use]
pub fn no_way_back(state: &State, plan: &Plan) -> Option<&'static str> {
    let stopping = matches!(state.current_task(plan), Some(Task::StopReverse | Task::Quarantine));
    match state.status {
        _ if plan.observes() => Some(super::observe::NO_WAY_BACK),
        Status::Completed => Some("the rollout is completed: there is no way back"),
        Status::RolledBack => Some("everything is back already"),
        _ if state.back.is_none() && (state.reverse_stopped || stopping) => {
            Some("the point of no return has been passed: legacy is not kept in step any more")
        }
        _ => None,
    }
}

fn decide_tripped(state: &State, plan: &Plan, why: &str, rollback: Option<bool>, evidence: &Value) -> Vec<Event> {
    // While only the cohort goes back, everybody may have to; a pause would only hold the cohort up.
    if state.back.as_ref().is_some_and(|b| !b.cohort || rollback.is_none()) {
        return Vec::new();
    }
    if let Some(hard) = rollback
        && let Ok(events) = decide_rollback(state, plan, hard, (None, None), why, evidence)
    {
        return events;
    }
    if state.paused.is_some() || state.back.is_some() {
        Vec::new()
    } else {
        vec![Event::Paused { why: why.to_owned(), evidence: evidence.clone() }]
    }
}

/// An operator has been told, or told enough: two actors with errors of their own must not write the journal full between them.
fn is_told(state: &State, why: &str) -> bool {
    state.reasons.contains(why) || state.reasons.len() >= REASONS_MAX
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
        Command::CohortForward => match may_not_go_forward(state, plan).or_else(|| plan.calendar.closed(at_ms)) {
            Some(why) => Err(Refusal(why)),
            None => Ok(vec![Event::CohortForward {}]),
        },
        // Rollbacks are decided before.
        Command::Stop
        | Command::Rollback { .. }
        | Command::RollbackRange { .. }
        | Command::RollbackCohort { .. }
        | Command::LeaveBehind => Ok(Vec::new()),
        Command::Advance { .. } if state.back.is_some() => Err(Refusal("it is going back".into())),
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
    if state.cohort_is_held() && plan.stages.get(state.stage + 1).is_some_and(|s| s.irreversible) {
        return Some("the pilot cohort is held on legacy: take it forward, or roll back, before legacy goes".into());
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
    plan.calendar.closed(at_ms)
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
        None => over(plan, Event::Completed { evidence: totals.clone() }, "completed"),
    }
}

/// The journal is closed with it, unless hooks are to be told first: their outcome belongs into it.
fn over(plan: &Plan, event: Event, outcome: &str) -> Vec<Event> {
    if plan.hooks.is_empty() { vec![event, closed(outcome)] } else { vec![event] }
}

fn closed(outcome: &str) -> Event {
    Event::Closed { outcome: outcome.into() }
}

/// What follows when every task of a rollback is done.
fn after_rollback(state: &State, plan: &Plan, at_ms: i64, totals: &Value) -> Vec<Event> {
    if state.back.as_ref().is_some_and(|b| b.cohort) {
        return vec![Event::CohortReturned { at_ms }];
    }
    match state.back.as_ref().and_then(|b| b.to) {
        Some(stage) => {
            let id = plan.stages.get(stage).map_or_else(String::new, |s| s.id.clone());
            vec![Event::Returned { stage, id, at_ms }]
        }
        None => over(plan, Event::RolledBack { evidence: totals.clone() }, "rolled_back"),
    }
}

fn decide_tick(
    state: &State,
    plan: &Plan,
    at_ms: i64,
    gates: &GateSummary,
    (totals, calling): (&Value, bool),
) -> Vec<Event> {
    match state.status {
        Status::Completed | Status::RolledBack if calling => return Vec::new(),
        Status::Completed => return vec![closed("completed")],
        Status::RolledBack => return vec![closed("rolled_back")],
        _ if state.needs_operator.is_some() => return Vec::new(),
        _ => {}
    }
    match state.status {
        // Whoever was cut off before the next stage began may come back when none may begin.
        _ if state.passed && state.stage + 1 < plan.stages.len() && plan.calendar.closed(at_ms).is_some() => Vec::new(),
        _ if state.passed => after_stage(state, plan, at_ms, totals),
        Status::New if plan.calendar.closed(at_ms).is_some() => Vec::new(),
        Status::New if !state.plan_hash.is_empty() => {
            plan.stages.first().map(|s| Event::StageEntered { stage: 0, id: s.id.clone(), at_ms }).into_iter().collect()
        }
        Status::Working if state.intended || state.paused.is_some() => Vec::new(),
        Status::Working if state.back.is_none() && state.awaits.first().is_some() => {
            state.awaits.refusal().map(|why| Event::NeedsOperator { why }).into_iter().collect()
        }
        Status::Working => match state.tasks(plan).get(state.tasks_done) {
            Some(task) => vec![Event::TaskIntended { index: state.tasks_done, task: *task }],
            None if state.back.is_some() => after_rollback(state, plan, at_ms, totals),
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
        Status::New | Status::Completed | Status::RolledBack => Vec::new(),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
