//! A deterministic model of a replica set, in memory: what drills run against and what simulation tests the engine with.
//!
//! One timeline of commits on a primary, a majority point that lags behind it, version chains for older snapshots, and faults that
//! can be set while it runs. It does no I/O and takes time and randomness from the runtime only. What it does not have: more than one
//! statement's worth of query language, transactions that block (a conflict is found at commit: the first committer wins).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bson::RawDocumentBuf;

use crate::cluster::{
    AdminDone, AdminOp, Changes, Cluster, ClusterTime, Failed, Fence, Key, KeyError, Ns, Observation, Page, PageLimit,
    Question, Read, Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use crate::runtime::{Fut, Micros, Rt};

mod admin;
mod ask;
mod by_ns;
mod config;
mod faults;
mod load;
mod oplog;
mod ops;
mod slots;
mod stage;
mod state;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod ttl;
mod validator;

pub use config::{Config, Latency};
pub use faults::{Fates, Faults, OpKind, Rates};
pub use load::Pressure;

use state::State;

/// The stream of draws that embedded clusters use.
const DRAWS: u32 = 0xE3BE_DDED;
const OP_KINDS: usize = 7;

/// Operations so far, by kind, and how they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Begun, indexed by [`OpKind`].
    pub begun: [u64; OP_KINDS],
    /// Answered with `NotDone` or `Fenced`.
    pub not_done: u64,
    /// Answered with `Unknown`.
    pub unknown: u64,
    /// Writes that landed after their error had been answered.
    pub landed_late: u64,
}

impl Counters {
    /// Operations of one kind begun so far.
    #[must_use]
    pub fn of(&self, kind: OpKind) -> u64 {
        self.begun[kind as usize]
    }
}

/// What all handles share.
pub(super) struct Core {
    rt: Rt,
    config: Config,
    state: Mutex<State>,
    /// Shared with the state, to be read without its lock.
    version: Arc<AtomicU64>,
}

impl Core {
    /// Runs `f` on the state as of now.
    fn with<T>(&self, f: impl FnOnce(&mut State, Micros) -> T) -> T {
        let now = self.rt.now();
        // A poisoned lock means a task panicked; that panic is the failure to look at.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(&self.config, now);
        state.expire(&self.config, now);
        f(&mut state, now)
    }
}

/// An embedded cluster.
pub struct Embedded(Arc<Core>);

impl Embedded {
    /// An empty cluster.
    #[must_use]
    pub fn new(rt: Rt, config: Config) -> Arc<Self> {
        let now = rt.now();
        let base_us = (rt.wall_ms().max(0) as u64 * 1_000).saturating_sub(now.0);
        let state = State::new(&config, base_us, now);
        let version = state.version.clone();
        Arc::new(Embedded(Arc::new(Core { rt, config, state: Mutex::new(state), version })))
    }

    /// The handle to its faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults(self.0.clone())
    }

    /// Puts documents there at once, as if they had always been there: no events, no latency, no validation.
    ///
    /// # Errors
    /// When a document has no usable `_id`; nothing is loaded then.
    pub fn load(&self, ns: &Ns, docs: Vec<RawDocumentBuf>) -> Result<(), KeyError> {
        self.0.with(|s, _| s.colls.get_or(ns, Default::default).load(docs))
    }

    /// Everything in a collection, in `_id` order, as committed on the primary.
    #[must_use]
    pub fn dump(&self, ns: &Ns) -> Vec<(Key, RawDocumentBuf)> {
        self.0.with(|s, _| {
            let docs = s.colls.get(ns).into_iter().flat_map(|c| &c.docs);
            docs.filter_map(|(k, c)| Some((k.clone(), (**c.newest()?).to_owned()))).collect()
        })
    }

    /// Everything in a collection, in `_id` order, as a majority has it: nothing of it will ever be rolled back.
    #[must_use]
    pub fn dump_majority(&self, ns: &Ns) -> Vec<(Key, RawDocumentBuf)> {
        self.0.with(|s, _| {
            let at = s.majority();
            let docs = s.colls.get(ns).into_iter().flat_map(|c| &c.docs);
            docs.filter_map(|(k, c)| Some((k.clone(), (**c.at(at)?).to_owned()))).collect()
        })
    }

    /// A number that moves with every commit and with every one rolled back; for whoever looks on.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    /// The time of the newest commit on the primary.
    #[must_use]
    pub fn newest_commit(&self) -> ClusterTime {
        self.0.with(|s, _| state::to_time(s.newest()))
    }

    /// The time of the newest event of a namespace on the primary, when there has been one.
    #[must_use]
    pub fn newest_event(&self, ns: &Ns) -> Option<ClusterTime> {
        self.0.with(|s, _| s.logged(ns).and_then(oplog::Events::last).map(|e| state::to_time(e.ts)))
    }

    /// How many documents a collection has, as committed on the primary.
    #[must_use]
    pub fn count(&self, ns: &Ns) -> usize {
        self.0.with(|s, _| s.colls.get(ns).map_or(0, |c| c.live))
    }

    /// What has been asked of the cluster so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.with(|s, _| s.counters.clone())
    }

    /// A planted mistake: the fence only reads its slot instead of writing it, so that a stale transaction may commit.
    #[cfg(feature = "planted-bugs")]
    pub fn set_read_only_fence(&self, on: bool) {
        self.0.with(|s, _| s.faults.read_only_fence = on);
    }

    /// A planted mistake: transactions that write to this namespace are not fenced at all.
    #[cfg(feature = "planted-bugs")]
    pub fn set_unfenced(&self, ns: Option<Ns>) {
        self.0.with(|s, _| s.faults.unfenced = ns);
    }
}

impl Cluster for Embedded {
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        Box::pin(async move { self.0.told(self.0.scan(ns, from, limit, after).await) })
    }

    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        Box::pin(async move { self.0.told(self.0.read(ns, keys, after).await) })
    }

    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        Box::pin(async move { self.0.told(self.0.ask(ns, keys, questions, after).await) })
    }

    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        Box::pin(async move { self.0.told(self.0.draw(ns, among, most).await) })
    }

    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        Box::pin(async move { self.0.told(self.0.write(op).await) })
    }

    fn transact<'a>(&'a self, fence: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        Box::pin(async move { self.0.told(self.0.transact(fence, ops).await) })
    }

    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        Box::pin(async move { self.0.told(stream::open(&self.0, ns, from).await) })
    }

    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        Box::pin(async move { self.0.told(self.0.admin(op).await) })
    }

    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        Box::pin(async move { self.0.told(self.0.observe().await) })
    }
}

impl Core {
    /// Counts how an operation ended.
    fn told<T>(&self, r: Result<T, Failed>) -> Result<T, Failed> {
        if let Err(e) = &r {
            self.with(|s, _| match e {
                Failed::Unknown(_) => s.counters.unknown += 1,
                Failed::NotDone(r) => {
                    s.counters.not_done += 1;
                    if matches!(r, Reason::Conflict(_)) {
                        s.busy.conflicted();
                    }
                }
                Failed::Fenced { .. } => s.counters.not_done += 1,
            });
        }
        r
    }
}
