//! The simulator: whole rollouts on little data with everything going wrong, and the invariants of a migration checked on the way.
//!
//! Every figure derives from the seed; a seed that fails is enough to see it again.

mod faults;
mod monitor;
mod world;

use tidegate::engine::planted::Planted;
use world::Simulation;

/// What one seed showed.
fn run(seed: u64, planted: Planted) -> Result<world::Stats, String> {
    Simulation::new(seed, planted).run()
}

#[test]
fn two_hundred_seeds_hold_the_invariants() {
    let first: u64 = std::env::var("TIDEGATE_SIM_FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("TIDEGATE_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(200);
    let failures: Vec<String> = world::in_parallel(first..first + count, |seed| run(seed, Planted::default()))
        .into_iter()
        .filter_map(|(seed, outcome)| outcome.err().map(|e| format!("seed {seed}: {e}")))
        .collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn faults_really_happen_in_these_runs() {
    let mut total = world::Stats::default();
    for (seed, outcome) in world::in_parallel(0..20, |seed| run(seed, Planted::default())) {
        total.add(&outcome.unwrap_or_else(|e| panic!("seed {seed}: {e}")));
    }
    assert!(total.kills > 20, "{total:?}");
    assert!(total.take_overs > 5, "{total:?}");
    assert!(total.step_downs > 10, "{total:?}");
    assert!(total.unknown > 100 && total.landed_late > 20, "{total:?}");
    assert!(total.pauses > 10, "{total:?}");
    assert!(total.acknowledged > 10_000, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_journal() {
    for seed in [3, 77] {
        let a = run(seed, Planted::default()).map(|s| s.journal_hash);
        assert_eq!(a, run(seed, Planted::default()).map(|s| s.journal_hash), "seed {seed}");
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::*;
    use tidegate::engine::planted::Bug;

    /// Runs seeds until one finds the mistake.
    fn is_found(bug: Bug, within: u64) {
        for start in (0..within).step_by(8) {
            let found = world::in_parallel(start..start + 8, |seed| run(seed, Planted::one(bug)));
            if let Some((seed, Err(e))) = found.into_iter().find(|(_, o)| o.is_err()) {
                println!("{bug:?} found by seed {seed}: {e}");
                return;
            }
        }
        panic!("{bug:?} was not found within {within} seeds");
    }

    #[test]
    fn a_fence_that_only_reads_is_found() {
        is_found(Bug::ReadOnlyFence, 200);
    }

    #[test]
    fn a_read_back_without_a_bump_is_found() {
        is_found(Bug::ReadBackWithoutBump, 200);
    }

    #[test]
    fn a_chunk_read_not_after_the_tails_time_is_found() {
        is_found(Bug::ChunkReadNotAfterTail, 200);
    }

    #[test]
    fn a_flip_with_a_batch_in_flight_is_found() {
        is_found(Bug::FlipWithBatchInFlight, 200);
    }

    #[test]
    fn a_skipped_drain_is_found() {
        is_found(Bug::DrainSkipped, 200);
    }

    #[test]
    fn an_effect_before_its_record_is_found() {
        is_found(Bug::EffectBeforeRecord, 200);
    }
}
