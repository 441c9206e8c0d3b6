//! What the core decides, case by case, and that a rollout cut off anywhere ends as one that was not.

#![allow(clippy::unwrap_used)]
use super::*;

/// Two stages without gates.
const PLAN: &str = r#"
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

/// A plan of two stages without gates, and its rollout run to the end by itself.
fn rollout() -> (Plan, Vec<Event>) {
    let plan = Plan::parse(PLAN, "plan.toml").map_err(|d| d.render(false)).unwrap();
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
            false => Input::Tick { at_ms: 5, gates, totals: Value::Null, calling: false },
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
fn two_workers_with_errors_in_turn_flooded_the_journal() {
    let (plan, _) = rollout();
    let mut state = State::default();
    let mut told = 0;
    let mut fail = |state: &mut State, why: String| {
        for e in decide(state, &plan, &Input::Broken { why }).unwrap() {
            state.apply(&e, &plan);
            told += 1;
        }
        told
    };
    let worker = |n: u32| format!("worker {} is stuck", n % 2);
    assert_eq!((0..100).map(|n| fail(&mut state, worker(n))).last(), Some(2));
    state.apply(&Event::Continued {}, &plan);
    assert_eq!((0..100).map(|n| fail(&mut state, worker(n))).last(), Some(4));
    // A reason that is worded anew each time.
    let many = (0..1_000).map(|n| fail(&mut state, format!("waited for {n} ms"))).last();
    assert_eq!(many, Some(2 + REASONS_MAX));
    assert!(state.needs_operator.is_some());
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

/// Begins a rollback in the state that `events` lead to and ticks to the end.
fn go_back(plan: &Plan, events: &[Event], command: Command) -> Result<(State, Vec<Event>), Refusal> {
    let mut state = State::default();
    events.iter().for_each(|e| state.apply(e, plan));
    let input = Input::Command { command, at_ms: 7, gates: GateSummary::default(), forecast: Value::Null };
    let mut after = decide(&state, plan, &input)?;
    after.iter().for_each(|e| state.apply(e, plan));
    go_on(&mut state, plan, &mut after);
    Ok((state, after))
}

#[test]
fn before_the_point_of_no_return_every_state_has_a_way_back() {
    let (plan, whole) = rollout();
    let shut = whole.iter().position(|e| matches!(e, Event::Completed { .. })).unwrap();
    for hard in [false, true] {
        for cut in 1..whole.len() {
            let end = go_back(&plan, &whole[..cut], Command::Rollback { hard, to: None });
            if cut > shut {
                assert!(end.is_err(), "after {cut} records");
                continue;
            }
            let (state, _) = end.unwrap();
            assert_eq!((state.status, state.closed), (Status::RolledBack, true), "after {cut} records");
        }
    }
}

#[test]
fn a_rollback_cut_off_after_any_record_ends_with_the_same_records() {
    let (plan, whole) = rollout();
    let before = whole.iter().position(|e| matches!(e, Event::StageEntered { stage: 1, .. })).unwrap() + 1;
    let (_, back) = go_back(&plan, &whole[..before], Command::Rollback { hard: false, to: None }).unwrap();
    for cut in 1..back.len() {
        let mut state = State::default();
        whole[..before].iter().chain(&back[..cut]).for_each(|e| state.apply(e, &plan));
        let mut rest = back[..cut].to_vec();
        go_on(&mut state, &plan, &mut rest);
        assert_eq!(rest, back, "cut off after {cut} records");
    }
}

#[test]
fn a_rollback_asked_for_twice_is_journalled_once_and_a_hard_one_overtakes() {
    let (plan, whole) = rollout();
    let mut state = State::default();
    whole[..6].iter().for_each(|e| state.apply(e, &plan));
    let ask = |state: &State, hard| {
        let command = Command::Rollback { hard, to: None };
        let gates = GateSummary::default();
        decide(state, &plan, &Input::Command { command, at_ms: 7, gates, forecast: Value::Null }).unwrap()
    };
    let first = ask(&state, false);
    assert_eq!(first.len(), 1);
    state.apply(&first[0], &plan);
    assert_eq!(ask(&state, false), []);
    let hard = ask(&state, true);
    assert!(matches!(hard[..], [Event::RollbackBegan { hard: true, .. }]));
    state.apply(&hard[0], &plan);
    assert_eq!((ask(&state, true), ask(&state, false)), (vec![], vec![]));
}

fn asked(state: &State, plan: &Plan, command: Command) -> Result<Vec<Event>, Refusal> {
    let (gates, forecast) = (GateSummary::default(), json!({ "reason": "no power" }));
    decide(state, plan, &Input::Command { command, at_ms: 7, gates, forecast })
}

/// In stage 1, going back softly to stage 0, and then without next.
fn left_behind() -> (Plan, State, Vec<Event>) {
    let (plan, whole) = rollout();
    let before = whole.iter().position(|e| matches!(e, Event::StageEntered { stage: 1, .. })).unwrap() + 1;
    let mut events = whole[..before].to_vec();
    let mut state = State::default();
    events.iter().for_each(|e| state.apply(e, &plan));
    for command in [Command::Rollback { hard: false, to: Some(0) }, Command::LeaveBehind] {
        for e in asked(&state, &plan, command).unwrap() {
            state.apply(&e, &plan);
            events.push(e);
        }
    }
    (plan, state, events)
}

#[test]
fn leaving_next_behind_makes_a_rollback_hard_and_takes_everything_back() {
    let (plan, state, events) = left_behind();
    let back = state.back.as_ref().unwrap();
    assert_eq!((back.hard, back.to, state.strand.as_deref()), (true, None, Some("by the operator: no power")));
    assert!(matches!(
        events[events.len() - 2..],
        [Event::RollbackBegan { hard: true, to: None, .. }, Event::StrandDecided { .. }]
    ));
    assert_eq!(asked(&state, &plan, Command::LeaveBehind), Ok(vec![]), "twice changes nothing");
    assert_eq!(asked(&state, &plan, Command::Rollback { hard: true, to: None }), Ok(vec![]));
}

#[test]
fn a_rollback_without_next_cut_off_after_any_record_ends_with_the_same_records() {
    let (plan, mut state, mut events) = left_behind();
    let first = events.len();
    for e in decide(
        &state,
        &plan,
        &Input::Tick { at_ms: 5, gates: GateSummary::default(), totals: Value::Null, calling: false },
    )
    .unwrap()
    {
        state.apply(&e, &plan);
        events.push(e);
    }
    let seal = Event::Sealed { through: (1, 2), flip: (3, 4), below: 512, evidence: Value::Null };
    state.apply(&seal, &plan);
    events.push(seal);
    assert!(asked(&state, &plan, Command::LeaveBehind).is_err(), "it is sealed");
    go_on(&mut state, &plan, &mut events);
    assert_eq!((state.status, state.closed), (Status::RolledBack, true));
    let tasks: Vec<Task> = events[first..]
        .iter()
        .filter_map(|e| if let Event::TaskIntended { task, .. } = e { Some(*task) } else { None })
        .collect();
    assert_eq!(tasks, state.tasks(&plan));
    assert!(tasks.contains(&Task::Salvage) && !tasks.contains(&Task::Reconcile));
    for cut in first..events.len() {
        let mut state = State::default();
        events[..cut].iter().for_each(|e| state.apply(e, &plan));
        let sealed = state.sealed.is_some();
        let mut rest = events[..cut].to_vec();
        go_on(&mut state, &plan, &mut rest);
        assert!(state.closed && (!sealed || rest == events), "cut off after {cut} records");
    }
}

#[test]
fn a_rollback_to_a_stage_that_leaves_next_behind_takes_everything_back() {
    let (plan, whole) = rollout();
    let before = whole.iter().position(|e| matches!(e, Event::StageEntered { stage: 1, .. })).unwrap() + 1;
    let mut events = whole[..before].to_vec();
    let mut state = State::default();
    events.iter().for_each(|e| state.apply(e, &plan));
    let back = asked(&state, &plan, Command::Rollback { hard: true, to: Some(0) }).unwrap();
    // By the plan's limit: no operator has said that everything goes.
    let seal = Event::Sealed { through: (1, 2), flip: (3, 4), below: 512, evidence: Value::Null };
    for e in back.into_iter().chain([seal]) {
        state.apply(&e, &plan);
        events.push(e);
    }
    go_on(&mut state, &plan, &mut events);
    assert_eq!((state.status, state.closed), (Status::RolledBack, true));
}

const PILOTED: &str = r#"
        schema = 1
        plan = { id = "p", title = "t", version = 1, owner = "o" }
        pilot = { field = "_id.region", in = ["eu"] }
        [[collection]]
        legacy = "a.b"
        next = "a.c"
        steps = [{ set = "v", value = 2 }]
        [[stage]]
        id = "copy"
        do = ["create", "backfill"]
        advance = "auto"
        [[stage]]
        id = "pilot"
        pilot = "writes"
        advance = "auto"
        [[stage]]
        id = "half"
        reads = 50
        writes = 50
        advance = "auto"
        [[stage]]
        id = "again"
        pilot = "writes"
        reads = 100
        writes = 100
        advance = "auto"
        [[stage]]
        id = "contract"
        do = ["quarantine-legacy"]
        irreversible = true
    "#;

fn piloted() -> Plan {
    Plan::parse(PILOTED, "plan.toml").map_err(|d| d.render(false)).unwrap()
}

/// The state in the middle of stage `stage`, so many tasks done, with the route that the tasks done have brought.
fn in_stage(plan: &Plan, stage: usize, tasks: usize) -> State {
    let mut s = State { stage, status: Status::Working, tasks_done: tasks, route_epoch: 9, ..State::default() };
    s.stage_times = vec![(0, None); stage + 1];
    s.reconciled = Some(Value::Null);
    s.pilot = Some(plan.stages[stage].pilot.goes());
    s
}

fn ask(state: &State, plan: &Plan, command: Command) -> Result<Vec<Event>, Refusal> {
    let gates = GateSummary { pass: true, ..GateSummary::default() };
    decide(state, plan, &Input::Command { command, at_ms: 7, gates, forecast: json!({ "writes_at_risk": 0 }) })
}

/// More of what the plan declares is asked with each step.
#[test]
fn some_are_asked_about_before_reads_move_and_all_before_writes_do_and_before_legacy_goes() {
    use crate::rollout::task::tasks_of;
    let declared = "[[query]]\nname = \"q\"\nlegacy = '{}'\nnext = '{}'\n[[stage]]";
    let plan = |text: &str| Plan::parse(text, "plan.toml").map_err(|d| d.render(false)).unwrap();
    let asked = |plan: &Plan| -> Vec<Vec<bool>> {
        let whole = |t: &Task| if let Task::Answers { whole, .. } = t { Some(*whole) } else { None };
        (0..plan.stages.len()).map(|i| tasks_of(plan, i).iter().filter_map(whole).collect()).collect()
    };
    let text = r#"
        schema = 1
        plan = { id = "p", title = "t", version = 1, owner = "o" }
        [[collection]]
        legacy = "a.b"
        next = "a.c"
        steps = [{ set = "v", value = 2 }]
        [[stage]]
        id = "copy"
        do = ["create", "backfill"]
        [[stage]]
        id = "reads"
        reads = 50
        [[stage]]
        id = "some"
        reads = 50
        writes = 10
        [[stage]]
        id = "all"
        reads = 100
        writes = 100
        [[stage]]
        id = "contract"
        do = ["quarantine-legacy"]
        irreversible = true
    "#;
    assert_eq!(asked(&plan(text)), [const { Vec::<bool>::new() }; 5]);
    let asking = plan(&text.replacen("[[stage]]", declared, 1));
    assert_eq!(asked(&asking), [vec![false], vec![false], vec![true], vec![false], vec![true]]);
    let writes = tasks_of(&asking, 2);
    let at = |t: &Task| writes.iter().position(|w| w == t).unwrap();
    let answers = Task::Answers { whole: true, indexes: true };
    assert!(at(&answers) < at(&Task::SuspendTtl) && at(&answers) < at(&Task::Reconcile), "{writes:?}");
}

#[test]
fn the_cohort_goes_first_and_next_is_followed_before_its_first_write() {
    use crate::rollout::task::tasks_of;
    let plan = piloted();
    let (reads, writes) = (Goes::Next, Goes::Next);
    let forward = [Task::SuspendTtl, Task::StartReverse, Task::Reconcile, Task::Pilot { reads, writes }];
    assert_eq!(tasks_of(&plan, 1), forward);
    let half = tasks_of(&plan, 2);
    assert!(!half.contains(&Task::StartReverse) && !half.contains(&forward[3]), "{half:?}");
    // Said again: whoever has gone back alone is taken along.
    assert_eq!(tasks_of(&plan, 3)[..2], [Task::Reconcile, forward[3]]);
}

#[test]
fn a_cohort_back_alone_leaves_the_stage_as_it_was_wherever_it_is_cut_off() {
    let plan = piloted();
    for (stage, done, hard) in [(2, 0, false), (2, 2, true), (1, 2, false), (2, 3, false)] {
        let before = in_stage(&plan, stage, done);
        let mut events = ask(&before, &plan, Command::RollbackCohort { hard }).unwrap();
        let mut state = before.clone();
        events.iter().for_each(|e| state.apply(e, &plan));
        go_on(&mut state, &plan, &mut events);
        assert_eq!((state.status, state.tasks_done, state.stage), (before.status, done, stage));
        assert!(state.paused.is_some() && state.back.is_none() && state.cohort_stays);
        let home = Task::ReturnPilot { reads: Goes::Legacy, writes: Goes::Legacy, hard };
        assert!(events.iter().any(|e| matches!(e, Event::TaskIntended { task, .. } if *task == home)), "{events:?}");
        for cut in 1..events.len() {
            let mut state = before.clone();
            events[..cut].iter().for_each(|e| state.apply(e, &plan));
            let mut rest = events[..cut].to_vec();
            go_on(&mut state, &plan, &mut rest);
            assert_eq!(rest, events, "cut off after {cut} records");
        }
    }
}

#[test]
fn legacy_does_not_go_while_the_cohort_is_held_there_and_a_word_takes_it_forward() {
    let plan = piloted();
    let mut state = in_stage(&plan, 3, 6);
    state.status = Status::Soaking { since_ms: 0 };
    (state.pilot, state.cohort_stays) = (Some((Goes::Legacy, Goes::Legacy)), true);
    let refused = ask(&state, &plan, Command::Advance { stage: 3 }).unwrap_err();
    assert!(refused.0.contains("held on legacy"), "{refused}");
    assert_eq!(
        decide_tick(
            &state,
            &plan,
            9_999_999,
            &GateSummary { pass: true, ..GateSummary::default() },
            (&Value::Null, false)
        ),
        []
    );
    for e in ask(&state, &plan, Command::CohortForward).unwrap() {
        state.apply(&e, &plan);
    }
    let mut events = Vec::new();
    assert!(!state.cohort_stays && state.status == Status::Working);
    state.pilot = Some((Goes::Next, Goes::Next));
    go_on(&mut state, &plan, &mut events);
    let task = |e: &&Event| matches!(e, Event::TaskIntended { task: Task::Pilot { .. }, .. });
    assert_eq!(events.iter().filter(task).count(), 1, "{events:?}");
    assert!(matches!(events.last(), Some(Event::Closed { .. })));
    assert!(ask(&in_stage(&plan, 2, 1), &plan, Command::CohortForward).is_err(), "it is not held");
}

#[test]
fn a_cohort_does_not_go_back_alone_where_it_cannot_or_everybody_does() {
    let plan = piloted();
    let alone = Command::RollbackCohort { hard: false };
    let (no_pilot, whole) = rollout();
    let mut state = State::default();
    whole[..6].iter().for_each(|e| state.apply(e, &no_pilot));
    assert!(ask(&state, &no_pilot, alone).is_err());
    let mut state = in_stage(&plan, 4, 0);
    assert!(ask(&state, &plan, alone).is_err(), "contract has begun");
    state = in_stage(&plan, 2, 0);
    state.route_epoch = 0;
    assert!(ask(&state, &plan, alone).is_err(), "no route yet");
    state = in_stage(&plan, 2, 0);
    let cohort = ask(&state, &plan, alone).unwrap();
    cohort.iter().for_each(|e| state.apply(e, &plan));
    assert_eq!(ask(&state, &plan, alone).unwrap(), [], "twice changes nothing");
    assert_eq!(ask(&state, &plan, Command::RollbackCohort { hard: true }).unwrap().len(), 1);
    // Everybody: it gives way, and nobody goes back alone any more.
    let everybody = ask(&state, &plan, Command::Rollback { hard: false, to: None }).unwrap();
    assert!(matches!(everybody[..], [Event::RollbackBegan { cohort: false, hard: false, .. }]));
    everybody.iter().for_each(|e| state.apply(e, &plan));
    assert!(ask(&state, &plan, alone).is_err());
    let mut events = Vec::new();
    go_on(&mut state, &plan, &mut events);
    assert_eq!(state.status, Status::RolledBack);
}

#[test]
fn a_trigger_takes_everybody_back_while_the_cohort_goes_back_alone() {
    let plan = piloted();
    let mut state = in_stage(&plan, 2, 0);
    for e in ask(&state, &plan, Command::RollbackCohort { hard: false }).unwrap() {
        state.apply(&e, &plan);
    }
    let tripped = |rollback| Input::Tripped { why: "slow".into(), rollback, evidence: Value::Null };
    let everybody = decide(&state, &plan, &tripped(Some(true))).unwrap();
    assert!(matches!(everybody[..], [Event::RollbackBegan { hard: true, cohort: false, .. }]), "{everybody:?}");
    assert_eq!(decide(&state, &plan, &tripped(None)).unwrap(), [], "a pause would hold the cohort up");
}

#[test]
fn journals_of_before_there_were_cohorts_are_read() {
    let settled = r#"{"epoch":4,"won":true,"writes_next_below":11,"reads_next_below":52,"shadow":20}"#;
    let began = r#"{"hard":true,"why":"w","to":null,"evidence":null}"#;
    for (kind, body) in [("route_settled", settled), ("rollback_began", began)] {
        let event = Event::from_parts(kind, &serde_json::from_str(body).unwrap()).unwrap();
        assert_eq!(Value::Object(event.to_parts().1), serde_json::from_str::<Value>(body).unwrap());
    }
}

#[test]
fn a_rollback_to_a_stage_comes_to_rest_there_and_can_go_on() {
    let (plan, whole) = rollout();
    let before = whole.iter().position(|e| matches!(e, Event::StageEntered { stage: 1, .. })).unwrap() + 1;
    let (mut state, back) = go_back(&plan, &whole[..before], Command::Rollback { hard: false, to: Some(0) }).unwrap();
    assert!(matches!(back.last(), Some(Event::Returned { stage: 0, .. })), "{back:?}");
    assert!(state.paused.is_some() && state.back.is_none());
    state.apply(&Event::Continued {}, &plan);
    let mut rest = Vec::new();
    go_on(&mut state, &plan, &mut rest);
    assert!(matches!(rest.last(), Some(Event::Closed { outcome }) if outcome == "completed"), "{rest:?}");
}

/// Everything of these stages has moved to where they say.
fn at_stage(id: &str) -> (Plan, State) {
    of_stages(&[("copy", 0), ("canary", 5), ("half", 50), ("full", 100)], id)
}

fn of_stages(stages: &[(&str, u8)], id: &str) -> (Plan, State) {
    let text: String = stages
        .iter()
        .map(|(id, p)| format!("[[stage]]\nid = \"{id}\"\nreads = {p}\nwrites = {p}\n"))
        .collect::<String>()
        .replacen("reads = 0\nwrites = 0", "do = [\"create\", \"backfill\"]", 1);
    let head = r#"
            schema = 1
            plan = { id = "p", title = "t", version = 1, owner = "o" }
            route = { mode = "route" }
            [[collection]]
            legacy = "a.b"
            next = "a.c"
            steps = [{ set = "v", value = 2 }]
        "#;
    let plan = Plan::parse(&format!("{head}{text}"), "plan.toml").map_err(|d| d.render(false)).unwrap();
    let stage = stages.iter().position(|(s, _)| *s == id).unwrap();
    let owned = below_for_percent(stages[stage].1);
    let state = State {
        stage,
        route_epoch: 9,
        writes_next_below: owned,
        reads_next_below: owned,
        reconciled: Some(Value::Null),
        ..State::default()
    };
    (plan, state)
}

#[test]
fn a_range_goes_back_and_what_lies_below_it_stays() {
    for (stage, from, rests) in
        [("half", 300, "canary"), ("full", 600, "half"), ("half", 20, "copy"), ("canary", 51, "copy")]
    {
        for hard in [false, true] {
            let (plan, mut state) = at_stage(stage);
            for e in asked(&state, &plan, Command::RollbackRange { hard, from }).unwrap() {
                state.apply(&e, &plan);
            }
            let back = state.back.clone().unwrap();
            assert_eq!(plan.stages[back.to.unwrap()].id, rests);
            let moved: Vec<(u16, u16)> = state
                .tasks(&plan)
                .iter()
                .filter_map(|t| match t {
                    Task::ReturnWrites { below, reads_below, .. } => Some((*below, *reads_below)),
                    _ => None,
                })
                .collect();
            // Stage by stage, and never further than the range.
            assert_eq!(moved.last().map(|m| m.0), Some(from), "{stage} {from}: {moved:?}");
            assert!(moved.iter().all(|(writes, reads)| writes >= &from && reads >= writes), "{moved:?}");
            assert!(!state.tasks(&plan).contains(&Task::Isolate));
            // Everything back after all goes further.
            let whole = asked(&state, &plan, Command::Rollback { hard, to: None }).unwrap();
            assert!(matches!(whole[..], [Event::RollbackBegan { to: None, keep: None, .. }]), "{whole:?}");
            assert_eq!(
                asked(&state, &plan, Command::RollbackRange { hard, from }),
                Ok(vec![]),
                "twice changes nothing"
            );
        }
    }
}

#[test]
fn a_range_that_is_on_legacy_is_not_brought_back() {
    let (plan, state) = at_stage("half");
    let refused = asked(&state, &plan, Command::RollbackRange { hard: false, from: 512 }).unwrap_err();
    assert_eq!(refused.0, "the buckets from 512 on are on legacy; of all buckets next has those below 512");
}

#[test]
fn writes_that_moved_in_one_step_do_not_go_back_by_range() {
    let (plan, state) = of_stages(&[("copy", 0), ("full", 100)], "full");
    let refused = asked(&state, &plan, Command::RollbackRange { hard: true, from: 512 }).unwrap_err();
    assert!(refused.0.contains("without a range"), "{refused}");
}

#[test]
fn what_a_range_left_on_next_was_forgotten_by_the_rollback_after_it() {
    for hard in [false, true] {
        let (plan, mut state) = at_stage("half");
        for e in asked(&state, &plan, Command::RollbackRange { hard, from: 20 }).unwrap() {
            state.apply(&e, &plan);
        }
        let stage = state.back.as_ref().and_then(|b| b.to).unwrap();
        state.writes_next_below = 20;
        state.apply(&Event::Returned { stage, id: "copy".into(), at_ms: 7 }, &plan);
        assert_eq!((state.stage, state.back.is_none()), (0, true));
        assert!(asked(&state, &plan, Command::RollbackRange { hard, from: 10 }).is_err(), "there is no earlier stage");
        for e in asked(&state, &plan, Command::Rollback { hard, to: None }).unwrap() {
            state.apply(&e, &plan);
        }
        let tasks = state.tasks(&plan);
        let returned = tasks.iter().position(|t| matches!(t, Task::ReturnWrites { below: 0, reads_below: 0, .. }));
        let stopped = tasks.iter().position(|t| *t == Task::StopReverse);
        assert!(returned.unwrap() < stopped.unwrap(), "hard {hard}: {tasks:?}");
    }
}

#[test]
fn a_journal_of_a_build_with_fewer_tasks_keeps_what_they_found() {
    let (plan, mut state) = at_stage("canary");
    // As they were numbered before there was a task to suspend TTL indexes.
    let old = [Task::MoveReads { below: 52 }, Task::StartReverse, Task::Reconcile];
    for (index, task) in old.into_iter().enumerate() {
        state.apply(&Event::TaskIntended { index, task }, &plan);
        state.apply(&Event::TaskDone { index, evidence: json!({ "from": [7, index] }) }, &plan);
    }
    assert_eq!(state.reverse_from, Some((7, 1)));
}

/// Next was sealed already, and a comparison with it never ended (simulator, seed 9435).
#[test]
fn a_hard_rollback_does_not_begin_anew_what_is_being_put_away() {
    let (plan, whole) = rollout();
    let before = whole.iter().position(|e| matches!(e, Event::StageEntered { stage: 1, .. })).unwrap() + 1;
    let (_, back) = go_back(&plan, &whole[..before], Command::Rollback { hard: false, to: None }).unwrap();
    let put_away = |e: &Event| matches!(e, Event::TaskIntended { task: Task::Isolate, .. });
    let isolating = back.iter().position(put_away).unwrap() + 1;
    let mut state = State::default();
    whole[..before].iter().chain(&back[..isolating]).for_each(|e| state.apply(e, &plan));
    assert_eq!(asked(&state, &plan, Command::Rollback { hard: true, to: None }), Ok(vec![]));
}

#[test]
fn in_a_freeze_nothing_begins_or_is_left_and_everything_goes_back() {
    let (open, whole) = rollout();
    let freeze = "[[freeze]]\nfrom = \"1970-01-01\"\nto = \"1970-01-01\"\ntz = \"UTC\"\nreason = \"r\"\n";
    let calendar =
        Plan::parse(&format!("{PLAN}\n{freeze}"), "plan.toml").map_err(|d| d.render(false)).unwrap().calendar;
    let plan = Plan { calendar, ..open };
    let tick = |state: &State, at_ms| {
        let gates = GateSummary { pass: true, ..GateSummary::default() };
        decide(state, &plan, &Input::Tick { at_ms, gates, totals: Value::Null, calling: false }).unwrap()
    };
    let tomorrow = 86_400_000;
    let mut state = State::default();
    for event in &whole {
        if matches!(event, Event::StageEntered { .. } | Event::StagePassed { .. }) {
            assert_eq!(tick(&state, 5), [], "before {event:?}");
            assert_eq!(tick(&state, tomorrow).first().map(|e| e.to_parts().0), Some(event.to_parts().0));
            let back = Input::Command {
                command: Command::Rollback { hard: false, to: None },
                at_ms: 5,
                gates: GateSummary::default(),
                forecast: Value::Null,
            };
            assert!(matches!(decide(&state, &plan, &back).unwrap()[..], [Event::RollbackBegan { .. }]));
        }
        state.apply(event, &plan);
    }
}
