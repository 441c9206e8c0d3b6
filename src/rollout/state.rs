//! Everything that must survive a crash, as the fold of the journal.

use crate::plan::{Advance, Plan};
use crate::rollout::task::{Task, tasks_of};

use super::event::Event;

/// What the current stage is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing has happened yet.
    #[default]
    New,
    /// Carrying out the stage's tasks.
    Working,
    /// The tasks are done; gates are watched since this wall-clock time.
    Soaking {
        /// Milliseconds since the Unix epoch.
        since_ms: i64,
    },
    /// Every stage passed.
    Completed,
}

/// A rollout's durable state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The plan it was started with.
    pub plan_hash: String,
    /// `--advance`, when given at the start.
    pub advance: Option<Advance>,
    /// Index of the current stage.
    pub stage: usize,
    /// When each stage was entered and passed, wall-clock milliseconds.
    pub stage_times: Vec<(i64, Option<i64>)>,
    /// What the current stage is doing.
    pub status: Status,
    /// The current stage has passed; what follows has not been recorded yet.
    pub passed: bool,
    /// Tasks of the current stage that are done.
    pub tasks_done: usize,
    /// The next task's intent is durable, its outcome is not.
    pub intended: bool,
    /// Why the task under way is held, until it is done.
    pub held: Option<String>,
    /// The operator's or a trigger's pause, with its reason.
    pub paused: Option<String>,
    /// It cannot go on by itself, with the reason.
    pub needs_operator: Option<String>,
    /// The highest route epoch that was ever intended.
    pub route_intended: i64,
    /// The route epoch last known to be in force.
    pub route_epoch: i64,
    /// Buckets below this belong to next, as last known.
    pub writes_next_below: u16,
    /// Buckets below this read from next, as last known.
    pub reads_next_below: u16,
    /// Percent of reads shadowed, as last known.
    pub shadow: u8,
    /// Evidence of `StartTail`: the cluster time (seconds, increment) changes are followed from.
    pub tail_from: Option<(u32, u32)>,
    /// The same for the reverse tail.
    pub reverse_from: Option<(u32, u32)>,
    /// The reverse tail was stopped: no way back.
    pub reverse_stopped: bool,
    /// Evidence of the last clean reconciliation.
    pub reconciled: Option<serde_json::Value>,
    /// What metrics were before the first stage.
    pub baseline: Option<serde_json::Value>,
    /// Strays found.
    pub strays: u64,
    /// The journal is closed.
    pub closed: bool,
}

impl State {
    /// Folds one event in. Total: an event that does not fit the state changes what it names and nothing else.
    pub fn apply(&mut self, event: &Event, plan: &Plan) {
        match event {
            Event::Started { plan_hash, advance, .. } => {
                self.plan_hash.clone_from(plan_hash);
                self.advance = match advance.as_deref() {
                    Some("auto") => Some(Advance::Auto),
                    Some("operator") => Some(Advance::Operator),
                    _ => None,
                };
            }
            Event::Resumed { .. } => self.needs_operator = None,
            Event::BaselineTaken { baseline } => self.baseline = Some(baseline.clone()),
            Event::StageEntered { stage, at_ms, .. } => {
                self.stage = *stage;
                self.passed = false;
                self.status = Status::Working;
                self.tasks_done = 0;
                self.intended = false;
                self.stage_times.resize(*stage, (*at_ms, Some(*at_ms)));
                self.stage_times.push((*at_ms, None));
            }
            Event::TaskIntended { .. } => self.intended = true,
            Event::TaskDone { index, evidence } => self.task_done(*index, evidence, plan),
            Event::TaskHeld { why, .. } => self.held = Some(why.clone()),
            Event::RouteIntended { epoch, .. } => self.route_intended = self.route_intended.max(*epoch),
            Event::RouteSettled { epoch, writes_next_below, reads_next_below, shadow, .. } => {
                self.route_epoch = *epoch;
                self.writes_next_below = *writes_next_below;
                self.reads_next_below = *reads_next_below;
                self.shadow = *shadow;
            }
            Event::SoakBegan { at_ms } => self.status = Status::Soaking { since_ms: *at_ms },
            Event::Paused { why, .. } => self.paused = Some(why.clone()),
            Event::Continued {} => {
                self.paused = None;
                self.needs_operator = None;
            }
            Event::StagePassed { evidence, .. } => {
                self.passed = true;
                let at = evidence.get("at_ms").and_then(serde_json::Value::as_i64);
                if let Some(t) = self.stage_times.last_mut() {
                    t.1 = at.or(Some(t.0));
                }
            }
            Event::NeedsOperator { why } => self.needs_operator = Some(why.clone()),
            Event::Completed { .. } => self.status = Status::Completed,
            Event::StrayFound { .. } => self.strays += 1,
            Event::Closed { .. } => self.closed = true,
        }
    }

    fn task_done(&mut self, index: usize, evidence: &serde_json::Value, plan: &Plan) {
        let time = || {
            let pair = evidence.get("from")?.as_array()?;
            Some((u32::try_from(pair.first()?.as_u64()?).ok()?, u32::try_from(pair.get(1)?.as_u64()?).ok()?))
        };
        match tasks_of(plan, self.stage).get(index) {
            Some(Task::StartTail) => self.tail_from = time(),
            Some(Task::StartReverse) => self.reverse_from = time(),
            Some(Task::StopReverse) => self.reverse_stopped = true,
            Some(Task::Reconcile) => self.reconciled = Some(evidence.clone()),
            _ => {}
        }
        self.tasks_done = index + 1;
        self.intended = false;
        self.held = None;
    }

    /// The task whose intent is durable and whose outcome is not.
    #[must_use]
    pub fn current_task(&self, plan: &Plan) -> Option<Task> {
        if !self.intended || self.status != Status::Working {
            return None;
        }
        tasks_of(plan, self.stage).get(self.tasks_done).copied()
    }

    /// How the current stage ends.
    #[must_use]
    pub fn advance_mode(&self, plan: &Plan) -> Advance {
        self.advance.or_else(|| plan.stages.get(self.stage).map(|s| s.advance)).unwrap_or(Advance::Operator)
    }
}
