//! Everything that must survive a crash, as the fold of the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::plan::{Advance, Plan};
use crate::rollout::task::{Task, back_tasks, forward_again, tasks_of};
use crate::route::{Bucket, Goes};

use super::event::Event;
use super::hooks::Awaits;

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
    /// Everything is back on legacy.
    RolledBack,
}

/// A rollback under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Back {
    /// Everything at once, rather than stage by stage.
    pub hard: bool,
    /// Why: by the operator, or a trigger's sentence.
    pub why: String,
    /// Index of the stage it began in.
    pub from: usize,
    /// Index of the stage to come to rest in; `None` is before the first one.
    pub to: Option<usize>,
    /// Both sides had been found equal before: they can be compared. False while the first copy was not finished.
    pub copied: bool,
    /// Next is left behind, with what was acknowledged there last.
    pub stranded: bool,
    /// Only the pilot cohort goes back.
    pub cohort: bool,
    /// Buckets below this stay on next, whatever the stage `to` says.
    pub keep: Option<Bucket>,
    /// Next owned the buckets below this when it began: more than the stage says, after a range has gone back alone.
    pub owned: Bucket,
    /// Where the stage was left, should only the cohort go back.
    pub left: Left,
}

/// Next as it was left behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// Everything next had up to this cluster time of its own is on legacy.
    pub through: (u32, u32),
    /// Nothing of these buckets was written on legacy by an application before this cluster time of legacy.
    pub flip: (u32, u32),
    /// Next owned the buckets below this.
    pub below: u16,
    /// What was at risk, as it was known then.
    pub evidence: serde_json::Value,
}

/// Where a stage was left for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    status: Status,
    tasks_done: usize,
    passed: bool,
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
    /// The task intended last, as its record says it: the list of a stage may have been another one in an older build.
    pub doing: Option<Task>,
    /// Why the task under way is held, until it is done.
    pub held: Option<String>,
    /// The operator's or a trigger's pause, with its reason.
    pub paused: Option<String>,
    /// It cannot go on by itself, with the reason.
    pub needs_operator: Option<String>,
    /// The rollback under way or done.
    pub back: Option<Back>,
    /// Evidence of `Task::Baseline`: what legacy was like before anything changed, and must be like again after a rollback.
    pub before: Option<serde_json::Value>,
    /// Writes may be left behind on a next that does not answer: who decided it, and why.
    pub strand: Option<String>,
    /// Next is left behind: nothing is written there until what is there has been salvaged.
    pub sealed: Option<Sealed>,
    /// Evidence of the salvage, once it is done.
    pub salvaged: Option<serde_json::Value>,
    /// Keys written on both sides, with the side whose version a person chose.
    pub conflicts: std::collections::BTreeMap<String, Option<String>>,
    /// Next is being put out of reach: nothing follows legacy any more.
    pub isolating: bool,
    /// Every reason recorded since an operator last went on: each is told once.
    pub reasons: BTreeSet<String>,
    /// The highest route epoch that was ever intended.
    pub route_intended: i64,
    /// What applications that follow no route were told.
    pub told: Switched,
    /// The route epoch last known to be in force.
    pub route_epoch: i64,
    /// Buckets below this belong to next, as last known.
    pub writes_next_below: u16,
    /// Buckets below this read from next, as last known.
    pub reads_next_below: u16,
    /// Percent of reads shadowed, as last known.
    pub shadow: u8,
    /// Where reads and writes of the pilot cohort go, as last known.
    pub pilot: Option<(Goes, Goes)>,
    /// The cohort has gone back alone: until a stage or an operator says otherwise, no task takes it forward.
    pub cohort_stays: bool,
    /// An operator has it taken forward again, after the tasks of the stage.
    pub cohort_again: bool,
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
    /// Strays found that nobody has resolved, by the `_id` of their record in quarantine.
    pub strays: Arc<BTreeSet<String>>,
    /// What other terminals have asked, by id: `None` while it is carried out, then why it was refused, if it was.
    pub asked: Arc<BTreeMap<String, Option<Option<String>>>>,
    /// Records so far: the number of the last one.
    pub records: u64,
    /// Hooks that must succeed before the current stage's work begins.
    pub awaits: Awaits,
    /// The journal is closed.
    pub closed: bool,
}

/// What applications that follow no route document were told, as far as the journal knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switched {
    /// The shares of reads, percent, that some process may go by; empty before anything was told.
    pub reads: BTreeSet<u8>,
    /// Some process may hold its writes.
    pub held: bool,
}

impl State {
    /// The latest time that a decision so far was made at, wall-clock milliseconds; 0 before the first.
    #[must_use]
    pub fn latest_ms(&self) -> i64 {
        let soaking = if let Status::Soaking { since_ms } = self.status { since_ms } else { 0 };
        let stages = self.stage_times.iter().map(|(from, to)| to.unwrap_or(*from)).max();
        soaking.max(stages.unwrap_or(0))
    }

    /// Folds one event in. Total: an event that does not fit the state changes what it names and nothing else.
    pub fn apply(&mut self, event: &Event, plan: &Plan) {
        self.records += 1;
        self.awaits.apply(self.records, event, plan);
        match event {
            Event::Started { plan_hash, advance, .. } => {
                self.plan_hash.clone_from(plan_hash);
                self.advance = match advance.as_deref() {
                    Some("auto") => Some(Advance::Auto),
                    Some("operator") => Some(Advance::Operator),
                    _ => None,
                };
            }
            Event::Resumed { .. } => self.needs_nobody(),
            Event::BaselineTaken { baseline } => self.baseline = Some(baseline.clone()),
            Event::StageEntered { stage, at_ms, .. } => {
                self.stage = *stage;
                self.cohort_again = false;
                self.cohort_stays &= !plan.stages.get(*stage).is_some_and(|s| s.pilot_said);
                self.passed = false;
                self.status = Status::Working;
                self.tasks_done = 0;
                self.intended = false;
                self.stage_times.resize(*stage, (*at_ms, Some(*at_ms)));
                self.stage_times.push((*at_ms, None));
            }
            Event::TaskIntended { task, .. } => {
                self.intended = true;
                self.doing = Some(*task);
                self.isolating |= *task == Task::Isolate;
            }
            Event::TaskDone { index, evidence } => self.task_done(*index, evidence, plan),
            Event::TaskHeld { why, .. } => self.held = Some(why.clone()),
            Event::RouteIntended { epoch, .. } => self.route_intended = self.route_intended.max(*epoch),
            Event::RouteSettled { epoch, writes_next_below, reads_next_below, shadow, pilot, .. } => {
                self.route_epoch = *epoch;
                self.writes_next_below = *writes_next_below;
                self.reads_next_below = *reads_next_below;
                self.shadow = *shadow;
                self.pilot = *pilot;
            }
            Event::SoakBegan { at_ms } => self.status = Status::Soaking { since_ms: *at_ms },
            Event::Paused { why, .. } => self.paused = Some(why.clone()),
            Event::Continued {} => {
                self.paused = None;
                self.needs_nobody();
            }
            Event::StagePassed { evidence, .. } => {
                self.passed = true;
                let at = evidence.get("at_ms").and_then(serde_json::Value::as_i64);
                if let Some(t) = self.stage_times.last_mut() {
                    t.1 = at.or(Some(t.0));
                }
            }
            Event::NeedsOperator { why } => {
                self.needs_operator = Some(why.clone());
                self.reasons.insert(why.clone());
            }
            Event::Completed { .. } => self.status = Status::Completed,
            Event::RollbackBegan { hard, why, to, cohort, keep, .. } => {
                self.turn_back(*hard, why, (*to, *keep), *cohort);
            }
            Event::CohortReturned { at_ms } => self.cohort_returned(*at_ms),
            Event::CohortForward {} => self.cohort_forward(plan),
            Event::Returned { stage, at_ms, .. } => self.returned(*stage, *at_ms, plan),
            Event::RolledBack { .. } => self.status = Status::RolledBack,
            Event::StrayFound { key, side, kept, .. } => {
                let id = if kept.is_empty() { format!("{side}/{key}") } else { kept.clone() };
                Arc::make_mut(&mut self.strays).insert(id);
            }
            Event::StrayResolved { kept, .. } => drop(Arc::make_mut(&mut self.strays).remove(kept)),
            Event::StrandDecided { why, .. } => self.strand = Some(why.clone()),
            Event::Sealed { through, flip, below, evidence } => {
                let sealed = Sealed { through: *through, flip: *flip, below: *below, evidence: evidence.clone() };
                self.sealed = Some(sealed);
                if let Some(back) = &mut self.back {
                    // Without next there is no stage to come to rest in.
                    (back.stranded, back.to, back.keep) = (true, None, None);
                }
            }
            Event::ConflictFound { key, .. } => {
                self.conflicts.entry(key.clone()).or_insert(None);
            }
            Event::ConflictResolved { key, side } => {
                self.conflicts.insert(key.clone(), Some(side.clone()));
            }
            Event::Amended { is, .. } => self.plan_hash.clone_from(is),
            Event::SwitchCalled { reads, .. } => {
                self.told.reads.insert(*reads);
                // Until it is confirmed, some may not have heard of it, and hold what they were told to before.
                self.told.held = true;
            }
            Event::SwitchSettled { reads, writes, ok: true, .. } => {
                self.told.reads = BTreeSet::from([*reads]);
                self.told.held = writes == "held";
            }
            Event::CommandAsked { id, .. } => drop(Arc::make_mut(&mut self.asked).insert(id.clone(), None)),
            Event::CommandAnswered { id, refused } => {
                Arc::make_mut(&mut self.asked).insert(id.clone(), Some(refused.clone()));
            }
            // They change documents and indexes, not where the rollout stands.
            Event::RepairBegan { .. }
            | Event::RepairEnded { .. }
            | Event::RepairVerified { .. }
            | Event::TtlSuspended { .. }
            | Event::TtlRestored { .. }
            | Event::ThrottleBegan { .. }
            | Event::ThrottleEnded { .. }
            | Event::SwitchSettled { .. }
            | Event::HookCalled { .. }
            | Event::HookSettled { .. }
            | Event::Revealed { .. }
            | Event::Stopped {} => {}
            Event::Closed { .. } => self.closed = true,
        }
    }

    fn needs_nobody(&mut self) {
        self.needs_operator = None;
        self.reasons.clear();
    }

    fn task_done(&mut self, index: usize, evidence: &serde_json::Value, plan: &Plan) {
        let time = || {
            let pair = evidence.get("from")?.as_array()?;
            Some((u32::try_from(pair.first()?.as_u64()?).ok()?, u32::try_from(pair.get(1)?.as_u64()?).ok()?))
        };
        match self.doing.take().or_else(|| self.tasks(plan).get(index).copied()) {
            Some(Task::Baseline) => self.before = evidence.get("baseline").cloned(),
            // Begun a second time, after a partial rollback, a tail goes on from where it stands.
            Some(Task::StartTail) => self.tail_from = self.tail_from.or_else(time),
            Some(Task::StartReverse) => self.reverse_from = self.reverse_from.or_else(time),
            Some(Task::StopReverse) => self.reverse_stopped = true,
            Some(Task::Reconcile) => self.reconciled = Some(evidence.clone()),
            Some(Task::Salvage) => self.salvaged = Some(evidence.clone()),
            _ => {}
        }
        self.tasks_done = index + 1;
        self.intended = false;
        self.held = None;
    }

    /// A rollback takes the place of the stage's work, and of whatever held it up.
    fn turn_back(&mut self, hard: bool, why: &str, (to, keep): (Option<usize>, Option<Bucket>), cohort: bool) {
        let here = Left { status: self.status, tasks_done: self.tasks_done, passed: self.passed };
        let left = self.back.as_ref().map_or(here, |b| b.left);
        let from = self.back.as_ref().map_or(self.stage, |b| b.from);
        let copied = self.back.as_ref().map_or(self.reconciled.is_some(), |b| b.copied);
        let owned = self.back.as_ref().map_or(self.writes_next_below, |b| b.owned);
        let stranded = self.sealed.is_some();
        self.back = Some(Back { hard, why: why.to_owned(), from, to, copied, stranded, cohort, keep, owned, left });
        self.cohort_stays |= cohort;
        self.cohort_again &= cohort;
        self.status = Status::Working;
        self.passed = false;
        self.tasks_done = 0;
        self.intended = false;
        self.held = None;
        self.paused = None;
        self.needs_nobody();
    }

    /// The stage goes on from where it was left, once somebody says so.
    fn cohort_returned(&mut self, at_ms: i64) {
        let Some(Back { left, .. }) = self.back.take() else { return };
        self.status = match left.status {
            // What soaks now is another mixture than before.
            Status::Soaking { .. } => Status::Soaking { since_ms: at_ms },
            other => other,
        };
        (self.tasks_done, self.passed, self.intended) = (left.tasks_done, left.passed, false);
        self.paused =
            Some("the pilot cohort is back on legacy and stays there; everybody else is where they were".into());
    }

    fn cohort_forward(&mut self, plan: &Plan) {
        // It may have been forward once in this stage, and back.
        self.tasks_done = self.tasks_done.min(tasks_of(plan, self.stage).len());
        self.cohort_stays = false;
        self.cohort_again = true;
        self.paused = None;
        if matches!(self.status, Status::Soaking { .. }) {
            self.status = Status::Working;
        }
    }

    /// True while the pilot cohort's reads or writes are held on legacy, as last known.
    #[must_use]
    pub fn cohort_is_held(&self) -> bool {
        self.pilot.is_some_and(|(reads, writes)| reads == Goes::Legacy || writes == Goes::Legacy)
    }

    fn returned(&mut self, stage: usize, at_ms: i64, plan: &Plan) {
        self.back = None;
        self.strand = None;
        self.stage = stage;
        self.passed = false;
        self.status = Status::Soaking { since_ms: at_ms };
        self.tasks_done = tasks_of(plan, stage).len();
        self.intended = false;
        self.stage_times.truncate(stage + 1);
        if let Some(t) = self.stage_times.last_mut() {
            t.1 = None;
        }
        self.paused = Some("back in this stage after a rollback".into());
    }

    /// The work under way, in order: the stage's, or the rollback's.
    #[must_use]
    pub fn tasks(&self, plan: &Plan) -> Vec<Task> {
        match &self.back {
            Some(back) => back_tasks(plan, back),
            None => {
                let mut tasks = tasks_of(plan, self.stage);
                if self.cohort_again {
                    tasks.extend(forward_again(plan, self.stage));
                }
                tasks
            }
        }
    }

    /// The task whose intent is durable and whose outcome is not.
    #[must_use]
    pub fn current_task(&self, plan: &Plan) -> Option<Task> {
        if !self.intended || self.status != Status::Working {
            return None;
        }
        self.tasks(plan).get(self.tasks_done).copied()
    }

    /// Conflicts that no person has decided yet.
    #[must_use]
    pub fn conflicts_open(&self) -> usize {
        self.conflicts.values().filter(|c| c.is_none()).count()
    }

    /// Strays that nobody has resolved yet.
    #[must_use]
    pub fn strays_open(&self) -> u64 {
        self.strays.len() as u64
    }

    /// True once the first copy of everything is finished: from there on a difference is one.
    #[must_use]
    pub fn has_copied(&self, plan: &Plan) -> bool {
        let done = self.back.as_ref().map_or(self.tasks_done, |b| b.left.tasks_done);
        let copy = |stage| tasks_of(plan, stage).iter().position(|t| *t == Task::Backfill);
        let at = (0..plan.stages.len()).find_map(|stage| Some((stage, copy(stage)?)));
        self.reconciled.is_some() || at.is_some_and(|(stage, task)| (self.stage, done) > (stage, task))
    }

    /// How the current stage ends.
    #[must_use]
    pub fn advance_mode(&self, plan: &Plan) -> Advance {
        self.advance.or_else(|| plan.stages.get(self.stage).map(|s| s.advance)).unwrap_or(Advance::Operator)
    }
}
