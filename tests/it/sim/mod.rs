//! The simulator: whole rollouts on little data with everything going wrong, and the invariants of a migration checked on the way.
//!
//! Every figure derives from the seed; a seed that fails is enough to see it again.

mod faults;
mod monitor;
mod world;

use faults::Leaning;
use tidegate::engine::planted::Planted;
use world::Simulation;

/// What one seed showed.
fn run(seed: u64, planted: Planted, leaning: Leaning) -> Result<world::Stats, String> {
    Simulation::new(seed, planted, leaning).run()
}

/// As drawn from the seed, and without a mistake.
fn plain(seed: u64) -> Result<world::Stats, String> {
    run(seed, Planted::default(), Leaning::default())
}

#[test]
fn two_hundred_seeds_hold_the_invariants() {
    let first: u64 = std::env::var("TIDEGATE_SIM_FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("TIDEGATE_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(200);
    let failures: Vec<String> = world::in_parallel(first..first + count, plain)
        .into_iter()
        .filter_map(|(seed, outcome)| outcome.err().map(|e| format!("seed {seed}: {e}")))
        .collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), failures.join("\n"));
}

/// As drawn from the seed, and the operator goes back at some moment.
fn back(seed: u64) -> Result<world::Stats, String> {
    run(seed, Planted::default(), Leaning { goes_back: true, ..Leaning::default() })
}

#[test]
fn a_hundred_seeds_that_go_back_hold_the_invariants() {
    let first: u64 = std::env::var("TIDEGATE_SIM_FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("TIDEGATE_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(100);
    let mut total = world::Stats::default();
    let mut failures = Vec::new();
    for (seed, outcome) in world::in_parallel(first..first + count, back) {
        match outcome {
            Ok(stats) => total.add(&stats),
            Err(e) => failures.push(format!("seed {seed}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), failures.join("\n"));
    assert!(total.back.0 > count / 2 && (total.back.1 > count / 20 || count < 20), "{total:?}");
}

#[test]
fn faults_really_happen_in_these_runs() {
    let mut total = world::Stats::default();
    for (seed, outcome) in world::in_parallel(0..20, plain) {
        total.add(&outcome.unwrap_or_else(|e| panic!("seed {seed}: {e}")));
    }
    assert!(total.kills > 20, "{total:?}");
    assert!(total.take_overs > 5, "{total:?}");
    assert!(total.step_downs > 10, "{total:?}");
    assert!(total.unknown > 100 && total.landed_late > 20, "{total:?}");
    assert!(total.pauses > 10, "{total:?}");
    assert!(total.acknowledged > 10_000, "{total:?}");
    assert!(total.commits > 10_000, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_journal() {
    for seed in [3, 77] {
        let a = plain(seed).map(|s| s.journal_hash);
        assert_eq!(a, plain(seed).map(|s| s.journal_hash), "seed {seed}");
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::*;
    use tidegate::engine::planted::Bug;

    /// Runs seeds until one finds the mistake. The leanings only make the mishaps frequent that the mistake needs: the same seeds
    /// and leanings without the mistake hold (`the_leanings_alone_hold`).
    fn is_found(bug: Bug, within: u64) {
        for start in (0..within).step_by(4) {
            let found = world::in_parallel(start..start + 4, |seed| run(seed, Planted::one(bug), leaning(bug)));
            if let Some((seed, Err(e))) = found.into_iter().find(|(_, o)| o.is_err()) {
                println!("{bug:?} found by seed {seed}: {e}");
                return;
            }
        }
        panic!("{bug:?} was not found within {within} seeds");
    }

    //                 kill take step slow lag unkn err  strm unre paus calm
    fn leaning(bug: Bug) -> Leaning {
        let (weights, slow_copy) = match bug {
            Bug::ReadOnlyFence => ([4, 4, 1, 1, 0, 4, 0, 0, 0, 0, 0], None),
            Bug::ReadBackWithoutBump => ([0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 1], Some(true)),
            Bug::ChunkReadNotAfterTail => ([0, 0, 6, 0, 1, 0, 0, 0, 0, 0, 1], Some(true)),
            Bug::FlipWithBatchInFlight | Bug::DrainSkipped => ([0, 0, 1, 3, 3, 3, 1, 0, 0, 0, 0], Some(false)),
            Bug::ReadsLeftBehind => ([0, 0, 1, 6, 2, 0, 0, 0, 0, 0, 0], Some(false)),
            // Found by the simulations of `in_place`.
            Bug::PreImageOverwrittenOnResume => ([4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], None),
            // Found where next is a cluster of its own (`strand`).
            Bug::SalvageSkipped | Bug::TombstoneIgnored => ([0; 11], None),
            Bug::EffectBeforeRecord => ([2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], Some(false)),
        };
        let goes_back = bug == Bug::ReadsLeftBehind;
        Leaning { weights: Some(weights), slow_copy, churn: Some(!goes_back), busy: goes_back, goes_back }
    }

    const ALL: [Bug; 7] = [
        Bug::ReadOnlyFence,
        Bug::ReadBackWithoutBump,
        Bug::ChunkReadNotAfterTail,
        Bug::FlipWithBatchInFlight,
        Bug::DrainSkipped,
        Bug::ReadsLeftBehind,
        Bug::EffectBeforeRecord,
    ];

    #[test]
    fn the_leanings_alone_hold() {
        for bug in ALL {
            for (seed, outcome) in world::in_parallel(0..6, |seed| run(seed, Planted::default(), leaning(bug))) {
                assert!(outcome.is_ok(), "leaning of {bug:?}, seed {seed}: {outcome:?}");
            }
        }
    }

    #[test]
    fn a_fence_that_only_reads_is_found() {
        is_found(Bug::ReadOnlyFence, 100);
    }

    #[test]
    fn a_read_back_without_a_bump_is_found() {
        is_found(Bug::ReadBackWithoutBump, 100);
    }

    #[test]
    fn a_chunk_read_not_after_the_tails_time_is_found() {
        is_found(Bug::ChunkReadNotAfterTail, 100);
    }

    #[test]
    fn a_flip_with_a_batch_in_flight_is_found() {
        is_found(Bug::FlipWithBatchInFlight, 100);
    }

    #[test]
    fn a_skipped_drain_is_found() {
        is_found(Bug::DrainSkipped, 100);
    }

    #[test]
    fn writes_let_go_before_reads_have_left_next_are_found() {
        is_found(Bug::ReadsLeftBehind, 100);
    }

    #[test]
    fn an_effect_before_its_record_is_found() {
        is_found(Bug::EffectBeforeRecord, 100);
    }
}
