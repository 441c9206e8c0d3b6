//! Time slices, newest last, bounded in number. The one place that decides which slice a moment belongs to.

use std::collections::VecDeque;

use crate::runtime::Micros;

/// Slices of `width`, aligned to it; a cut (the beginning of a stage) splits the slice it falls in.
#[derive(Clone, Debug)]
pub(super) struct Ring<T> {
    width: Micros,
    keep: usize,
    slices: VecDeque<(Micros, T)>,
    cut: Micros,
}

impl<T> Ring<T> {
    /// Keeps `keep` aligned slices, and never more than `keep + 8` with cuts.
    pub(super) fn new(width: Micros, keep: usize) -> Self {
        Ring { width, keep, slices: VecDeque::new(), cut: Micros::ZERO }
    }

    fn floor(&self, at: Micros) -> Micros {
        Micros(at.0 - at.0 % self.width.0)
    }

    /// What is recorded from `now` on goes into slices that begin at `now` or later.
    pub(super) fn cut(&mut self, now: Micros) {
        self.cut = now;
    }

    /// The slice for `at`, made if need be; the second value says whether it was made. `None` when `at` is too long
    /// ago.
    pub(super) fn slice(&mut self, at: Micros, make: impl FnOnce() -> T) -> Option<(&mut T, bool)> {
        let mut start = self.floor(at);
        if self.cut > start && at >= self.cut {
            start = self.cut;
        }
        // Nearly always the last one.
        let i = self.slices.iter().rposition(|(s, _)| *s <= start).map_or(0, |i| i + 1);
        let found = i > 0 && self.slices[i - 1].0 == start;
        if found {
            return Some((&mut self.slices[i - 1].1, false));
        }
        let oldest = |newest: Micros| self.floor(newest).since(self.width * (self.keep as u64 - 1));
        if self.slices.back().is_some_and(|(newest, _)| start < oldest(*newest)) {
            return None;
        }
        self.slices.insert(i, (start, make()));
        let last = self.slices.back().map_or(start, |(s, _)| *s);
        let oldest = self.floor(last).since(self.width * (self.keep as u64 - 1));
        let mut i = i;
        while self.slices.len() > self.keep + 8 || self.slices.front().is_some_and(|(s, _)| *s < oldest) {
            self.slices.pop_front();
            i = i.checked_sub(1)?;
        }
        self.slices.get_mut(i).map(|(_, v)| (v, true))
    }

    /// The slices that overlap the last `span` before `now` and begin at `since` or later, oldest first.
    pub(super) fn window(
        &self,
        now: Micros,
        span: Micros,
        since: Micros,
    ) -> impl DoubleEndedIterator<Item = (Micros, &T)> {
        let from = now.since(span);
        self.slices
            .iter()
            .filter(move |(s, _)| self.floor(*s) + self.width > from && *s >= since && *s <= now)
            .map(|(s, v)| (*s, v))
    }

    /// Where a window of `span` really begins: at the start of the slice that `now - span` falls in.
    pub(super) fn window_start(&self, now: Micros, span: Micros) -> Micros {
        self.floor(now.since(span))
    }

    /// Every slice, oldest first.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = (Micros, &T)> {
        self.slices.iter().map(|(s, v)| (*s, v))
    }

    /// The slice before the newest, to settle it when a new one was made.
    pub(super) fn last_but_one(&mut self) -> Option<&mut T> {
        let i = self.slices.len().checked_sub(2)?;
        self.slices.get_mut(i).map(|(_, v)| v)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slices.len()
    }
}
