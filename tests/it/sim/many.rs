//! Many runs: on all cores, with a word on how far they are; some twice, to see that they are the same.

// Progress is told in the time of whoever waits for it.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::case::Case;
use super::shrink;
use super::world::{Simulation, Stats};

/// So many seeds of a hundred are run twice.
const TWICE_OF_100: u64 = 1;
/// How often a long run says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(20);
/// Failures that are made small, unless `TIDEGATE_SIM_SHRINK` says otherwise; more of them hardly tell more.
const SHRUNK: u64 = 3;

/// What one case showed.
pub fn run(case: Case) -> Result<Stats, String> {
    Simulation::new(case).run()
}

/// A number from the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(otherwise)
}

/// Runs the cases of these seeds, a hundredth of them twice, and adds up what happened.
///
/// # Panics
/// When one fails; each that does is named, and the first few are made small and written down.
pub fn hold(what: &str, seeds: std::ops::Range<u64>, case: impl Fn(u64) -> Case + Sync) -> Stats {
    let count = seeds.end - seeds.start;
    let progress = Progress::new(what, count);
    let outcomes = in_parallel(seeds, |seed| {
        let mut outcome = run(case(seed));
        if seed % 100 < TWICE_OF_100
            && let Ok(first) = &outcome
        {
            let again = run(case(seed)).map(|s| s.journal_hash);
            if again.as_ref() != Ok(&first.journal_hash) {
                outcome = Err(format!("run twice it gave {} and {again:?}", first.journal_hash));
            }
        }
        progress.one(seed, outcome.as_ref().err());
        outcome
    });
    let mut total = Stats::default();
    let mut failures = Vec::new();
    for (seed, outcome) in outcomes {
        match outcome {
            Ok(stats) => total.add(&stats),
            Err(e) => failures.push((seed, e)),
        }
    }
    for (seed, e) in failures.iter_mut().take(number("TIDEGATE_SIM_SHRINK", SHRUNK) as usize) {
        match shrink::shrink(&case(*seed)) {
            Some(small) => e.push_str(&format!("\n  {}", shrink::write(&small))),
            None => e.push_str("\n  it did not fail again"),
        }
    }
    let lines: Vec<String> = failures.iter().map(|(seed, e)| format!("seed {seed}: {e}")).collect();
    assert!(lines.is_empty(), "{} of {count} seeds failed:\n{}", lines.len(), lines.join("\n"));
    total
}

/// How far a long run is, on the real standard error: a test's own output is kept back until it ends.
struct Progress {
    what: String,
    count: u64,
    began: Instant,
    inner: Mutex<(u64, u64, Instant)>,
}

impl Progress {
    fn new(what: &str, count: u64) -> Progress {
        let now = Instant::now();
        Progress { what: what.into(), count, began: now, inner: Mutex::new((0, 0, now)) }
    }

    fn one(&self, seed: u64, failed: Option<&String>) {
        let mut inner = self.inner.lock().unwrap();
        let (done, violations, said) = &mut *inner;
        *done += 1;
        if let Some(e) = failed {
            *violations += 1;
            say(&format!("{}: seed {seed}: {e}", self.what));
        }
        if said.elapsed() >= SAY_EVERY || (*done == self.count && self.count >= 1_000) {
            *said = Instant::now();
            let rate = *done as f64 / self.began.elapsed().as_secs_f64().max(0.001);
            say(&format!("{}: {done} of {} seeds, {rate:.1}/s, {violations} violations", self.what, self.count));
        }
    }
}

fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// As many seeds as asked for in the environment, from the first one asked for.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let first = number("TIDEGATE_SIM_FIRST", 0);
    first..first + number("TIDEGATE_SIM_SEEDS", default)
}

/// Runs seeds on all cores; results in the order of the seeds.
pub fn in_parallel<T: Send>(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    let next = Mutex::new(seeds);
    let out = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get().min(64)) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { break };
                    let outcome = run(seed);
                    out.lock().unwrap().insert(seed, outcome);
                }
            });
        }
    });
    out.into_inner().unwrap().into_iter().collect()
}
