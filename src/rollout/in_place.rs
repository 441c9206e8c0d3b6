//! The work of a stage and of a rollback where documents change in place. Derived from the plan, never stored.

use super::state::Back;
use super::task::Task;
use crate::plan::{Plan, Work};

/// The tasks of stage `index`, in order. Nothing moves between two sides: documents are changed, and looked at.
pub(super) fn tasks_of(plan: &Plan, index: usize) -> Vec<Task> {
    let Some(stage) = plan.stages.get(index) else { return Vec::new() };
    let mut tasks = Vec::new();
    if index == 0 {
        tasks.extend([Task::Baseline, Task::Create]);
    }
    for work in &stage.work {
        match work {
            Work::Backfill => tasks.extend([Task::StartTail, Task::Backfill]),
            Work::Indexes => tasks.push(Task::Indexes),
            Work::Create | Work::QuarantineLegacy => {}
        }
    }
    let changed = backfills_in(plan).is_some_and(|b| b <= index);
    let last = index + 1 == plan.stages.len();
    if changed && last {
        // After it nobody changes what is still written in legacy's shape.
        tasks.extend([Task::Quiet, Task::Reconcile]);
    } else if stage.work.contains(&Work::Backfill) {
        tasks.push(Task::Reconcile);
    }
    tasks
}

/// The tasks of a rollback, in order. Soft and hard are the same, but that a hard one is not slowed down.
pub(super) fn back_tasks(plan: &Plan, back: &Back) -> Vec<Task> {
    if backfills_in(plan).is_none_or(|stage| back.from < stage) {
        return Vec::new();
    }
    vec![Task::StartTail, Task::Undo { hard: back.hard }, Task::Recover, Task::Quiet, Task::Reconcile]
}

fn backfills_in(plan: &Plan) -> Option<usize> {
    plan.stages.iter().position(|s| s.work.contains(&Work::Backfill))
}
