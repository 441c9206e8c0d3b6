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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PLAN: &str = r#"
        schema = 1
        plan = { id = "p", title = "t", version = 1, owner = "o" }
        [[collection]]
        legacy = "a.b"
        next = "a.b"
        shape = '{ "v": 2 }'
        steps = [{ set = "v", value = 2 }]
        [[stage]]
        id = "look"
        soak = "1s"
        [[stage]]
        id = "change"
        do = ["backfill", "indexes"]
        [[stage]]
        id = "settle"
    "#;

    fn back(from: usize, hard: bool) -> Back {
        Back {
            hard,
            why: "why".into(),
            from,
            to: None,
            copied: false,
            stranded: false,
            cohort: false,
            keep: None,
            owned: 0,
            left: crate::rollout::state::Left::default(),
        }
    }

    #[test]
    fn nothing_moves_and_the_last_stage_waits_for_silence() {
        let plan = Plan::parse(PLAN, "plan.toml").map_err(|d| d.render(false)).unwrap();
        use Task::{Backfill, Baseline, Create, Indexes, Quiet, Reconcile, StartTail};
        assert_eq!(super::super::tasks_of(&plan, 0), [Baseline, Create]);
        assert_eq!(super::super::tasks_of(&plan, 1), [StartTail, Backfill, Indexes, Reconcile]);
        assert_eq!(super::super::tasks_of(&plan, 2), [Quiet, Reconcile]);
        let one = PLAN.replace("[[stage]]\n        id = \"settle\"", "");
        let one = Plan::parse(&one, "plan.toml").map_err(|d| d.render(false)).unwrap();
        assert_eq!(super::super::tasks_of(&one, 1), [StartTail, Backfill, Indexes, Quiet, Reconcile]);
    }

    #[test]
    fn what_was_not_begun_is_not_undone() {
        let plan = Plan::parse(PLAN, "plan.toml").map_err(|d| d.render(false)).unwrap();
        assert_eq!(super::super::back_tasks(&plan, &back(0, false)), []);
        for (from, hard) in [(1, false), (2, true)] {
            let tasks = super::super::back_tasks(&plan, &back(from, hard));
            assert_eq!(tasks, [Task::StartTail, Task::Undo { hard }, Task::Recover, Task::Quiet, Task::Reconcile]);
        }
    }
}
