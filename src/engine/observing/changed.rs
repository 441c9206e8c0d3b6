//! What an onlooker remembers: keys that changed and do not match yet, and which keys matched when they were compared last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::super::ctx::lock;
use super::super::reconcile::{Finding, Outcome, fingerprint};
use crate::cluster::Key;
use crate::route::Side;
use crate::runtime::Micros;

/// Keys that are remembered as not matching; beyond that nothing can be said but by comparing everything again.
const KEYS_MAX: usize = if cfg!(test) { 100 } else { 500_000 };
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
    /// Events on legacy since it last matched, oldest first: number, and when heard of. One of the number 0 nobody heard: a whole
    /// comparison found the key not carried.
    legacy: Vec<(u64, Micros)>,
    /// What the last comparison said, if it came after every event, or after the oldest on legacy that has not been carried.
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
    /// Both sides were compared whole once, by this process or, as the journal has it, by an earlier one.
    compared_once: bool,
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
        (changed.newest, changed.heard) = (number, now);
        if changed.legacy.is_empty() {
            changed.finding = None;
        }
        if side == Side::Legacy {
            let full = changed.legacy.len() >= EVENTS_MAX;
            match changed.legacy.last_mut().filter(|_| full) {
                // Taken for as old as the one before: a lag is rather told too long than too short.
                Some(last) => last.0 = number,
                None => changed.legacy.push((number, now)),
            }
        }
        if inner.changed.len() > KEYS_MAX {
            inner.overflow();
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
            let waited = c.legacy.first().is_some_and(|(number, _)| *number <= mark.0);
            if finding.is_equal() {
                *carried += c.legacy.iter().filter(|(number, _)| (1..=mark.0).contains(number)).count() as u64;
                c.legacy.retain(|(number, _)| *number > mark.0);
            }
            match finding.is_equal() {
                // Of what came later nothing is known.
                true if c.newest > mark.0 => c.finding = None,
                true => drop(changed.remove(key)),
                false if c.newest <= mark.0 || waited => c.finding = Some(*finding),
                false => {}
            }
        }
    }

    /// Both sides have been compared whole: these keys matched when they were scanned, those were judged afterwards, and of the last
    /// ones there are events since, which may have been looked at already: they are looked at again. What is found not to have
    /// been carried, without an event that says since when, is behind since it was `first_judged`.
    ///
    /// `since` is asked while nothing can be heard: an event that was not remembered until now is among its keys.
    pub(in crate::engine) fn rebase(
        &self,
        matched: &[u64],
        judged: &BTreeMap<Key, Finding>,
        since: impl FnOnce() -> BTreeSet<Key>,
        first_judged: Micros,
        now: Micros,
    ) {
        let mut inner = lock(&self.inner);
        inner.compared_once = true;
        for (key, finding) in judged.iter().filter(|(_, f)| !f.is_equal()) {
            // One that is not among them any more has been found equal meanwhile, or there were too many.
            let behind_since = if inner.changed.contains_key(key) { first_judged } else { now };
            let fresh = || Changed { finding: Some(*finding), ..Changed::default() };
            let c = inner.changed.entry(key.clone()).or_insert_with(fresh);
            if matches!(finding, Finding::Missing | Finding::Differing) && c.legacy.is_empty() {
                c.legacy.push((0, behind_since));
            }
        }
        for key in since() {
            inner.changed.entry(key).or_default();
        }
        if inner.changed.len() > KEYS_MAX {
            return inner.overflow();
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

    /// An earlier process had compared both sides whole.
    pub(in crate::engine) fn compared_before(&self) {
        lock(&self.inner).compared_once = true;
    }

    /// Both sides were compared whole once, whether every change since is known or not.
    pub(super) fn compared_once(&self) -> bool {
        lock(&self.inner).compared_once
    }

    /// More keys do not match than are remembered.
    pub(super) fn too_many(&self) -> bool {
        lock(&self.inner).too_many
    }

    /// Both sides have been compared whole, and every change since is known.
    pub(super) fn is_current(&self) -> bool {
        lock(&self.inner).ledger.is_some()
    }

    /// Every key that does not match yet, in order.
    pub(super) fn open(&self) -> Vec<Key> {
        lock(&self.inner).changed.keys().cloned().collect()
    }

    /// Since when the oldest event on legacy is known whose key has not matched since; the outer `None` when that is not known:
    /// there are too many, or what had been compared has to be compared again.
    pub(super) fn unmatched_since(&self) -> Option<Option<Micros>> {
        let inner = lock(&self.inner);
        if inner.too_many || (inner.compared_once && inner.ledger.is_none()) {
            return None;
        }
        Some(inner.changed.values().filter_map(|c| c.legacy.first()).map(|(_, heard)| *heard).min())
    }

    /// Events on legacy whose keys have been found equal since this was asked last.
    pub(super) fn take_carried(&self) -> u64 {
        std::mem::take(&mut lock(&self.inner).carried)
    }

    /// The counts as they are now; `None` before everything has been compared. A difference is in flight until the oldest event
    /// on legacy that has not been carried is older than `grace`; one that was written on next only has [`ALONE`] at most.
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
            let (since, grace) = match c.legacy.first() {
                // The oldest: one that is written again and again would never be judged.
                Some((_, heard)) => (*heard, grace),
                // What was written on next alone is on its way nowhere.
                None => (c.heard, grace.min(ALONE)),
            };
            if c.newest > 0 && now.since(since) < grace {
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

    /// No more is remembered until everything has been compared again. The thread is not lost: a comparison under way knows what changed.
    fn overflow(&mut self) {
        self.ledger = None;
        self.changed.clear();
        self.too_many = true;
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

    /// Everything has been compared, within a second from the beginning: ten keys matched but for these, those have events since.
    fn rebase(o: &Observing, judged: &[(i64, Finding)], since: &[i64]) {
        let judged = judged.iter().map(|(k, f)| (Key::from(*k), *f)).collect();
        o.rebase(&keys(10), &judged, || since.iter().map(|k| Key::from(*k)).collect(), S(0), S(1));
    }

    fn counts(o: &Observing, now: Micros) -> (u64, u64, u64, u64, u64) {
        let out = o.outcome(now, S(2), 0).expect("compared");
        (out.matched, out.missing, out.extra, out.differing, out.in_flight)
    }

    #[test]
    fn a_key_matches_again_only_when_it_was_read_after_its_newest_event() {
        let (o, k) = (Observing::default(), Key::from(3));
        rebase(&o, &[], &[]);
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
        rebase(&o, &[], &[]);
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
        rebase(&o, &[(99, Finding::Extra)], &[4]);
        assert_eq!(counts(&o, S(1)), (9, 0, 1, 0, 1));
        o.compared(&[(Key::from(4), Finding::Matched)], o.mark());
        assert_eq!(o.outcome(S(1), S(2), 0).map(|x| x.matched), Some(10));
        let before = o.breaks();
        o.lose();
        assert!(o.outcome(S(1), S(2), 0).is_none() && o.breaks() > before);
        assert_eq!(o.unmatched_since(), None, "nor is the lag");
    }

    #[test]
    fn more_keys_than_are_remembered_end_a_comparison_and_do_not_begin_it_anew() {
        let (o, before) = (Observing::default(), Observing::default().breaks());
        let many: Vec<(i64, Finding)> = (0..=KEYS_MAX as i64).map(|k| (k, Finding::Missing)).collect();
        rebase(&o, &many, &[]);
        assert_eq!((o.breaks(), o.too_many(), o.is_current()), (before, true, false));
        assert_eq!(o.unmatched_since(), None, "how far next is behind is not known");
        o.heard(Side::Legacy, &Key::from(7), S(2));
        // It was not remembered, and is found by what the comparison noted of it.
        rebase(&o, &[], &[7]);
        assert!(!o.too_many() && o.open() == [Key::from(7)]);
    }

    #[test]
    fn a_document_that_a_comparison_finds_missing_is_behind_from_then_on() {
        let o = Observing::default();
        o.compared_before();
        assert_eq!(o.unmatched_since(), None, "an earlier process had compared");
        rebase(&o, &[(3, Finding::Missing), (99, Finding::Extra)], &[]);
        assert_eq!(o.unmatched_since(), Some(Some(S(1))));
        o.compared(&[(Key::from(3), Finding::Matched)], o.mark());
        assert_eq!((o.unmatched_since(), o.take_carried()), (Some(None), 0), "what is extra is no lag");
        o.compared(&[(Key::from(5), Finding::Differing)], o.mark());
        assert_eq!(o.unmatched_since(), Some(None));
        rebase(&o, &[(5, Finding::Differing)], &[]);
        assert_eq!(o.unmatched_since(), Some(Some(S(0))), "it was not equal before");
    }

    #[test]
    fn a_key_that_is_written_without_end_counts_once_its_oldest_event_is_older_than_the_grace() {
        let (o, k) = (Observing::default(), Key::from(3));
        rebase(&o, &[], &[]);
        let differing = |now| o.outcome(now, S(2), 0).map(|x| x.differing);
        for second in 1..10 {
            o.heard(Side::Legacy, &k, S(second));
            let mark = o.mark();
            o.heard(Side::Legacy, &k, S(second));
            o.compared(&[(k.clone(), Finding::Differing)], mark);
            assert_eq!(differing(S(second)), Some(u64::from(second >= 3)), "after {second} s");
        }
        o.compared(&[(k.clone(), Finding::Matched)], o.mark());
        assert_eq!(differing(S(10)), Some(0));
    }
}
