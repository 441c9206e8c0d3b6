//! The load of an embedded primary: how much was asked of it lately, and what tests and drills add to that.
//!
//! Tickets in use follow from the time that operations took in the last whole second (Little's law). Nothing here slows anything: it
//! is what a server would say, not what it would do.

use std::collections::BTreeMap;

use super::faults::OpKind;
use crate::cluster::load::{FlowControl, LatencyClasses, LatencyCounts, Load, Tickets, class_of};
use crate::runtime::Micros;

/// Tickets of each kind, as a server has them up to MongoDB 6.
const TICKETS: u64 = 128;
const CACHE_BYTES: u64 = 1 << 30;
/// What was written is on disk after a checkpoint.
const CHECKPOINT: Micros = Micros::from_secs(60);
/// Flow control of a server begins at half of its target of ten seconds.
const LAGGED: Micros = Micros::from_secs(5);

/// Load by others, on top of what is asked of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Tickets of each kind that others have.
    pub tickets: u32,
    /// Operations of others that wait.
    pub queued: u32,
    /// How much of the cache others have written and is not on disk yet, percent.
    pub dirty_percent: u32,
    /// Write conflicts of others, a second.
    pub conflicts: u32,
}

type Classes = BTreeMap<Micros, u64>;

/// What was asked of the cluster.
#[derive(Default)]
pub(super) struct Busy {
    second: u64,
    /// Microseconds that reads and writes took, in the second under way and in the last whole one.
    spent: [u64; 2],
    last: [u64; 2],
    /// By namespace, then reads and writes.
    took: BTreeMap<u64, [Classes; 2]>,
    /// The checkpoint interval, and bytes written in it.
    dirty: (u64, u64),
    conflicts: u64,
    /// Conflicts of others up to a moment, and so many a second since.
    pressed: (Micros, u64, u64),
}

impl Busy {
    /// An operation on the namespace `entity` takes so long.
    pub(super) fn note(&mut self, now: Micros, kind: OpKind, entity: u64, took: Micros) {
        let which = match kind {
            OpKind::Read | OpKind::Scan => 0,
            OpKind::Write | OpKind::Transact => 1,
            OpKind::Admin | OpKind::Changes | OpKind::Observe => return,
        };
        self.turn(now);
        self.spent[which] += took.0;
        *self.took.entry(entity).or_default()[which].entry(class_of(took)).or_insert(0) += 1;
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, now: Micros, bytes: u64) {
        let interval = now.0 / CHECKPOINT.0;
        let before = if self.dirty.0 == interval { self.dirty.1 } else { 0 };
        self.dirty = (interval, before + bytes);
    }

    /// A write met another one.
    pub(super) fn conflicted(&mut self) {
        self.conflicts += 1;
    }

    fn turn(&mut self, now: Micros) {
        let second = now.0 / 1_000_000;
        if second != self.second {
            self.last = if second == self.second + 1 { self.spent } else { [0; 2] };
            (self.second, self.spent) = (second, [0; 2]);
        }
    }

    /// Others press differently from now on.
    pub(super) fn press(&mut self, now: Micros, conflicts: u32) {
        self.pressed = (now, self.conflicts_of_others(now), conflicts.into());
    }

    fn conflicts_of_others(&self, now: Micros) -> u64 {
        let (since, until_then, rate) = self.pressed;
        until_then + now.since(since).0.saturating_mul(rate) / 1_000_000
    }

    /// What the primary would say.
    pub(super) fn load(&mut self, now: Micros, others: Pressure, lag: Option<Micros>) -> Load {
        self.turn(now);
        let mut waiting = u64::from(others.queued);
        let mut tickets = |spent: u64| {
            let wanted = spent.div_ceil(1_000_000) + u64::from(others.tickets);
            waiting += wanted.saturating_sub(TICKETS);
            Some(Tickets { available: TICKETS.saturating_sub(wanted) as u32, total: TICKETS as u32 })
        };
        let (read_tickets, write_tickets) = (tickets(self.last[0]), tickets(self.last[1]));
        let bytes = if self.dirty.0 == now.0 / CHECKPOINT.0 { self.dirty.1 } else { 0 };
        let dirty = bytes as f64 / CACHE_BYTES as f64 + f64::from(others.dirty_percent) / 100.0;
        Load {
            read_tickets,
            write_tickets,
            queued: Some(waiting),
            cache_dirty: Some(dirty.min(1.0)),
            // Everything is in memory: there is no cache to be full.
            cache_used: None,
            flow_control: Some(FlowControl { enabled: true, lagged: lag.is_none_or(|l| l > LAGGED) }),
            conflicts: Some(self.conflicts + self.conflicts_of_others(now)),
        }
    }

    /// How long operations on the namespace took.
    pub(super) fn latency(&self, entity: u64) -> LatencyCounts {
        let list = |c: &Classes| -> LatencyClasses { c.iter().map(|(class, n)| (*class, *n)).collect() };
        self.took.get(&entity).map_or_else(LatencyCounts::default, |[reads, writes]| LatencyCounts {
            reads: list(reads),
            writes: list(writes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_in_use_are_what_the_last_whole_second_took() {
        let mut busy = Busy::default();
        for n in 0..100 {
            busy.note(Micros::from_ms(5_000 + 10 * n), OpKind::Read, 1, Micros::from_ms(50));
        }
        let none = Pressure::default();
        let used = |busy: &mut Busy, at, p| {
            let load = busy.load(at, p, Some(Micros::ZERO));
            (load.read_tickets.unwrap().in_use(), load.write_tickets.unwrap().in_use(), load.queued.unwrap())
        };
        assert_eq!(used(&mut busy, Micros::from_ms(5_999), none), (0, 0, 0), "the second is not over");
        assert_eq!(used(&mut busy, Micros::from_ms(6_500), none), (5, 0, 0));
        let pressed = Pressure { tickets: 130, queued: 7, ..none };
        assert_eq!(used(&mut busy, Micros::from_ms(6_600), pressed), (128, 128, 7 + 7 + 2));
        assert_eq!(used(&mut busy, Micros::from_ms(8_000), none), (0, 0, 0));
        assert_eq!(busy.latency(1).reads, [(Micros(65_535), 100)]);
        assert_eq!(busy.latency(2), LatencyCounts::default());
    }

    #[test]
    fn conflicts_of_others_only_grow() {
        let mut busy = Busy::default();
        let at = |busy: &mut Busy, s| busy.load(Micros::from_secs(s), Pressure::default(), None).conflicts;
        busy.press(Micros::from_secs(10), 5);
        busy.conflicted();
        assert_eq!(at(&mut busy, 20), Some(51));
        busy.press(Micros::from_secs(20), 0);
        assert_eq!(at(&mut busy, 99), Some(51));
    }

    #[test]
    fn what_was_written_is_dirty_until_the_next_checkpoint() {
        let mut busy = Busy::default();
        busy.wrote(Micros::from_secs(50), CACHE_BYTES / 4);
        let dirty = |busy: &mut Busy, s| busy.load(Micros::from_secs(s), Pressure::default(), None).cache_dirty;
        assert_eq!(dirty(&mut busy, 59), Some(0.25));
        assert_eq!(dirty(&mut busy, 60), Some(0.0));
    }
}
