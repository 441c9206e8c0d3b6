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
