//! The change events of one namespace, oldest first, in pieces: a log that grows is never moved as a whole.

use std::collections::VecDeque;

use super::state::Event;
use super::store::Ts;

/// Events a piece.
const PIECE: usize = 4_096;

/// Events in the order of their times.
#[derive(Default)]
pub(super) struct Events {
    /// None of them is empty.
    pieces: VecDeque<VecDeque<Event>>,
}

impl Events {
    /// Adds the newest event.
    pub(super) fn push(&mut self, event: Event) {
        if self.pieces.back().is_none_or(|p| p.len() >= PIECE) {
            self.pieces.push_back(VecDeque::new());
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.push_back(event);
        }
    }

    /// Forgets the events before `ts`.
    pub(super) fn forget_before(&mut self, ts: Ts) {
        while let Some(piece) = self.pieces.front_mut() {
            while piece.front().is_some_and(|e| e.ts < ts) {
                piece.pop_front();
            }
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
    }

    /// Takes back the events from `ts` on.
    pub(super) fn undo_from(&mut self, ts: Ts) {
        while let Some(piece) = self.pieces.back_mut() {
            while piece.back().is_some_and(|e| e.ts >= ts) {
                piece.pop_back();
            }
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_back();
        }
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }

    /// The newest event.
    pub(super) fn last(&self) -> Option<&Event> {
        self.pieces.back()?.back()
    }

    /// The events after `ts`, oldest first. Near the end as a rule, so it is looked for there first.
    pub(super) fn after(&self, ts: Ts) -> impl Iterator<Item = &Event> {
        if self.last().is_none_or(|e| e.ts <= ts) {
            return None.into_iter().flatten().chain(self.pieces.range(self.pieces.len()..).flatten());
        }
        let later = self.pieces.iter().rev().take_while(|p| p.front().is_some_and(|e| e.ts > ts)).count();
        let whole = self.pieces.len() - later;
        let begun = whole.checked_sub(1).map(|i| {
            let piece = &self.pieces[i];
            let near = piece.iter().rev().take(16).take_while(|e| e.ts > ts).count();
            let from = if near < 16 { piece.len() - near } else { piece.partition_point(|e| e.ts <= ts) };
            piece.range(from..)
        });
        begun.into_iter().flatten().chain(self.pieces.range(whole..).flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ChangeKind;

    fn log(times: impl Iterator<Item = Ts>) -> Events {
        let mut log = Events::default();
        times.for_each(|ts| log.push(Event { ts, key: None, kind: ChangeKind::Insert, session: None }));
        log
    }

    fn times(log: &Events, after: Ts) -> Vec<Ts> {
        log.after(after).map(|e| e.ts).collect()
    }

    #[test]
    fn events_are_found_after_any_time_across_pieces() {
        let n = 3 * PIECE as Ts;
        let log = log((1..=n).map(|i| i / 2 * 2));
        for after in [0, 1, 2, 3, 4_094, 4_095, 4_096, 4_097, 8_192, n - 40, n - 2, n - 1, n, n + 1] {
            let wanted: Vec<Ts> = (1..=n).map(|i| i / 2 * 2).filter(|ts| *ts > after).collect();
            assert_eq!(times(&log, after), wanted, "after {after}");
        }
    }

    #[test]
    fn both_ends_can_be_taken_away() {
        let mut log = log(1..=10_000);
        log.forget_before(5_000);
        log.undo_from(9_000);
        assert_eq!((times(&log, 0).len(), times(&log, 0)[0], times(&log, 8_997)), (4_000, 5_000, vec![8_998, 8_999]));
        log.undo_from(0);
        assert!(times(&log, 0).is_empty());
        log.push(Event { ts: 7, key: None, kind: ChangeKind::Delete, session: None });
        log.forget_before(8);
        assert!(times(&log, 0).is_empty());
    }
}
