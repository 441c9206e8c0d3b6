//! The conformance suite on the embedded cluster.

use tidegate::cluster::Db;
use tidegate::cluster::embedded::{Config, Embedded};
use tidegate::runtime::Rt;
use tidegate::runtime::sim::Sim;

use crate::conformance::{R, cases, history};

fn cluster(seed: u64) -> (Sim, Rt, Db) {
    let sim = Sim::new(seed);
    let rt: Rt = sim.clone();
    let db: Db = Embedded::new(rt.clone(), Config::default());
    (sim, rt, db)
}

#[test]
fn the_embedded_cluster_conforms() {
    let mut failed = Vec::new();
    for (name, case) in cases() {
        for seed in 0..5 {
            let (sim, rt, db) = cluster(seed);
            match sim.block_on(case(rt, db, format!("db_{name}"))) {
                Some(Ok(())) => {}
                Some(Err(e)) => failed.push(format!("{name}, seed {seed}: {e}")),
                None => failed.push(format!("{name}, seed {seed}: waits for ever")),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn transcript(runtime_seed: u64, seed: u64) -> R<Vec<String>> {
    let (sim, rt, db) = cluster(runtime_seed);
    sim.block_on(history::random_history(rt, db, "history".into(), seed, 80)).unwrap_or(Err("waits for ever".into()))
}

#[test]
fn a_history_reads_the_same_whatever_the_latencies() -> R {
    for seed in 0..20 {
        assert_eq!(transcript(1, seed)?, transcript(2, seed)?, "seed {seed}");
    }
    Ok(())
}

#[test]
fn histories_meet_every_outcome() -> R {
    let all: Vec<String> = (0..20).map(|seed| transcript(1, seed)).collect::<R<Vec<_>>>()?.concat();
    let has = |what: &str| all.iter().any(|l| l.contains(what));
    for what in [
        "insert one",
        "duplicate",
        "fenced by",
        "conflict",
        "Some(0)",
        "Some(1)",
        "event in two: delete",
        "left in two",
    ] {
        assert!(has(what), "no history has {what:?}");
    }
    Ok(())
}
