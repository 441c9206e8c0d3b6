//! A case: everything that one run of the simulator depends on, drawn from a seed or given.

use tidegate::engine::planted::Planted;
use tidegate::runtime::{Micros, keyed_hash};
use tidegate::snapshot::Command;
use tidegate::workload;

use super::faults::{Kind, Mishap};

/// Mishaps happen until then; after it everything must come to its end.
pub const ROUGH: Micros = Micros::from_secs(45);

/// What a run is inclined to; what is not said here is drawn from the seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaning {
    /// The kinds of mishaps and their weights.
    pub weights: Option<&'static [(Kind, u64)]>,
    /// The copy takes most of the rough time.
    pub slow_copy: Option<bool>,
    /// As many orders are created and deleted as updated.
    pub churn: Option<bool>,
    /// Three processes that mostly look at what another has just written.
    pub busy: bool,
    /// The operator goes back at some moment.
    pub goes_back: Option<bool>,
    /// Few documents and little traffic: for many runs of one seed.
    pub small: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub planted: Planted,
    pub leaning: Leaning,
    /// What happens, in order.
    pub mishaps: Vec<(Micros, Mishap)>,
    /// When the operator goes back, and how.
    pub ways_back: Vec<(Micros, Command)>,
    /// Nothing goes wrong after that.
    pub rough: Micros,
}

impl Case {
    /// As drawn from the seed, and without a mistake.
    pub fn plain(seed: u64) -> Case {
        Case::of(seed, Planted::default(), Leaning::default())
    }

    pub fn of(seed: u64, planted: Planted, leaning: Leaning) -> Case {
        // Every third goes back at some moment.
        let goes_back = leaning.goes_back.unwrap_or(keyed_hash(seed, 0xBAC2, 1, 0).is_multiple_of(3));
        Case {
            seed,
            planted,
            leaning,
            mishaps: schedule(seed, ROUGH, leaning.weights),
            ways_back: if goes_back { ways_back(seed) } else { Vec::new() },
            rough: ROUGH,
        }
    }

    /// Without any mishap; a crash at a chosen point is added by who wants one.
    pub fn quiet(seed: u64, leaning: Leaning) -> Case {
        Case { mishaps: Vec::new(), rough: Micros::ZERO, ..Case::of(seed, Planted::default(), leaning) }
    }

    /// The case as it was drawn, in which only these of its mishaps happen.
    pub fn keeping(&self, kept: &[usize]) -> Case {
        Case { mishaps: kept.iter().filter_map(|i| self.mishaps.get(*i).copied()).collect(), ..self.clone() }
    }

    /// How the application behaves.
    pub fn load(&self) -> workload::Config {
        let (seed, l) = (self.seed, &self.leaning);
        workload::Config {
            documents: if l.small { 60 } else { 150 + seed % 200 },
            ops_per_s: match (l.busy, l.small) {
                (true, _) => 400,
                (_, true) => 30,
                _ => 60 + (seed % 5) as u32 * 20,
            },
            read_percent: 50,
            // What one process has written another wants to see at once.
            read_latest_percent: if l.busy { 80 } else { 40 },
            processes: if l.busy { 3 } else { 1 + (seed % 3) as u32 },
            lanes: 2,
            padding: 10,
            // Every other run creates and deletes as much as it updates.
            churn_percent: if l.churn.unwrap_or(seed % 2 == 1) { (30, 35) } else { (12, 8) },
            ids: workload::Ids::Mixed,
        }
    }

    /// Documents a second of the copy. Every third run copies so slowly that most mishaps fall into the backfill.
    pub fn max_rate(&self) -> u32 {
        if self.leaning.slow_copy.unwrap_or(self.seed % 3 == 2) { 12 } else { 1_000_000 }
    }

    /// Members of the replica set.
    pub fn nodes(&self) -> usize {
        if keyed_hash(self.seed, 0x40DE, 0, 0).is_multiple_of(8) { 5 } else { 3 }
    }
}

/// When the operator goes back, and how; drawn from the seed. Some do it twice, the second time harder or further.
fn ways_back(seed: u64) -> Vec<(Micros, Command)> {
    let draw = |n: u64| keyed_hash(seed, 0xBAC2, 0, n);
    // Most of the rollout lies between these two; a seed whose rollout is faster or slower hits another stage.
    let at = Micros::from_ms(1_000 + draw(0) % 44_000);
    let hard = draw(1) % 2 == 0;
    // Every fourth comes to rest in an earlier stage and goes on from there.
    let to = (draw(2) % 4 == 0).then(|| (draw(3) % 4) as usize);
    // Half of those bring a range of buckets back, and leave next what lies below.
    let first = match to {
        Some(_) if draw(6).is_multiple_of(2) => Command::RollbackRange { hard, from: 1 + (draw(7) % 511) as u16 },
        _ => Command::Rollback { hard, to },
    };
    let mut out = vec![(at, first)];
    if matches!(first, Command::RollbackRange { .. }) && draw(8).is_multiple_of(2) {
        // Everything after it, from where it rests.
        let all = Command::Rollback { hard: draw(9).is_multiple_of(2), to: None };
        out.push((at + Micros::from_ms(4_000 + draw(10) % 12_000), all));
    } else if draw(4) % 3 == 0 {
        let again = Command::Rollback { hard: true, to: None };
        out.push((at + Micros::from_ms(draw(5) % 5_000), again));
    }
    out
}

/// Which kinds of mishaps a seed has at all, how often each and how bad: some runs are rough, some nearly quiet, some know but one
/// kind. (The weights of a leaning, where it has any.)
fn swarm(seed: u64, weights: Option<&'static [(Kind, u64)]>) -> Vec<(Kind, u64)> {
    if let Some(weights) = weights {
        return weights.to_vec();
    }
    let draw = |k: Kind, n: u64| keyed_hash(seed, 0x5A4, k as u64, n);
    let chosen = Kind::ALL.into_iter().filter(|k| match k {
        // Ends many a run early: whoever follows a stream that is lost needs an operator.
        Kind::OplogLoss => draw(*k, 0).is_multiple_of(12),
        _ => draw(*k, 0).is_multiple_of(2),
    });
    chosen.map(|k| (k, if k == Kind::OplogLoss { 1 } else { 1 + draw(k, 1) % 4 })).collect()
}

/// The mishaps of one seed, in order.
fn schedule(seed: u64, until: Micros, weights: Option<&'static [(Kind, u64)]>) -> Vec<(Micros, Mishap)> {
    let draw = |n: u64| keyed_hash(seed, 0xFA17, 0, n);
    let mean_ms = 400 + draw(0) % 4_000;
    let harsh = if weights.is_some() { 4 } else { 1 + draw(2) % 4 };
    let weights = swarm(seed, weights);
    let total: u64 = weights.iter().map(|(_, w)| w).sum();
    let mut at = Micros::from_ms(500 + draw(1) % 3_000);
    let mut out = Vec::new();
    for n in 0u64.. {
        if at > until || total == 0 || n > 400 {
            break;
        }
        let bits = |k: u64| draw(1_000 + n * 10 + k);
        let mut pick = bits(0) % total;
        let kind = weights.iter().find(|(_, w)| {
            let here = pick < *w;
            pick = pick.saturating_sub(*w);
            here
        });
        if let Some((kind, _)) = kind {
            out.push((at, kind.draw(harsh, bits)));
        }
        at += Micros::from_ms(1 + bits(5) % (2 * mean_ms));
    }
    out
}
