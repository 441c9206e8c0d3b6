//! The work of a stage, in order. Derived from the plan, never stored.

use serde::{Deserialize, Serialize};

use super::state::Back;
use crate::plan::{Mode, PilotLevel, Plan, Reached, Stage, Work};
use crate::route::{Bucket, Goes, below_for_percent};

/// One piece of work with one durable intent and one durable outcome. Each may be started again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Write down what the metrics are like before anything changes: where a rollback has to come back to.
    Baseline,
    /// Create next's collection and the route.
    Create,
    /// Fix the time from which legacy's changes are followed. Before the copy, so that nothing falls between.
    StartTail,
    /// Copy what exists.
    Backfill,
    /// Build next's indexes.
    Indexes,
    /// Where tidegate only observes: wait until the other tool has built next's indexes.
    IndexesThere,
    /// Compare both sides whole.
    Reconcile,
    /// Ask both sides' servers what the plan declares, and look whether next's indexes are as planned.
    Answers {
        /// Of every document, and not of some.
        whole: bool,
        /// The planned indexes have been built.
        indexes: bool,
    },
    /// Set the percentage of shadowed reads.
    Shadow {
        /// Percent.
        percent: u8,
    },
    /// No TTL index lets documents expire on either side any more. Before any write moves.
    SuspendTtl,
    /// The side that stays lets documents expire again as before.
    RestoreTtl,
    /// Fix the time from which next's changes are followed back into legacy. Before any write moves.
    StartReverse,
    /// Move reads of the buckets below this to next.
    MoveReads {
        /// The first bucket that still reads from legacy.
        below: Bucket,
    },
    /// Move writes of a range of buckets to next.
    MoveWrites {
        /// First bucket.
        from: Bucket,
        /// One past the last.
        to: Bucket,
    },
    /// Move the pilot cohort forward, reads before writes.
    Pilot {
        /// Where its reads go afterwards.
        reads: Goes,
        /// Where its writes go afterwards.
        writes: Goes,
    },
    /// Stop following next's changes: the point of no return.
    StopReverse,
    /// Rename legacy away and leave an empty view under its name.
    Quarantine,
    /// Going back: writes of every bucket from `below` on belong to legacy again.
    ReturnWrites {
        /// The first bucket that legacy owns afterwards.
        below: Bucket,
        /// The first bucket that reads from legacy afterwards: nobody may go on reading where the writes have left.
        reads_below: Bucket,
        /// There is no time for a whole comparison before.
        hard: bool,
        /// Where reads and writes of the pilot cohort go afterwards, in the same moment; `None` is as before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pilot: Option<(Goes, Goes)>,
    },
    /// Going back: the pilot cohort goes no further than this, whatever the buckets do.
    ReturnPilot {
        /// Where its reads go at most.
        reads: Goes,
        /// Where its writes go at most.
        writes: Goes,
        /// There is no time for a whole comparison before.
        hard: bool,
    },
    /// Going back: reads of every bucket from `below` on come from legacy again.
    ReturnReads {
        /// The first bucket that reads from legacy afterwards.
        below: Bucket,
    },
    /// Going back: wait until legacy's metrics are back at the baseline.
    Recover,
    /// In place, going back: bring every document back to what it was, or by its inverse.
    Undo {
        /// Not slowed down.
        hard: bool,
    },
    /// In place: wait until no application has written the shape that is left behind for a while.
    Quiet,
    /// Going back: nothing follows legacy any more; next is sealed, renamed away and kept.
    Isolate,
    /// Going back without next: once it answers again, what was left behind there is kept, and carried over where legacy has not moved on.
    Salvage,
    /// Going back without next: a person says which version of each key written on both sides is the right one.
    Conflicts,
}

impl Task {
    /// A word for screens and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Task::Baseline => "baseline",
            Task::Create => "create",
            Task::StartTail => "start tail",
            Task::Backfill => "backfill",
            Task::Indexes => "indexes",
            Task::IndexesThere => "indexes there",
            Task::Reconcile => "reconcile",
            Task::Answers { .. } => "answers",
            Task::Shadow { .. } => "shadow reads",
            Task::SuspendTtl => "suspend TTL",
            Task::RestoreTtl => "restore TTL",
            Task::StartReverse => "start reverse tail",
            Task::MoveReads { .. } => "move reads",
            Task::MoveWrites { .. } => "cutover",
            Task::Pilot { .. } => "pilot cohort",
            Task::StopReverse => "stop reverse tail",
            Task::Quarantine => "quarantine legacy",
            Task::ReturnWrites { .. } => "writes back to legacy",
            Task::ReturnPilot { .. } => "pilot cohort back to legacy",
            Task::ReturnReads { .. } => "reads back to legacy",
            Task::Undo { .. } => "undo",
            Task::Quiet => "quiet",
            Task::Recover => "recovery to the baseline",
            Task::Isolate => "isolate next",
            Task::Salvage => "salvage",
            Task::Conflicts => "conflicts",
        }
    }
}

/// The tasks of stage `index`, in order.
#[must_use]
pub fn tasks_of(plan: &Plan, index: usize) -> Vec<Task> {
    if plan.in_place() {
        return super::in_place::tasks_of(plan, index);
    }
    if plan.observes() {
        return super::observe::tasks_of(plan, index);
    }
    let Some(stage) = plan.stages.get(index) else { return Vec::new() };
    let before = index.checked_sub(1).and_then(|i| plan.stages.get(i));
    let (shadow0, reads0, writes0) = before.map_or((0, 0, 0), |s| (s.shadow, s.reads, s.writes));
    let mut tasks = Vec::new();
    if index == 0 {
        tasks.push(Task::Baseline);
    }
    for work in &stage.work {
        match work {
            Work::Create => tasks.push(Task::Create),
            Work::Backfill => tasks.extend([Task::StartTail, Task::Backfill]),
            Work::Indexes => tasks.push(Task::Indexes),
            Work::QuarantineLegacy => {}
        }
    }
    if stage.work.contains(&Work::Backfill) {
        tasks.push(Task::Reconcile);
        tasks.extend(answers(plan, index, false));
    }
    if stage.shadow != shadow0 {
        tasks.push(Task::Shadow { percent: stage.shadow });
    }
    // The cohort first. A stage that says again where it goes takes it along after it has gone back alone.
    let pilot0 = before.map_or(PilotLevel::Off, |s| s.pilot);
    if stage.pilot > pilot0 || (stage.pilot_said && stage.pilot > PilotLevel::Off) {
        pilot_forward(plan, index, &mut tasks);
    }
    // One switch moves both: then reads go with the writes.
    if stage.reads > reads0 && plan.mode != Mode::Copy {
        ask_some(plan, index, &mut tasks);
        tasks.push(Task::MoveReads { below: below_for_percent(stage.reads) });
    }
    if stage.writes > writes0 {
        start_reverse(plan, index, &mut tasks);
        // A cutover needs a reconciliation of its own process: the keys touched since are compared again while writes are held.
        tasks.push(Task::Reconcile);
        tasks.push(Task::MoveWrites { from: below_for_percent(writes0), to: below_for_percent(stage.writes) });
    }
    if stage.work.contains(&Work::QuarantineLegacy) {
        if stage.shadow != 0 {
            tasks.push(Task::Shadow { percent: 0 });
        }
        tasks.extend(answers(plan, index, true));
        tasks.extend([Task::Reconcile, Task::StopReverse, Task::Quarantine, Task::RestoreTtl]);
    }
    tasks
}

/// Nothing expires by itself, and next's changes are followed back into legacy before the first write moves, be it the cohort's or a bucket's.
fn start_reverse(plan: &Plan, index: usize, tasks: &mut Vec<Task>) {
    let none = plan.stages[..index].iter().all(|s| s.writes == 0 && s.pilot < PilotLevel::Writes);
    if none && !tasks.contains(&Task::StartReverse) {
        // Whatever they hold up, documents expire as ever meanwhile.
        tasks.extend(answers(plan, index, true));
        tasks.extend([Task::SuspendTtl, Task::StartReverse]);
    }
}

/// What the plan declares is asked of both sides, more of it with each step: of some documents once they are copied and before reads
/// move, of all before the first write moves and before legacy goes.
pub(super) fn answers(plan: &Plan, index: usize, whole: bool) -> Option<Task> {
    let builds = |s: &Stage| s.work.contains(&Work::Indexes) || s.reached.contains(&Reached::Indexes);
    let planned = plan.collections.iter().any(|c| !c.indexes.is_empty());
    let indexes = !planned || plan.stages[..=index].iter().any(builds);
    plan.asks().then_some(Task::Answers { whole, indexes })
}

/// Once a stage.
fn ask_some(plan: &Plan, index: usize, tasks: &mut Vec<Task>) {
    if !tasks.iter().any(|t| matches!(t, Task::Answers { .. })) {
        tasks.extend(answers(plan, index, false));
    }
}

/// The tasks that take the pilot cohort to where stage `index` has it.
fn pilot_forward(plan: &Plan, index: usize, tasks: &mut Vec<Task>) {
    let Some(stage) = plan.stages.get(index) else { return };
    let (reads, writes) = stage.pilot.goes();
    if writes == Goes::Next {
        start_reverse(plan, index, tasks);
    }
    // From behind the buckets its writes may move with a stage that moves only its reads.
    if writes == Goes::Next || stage.writes > 0 {
        tasks.push(Task::Reconcile);
    }
    ask_some(plan, index, tasks);
    tasks.push(Task::Pilot { reads, writes });
}

/// The tasks that follow those of stage `index` when an operator takes the cohort forward again.
#[must_use]
pub fn forward_again(plan: &Plan, index: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    pilot_forward(plan, index, &mut tasks);
    tasks
}

/// The tasks of a rollback, in order.
///
/// Soft: stage by stage, writes before reads before shadow reads (writes never exceed reads), both sides compared whole after each.
/// Hard: everything in one cutover. Where everything goes back, the metrics must recover, a last reconciliation proves both sides
/// equal, and next is put out of reach.
#[must_use]
pub fn back_tasks(plan: &Plan, back: &Back) -> Vec<Task> {
    if plan.in_place() {
        return super::in_place::back_tasks(plan, back);
    }
    if back.cohort {
        return cohort_back(back);
    }
    let mut tasks = Vec::new();
    if back.stranded {
        return stranded_tasks();
    }
    if back.hard {
        let (shadow, reads, writes) = settings(plan, back.to);
        let (below, reads_below) = (kept(back, writes), kept(back, reads));
        let pilot = plan.pilot.as_ref().map(|_| pilot_of(plan, back.to).goes());
        tasks.push(Task::ReturnWrites { below, reads_below, hard: true, pilot });
        tasks.push(Task::ReturnReads { below: reads_below });
        tasks.extend(pilot.map(|(reads, writes)| Task::ReturnPilot { reads, writes, hard: true }));
        tasks.push(Task::Shadow { percent: shadow });
    } else {
        more_than_the_stage(plan, back, &mut tasks);
        let rest = back.to.map_or(0, |t| t + 1);
        for index in (rest..=back.from).rev() {
            soft_step(plan, back, index, &mut tasks);
        }
    }
    if back.to.is_none() {
        tasks.push(Task::Recover);
    }
    if back.copied && (back.hard || tasks.last() != Some(&Task::Reconcile)) {
        tasks.push(Task::Reconcile);
    }
    if back.to.is_none() {
        tasks.extend([Task::StopReverse, Task::Isolate]);
    }
    if settings(plan, back.to).2 == 0 && back.keep.is_none() && pilot_of(plan, back.to) < PilotLevel::Writes {
        tasks.push(Task::RestoreTtl);
    }
    tasks
}

/// The tasks of a rollback that leaves next behind. Salvage compares both sides itself: nothing follows either of them any more. It
/// comes before the recovery, which may take its time.
fn stranded_tasks() -> Vec<Task> {
    vec![
        Task::ReturnWrites { below: 0, reads_below: 0, hard: true, pilot: None },
        Task::ReturnReads { below: 0 },
        Task::Salvage,
        // Until then a process may have a write under way on next, and so acknowledges nothing.
        Task::Shadow { percent: 0 },
        Task::Recover,
        Task::StopReverse,
        Task::Isolate,
        Task::Conflicts,
        Task::RestoreTtl,
    ]
}

/// Both sides are compared whole before (soft) and after, as far as they were equal before; the cohort stays on legacy whatever the
/// buckets do.
fn cohort_back(back: &Back) -> Vec<Task> {
    let home = Task::ReturnPilot { reads: Goes::Legacy, writes: Goes::Legacy, hard: back.hard };
    match (back.copied, back.hard) {
        (false, _) => vec![home],
        (true, true) => vec![home, Task::Reconcile],
        (true, false) => vec![Task::Reconcile, home, Task::Reconcile],
    }
}

/// How far the cohort is in a stage; nowhere before the first one.
fn pilot_of(plan: &Plan, stage: Option<usize>) -> PilotLevel {
    stage.and_then(|i| plan.stages.get(i)).map_or(PilotLevel::Off, |s| s.pilot)
}

/// Shadow, reads and writes of a stage, percent; nothing before the first one.
fn settings(plan: &Plan, stage: Option<usize>) -> (u8, u8, u8) {
    stage.and_then(|i| plan.stages.get(i)).map_or((0, 0, 0), |s| (s.shadow, s.reads, s.writes))
}

/// After a range has gone back alone next has more than the stage it rests in says: that comes back before the stage's own.
fn more_than_the_stage(plan: &Plan, back: &Back, tasks: &mut Vec<Task>) {
    let (_, reads, writes) = settings(plan, Some(back.from));
    let (below, reads_below) = (kept(back, writes), kept(back, reads));
    if back.owned > below_for_percent(writes) {
        tasks.extend(back.copied.then_some(Task::Reconcile));
        tasks.push(Task::ReturnWrites { below, reads_below, hard: false, pilot: None });
        tasks.push(Task::ReturnReads { below: reads_below });
    }
}

/// The first bucket that goes back where a stage has `percent` on next, and a range may keep more there.
fn kept(back: &Back, percent: u8) -> Bucket {
    below_for_percent(percent).max(back.keep.unwrap_or(0))
}

fn soft_step(plan: &Plan, back: &Back, index: usize, tasks: &mut Vec<Task>) {
    let (shadow, reads, writes) = settings(plan, Some(index));
    let (shadow0, reads0, writes0) = settings(plan, index.checked_sub(1));
    let (pilot, pilot0) = (pilot_of(plan, Some(index)), pilot_of(plan, index.checked_sub(1)));
    if (shadow, reads, writes, pilot) == (shadow0, reads0, writes0, pilot0) {
        return;
    }
    if writes > writes0 {
        // The keys touched since are compared again while writes are held, as on the way forward.
        if back.copied && tasks.last() != Some(&Task::Reconcile) {
            tasks.push(Task::Reconcile);
        }
        let (below, reads_below) = (kept(back, writes0), kept(back, reads0));
        tasks.push(Task::ReturnWrites { below, reads_below, hard: false, pilot: None });
    }
    if reads > reads0 {
        tasks.push(Task::ReturnReads { below: kept(back, reads0) });
    }
    if pilot > pilot0 {
        if pilot == PilotLevel::Writes && back.copied && tasks.last() != Some(&Task::Reconcile) {
            tasks.push(Task::Reconcile);
        }
        let (reads, writes) = pilot0.goes();
        tasks.push(Task::ReturnPilot { reads, writes, hard: false });
    }
    if shadow != shadow0 {
        tasks.push(Task::Shadow { percent: shadow0 });
    }
    if back.copied {
        tasks.push(Task::Reconcile);
    }
}
