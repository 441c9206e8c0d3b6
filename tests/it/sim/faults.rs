//! What goes wrong in a simulation: the kinds of mishaps and how one is drawn. What happens when is an explicit list (`case.rs`).

use tidegate::cluster::embedded::{Fates, Faults, OpKind, Rates};
use tidegate::runtime::Micros;

/// Where the runner is cut off, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before anything is sent or stored.
    Before,
    /// While it is under way.
    During,
    /// Done, and the answer is never seen.
    After,
}

/// What is counted until the runner is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Calls of the runner to the cluster.
    Call,
    /// Records appended to the journal.
    Append,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The runner dies where it stands and is started again after a while.
    Kill { down: Micros },
    /// The runner dies at its `nth` call or record from now.
    CrashAt { sort: Sort, nth: u64, moment: Moment, down: Micros },
    /// Another runner takes over while the old one still runs.
    TakeOver,
    /// Two more runners start at the same moment.
    Crowd,
    /// The runner stands still, and goes on as if nothing had happened; another may have taken over meanwhile.
    Stall { span: Micros, take_over: bool },
    /// The primary steps down.
    StepDown,
    /// Every kind of operation has this latency, percent.
    Slow { percent: u64 },
    /// Every secondary is this far behind.
    Lag { by: Micros },
    /// Unknown outcomes, parts per million.
    Unknown { ppm: u32, late: u32 },
    /// Errors before anything happened, parts per million.
    Errors { ppm: u32 },
    /// Change streams break.
    BreakStreams,
    /// The cluster cannot be reached for a while.
    Unreachable { span: Micros },
    /// Only the runners cannot reach it.
    CutRunner { span: Micros },
    /// Only the application cannot.
    CutApplication { span: Micros },
    /// A member is cut off from the others: the primary, or another.
    CutMember { primary: bool, span: Micros },
    /// A wall clock is set: the runner's, or the servers'.
    Clock { server: bool, by_ms: i64 },
    /// The disk of the journal is full, or (`stored`) an fsync fails though the record is there.
    Disk { stored: bool, down: Micros },
    /// A process of the application is alive and never acknowledges another route; or (`silent`) is not even alive.
    Deaf { silent: bool, span: Micros },
    /// Change streams cannot resume from before this moment.
    OplogLoss,
    /// The operator pauses, twice, and continues after a while.
    Pause { span: Micros },
    /// Back to health.
    Calm,
}

/// The kinds of [`Mishap`], for weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    CrashAt,
    TakeOver,
    Crowd,
    Stall,
    StepDown,
    Slow,
    Lag,
    Unknown,
    Errors,
    BreakStreams,
    Unreachable,
    CutRunner,
    CutApplication,
    CutMember,
    Clock,
    Disk,
    Deaf,
    OplogLoss,
    Pause,
    Calm,
}

impl Kind {
    pub const ALL: [Kind; 21] = [
        Kind::Kill,
        Kind::CrashAt,
        Kind::TakeOver,
        Kind::Crowd,
        Kind::Stall,
        Kind::StepDown,
        Kind::Slow,
        Kind::Lag,
        Kind::Unknown,
        Kind::Errors,
        Kind::BreakStreams,
        Kind::Unreachable,
        Kind::CutRunner,
        Kind::CutApplication,
        Kind::CutMember,
        Kind::Clock,
        Kind::Disk,
        Kind::Deaf,
        Kind::OplogLoss,
        Kind::Pause,
        Kind::Calm,
    ];

    /// A mishap of this kind; `harsh` (1 to 4) says how bad it may be in this run.
    pub fn draw(self, harsh: u64, bits: impl Fn(u64) -> u64) -> Mishap {
        let ms = |least: u64, span: u64| Micros::from_ms(least + bits(1) % (span * harsh / 4).max(1));
        let ppm = |most: u64| (bits(1) % (most * harsh / 4)) as u32;
        let half = bits(2).is_multiple_of(2);
        match self {
            Kind::Kill => Mishap::Kill { down: ms(50, 3_000) },
            Kind::CrashAt => {
                let sort = if half { Sort::Call } else { Sort::Append };
                let nth = bits(3) % if half { 400 } else { 12 };
                let moment = [Moment::Before, Moment::During, Moment::After][(bits(4) % 3) as usize];
                Mishap::CrashAt { sort, nth, moment, down: ms(0, 2_000) }
            }
            Kind::TakeOver => Mishap::TakeOver,
            Kind::Crowd => Mishap::Crowd,
            Kind::Stall => Mishap::Stall { span: ms(100, 15_000), take_over: half },
            Kind::StepDown => Mishap::StepDown,
            Kind::Slow => Mishap::Slow { percent: 100 + bits(1) % (375 * harsh) },
            Kind::Lag => Mishap::Lag { by: ms(0, 2_000) },
            Kind::Unknown => Mishap::Unknown { ppm: ppm(200_000), late: (bits(2) % 4) as u32 },
            Kind::Errors => Mishap::Errors { ppm: ppm(100_000) },
            Kind::BreakStreams => Mishap::BreakStreams,
            Kind::Unreachable => Mishap::Unreachable { span: ms(100, 4_000) },
            Kind::CutRunner => Mishap::CutRunner { span: ms(100, 14_000) },
            Kind::CutApplication => Mishap::CutApplication { span: ms(100, 6_000) },
            Kind::CutMember => Mishap::CutMember { primary: half, span: ms(500, 8_000) },
            Kind::Clock => {
                let far = [500, 5_000, 60_000, 7_200_000][(bits(3) % 4) as usize];
                let by = (bits(1) % far) as i64;
                Mishap::Clock { server: bits(4).is_multiple_of(2), by_ms: if half { by } else { -by } }
            }
            Kind::Disk => Mishap::Disk { stored: half, down: ms(50, 3_000) },
            Kind::Deaf => Mishap::Deaf { silent: half, span: ms(500, 8_000) },
            Kind::OplogLoss => Mishap::OplogLoss,
            Kind::Pause => Mishap::Pause { span: ms(200, 4_000) },
            Kind::Calm => Mishap::Calm,
        }
    }
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
