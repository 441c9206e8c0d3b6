//! The timers of a simulation, by time and then in the order in which they were set.
//!
//! Most timers are cancelled before they are due: a cancelled one gives its place up at once, and its entry in the heap is passed over
//! when it comes up, or cleared out with many others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

use super::Micros;

/// A timer that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerId {
    seq: u64,
    place: usize,
}

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    /// Who is woken, by place, with the number of the timer that has the place now.
    wakers: Vec<Option<(u64, Waker)>>,
    free: Vec<usize>,
}

/// Entries that are not worth clearing out.
const FEW: usize = 128;

impl Timers {
    /// Sets a timer. `seq` is larger than that of every earlier one.
    pub(super) fn set(&mut self, at: Micros, seq: u64, waker: Waker) -> TimerId {
        let place = self.free.pop().unwrap_or(self.wakers.len());
        let new = Some((seq, waker));
        match self.wakers.get_mut(place) {
            Some(w) => *w = new,
            None => self.wakers.push(new),
        }
        self.heap.push(Reverse((at, seq, place)));
        TimerId { seq, place }
    }

    /// Somebody else is to be woken.
    pub(super) fn update(&mut self, id: TimerId, waker: &Waker) {
        if let Some(Some((seq, known))) = self.wakers.get_mut(id.place)
            && *seq == id.seq
        {
            known.clone_from(waker);
        }
    }

    /// Nobody is to be woken; nothing happens when it has fired already.
    pub(super) fn cancel(&mut self, id: TimerId) {
        if self.take(id.seq, id.place).is_some() && self.heap.len() > FEW + 2 * (self.wakers.len() - self.free.len()) {
            let wakers = &self.wakers;
            self.heap.retain(|Reverse((_, seq, place))| wakers[*place].as_ref().is_some_and(|(s, _)| s == seq));
        }
    }

    /// Takes out the first timer, if it is due by `limit`.
    pub(super) fn fire(&mut self, limit: Micros) -> Option<(Micros, Waker)> {
        loop {
            let Reverse((at, seq, place)) = *self.heap.peek()?;
            if at > limit {
                return None;
            }
            self.heap.pop();
            if let Some(waker) = self.take(seq, place) {
                return Some((at, waker));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.wakers.len() - self.free.len()
    }

    fn take(&mut self, seq: u64, place: usize) -> Option<Waker> {
        let (_, waker) = self.wakers.get_mut(place)?.take_if(|(s, _)| *s == seq)?;
        self.free.push(place);
        Some(waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(t: &mut Timers, limit: u64) -> Vec<u64> {
        std::iter::from_fn(|| t.fire(Micros(limit)).map(|(at, _)| at.0)).collect()
    }

    #[test]
    fn timers_fire_in_order_and_cancelled_ones_do_not() {
        let mut t = Timers::default();
        let mut ids: Vec<TimerId> = (0..5_000).map(|i| t.set(Micros(5_000 - i), i, Waker::noop().clone())).collect();
        t.cancel(ids.remove(4_999));
        t.cancel(ids.remove(0));
        assert_eq!(fired(&mut t, 3), [2, 3]);
        ids.drain(..4_990).for_each(|id| t.cancel(id));
        assert!(t.heap.len() < 2 * FEW, "{}", t.heap.len());
        let again = t.set(Micros(9), 9_999, Waker::noop().clone());
        assert_eq!(fired(&mut t, u64::MAX), [4, 5, 6, 7, 8, 9, 9]);
        t.cancel(again);
        assert_eq!((t.free.len(), t.heap.len()), (t.wakers.len(), 0));
    }
}
