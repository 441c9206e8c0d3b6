//! The work of a stage that is only observed: wait until the other tool has reached what the stage names. Derived from the plan, never
//! stored.

use super::task::{Task, answers};
use crate::plan::{Plan, Reached};

/// Why nothing goes back.
pub(super) const NO_WAY_BACK: &str =
    "tidegate only observes and writes nothing: the tool that migrates goes back, by its own means";

/// The tasks of stage `index`, in order.
pub(super) fn tasks_of(plan: &Plan, index: usize) -> Vec<Task> {
    let reached = plan.stages.get(index).map_or(&[][..], |s| &s.reached);
    let task = |reached: &Reached| match reached {
        Reached::Indexes => Task::IndexesThere,
        Reached::Reconciled => Task::Reconcile,
    };
    let mut tasks: Vec<Task> = reached.iter().map(task).collect();
    if reached.contains(&Reached::Reconciled) {
        tasks.extend(answers(plan, index, true));
    }
    tasks
}
