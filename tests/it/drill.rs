//! Whole rollouts on the embedded cluster.

use std::sync::{Arc, Mutex};

use tidegate::drill::{Drill, Scenario, Settings, Summary, World, builtin};
use tidegate::engine::End;
use tidegate::journal::{MemStore, Record, show};
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Micros;

fn first_watch() -> (World, Plan) {
    let b = &builtin()[0];
    let scenario = Scenario::parse(b.scenario, "scenario.toml").unwrap();
    (scenario.world, Plan::parse(b.plan, "plan.toml").unwrap())
}

fn drill(world: &World, plan: &Plan, seed: u64) -> (Summary, Vec<Record>) {
    let records = Arc::new(Mutex::new(Vec::new()));
    let seen = records.clone();
    let settings = Settings {
        seed,
        advance: Some(Advance::Auto),
        journal: Arc::new(|_| Arc::new(MemStore::new())),
        on_record: Arc::new(move |r| seen.lock().unwrap().push(r.clone())),
    };
    let drill = Drill::begin(world, plan, &settings).unwrap();
    while drill.ended().is_none() && drill.now() < Micros::from_secs(1_800) {
        drill.run_until(drill.now() + Micros::from_secs(1));
    }
    let summary = drill.finish().unwrap();
    let records = records.lock().unwrap().clone();
    (summary, records)
}

#[test]
fn first_watch_in_small_runs_to_contract_and_loses_nothing() {
    let (world, plan) = first_watch();
    let world = World { documents: 3_000, operations: 200, ..world };
    let (summary, records) = drill(&world, &plan, 7);
    let log: Vec<String> = records.iter().map(show).collect();
    assert_eq!(summary.end, Some(End::Completed), "{}", log.join("\n"));
    let w = &summary.json["writes"];
    assert_eq!((&w["lost"], &w["stale"], &w["stray"]), (&0.into(), &0.into(), &0.into()), "{summary:?}");
    assert!(w["acknowledged"].as_i64().unwrap() > 1_000);
    assert_eq!(summary.json["stages"].as_array().unwrap().len(), plan.stages.len());
    assert_eq!(summary.json["documents"]["checked_ratio"], 1.0);
}

#[test]
fn gates_on_a_baseline_and_on_distributions_hold_in_a_whole_rollout() {
    let b = &builtin()[0];
    let (world, _) = first_watch();
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
    let (summary, records) = drill(&world, &plan, 7);
    let log: Vec<String> = records.iter().map(show).collect();
    assert_eq!(summary.end, Some(End::Completed), "{}", log.join("\n"));
    let kinds: Vec<&str> = records.iter().map(|r| r.kind.as_str()).collect();
    assert_eq!(kinds[..3], ["started", "baseline_taken", "stage_entered"]);
    assert!(records[1].body["baseline"]["figures"]["latency.read.p99/30000"]["samples"].as_u64().unwrap() >= 1_000);
    let passed = records.iter().find(|r| r.kind == "stage_passed" && r.body["id"] == "half").unwrap();
    let evidence = passed.body["evidence"]["gates"].as_array().unwrap();
    assert!(evidence.iter().all(|g| g["verdict"] == "pass"), "{evidence:?}");
    let compared = evidence.iter().find(|g| g["metric"] == "latency.read").unwrap();
    assert!(compared["comparison"]["legacy"]["classes_us"].as_array().is_some_and(|c| c.len() > 10));
}
