//! The order of chunk and tail on one key (DESIGN rule 2).
//!
//! A chunk registers its keys after its read and before its write. Keys that the tail touched since that read began are dropped
//! from the chunk; tail work on a registered key waits for the chunk. Chunks never wait for tails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio::sync::Notify;

use super::ctx::lock;
use crate::cluster::Key;

#[derive(Default)]
struct Inner {
    clock: u64,
    /// Reads of chunks now under way, by their mark.
    open_reads: BTreeMap<u64, usize>,
    /// When tail work on a key last ended; kept only while a chunk's read is open.
    ended: BTreeMap<Key, u64>,
    /// Keys the tail is busy with.
    busy: BTreeSet<Key>,
    /// Keys a chunk is about to write.
    chunk: BTreeSet<Key>,
    /// Keys ahead of the copy whose documents the tail has heard of and so has carried, or will; `None` while nothing is copied.
    ahead: Option<BTreeSet<Key>>,
}

/// So many keys ahead of the copy are remembered.
const AHEAD_MAX: usize = 500_000;

/// Who works on which key.
#[derive(Default)]
pub(super) struct KeyRegistry {
    inner: Mutex<Inner>,
    released: Notify,
}

/// The moment before a chunk's read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadMark(u64);

impl KeyRegistry {
    /// Before a chunk reads.
    pub(super) fn begin_read(&self) -> ReadMark {
        let mut inner = lock(&self.inner);
        inner.clock += 1;
        let mark = inner.clock;
        *inner.open_reads.entry(mark).or_insert(0) += 1;
        ReadMark(mark)
    }

    /// After a chunk's read: registers its keys and returns, for each, whether the chunk may write it.
    pub(super) fn register(&self, mark: ReadMark, keys: &[Key]) -> Vec<bool> {
        let mut inner = lock(&self.inner);
        let keep = keys
            .iter()
            .map(|k| !inner.busy.contains(k) && inner.ended.get(k).is_none_or(|at| *at < mark.0))
            .collect::<Vec<_>>();
        for (key, keep) in keys.iter().zip(&keep) {
            if *keep {
                inner.chunk.insert(key.clone());
            }
        }
        inner.close_read(mark);
        keep
    }

    /// The chunk's outcome is known.
    pub(super) fn release(&self, keys: impl Iterator<Item = Key>) {
        {
            let mut inner = lock(&self.inner);
            for k in keys {
                inner.chunk.remove(&k);
            }
        }
        self.released.notify_waiters();
    }

    /// From here until [`KeyRegistry::ends`] it is remembered which documents the tail carries ahead of the copy.
    pub(super) fn begins(&self) {
        lock(&self.inner).ahead = Some(BTreeSet::new());
    }

    /// Nothing is copied any more.
    pub(super) fn ends(&self) {
        lock(&self.inner).ahead = None;
    }

    /// The tail has heard that a document was written or deleted.
    pub(super) fn heard(&self, key: &Key, there: bool) {
        if let Some(ahead) = &mut lock(&self.inner).ahead {
            if !there {
                ahead.remove(key);
            } else if ahead.len() < AHEAD_MAX {
                ahead.insert(key.clone());
            }
        }
    }

    /// Those of a chunk's keys, in their order, that are likely to be on next already. A guess, to save a transaction that would be
    /// refused: what is written rests on what is read. Asked in the order in which chunks are read.
    pub(super) fn likely_there<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<Key> {
        let mut inner = lock(&self.inner);
        let Some(ahead) = &mut inner.ahead else { return Vec::new() };
        let mut last = None;
        let there = keys.inspect(|k| last = Some(*k)).filter(|k| ahead.contains(k)).cloned().collect();
        if let Some(last) = last {
            // The copy is past them.
            *ahead = ahead.split_off(last);
        }
        there
    }

    /// Before tail work: waits until no chunk holds some of the keys, marks those busy and answers them and the others. With several
    /// chunks on their way there may be no moment in which all of many keys are free.
    pub(super) async fn begin_some(&self, keys: &[Key]) -> (Vec<Key>, Vec<Key>) {
        loop {
            let released = self.released.notified();
            {
                let mut inner = lock(&self.inner);
                let (held, free): (Vec<Key>, Vec<Key>) = keys.iter().cloned().partition(|k| inner.chunk.contains(k));
                if !free.is_empty() || keys.is_empty() {
                    inner.busy.extend(free.iter().cloned());
                    return (free, held);
                }
            }
            released.await;
        }
    }

    /// As [`KeyRegistry::begin_some`], for all of the keys at once.
    pub(super) async fn begin_tail(&self, keys: &[Key]) {
        loop {
            let released = self.released.notified();
            {
                let mut inner = lock(&self.inner);
                if keys.iter().all(|k| !inner.chunk.contains(k)) {
                    inner.busy.extend(keys.iter().cloned());
                    return;
                }
            }
            released.await;
        }
    }

    /// Tail work on the keys has a known outcome.
    pub(super) fn end_tail(&self, keys: &[Key]) {
        let mut inner = lock(&self.inner);
        inner.clock += 1;
        let now = inner.clock;
        let reading = !inner.open_reads.is_empty();
        for k in keys {
            inner.busy.remove(k);
            if reading {
                inner.ended.insert(k.clone(), now);
            }
        }
    }
}

impl Inner {
    fn close_read(&mut self, mark: ReadMark) {
        if let Some(n) = self.open_reads.get_mut(&mark.0) {
            *n -= 1;
            if *n == 0 {
                self.open_reads.remove(&mark.0);
            }
        }
        match self.open_reads.keys().next() {
            None => self.ended.clear(),
            Some(&oldest) => self.ended.retain(|_, at| *at >= oldest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sim::Sim;
    use std::sync::Arc;

    fn keys(ns: &[i64]) -> Vec<Key> {
        ns.iter().map(|n| Key::from(*n)).collect()
    }

    #[test]
    fn a_key_the_tail_touched_since_the_read_began_is_dropped_from_the_chunk() {
        let r = Arc::new(KeyRegistry::default());
        let sim = Sim::new(1);
        let r2 = r.clone();
        sim.block_on(async move {
            r2.begin_tail(&keys(&[1])).await;
            let mark = r2.begin_read();
            r2.begin_tail(&keys(&[2])).await;
            r2.end_tail(&keys(&[1, 2]));
            r2.begin_tail(&keys(&[3])).await;
            assert_eq!(r2.register(mark, &keys(&[1, 2, 3, 4])), [false, false, false, true]);
        });
    }

    #[test]
    fn a_key_the_tail_finished_before_the_read_began_stays_in_the_chunk() {
        let r = KeyRegistry::default();
        let other = r.begin_read();
        r.end_tail(&keys(&[1]));
        let mark = r.begin_read();
        assert_eq!(r.register(mark, &keys(&[1])), [true]);
        assert_eq!(r.register(other, &keys(&[1, 2])), [false, true]);
    }

    #[test]
    fn tail_work_waits_for_the_chunk() {
        let r = Arc::new(KeyRegistry::default());
        let sim = Sim::new(1);
        let mark = r.begin_read();
        r.register(mark, &keys(&[1]));
        let r2 = r.clone();
        let waiting = sim.block_on(async move {
            let one = keys(&[1]);
            let a = r2.begin_tail(&one);
            let mut a = std::pin::pin!(a);
            let first = futures_util::poll!(a.as_mut()).is_pending();
            r2.release(keys(&[1]).into_iter());
            a.await;
            first
        });
        assert_eq!(waiting, Some(true));
    }
}
