//! Crash points: a runner dies at a chosen call to the cluster or a chosen journal record, the next one dies while it recovers, and
//! the invariants hold all the same.

use tidegate::runtime::keyed_hash;

use super::case::{Case, Leaning};
use super::faults::{Moment, Sort};
use super::many::{in_parallel, number, run};
use super::world::{Simulation, Stats};

/// Seeds whose points are tried: one goes to the end, one goes back.
const SEEDS: [(u64, bool); 2] = [(4, false), (5, true)];

fn case(seed: u64, goes_back: bool) -> Case {
    Case::quiet(seed, Leaning { small: true, slow_copy: Some(false), goes_back: Some(goes_back), ..Leaning::default() })
}

fn crash(seed: u64, goes_back: bool, sort: Sort, nth: u64) -> Result<Stats, String> {
    let mut simulation = Simulation::new(case(seed, goes_back));
    let draw = |n| keyed_hash(seed, 0xC4A5, nth, n);
    let moment = [Moment::Before, Moment::During, Moment::After][(draw(0) % 3) as usize];
    simulation.points.arm(sort, nth, moment);
    // A start takes about twenty calls; what it brings back takes about as many.
    simulation.again = vec![draw(1) % 50];
    simulation.run()
}

/// `count` points spread evenly; all of them with `TIDEGATE_SIM_POINTS=all`.
fn points(of: u64, count: u64) -> Vec<u64> {
    let count = match std::env::var("TIDEGATE_SIM_POINTS").as_deref() {
        Ok("all") => of,
        _ => number("TIDEGATE_SIM_POINTS", count).min(of),
    };
    (0..count).map(|i| i * of / count).collect()
}

fn dies_anywhere(sort: Sort) {
    for (seed, goes_back) in SEEDS {
        let of = run(case(seed, goes_back)).unwrap().points[sort as usize];
        let chosen = points(of, 30);
        let outcomes = in_parallel(0..chosen.len() as u64, |i| crash(seed, goes_back, sort, chosen[i as usize]));
        let mut died = 0;
        for (i, outcome) in outcomes {
            let nth = chosen[i as usize];
            let stats = outcome.unwrap_or_else(|e| panic!("seed {seed}, {sort:?} {nth} of {of}: {e}"));
            died += stats.died;
        }
        let least = chosen.len() as u64 * 3 / 2;
        assert!(died >= least, "{died} deaths at {} points of {of}", chosen.len());
        println!("{sort:?}: {} of {of} points of seed {seed}, {died} deaths", chosen.len());
    }
}

#[test]
fn a_runner_may_die_at_any_call_and_again_while_it_recovers() {
    dies_anywhere(Sort::Call);
}

#[test]
fn a_runner_may_die_at_any_record_and_again_while_it_recovers() {
    dies_anywhere(Sort::Append);
}
