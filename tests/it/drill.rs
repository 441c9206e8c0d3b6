//! Whole rollouts on the embedded cluster.

use std::sync::{Arc, Mutex};

use tidegate::drill::{Builtin, Drill, Scenario, Settings, Summary, World, builtin};
use tidegate::engine::End;
use tidegate::journal::{MemStore, Record, show};
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::{Micros, Rt};
use tidegate::snapshot::Snapshot;

/// A scenario that comes with tidegate.
pub fn scenario(id: &str) -> (&'static Builtin, World, Plan) {
    let b = builtin().iter().find(|b| b.id == id).unwrap();
    let scenario = Scenario::parse(b.scenario, "scenario.toml").unwrap();
    (b, scenario.world, Plan::parse(b.plan, "plan.toml").unwrap())
}

/// The same world with little data.
pub fn small(world: World) -> World {
    World { documents: 3_000, operations: 200, ..world }
}

/// A drill that has ended, or whose time was up.
pub struct Run {
    pub drill: Drill,
    pub summary: Summary,
    pub records: Vec<Record>,
    pub rt: Rt,
}

impl Run {
    pub fn log(&self) -> String {
        let lines: Vec<String> = self.records.iter().map(show).collect();
        lines.join("\n")
    }

    /// The end, and that no write was lost, stale or stray.
    pub fn ended(&self, end: &End) {
        assert_eq!(self.summary.end.as_ref(), Some(end), "{}\n{:?}", self.log(), self.summary.json);
        let w = &self.summary.json["writes"];
        let told = format!("{:?}\n{:?}", self.summary, self.drill.workload().oracle().violations());
        assert_eq!((&w["lost"], &w["stale"], &w["stray"]), (&0.into(), &0.into(), &0.into()), "{told}");
    }
}

/// Runs a drill in steps; `operate` is called after each with the picture of that moment.
pub fn run(
    world: &World,
    plan: &Plan,
    seed: u64,
    advance: Advance,
    step: Micros,
    mut operate: impl FnMut(&Drill, &Snapshot),
) -> Run {
    let records = Arc::new(Mutex::new(Vec::new()));
    let seen = records.clone();
    let runtime = Arc::new(Mutex::new(None));
    let made = runtime.clone();
    let settings = Settings {
        seed,
        advance: Some(advance),
        journal: Arc::new(move |rt| {
            *made.lock().unwrap() = Some(rt);
            Arc::new(MemStore::new())
        }),
        on_record: Arc::new(move |r| seen.lock().unwrap().push(r.clone())),
    };
    let drill = Drill::begin(world, plan, &settings).unwrap();
    while drill.ended().is_none() && drill.now() < Micros::from_secs(1_200) {
        drill.run_until(drill.now() + step);
        operate(&drill, &drill.snapshot());
    }
    let summary = drill.finish().unwrap();
    let records = records.lock().unwrap().clone();
    let rt = runtime.lock().unwrap().clone().unwrap();
    Run { drill, summary, records, rt }
}

const SECOND: Micros = Micros::from_secs(1);

#[test]
fn first_watch_in_small_runs_to_contract_and_loses_nothing() {
    let (_, world, plan) = scenario("first-watch");
    let run = run(&small(world), &plan, 7, Advance::Auto, SECOND, |_, _| {});
    run.ended(&End::Completed);
    let json = &run.summary.json;
    assert!(json["writes"]["acknowledged"].as_i64().unwrap() > 1_000);
    assert_eq!(json["stages"].as_array().unwrap().len(), plan.stages.len());
    assert_eq!(json["documents"]["checked_ratio"], 1.0);
}

const MISHAPS: &str = r#"
    schema = 1
    [brief]
    title = "t"
    text = "t"
    [world]
    plan = "plan.toml"
    [[inject]]
    id = "mishap-a"
    at = "8s"
    action = "stepdown"
    [[inject]]
    id = "mishap-b"
    after = "mishap-a"
    delay = "12s"
    for = "15s"
    action = "partition"
    target = "secondary"
    [[inject]]
    id = "mishap-c"
    when = { stage = "canary", delay = "3s" }
    for = "20s"
    ramp = "5s"
    action = "replication_lag"
    lag = "400ms"
    [[inject]]
    id = "mishap-d"
    when = { stage = "canary", phase = "soaking", metric = "throughput.write", side = "next", above = 0.1 }
    for = "20s"
    action = "errors"
    writes = 0.01
    unknown = 0.01
    [[inject]]
    id = "mishap-e"
    when = { stage = "half", phase = "soaking" }
    action = "partition"
    target = "primary"
    for = "4s"
"#;

/// What the screen showed of the replica set and of errors.
#[derive(Default)]
struct Shown {
    down: bool,
    primaries: std::collections::BTreeSet<String>,
    lag: Micros,
    texts: String,
}

#[test]
fn injects_happen_unseen_and_no_write_is_lost() {
    let (_, world, mut plan) = scenario("first-watch");
    // This is about the data and what is shown: no gate holds it up and no trigger stops it.
    plan.triggers.clear();
    plan.stages.iter_mut().for_each(|s| s.gates.clear());
    let injects = Scenario::parse(MISHAPS, "scenario.toml").unwrap_or_else(|e| panic!("{e}")).world.injects;
    let world = World { injects, ..small(world) };
    let mut shown = Shown::default();
    let run = run(&world, &plan, 3, Advance::Auto, SECOND, |_, s| {
        for (name, state, lag) in &s.lag.members {
            shown.down |= state == "DOWN";
            shown.lag = shown.lag.max(lag.unwrap_or_default());
            if state == "PRIMARY" {
                shown.primaries.insert(name.clone());
            }
        }
        shown.texts.push_str(&format!("{s:?}"));
    });
    run.ended(&End::Completed);
    assert!(shown.down, "a member was cut off and the screen did not say so");
    assert!(shown.primaries.len() >= 2, "{:?}", shown.primaries);
    assert!(shown.lag > Micros::from_ms(350) && shown.lag < Micros::from_secs(2), "{}", shown.lag);
    assert!(run.drill.cluster().counters().unknown > 5, "{:?}", run.drill.cluster().counters());
    for id in ["mishap-a", "mishap-b", "mishap-c", "mishap-d", "mishap-e"] {
        assert!(!shown.texts.contains(id), "the screen names {id}");
        assert!(!run.log().contains(id), "the journal names {id}");
    }
}

#[test]
fn the_same_seed_and_injects_give_the_same_journal() {
    let (_, world, plan) = scenario("spring-tide");
    let world = World { documents: 500, operations: 200, ..world };
    let hash = |seed| {
        let run = run(&world, &plan, seed, Advance::Auto, SECOND, |_, _| {});
        run.records.last().unwrap().hash.clone()
    };
    assert_eq!(hash(5), hash(5));
}

/// Rewinding begins a drill anew, again and again.
#[test]
fn a_drill_leaves_nothing_behind() {
    let (_, world, plan) = scenario("first-watch");
    let runtime = Arc::new(Mutex::new(None));
    let made = runtime.clone();
    let settings = Settings {
        seed: 1,
        advance: None,
        journal: Arc::new(move |rt| {
            *made.lock().unwrap() = Some(Arc::downgrade(&rt));
            Arc::new(MemStore::new())
        }),
        on_record: Arc::new(|_| {}),
    };
    let drill = Drill::begin(&small(world), &plan, &settings).unwrap();
    drill.run_until(Micros::from_secs(3));
    drop(drill);
    let runtime = runtime.lock().unwrap().take().unwrap();
    assert!(runtime.upgrade().is_none(), "{} still hold it", runtime.strong_count());
}

#[test]
fn a_scenario_that_waits_for_a_stage_of_another_plan_is_refused() {
    let (_, world, mut plan) = scenario("spring-tide");
    plan.stages.retain(|s| s.id != "canary");
    let settings = Settings {
        seed: 1,
        advance: None,
        journal: Arc::new(|_| Arc::new(MemStore::new())),
        on_record: Arc::new(|_| {}),
    };
    let refused = Drill::begin(&world, &plan, &settings).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("`canary`"), "{refused}");
}

#[test]
fn gates_on_a_baseline_and_on_distributions_hold_in_a_whole_rollout() {
    let (b, world, _) = scenario("first-watch");
    let world = World { documents: 2_000, operations: 400, ..world };
    let half = "id = \"half\"";
    let gates = r#"
[[stage.gate]]
metric = "latency.read.p99"
side = "next"
versus = "baseline"
max_ratio = 3.0
window = "30s"
[[stage.gate]]
compare = "distribution"
metric = "latency.read"
max_ratio = 2.5
window = "30s"
for = "30s"
min_samples = 1000
[[stage.gate]]
metric = "slo.read.burn_rate"
max = 1.0
window = "30s"
long_window = "10m"
[[stage.trigger]]
metric = "slo.write.burn_rate"
above = 14.4
window = "30s"
long_window = "10m"
clear_below = 1.0
action = "rollback"
mode = "hard"
"#;
    let (before, after) = b.plan.split_once(half).unwrap();
    let (own, rest) = after.split_once("[[stage.gate]]").unwrap();
    let text = format!(
        "{before}{half}{own}{gates}[[stage.gate]]{rest}\n[slo]\nobjective = 0.99\nlatency = \"1s\"\n[expects]\nreads = \"300/s\"\n"
    );
    let plan = Plan::parse(&text, "plan.toml").unwrap_or_else(|e| panic!("{e}"));
    let run = run(&world, &plan, 7, Advance::Auto, Micros::from_secs(1), |_, _| {});
    run.ended(&End::Completed);
    let records = &run.records;
    let kinds: Vec<&str> = records.iter().map(|r| r.kind.as_str()).collect();
    assert_eq!(kinds[..3], ["started", "baseline_taken", "stage_entered"]);
    assert!(records[1].body["baseline"]["figures"]["latency.read.p99/30000"]["samples"].as_u64().unwrap() >= 1_000);
    let passed = records.iter().find(|r| r.kind == "stage_passed" && r.body["id"] == "half").unwrap();
    let evidence = passed.body["evidence"]["gates"].as_array().unwrap();
    assert!(evidence.iter().all(|g| g["verdict"] == "pass"), "{evidence:?}");
    let compared = evidence.iter().find(|g| g["metric"] == "latency.read").unwrap();
    assert!(compared["comparison"]["legacy"]["classes_us"].as_array().is_some_and(|c| c.len() > 10));
}
