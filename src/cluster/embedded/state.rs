//! The one timeline: commits on the primary, the majority point behind it, elections and what they roll back, and change events.
//!
//! Everything here happens at an instant that the caller names. Nothing waits, draws or knows about operations.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::by_ns::ByNs;
use super::config::{Config, spread};
use super::faults::FaultState;
use super::oplog::Events;
use super::store::{Coll, Ts};
use crate::cluster::load::Load;
use crate::cluster::{ChangeKind, ClusterTime, Doc, Key, Member, Ns, SessionId};
use crate::runtime::{Micros, fnv1a};

pub(super) fn to_ts(t: ClusterTime) -> Ts {
    u64::from(t.secs) << 32 | u64::from(t.inc)
}

pub(super) fn to_time(ts: Ts) -> ClusterTime {
    ClusterTime { secs: (ts >> 32) as u32, inc: ts as u32 }
}

/// An event as logged.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) ts: Ts,
    pub(super) key: Option<Key>,
    pub(super) kind: ChangeKind,
    pub(super) session: Option<SessionId>,
}

/// What a commit does to one namespace.
pub(super) struct Writes {
    pub(super) ns: Ns,
    /// A key once, with what is there afterwards.
    pub(super) docs: Vec<(Key, Option<Doc>)>,
    pub(super) events: Vec<Event>,
}

/// What is known about a namespace, whether or not a collection stands there.
pub(super) struct Log {
    pub(super) events: Events,
    /// Notified at every commit to the namespace and whenever its streams should look again.
    pub(super) notify: Arc<Notify>,
    /// Keys this namespace's draws.
    pub(super) entity: u64,
    /// Draws made, by kind of operation.
    pub(super) draws: [u64; super::OP_KINDS],
}

/// A commit that no majority has yet.
struct Pending {
    ts: Ts,
    at: Micros,
    majority_at: Micros,
    writes: Vec<(Ns, Vec<Key>)>,
    /// Cannot be rolled back (collections and indexes have no versions).
    firm: bool,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A majority has it.
    Majority,
    /// Not before then; [`Micros::MAX`] while nothing replicates.
    NotBefore(Micros),
    /// An election came in between: it may be gone.
    Interrupted,
}

/// Why the cluster does not answer just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    Electing,
    Unreachable,
}

pub(super) struct State {
    /// Wall clock at the runtime's zero, microseconds since the Unix epoch.
    base_us: u64,
    pub(super) colls: ByNs<Coll>,
    pub(super) views: BTreeSet<Ns>,
    /// When a name last stood for something else: an older snapshot cannot write there.
    pub(super) ddl: ByNs<Ts>,
    logs: ByNs<Log>,
    last: Ts,
    majority: Ts,
    pending: VecDeque<Pending>,
    snapshots: BTreeMap<Ts, usize>,
    garbage: VecDeque<(Ts, Ns, Key)>,
    /// Streams cannot resume from before this.
    history: Ts,
    /// The majority point at which each term ended; the current term is its length.
    terms: Vec<Ts>,
    electing_until: Option<Micros>,
    stale: Option<(Micros, Ts)>,
    primary: usize,
    /// As [`State::find_lag`] has it, found again with every [`State::replan`].
    lag: Option<Micros>,
    /// Up to when everything has happened that was due, unless something was done since that may let more happen.
    advanced: Option<Micros>,
    /// Moved to break every open stream.
    pub(super) streams: u64,
    pub(super) faults: FaultState,
    pub(super) counters: super::Counters,
    pub(super) busy: super::load::Busy,
    /// Moved by every commit and by every one rolled back.
    pub(super) version: Arc<AtomicU64>,
    /// When documents expire next.
    pub(super) expire_at: Micros,
    /// The servers' wall clocks are off by this much, milliseconds. Cluster time is not: it never goes back.
    pub(super) clock_off_ms: i64,
}

impl State {
    pub(super) fn new(config: &Config, base_us: u64, now: Micros) -> Self {
        let mut state = State {
            base_us,
            colls: ByNs::default(),
            views: BTreeSet::new(),
            ddl: ByNs::default(),
            logs: ByNs::default(),
            last: 0,
            majority: 0,
            pending: VecDeque::new(),
            snapshots: BTreeMap::new(),
            garbage: VecDeque::new(),
            history: 0,
            terms: Vec::new(),
            electing_until: None,
            stale: None,
            primary: 0,
            lag: None,
            advanced: None,
            streams: 0,
            faults: FaultState::new(config.nodes),
            counters: super::Counters::default(),
            busy: super::load::Busy::default(),
            version: Arc::default(),
            expire_at: now + config.expire_every,
            clock_off_ms: 0,
        };
        state.lag = state.find_lag(config);
        let start = state.clock(now);
        (state.last, state.majority, state.history) = (start, start, start.saturating_sub(1));
        state
    }

    /// Cluster time as the clock alone would have it.
    pub(super) fn clock(&self, now: Micros) -> Ts {
        let us = self.base_us + now.0;
        (us / 1_000_000) << 32 | (us % 1_000_000)
    }

    pub(super) fn server_ms(&self, now: Micros) -> i64 {
        ((self.base_us + now.0) / 1_000) as i64 + self.clock_off_ms
    }

    pub(super) fn term(&self) -> usize {
        self.terms.len()
    }

    pub(super) fn majority(&self) -> Ts {
        self.majority
    }

    /// The newest committed time on the primary: the snapshot of a transaction that starts now.
    pub(super) fn newest(&self) -> Ts {
        self.last
    }

    pub(super) fn history(&self) -> Ts {
        self.history
    }

    pub(super) fn forget_history(&mut self) {
        self.history = self.last;
        for log in self.logs.values_mut() {
            log.events.clear();
        }
        self.wake();
    }

    pub(super) fn down(&self) -> Option<Down> {
        match (self.faults.unreachable, self.electing_until) {
            (true, _) => Some(Down::Unreachable),
            (false, Some(_)) => Some(Down::Electing),
            (false, None) => None,
        }
    }

    /// The time as of which an old primary still answers, when one does.
    pub(super) fn stale(&self) -> Option<Ts> {
        self.stale.map(|(_, ts)| ts)
    }

    pub(super) fn log(&mut self, ns: &Ns) -> &mut Log {
        self.logs.get_or(ns, || {
            // Of the name: the same namespace draws the same on every run.
            let entity = fnv1a(ns.db.bytes().chain([b'.']).chain(ns.coll.bytes()));
            Log { events: Events::default(), notify: Arc::default(), entity, draws: Default::default() }
        })
    }

    /// Wakes every stream and every waiting operation, after something other than a commit.
    pub(super) fn wake(&self) {
        for log in self.logs.values() {
            log.notify.notify_waiters();
        }
        self.faults.changed.notify_waiters();
    }

    /// The lag of the secondary that makes a majority; `None` while too few replicate.
    fn find_lag(&self, config: &Config) -> Option<Micros> {
        let needed = config.nodes / 2;
        if needed == 0 {
            return Some(Micros::ZERO);
        }
        let nodes = self.faults.nodes.iter().enumerate();
        let lags = nodes.filter(|(i, n)| *i != self.primary && !n.cut).map(|(_, n)| n.lag);
        if needed == 1 {
            return lags.min().map(|lag| lag + config.replication);
        }
        let mut lags: Vec<Micros> = lags.collect();
        lags.sort_unstable();
        lags.get(needed - 1).map(|lag| *lag + config.replication)
    }

    /// Lets what has become due by `now` happen.
    pub(super) fn advance(&mut self, config: &Config, now: Micros) {
        if self.advanced == Some(now) {
            return;
        }
        self.advanced = Some(now);
        if self.electing_until.is_some_and(|t| t <= now) {
            self.electing_until = None;
        }
        if self.stale.is_some_and(|(t, _)| t <= now) {
            self.stale = None;
        }
        while let Some(p) = self.pending.front()
            && p.majority_at <= now
        {
            self.majority = p.ts;
            self.pending.pop_front();
        }
        if self.electing_until.is_none()
            && let Some(lag) = self.lag
        {
            let seen = now.since(lag);
            let noop = self.clock(Micros(seen.0 - seen.0 % config.noop_every.0.max(1)));
            let noop = self.pending.front().map_or(noop, |p| noop.min(p.ts - 1));
            self.majority = self.majority.max(noop);
        }
        let floor = self.floor();
        while let Some((ts, _, _)) = self.garbage.front()
            && *ts <= floor
        {
            if let Some((_, ns, key)) = self.garbage.pop_front()
                && let Some(coll) = self.colls.get_mut(&ns)
            {
                coll.prune(&key, floor);
            }
        }
    }

    /// The oldest time that anyone may still read at.
    fn floor(&self) -> Ts {
        let oldest = self.snapshots.keys().next().copied().unwrap_or(Ts::MAX);
        self.majority.min(oldest).min(self.stale().unwrap_or(Ts::MAX))
    }

    pub(super) fn open_snapshot(&mut self) -> Ts {
        *self.snapshots.entry(self.last).or_default() += 1;
        self.last
    }

    pub(super) fn close_snapshot(&mut self, ts: Ts) {
        if let Some(n) = self.snapshots.get_mut(&ts) {
            *n -= 1;
            if *n == 0 {
                self.snapshots.remove(&ts);
                self.advanced = None;
            }
        }
    }

    /// The next commit's time.
    pub(super) fn next_ts(&self, now: Micros) -> Ts {
        (self.clock(now) + 1).max(self.last + 1)
    }

    /// Applies a commit on the primary.
    pub(super) fn commit(&mut self, config: &Config, now: Micros, writes: Vec<Writes>, firm: bool, bits: u64) -> Ts {
        let ts = self.next_ts(now);
        self.last = ts;
        self.version.fetch_add(1, Ordering::Relaxed);
        let sizes = writes.iter().flat_map(|w| &w.docs).filter_map(|(_, doc)| doc.as_ref().map(Doc::size));
        self.busy.wrote(now, sizes.sum::<usize>() as u64);
        let horizon = self.clock(now.since(config.oplog_window));
        if now > config.oplog_window {
            self.history = self.history.max(horizon);
        }
        let history = self.history;
        let mut touched = Vec::with_capacity(writes.len());
        for Writes { ns, docs, events } in writes {
            if !docs.is_empty() {
                touched.push((ns.clone(), self.store(&ns, ts, docs)));
            }
            let log = self.log(&ns);
            log.events.forget_before(history);
            events.into_iter().for_each(|e| log.events.push(Event { ts, ..e }));
            log.notify.notify_waiters();
        }
        let due = match self.lag {
            None => Micros::MAX,
            Some(_) if config.nodes < 2 => now,
            Some(lag) => now + lag.since(config.replication) + spread(config.replication, bits),
        };
        let majority_at = self.pending.back().map_or(due, |p| p.majority_at.max(due));
        self.advanced = None;
        self.pending.push_back(Pending { ts, at: now, majority_at, writes: touched, firm });
        ts
    }

    /// Stores what is there from `ts` on; answers the keys.
    fn store(&mut self, ns: &Ns, ts: Ts, docs: Vec<(Key, Option<Doc>)>) -> Vec<Key> {
        let coll = self.colls.get_or(ns, Coll::default);
        let mut keys = Vec::with_capacity(docs.len());
        for (key, doc) in docs {
            let gone = doc.is_none();
            if coll.set(&key, ts, doc) || gone {
                self.garbage.push_back((ts, ns.clone(), key.clone()));
            }
            keys.push(key);
        }
        keys
    }

    /// Commits a change to what stands under these names; `gone` of them end their streams.
    pub(super) fn commit_ddl(&mut self, config: &Config, now: Micros, names: &[&Ns], gone: &[&Ns], bits: u64) -> Ts {
        let end = Event { ts: 0, key: None, kind: ChangeKind::Gone, session: None };
        let end = |ns: &&Ns| Writes { ns: (*ns).clone(), docs: Vec::new(), events: vec![end.clone()] };
        let ts = self.commit(config, now, gone.iter().map(end).collect(), true, bits);
        for ns in names {
            self.ddl.insert((*ns).clone(), ts);
        }
        ts
    }

    /// Moves a collection with all its versions.
    pub(super) fn rename(&mut self, from: &Ns, to: &Ns) {
        if let Some(coll) = self.colls.remove(from) {
            self.colls.insert(to.clone(), coll);
        }
        for (_, ns, _) in self.garbage.iter_mut().filter(|(_, ns, _)| ns == from) {
            *ns = to.clone();
        }
    }

    /// How far back the oplog reaches.
    pub(super) fn window(&self, now: Micros) -> Micros {
        // The increment counts microseconds; right before a second begins it stands at its largest.
        let us = |ts: Ts| (ts >> 32) * 1_000_000 + (ts & 0xFFFF_FFFF).min(999_999);
        Micros(us(self.clock(now)).saturating_sub(us(self.history)))
    }

    /// Re-plans when pending commits reach their majority, after lags or links changed.
    pub(super) fn replan(&mut self, config: &Config, now: Micros) {
        self.advanced = None;
        self.lag = self.find_lag(config);
        let lag = self.lag;
        let soon = self.electing_until.unwrap_or(now) + config.replication;
        let mut before = Micros::ZERO;
        for p in &mut self.pending {
            let due = lag.map_or(Micros::MAX, |lag| (p.at + lag).max(soon));
            p.majority_at = due.max(before);
            before = p.majority_at;
        }
        self.wake();
    }

    /// What became of the commit at `ts`, made in `term`.
    pub(super) fn standing(&self, ts: Ts, term: usize) -> Standing {
        if self.terms.get(term).is_some_and(|ended| *ended < ts) {
            return Standing::Interrupted;
        }
        if self.majority >= ts {
            return Standing::Majority;
        }
        self.wait_for(ts)
    }

    /// When the majority point may reach `ts`.
    pub(super) fn wait_for(&self, ts: Ts) -> Standing {
        if self.majority >= ts {
            return Standing::Majority;
        }
        let first = self.pending.partition_point(|p| p.ts < ts);
        match self.pending.get(first).or(self.pending.back()) {
            Some(p) => Standing::NotBefore(p.majority_at),
            // Nothing to wait for but the clock.
            None => {
                Standing::NotBefore(Micros(((ts >> 32) * 1_000_000 + (ts & 0xFFFF_FFFF)).saturating_sub(self.base_us)))
            }
        }
    }

    pub(super) fn logged(&self, ns: &Ns) -> Option<&Events> {
        self.logs.get(ns).map(|l| &l.events)
    }

    /// The moment at which the next pending commit of the log's namespace, after `cursor`, may become visible.
    pub(super) fn next_visible(&self, ns: &Ns) -> Option<Micros> {
        let first = self.logs.get(ns)?.events.after(self.majority).next()?.ts;
        match self.wait_for(first) {
            Standing::NotBefore(at) => Some(at),
            _ => None,
        }
    }

    /// The primary steps down. A random suffix of what no majority has is rolled back; answers how many commits that was.
    pub(super) fn step_down(&mut self, config: &Config, now: Micros, bits: u64) -> usize {
        self.advance(config, now);
        self.version.fetch_add(1, Ordering::Relaxed);
        let firm = self.pending.iter().rposition(|p| p.firm).map_or(0, |i| i + 1);
        let open = self.pending.len() - firm;
        let survive = firm + (bits % (open as u64 + 1)) as usize;
        let mut lost = self.pending.split_off(survive);
        let rolled_back = lost.len();
        while let Some(p) = lost.pop_back() {
            for (ns, keys) in p.writes.iter().rev() {
                if let Some(coll) = self.colls.get_mut(ns) {
                    keys.iter().rev().for_each(|key| coll.undo(key, p.ts));
                }
                if let Some(log) = self.logs.get_mut(ns) {
                    log.events.undo_from(p.ts);
                }
            }
        }
        let (shortest, longest) = config.election;
        let span = longest.since(shortest).0 + 1;
        let until = now + shortest + Micros((bits >> 20) % span);
        self.terms.push(self.majority);
        self.electing_until = Some(until);
        self.stale = Some((until + config.stale_for, self.majority));
        let others: Vec<usize> =
            (0..config.nodes).filter(|i| *i != self.primary && !self.faults.nodes[*i].cut).collect();
        if !others.is_empty() {
            self.primary = others[(bits >> 50) as usize % others.len()];
        }
        self.streams += 1;
        self.replan(config, now);
        rolled_back
    }

    pub(super) fn is_primary(&self, node: usize) -> bool {
        self.primary == node
    }

    /// What the primary says about its load, where it may be asked.
    pub(super) fn load(&mut self, now: Micros) -> Load {
        if self.faults.tells_nothing || self.down().is_some() {
            return Load::default();
        }
        self.busy.load(now, self.faults.pressure, self.lag)
    }

    pub(super) fn members(&self, config: &Config) -> Vec<Member> {
        let electing = self.electing_until.is_some();
        let member = |(i, n): (usize, &super::faults::Node)| {
            let (state, lag) = match (n.cut, i == self.primary && !electing) {
                (true, _) => ("DOWN", None),
                (false, true) => ("PRIMARY", Some(Micros::ZERO)),
                (false, false) => ("SECONDARY", Some(n.lag + config.replication)),
            };
            Member { name: format!("{}-{i}", config.name), state: state.into(), lag }
        };
        self.faults.nodes.iter().enumerate().map(member).collect()
    }

    #[cfg(test)]
    pub(super) fn no_snapshots(&self) -> bool {
        self.snapshots.is_empty()
    }

    /// Versions kept of all documents of a collection.
    #[cfg(test)]
    pub(super) fn versions(&self, ns: &Ns) -> usize {
        self.colls.get(ns).map_or(0, |c| c.docs.values().map(super::store::Chain::len).sum())
    }
}
