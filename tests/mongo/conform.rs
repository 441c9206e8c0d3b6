//! Every conformance case on a real server, each in its own database, and random histories on both kinds of cluster.

use std::sync::Arc;

use libtest_mimic::Trial;
use tidegate::cluster::embedded::{Config, Embedded};
use tidegate::runtime::sim::Sim;

use super::replset::ReplSet;
use super::{R, conformance, connect, live, on_shared};

/// Random histories, so many trials of so many.
const TRIALS: u64 = 4;
const HISTORIES: u64 = 10;
const OPS: usize = 80;

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, case) in conformance::cases() {
        all.push(on_shared(&format!("conformance::{name}"), move |set| async move {
            let db = connect(&set, name).await?;
            case(live(), db, name.to_owned()).await
        }));
    }
    for trial in 0..TRIALS {
        let seeds = trial * HISTORIES..(trial + 1) * HISTORIES;
        let name = format!("histories::the_embedded_cluster_agrees_{}_to_{}", seeds.start, seeds.end - 1);
        all.push(on_shared(&name, move |set| async move {
            for seed in seeds {
                agree(&set, seed).await?;
            }
            Ok(())
        }));
    }
    all
}

async fn agree(set: &Arc<ReplSet>, seed: u64) -> R {
    let name = format!("history_{seed}");
    let db = connect(set, &name).await?;
    let real = conformance::history::random_history(live(), db, name.clone(), seed, OPS).await;
    let real = real.map_err(|e| format!("seed {seed}, real: {e}"))?;
    let sim = Sim::new(seed);
    let embedded = Embedded::new(sim.clone(), Config::default());
    let history = conformance::history::random_history(sim.clone(), embedded, name, seed, OPS);
    let model = sim.block_on(history).ok_or(format!("seed {seed}: the embedded cluster waits for ever"))?;
    let model = model.map_err(|e| format!("seed {seed}, embedded: {e}"))?;
    for (i, (r, m)) in real.iter().zip(&model).enumerate() {
        if r != m {
            return Err(format!("seed {seed}, line {i}:\n    real      {r}\n    embedded  {m}"));
        }
    }
    if real.len() == model.len() { Ok(()) } else { Err(format!("seed {seed}: {} lines, {}", real.len(), model.len())) }
}
