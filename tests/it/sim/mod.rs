//! The simulator: whole rollouts on little data with everything going wrong, and the invariants of a migration checked after every
//! event.
//!
//! Every figure derives from the seed; a seed that fails is enough to see it again.

mod case;
mod crash;
mod ending;
mod faults;
mod happen;
#[allow(clippy::disallowed_methods)] // says how fast it is, in real time
pub mod many;
mod monitor;
#[cfg(feature = "planted-bugs")]
mod planted;
mod ports;
mod scenario;
mod shrink;
mod world;

use case::Case;
use faults::Kind;
use many::{hold, in_parallel, run, seeds};
pub use ports::Clock;
use world::{Simulation, Stats};

#[test]
fn three_hundred_seeds_hold_the_invariants() {
    let seeds = seeds(300);
    let count = seeds.end - seeds.start;
    let total = hold("simulation", seeds, shrink::asked_for);
    // Every third goes back, and some of those come to rest on the way.
    if count >= 100 {
        assert!(total.back.0 > count / 8 && total.back.1 > count / 100, "{total:?}");
    }
}

#[test]
fn faults_really_happen_in_these_runs() {
    let mut total = Stats::default();
    for (seed, outcome) in in_parallel(0..40, |seed| run(Case::plain(seed))) {
        total.add(&outcome.unwrap_or_else(|e| panic!("seed {seed}: {e}")));
    }
    let rare = |k: &Kind| if *k == Kind::OplogLoss { 1 } else { 10 };
    let scarce: Vec<_> = Kind::ALL.iter().filter(|k| total.happened.get(k).copied().unwrap_or(0) < rare(k)).collect();
    assert!(scarce.is_empty(), "{scarce:?} in {total:?}");
    assert!(total.died > 20 && total.disks > 5, "{total:?}");
    assert!(total.unknown > 100 && total.landed_late > 20, "{total:?}");
    assert!(total.acknowledged > 20_000, "{total:?}");
    assert!(total.commits > 20_000, "{total:?}");
}

/// 5005: an election undid a route and so brought back an application's unfreeze. 15307: two runners took the lease in the same
/// microsecond, under one epoch, and one of them called what the other wrote a stray.
#[test]
fn seeds_that_once_failed_hold() {
    for seed in [1035, 5005, 15_307] {
        let outcome = run(Case::plain(seed));
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}

/// The tasks of a run hold the runtime, and it holds them.
#[test]
fn a_run_leaves_nothing_behind() {
    let simulation = Simulation::new(Case::plain(8));
    let runtime = std::sync::Arc::downgrade(&simulation.sim);
    simulation.run().unwrap();
    assert!(runtime.upgrade().is_none(), "{} still hold it", runtime.strong_count());
}

#[test]
fn the_same_seed_gives_the_same_journal() {
    for seed in [3, 77] {
        let once = || run(Case::plain(seed)).map(|s| s.journal_hash);
        assert_eq!(once(), once(), "seed {seed}");
    }
}
