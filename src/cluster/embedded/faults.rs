//! What can be made to go wrong with an embedded cluster while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Core;
use super::load::Pressure;
use crate::cluster::Ns;
use crate::runtime::Micros;

/// Kinds of operations, as faults and counters tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// A page of a scan.
    Scan,
    /// A read by key.
    Read,
    /// A plain write.
    Write,
    /// A fenced transaction.
    Transact,
    /// Anything that is not document traffic.
    Admin,
    /// Opening a change stream, or a batch of one.
    Changes,
    /// A look at the cluster.
    Observe,
}

/// How often operations of one kind fail, in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Fails before anything happened: `NotDone(Network)`. For change streams: the stream breaks.
    pub not_done: u32,
    /// Writes only: answered with `Unknown`, whatever became of it (see [`Fates`]).
    pub unknown: u32,
}

/// What becomes of writes with an unknown outcome, as weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fates {
    /// Had landed before the error came.
    pub landed: u32,
    /// Never lands.
    pub never: u32,
    /// Lands after the error was returned, between 0.3 and 2 s later, unless something it conflicts with came first.
    pub late: u32,
}

impl Default for Fates {
    fn default() -> Self {
        Fates { landed: 1, never: 1, late: 1 }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Node {
    /// On top of the healthy replication lag.
    pub(super) lag: Micros,
    pub(super) cut: bool,
}

pub(super) struct FaultState {
    pub(super) rates: [Rates; super::OP_KINDS],
    pub(super) rates_of: BTreeMap<Ns, [Rates; super::OP_KINDS]>,
    pub(super) fates: Fates,
    pub(super) latency: u64,
    pub(super) latency_of: BTreeMap<Ns, u64>,
    pub(super) nodes: Vec<Node>,
    pub(super) unreachable: bool,
    /// Load by others.
    pub(super) pressure: Pressure,
    /// The user may not ask about load and latencies.
    pub(super) tells_nothing: bool,
    /// Notified when any of this changes what waiting operations wait for.
    pub(super) changed: Arc<Notify>,
    #[cfg(feature = "planted-bugs")]
    pub(super) read_only_fence: bool,
    #[cfg(feature = "planted-bugs")]
    pub(super) unfenced: Option<Ns>,
}

impl FaultState {
    pub(super) fn new(nodes: usize) -> Self {
        FaultState {
            rates: Default::default(),
            rates_of: BTreeMap::new(),
            fates: Fates::default(),
            latency: 100,
            latency_of: BTreeMap::new(),
            nodes: vec![Node::default(); nodes.max(1)],
            unreachable: false,
            pressure: Pressure::default(),
            tells_nothing: false,
            changed: Arc::default(),
            #[cfg(feature = "planted-bugs")]
            read_only_fence: false,
            #[cfg(feature = "planted-bugs")]
            unfenced: None,
        }
    }

    /// How often operations of one kind on one namespace fail.
    pub(super) fn rates(&self, kind: OpKind, ns: &Ns) -> Rates {
        let all = self.rates[kind as usize];
        let of = self.rates_of.get(ns).map_or_else(Rates::default, |r| r[kind as usize]);
        Rates { not_done: all.not_done.saturating_add(of.not_done), unknown: all.unknown.saturating_add(of.unknown) }
    }
}

/// A shared handle to the faults of one embedded cluster. Every change takes effect at once.
#[derive(Clone)]
pub struct Faults(pub(super) Arc<Core>);

impl Faults {
    /// Sets how often operations of one kind fail.
    pub fn set_rates(&self, kind: OpKind, rates: Rates) {
        self.0.with(|s, _| s.faults.rates[kind as usize] = rates);
    }

    /// Sets how often operations of one kind on one namespace fail, on top of what holds for all.
    pub fn set_rates_of(&self, ns: &Ns, kind: OpKind, rates: Rates) {
        self.0.with(|s, _| s.faults.rates_of.entry(ns.clone()).or_default()[kind as usize] = rates);
    }

    /// Sets what becomes of writes with an unknown outcome.
    pub fn set_fates(&self, fates: Fates) {
        self.0.with(|s, _| s.faults.fates = fates);
    }

    /// Sets the latency of everything, in percent of normal.
    pub fn set_latency(&self, percent: u64) {
        self.0.with(|s, _| s.faults.latency = percent);
    }

    /// Sets the latency of one namespace, in percent, on top of the latency of everything; 100 is normal.
    pub fn set_latency_of(&self, ns: &Ns, percent: u64) {
        self.0.with(|s, _| {
            s.faults.latency_of.insert(ns.clone(), percent);
        });
    }

    /// Sets how far one member is behind the primary, beyond what is healthy. A majority waits for the faster half of the others.
    /// A member that does not exist is ignored.
    pub fn set_lag(&self, node: usize, lag: Micros) {
        self.0.with(|s, now| {
            if let Some(n) = s.faults.nodes.get_mut(node) {
                n.lag = lag;
            }
            s.replan(&self.0.config, now);
        });
    }

    /// The member that is primary, or was until the election under way.
    #[must_use]
    pub fn primary(&self) -> usize {
        self.0.with(|s, _| (0..self.0.config.nodes).find(|n| s.is_primary(*n)).unwrap_or(0))
    }

    /// Cuts a member off from the others, or joins it again; the primary steps down first. Without a majority of members no
    /// write is acknowledged. A member that does not exist is ignored.
    pub fn set_cut(&self, node: usize, cut: bool) {
        let primary = self.0.with(|s, now| {
            if let Some(n) = s.faults.nodes.get_mut(node) {
                n.cut = cut;
            }
            s.replan(&self.0.config, now);
            s.is_primary(node)
        });
        if cut && primary {
            self.step_down();
        }
    }

    /// Makes the whole cluster unreachable from here, or reachable again. Operations fail after the configured timeout.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.0.with(|s, _| {
            s.faults.unreachable = unreachable;
            s.wake();
        });
    }

    /// Sets how much others ask of the primary. It shows in what the primary says about its load, and slows nothing.
    pub fn set_pressure(&self, pressure: Pressure) {
        self.0.with(|s, now| {
            s.faults.pressure = pressure;
            s.busy.press(now, pressure.conflicts);
        });
    }

    /// As for a user without the right to ask: the primary says nothing about its load and its latencies, or does again.
    pub fn set_tells_nothing(&self, nothing: bool) {
        self.0.with(|s, _| s.faults.tells_nothing = nothing);
    }

    /// The primary steps down: an election begins, change streams break, some of the commits that no majority had are rolled back,
    /// and for a while afterwards the old primary still answers reads. Answers how many commits were rolled back.
    pub fn step_down(&self) -> usize {
        let n = self.0.with(|s, _| s.term()) as u64;
        let bits = self.0.rt.draw(super::DRAWS, u64::from(self.0.config.id) << 32 | 0x57E9_D033, n);
        self.0.with(|s, now| s.step_down(&self.0.config, now, bits))
    }

    /// Breaks every open change stream; a new one can be opened where it stood.
    pub fn break_streams(&self) {
        self.0.with(|s, _| {
            s.streams += 1;
            s.wake();
        });
    }

    /// Forgets the oplog so far: a stream that is not up to date cannot resume.
    pub fn truncate_oplog(&self) {
        self.0.with(|s, _| s.forget_history());
    }

    /// The servers' wall clocks jump, by milliseconds; there is no way back but another jump. Cluster time goes on as it did.
    pub fn jump_clock(&self, by_ms: i64) {
        self.0.with(|s, _| s.clock_off_ms += by_ms);
    }

    /// Back to health: rates, latencies, lags, links. An election under way goes on.
    pub fn clear(&self) {
        self.0.with(|s, now| {
            let changed = s.faults.changed.clone();
            s.faults = FaultState { changed, ..FaultState::new(self.0.config.nodes) };
            s.busy.press(now, 0);
            s.replan(&self.0.config, now);
        });
    }
}
