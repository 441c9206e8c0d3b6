//! What goes wrong in a simulation, and when: drawn from the seed.

use tidegate::cluster::embedded::{Fates, Faults, OpKind, Rates};
use tidegate::runtime::{Micros, keyed_hash};
use tidegate::snapshot::Command;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The runner dies where it stands and is started again after a while.
    Kill { down: Micros },
    /// Another runner takes over while the old one still runs.
    TakeOver,
    /// The primary steps down.
    StepDown,
    /// Every kind of operation has this latency, percent.
    Slow { percent: u64 },
    /// Both secondaries are this far behind.
    Lag { by: Micros },
    /// Unknown outcomes, parts per million.
    Unknown { ppm: u32, late: u32 },
    /// Errors before anything happened, parts per million.
    Errors { ppm: u32 },
    /// Change streams break.
    BreakStreams,
    /// The cluster cannot be reached for a while.
    Unreachable { span: Micros },
    /// The operator pauses, twice, and continues after a while.
    Pause { span: Micros },
    /// Back to health.
    Calm,
}

/// What a run is inclined to; what is not said here is drawn from the seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaning {
    /// Weights of the mishaps, in the order of [`Mishap`].
    pub weights: Option<[u64; 11]>,
    /// The copy takes most of the rough time.
    pub slow_copy: Option<bool>,
    /// As many orders are created and deleted as updated.
    pub churn: Option<bool>,
    /// Three processes that mostly look at what another has just written.
    pub busy: bool,
    /// The operator goes back at some moment.
    pub goes_back: bool,
}

/// When the operator goes back, and how; drawn from the seed. Some do it twice, the second time harder or further.
pub fn ways_back(seed: u64) -> Vec<(Micros, Command)> {
    let draw = |n: u64| keyed_hash(seed, 0xBAC2, 0, n);
    // Most of the rollout lies between these two; a seed whose rollout is faster or slower hits another stage.
    let at = Micros::from_ms(1_000 + draw(0) % 44_000);
    let hard = draw(1) % 2 == 0;
    // Every fourth comes to rest in an earlier stage and goes on from there.
    let to = (draw(2) % 4 == 0).then(|| (draw(3) % 4) as usize);
    let mut out = vec![(at, Command::Rollback { hard, to })];
    if draw(4) % 3 == 0 {
        let again = Command::Rollback { hard: true, to: None };
        out.push((at + Micros::from_ms(draw(5) % 5_000), again));
    }
    out
}

/// The mishaps of one seed, in order. Rates differ per seed: some runs are rough, some nearly quiet.
pub fn schedule(seed: u64, until: Micros, leaning: Leaning) -> Vec<(Micros, Mishap)> {
    let draw = |n: u64| keyed_hash(seed, 0xFA17, 0, n);
    let mean_ms = 400 + draw(0) % 4_000;
    let weights = leaning.weights.unwrap_or_else(|| std::array::from_fn(|k| draw(10 + k as u64) % 4));
    let total: u64 = weights.iter().sum::<u64>().max(1);
    let mut at = Micros::from_ms(500 + draw(1) % 3_000);
    let mut out = Vec::new();
    for n in 0u64.. {
        if at > until || n > 400 {
            break;
        }
        let bits = |k: u64| draw(1_000 + n * 10 + k);
        let mut pick = bits(0) % total;
        let kind = weights.iter().position(|w| {
            let here = pick < *w;
            pick = pick.saturating_sub(*w);
            here
        });
        let ms = |least: u64, span: u64| Micros::from_ms(least + bits(1) % span);
        out.push((
            at,
            match kind.unwrap_or(10) {
                0 => Mishap::Kill { down: ms(50, 3_000) },
                1 => Mishap::TakeOver,
                2 => Mishap::StepDown,
                3 => Mishap::Slow { percent: 100 + bits(1) % 1_500 },
                4 => Mishap::Lag { by: ms(0, 2_000) },
                5 => Mishap::Unknown { ppm: (bits(1) % 200_000) as u32, late: (bits(2) % 4) as u32 },
                6 => Mishap::Errors { ppm: (bits(1) % 100_000) as u32 },
                7 => Mishap::BreakStreams,
                8 => Mishap::Unreachable { span: ms(100, 4_000) },
                9 => Mishap::Pause { span: ms(200, 4_000) },
                _ => Mishap::Calm,
            },
        ));
        at += Micros::from_ms(1 + bits(3) % (2 * mean_ms));
    }
    out
}

/// Sets unknown outcomes and errors for every kind of write.
pub fn set_rates(faults: &Faults, unknown: u32, not_done: u32) {
    for kind in [OpKind::Write, OpKind::Transact, OpKind::Admin] {
        faults.set_rates(kind, Rates { not_done, unknown });
    }
    for kind in [OpKind::Read, OpKind::Scan, OpKind::Observe] {
        faults.set_rates(kind, Rates { not_done, unknown: 0 });
    }
    faults.set_rates(OpKind::Changes, Rates { not_done: not_done / 10, unknown: 0 });
}

/// How unknown outcomes turn out: `late` of 4 land after their error.
pub fn set_fates(faults: &Faults, late: u32) {
    faults.set_fates(Fates { landed: 2, never: 2, late: 1 + 2 * late });
}
