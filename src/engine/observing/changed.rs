//! What an onlooker remembers: keys that changed and do not match yet, and which keys matched when they were compared last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::super::ctx::lock;
use super::super::reconcile::{Finding, Outcome, fingerprint};
use crate::cluster::Key;
use crate::route::Side;
use crate::runtime::Micros;

/// Keys that are remembered as not matching; beyond that nothing can be said but by comparing everything again.
const KEYS_MAX: usize = 500_000;
/// Events of one key that are told apart.
const EVENTS_MAX: usize = 32;
/// How much later than next's stream legacy's may show what a key was written on next for.
const ALONE: Micros = Micros::from_secs(2);
/// Differing keys named as examples.
const EXAMPLES: usize = 5;

/// A moment between two events: what is read after it reflects every event heard before.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Mark(u64);

/// A key that changed, or differed, and has not been found equal since.
#[derive(Default)]
struct Changed {
    /// The number of its newest event.
    newest: u64,
    /// When that was heard of.
    heard: Micros,
    /// Events on legacy since it last matched, oldest first: number, and when heard of.
    legacy: Vec<(u64, Micros)>,
    /// What the last comparison said, if it came after every event.
    finding: Option<Finding>,
}

/// Which keys matched when they were last compared, by fingerprint.
struct Ledger {
    /// Those of the last whole comparison, sorted.
    base: Vec<u64>,
    added: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

impl Ledger {
    fn note(&mut self, key: &Key, matches: bool) {
        let f = fingerprint(key);
        let based = self.base.binary_search(&f).is_ok();
        match (based, matches) {
            (true, true) => drop(self.gone.remove(&f)),
            (true, false) => drop(self.gone.insert(f)),
            (false, true) => drop(self.added.insert(f)),
            (false, false) => drop(self.added.remove(&f)),
        }
    }

    fn has(&self, key: &Key) -> bool {
        let f = fingerprint(key);
        self.added.contains(&f) || (self.base.binary_search(&f).is_ok() && !self.gone.contains(&f))
    }

    fn count(&self) -> u64 {
        (self.base.len() - self.gone.len() + self.added.len()) as u64
    }
}

#[derive(Default)]
struct Inner {
    events: u64,
    changed: BTreeMap<Key, Changed>,
    ledger: Option<Ledger>,
    /// How often the thread was lost: a comparison across that proves nothing.
    breaks: u64,
    /// More keys changed than can be remembered.
    too_many: bool,
    /// Events on legacy whose keys have been found equal.
    carried: u64,
}

/// What an onlooker remembers.
#[derive(Default)]
pub(in crate::engine) struct Observing {
    inner: Mutex<Inner>,
    /// Held by whoever compares both sides whole.
    pub(super) comparing: tokio::sync::Mutex<()>,
}

impl Observing {
    /// A key had an event.
    pub(super) fn heard(&self, side: Side, key: &Key, now: Micros) {
        let mut inner = lock(&self.inner);
        inner.events += 1;
        let number = inner.events;
        if inner.too_many {
            return;
        }
        let changed = inner.changed.entry(key.clone()).or_default();
        (changed.newest, changed.heard, changed.finding) = (number, now, None);
        if side == Side::Legacy {
            let full = changed.legacy.len() >= EVENTS_MAX;
            match changed.legacy.last_mut().filter(|_| full) {
                // Taken for as old as the one before: a lag is rather told too long than too short.
                Some(last) => last.0 = number,
                None => changed.legacy.push((number, now)),
            }
        }
        if inner.changed.len() > KEYS_MAX {
            inner.lose();
            inner.too_many = true;
        }
    }

    /// Before keys are read to be compared.
    pub(in crate::engine) fn mark(&self) -> Mark {
        Mark(lock(&self.inner).events)
    }

    /// What keys read after `mark` were found to be.
    pub(in crate::engine) fn compared(&self, found: &[(Key, Finding)], mark: Mark) {
        let mut inner = lock(&self.inner);
        let Inner { changed, ledger, carried, .. } = &mut *inner;
        for (key, finding) in found {
            if let Some(ledger) = ledger {
                ledger.note(key, *finding == Finding::Matched);
            }
            let Some(c) = changed.get_mut(key) else {
                if !finding.is_equal() && changed.len() < KEYS_MAX {
                    changed.insert(key.clone(), Changed { finding: Some(*finding), ..Changed::default() });
                }
                continue;
            };
            if finding.is_equal() {
                let before = c.legacy.len();
                c.legacy.retain(|(number, _)| *number > mark.0);
                *carried += (before - c.legacy.len()) as u64;
            }
            if c.newest > mark.0 {
                continue;
            }
            match finding.is_equal() {
                true => drop(changed.remove(key)),
                false => c.finding = Some(*finding),
            }
        }
    }

    /// Both sides have been compared whole: these keys matched when they were scanned, those were judged afterwards, and of the last
    /// ones there are events since, which may have been looked at already: they are looked at again.
    pub(in crate::engine) fn rebase(&self, matched: &[u64], judged: &BTreeMap<Key, Finding>, since: BTreeSet<Key>) {
        let mut inner = lock(&self.inner);
        for (key, finding) in judged.iter().filter(|(_, f)| !f.is_equal()) {
            inner.changed.entry(key.clone()).or_insert(Changed { finding: Some(*finding), ..Changed::default() });
        }
        for key in since {
            inner.changed.entry(key).or_default();
        }
        if inner.changed.len() > KEYS_MAX {
            return inner.lose();
        }
        let mut ledger = Ledger { base: matched.to_vec(), added: BTreeSet::new(), gone: BTreeSet::new() };
        for (key, finding) in judged {
            ledger.note(key, *finding == Finding::Matched);
        }
        inner.ledger = Some(ledger);
        inner.too_many = false;
    }

    /// What changed since cannot be told any more: everything must be compared again.
    pub(super) fn lose(&self) {
        lock(&self.inner).lose();
    }

    pub(super) fn breaks(&self) -> u64 {
        lock(&self.inner).breaks
    }

    /// Both sides have been compared whole, and every change since is known.
    pub(super) fn is_current(&self) -> bool {
        lock(&self.inner).ledger.is_some()
    }

    /// Every key that does not match yet, in order.
    pub(super) fn open(&self) -> Vec<Key> {
        lock(&self.inner).changed.keys().cloned().collect()
    }

    /// Since when the oldest event on legacy is known whose key has not matched since; the outer `None` when that is not known.
    pub(super) fn unmatched_since(&self) -> Option<Option<Micros>> {
        let inner = lock(&self.inner);
        if inner.too_many {
            return None;
        }
        Some(inner.changed.values().filter_map(|c| c.legacy.first()).map(|(_, heard)| *heard).min())
    }

    /// Events on legacy whose keys have been found equal since this was asked last.
    pub(super) fn take_carried(&self) -> u64 {
        std::mem::take(&mut lock(&self.inner).carried)
    }

    /// The counts as they are now; `None` before everything has been compared. A difference whose key had an event on legacy less than
    /// `grace` ago is in flight; one that was written on next only has [`ALONE`] at most.
    pub(super) fn outcome(&self, now: Micros, grace: Micros, through_ms: i64) -> Option<Outcome> {
        let inner = lock(&self.inner);
        let ledger = inner.ledger.as_ref()?;
        let mut out = Outcome { through_ms, matched: ledger.count(), ..Outcome::default() };
        for (key, c) in &inner.changed {
            out.matched -= u64::from(ledger.has(key));
            let counts = match c.finding {
                Some(Finding::Missing) => &mut out.missing,
                Some(Finding::Extra) => &mut out.extra,
                Some(Finding::Differing) => &mut out.differing,
                Some(Finding::Matched | Finding::Absent) | None => &mut out.in_flight,
            };
            // What was written on next alone is on its way nowhere.
            let grace = if c.legacy.is_empty() { grace.min(ALONE) } else { grace };
            if c.newest > 0 && now.since(c.heard) < grace {
                out.in_flight += 1;
                continue;
            }
            *counts += 1;
            if let Some(finding) = c.finding.filter(|_| out.examples.len() < EXAMPLES) {
                out.examples.push(format!("{key} {}", finding.word()));
            }
        }
        Some(out)
    }
}

impl Inner {
    fn lose(&mut self) {
        self.breaks += 1;
        self.ledger = None;
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Micros = Micros::from_secs;

    fn keys(n: i64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..n).map(|k| fingerprint(&Key::from(k))).collect();
        all.sort_unstable();
        all
    }

    fn counts(o: &Observing, now: Micros) -> (u64, u64, u64, u64, u64) {
        let out = o.outcome(now, S(2), 0).expect("compared");
        (out.matched, out.missing, out.extra, out.differing, out.in_flight)
    }

    #[test]
    fn a_key_matches_again_only_when_it_was_read_after_its_newest_event() {
        let (o, k) = (Observing::default(), Key::from(3));
        o.rebase(&keys(10), &BTreeMap::new(), BTreeSet::new());
        o.heard(Side::Legacy, &k, S(1));
        let early = o.mark();
        o.heard(Side::Legacy, &k, S(2));
        o.compared(&[(k.clone(), Finding::Matched)], early);
        // The first event has been carried, the second may have been read or not.
        assert_eq!(o.unmatched_since(), Some(Some(S(2))));
        assert_eq!(counts(&o, S(9)), (9, 0, 0, 0, 1));
        o.compared(&[(k, Finding::Matched)], o.mark());
        assert_eq!((o.unmatched_since(), counts(&o, S(9))), (Some(None), (10, 0, 0, 0, 0)));
    }

    #[test]
    fn a_difference_counts_once_it_is_older_than_the_grace() {
        let (o, k) = (Observing::default(), Key::from(3));
        o.rebase(&keys(10), &BTreeMap::new(), BTreeSet::new());
        o.heard(Side::Next, &k, S(1));
        o.compared(&[(k.clone(), Finding::Differing)], o.mark());
        assert_eq!(counts(&o, S(2)), (9, 0, 0, 0, 1));
        assert_eq!(counts(&o, S(3)), (9, 0, 0, 1, 0));
        assert_eq!(o.unmatched_since(), Some(None), "an event on next is no lag");
        o.heard(Side::Legacy, &k, S(4));
        let differing = |now, grace| o.outcome(now, grace, 0).map(|x| (x.differing, x.in_flight));
        o.compared(&[(k.clone(), Finding::Differing)], o.mark());
        assert_eq!(differing(S(12), S(9)), Some((0, 1)), "the other tool has its time");
        assert_eq!(differing(S(13), S(9)), Some((1, 0)));
        o.compared(&[(k.clone(), Finding::Matched)], o.mark());
        o.heard(Side::Next, &k, S(20));
        o.compared(&[(k.clone(), Finding::Differing)], o.mark());
        assert_eq!(differing(S(22), S(9)), Some((1, 0)), "nobody carries what was written on next alone");
        o.heard(Side::Legacy, &k, S(23));
        o.compared(&[(k, Finding::Absent)], o.mark());
        assert_eq!(counts(&o, S(29)), (9, 0, 0, 0, 0), "deleted on both sides");
    }

    #[test]
    fn a_lost_thread_leaves_nothing_known() {
        let o = Observing::default();
        o.rebase(&keys(10), &BTreeMap::from([(Key::from(99), Finding::Extra)]), BTreeSet::from([Key::from(4)]));
        assert_eq!(counts(&o, S(1)), (9, 0, 1, 0, 1));
        o.compared(&[(Key::from(4), Finding::Matched)], o.mark());
        assert_eq!(o.outcome(S(1), S(2), 0).map(|x| x.matched), Some(10));
        let before = o.breaks();
        o.lose();
        assert!(o.outcome(S(1), S(2), 0).is_none() && o.breaks() > before);
    }
}
