//! What is measured while a rollout runs: not durable, never decided from without the journal, labelled with its age.

use std::collections::{BTreeMap, VecDeque};

use super::reconcile::Outcome;
use super::throttle::Probes;
use crate::cluster::load::Load;
use crate::cluster::{ClusterTime, Observation};
use crate::metrics::Metrics;
use crate::route::Side;
use crate::route::report::{ReadReport, Totals};
use crate::runtime::Micros;
pub(super) use crate::snapshot::LatencySource;
use crate::snapshot::{EventLine, GateView};

/// Points of history kept a second apart.
const HISTORY: usize = 120;
/// Journal records kept for the screen.
const EVENTS: usize = 200;

/// Progress of the work under way.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub name: &'static str,
    pub done: u64,
    pub total: Option<u64>,
    pub began: Micros,
    /// Done before this run began: not part of its rate.
    pub from: u64,
}

/// Lag of one tail, measured with markers: how long a write took to be applied.
#[derive(Default)]
pub(super) struct LagMeter {
    waiting: VecDeque<(ClusterTime, Micros)>,
    last: Option<(Micros, Micros)>,
    /// A marker that the cluster has not taken yet.
    unsent: Option<Micros>,
    /// Where others carry: since when the oldest event is known whose key does not match yet.
    unmatched: Option<Micros>,
    /// Where others carry: whether there is such an event cannot be told.
    unknown: bool,
}

/// A cluster that takes longer than this for a marker is behind by as much.
const UNSENT: Micros = Micros::from_secs(1);

impl LagMeter {
    /// A marker is on its way.
    pub(super) fn sending(&mut self, began: Micros) {
        self.unsent = Some(began);
    }

    /// A marker was written (`began` is when it was sent).
    pub(super) fn sent(&mut self, at: ClusterTime, began: Micros) {
        self.unsent = None;
        self.waiting.push_back((at, began));
        if self.waiting.len() > 10_000 {
            self.waiting.pop_front();
        }
    }

    /// Others carry the events: the oldest one whose key does not match yet has been known since then. The outer `None`
    /// when that cannot be told: there is no lag then.
    pub(super) fn unmatched_since(&mut self, heard: Option<Option<Micros>>) {
        self.unknown = heard.is_none();
        self.unmatched = heard.flatten();
    }

    /// Everything up to where `applied` holds has been applied, as seen at `now`.
    pub(super) fn applied(&mut self, now: Micros, applied: impl Fn(ClusterTime) -> bool) {
        while self.waiting.front().is_some_and(|(at, _)| applied(*at)) {
            if let Some((_, began)) = self.waiting.pop_front() {
                self.last = Some((now, now.since(began)));
            }
        }
    }

    /// The latest moment known before which everything written has been applied.
    pub(super) fn as_of(&self) -> Option<Micros> {
        self.last.map(|(at, lag)| at - lag)
    }

    /// The lag at `now`: that of the last marker applied, or the age of one still waiting when that is more.
    pub(super) fn lag(&self, now: Micros) -> Option<Micros> {
        if self.unknown {
            return None;
        }
        // Otherwise a cluster that answers nothing any more would look as current as it last was.
        let unsent = self.unsent.map(|began| now.since(began)).filter(|t| *t > UNSENT);
        let unmatched = self.unmatched.map(|heard| now.since(heard));
        let waiting = self.waiting.front().map(|(_, began)| now.since(*began)).max(unsent).max(unmatched);
        match (self.last, waiting) {
            (Some((_, lag)), Some(w)) => Some(lag.max(w)),
            (Some((_, lag)), None) => Some(lag),
            (None, w) => w,
        }
    }
}

/// Counts of the reconciliation under way and of the last one finished.
#[derive(Default)]
pub(super) struct ReconcileCounts {
    pub running: bool,
    pub current: Option<(Outcome, u64, Option<f64>)>,
    pub last: Option<Outcome>,
}

impl ReconcileCounts {
    pub(super) fn begin(&mut self) {
        self.running = true;
        self.current = None;
    }

    pub(super) fn progress(&mut self, out: &Outcome, open: u64, seen: u64, total: Option<u64>) {
        let ratio = total.map(|t| if t == 0 { 1.0 } else { (seen as f64 / t as f64).min(1.0) });
        self.current = Some((out.clone(), open, ratio));
    }

    pub(super) fn finish(&mut self, out: &Outcome) {
        self.running = false;
        self.current = None;
        self.last = Some(out.clone());
    }
}

/// One application process as last seen.
#[derive(Clone, Debug)]
pub(super) struct AppSeen {
    pub epoch: i64,
    pub beat: i64,
    pub last_change: Micros,
    pub totals: Totals,
    pub has_oracle: bool,
    /// The last slice taken into the metrics.
    pub slice: i64,
}

/// Everything measured.
#[derive(Default)]
pub(super) struct LiveView {
    pub metrics: Metrics,
    pub gates: Vec<GateView>,
    pub progress: Option<Progress>,
    pub throttled: Option<String>,
    /// What the work under way is waiting for.
    pub waiting: Option<String>,
    pub reconcile: ReconcileCounts,
    pub lag: [LagMeter; 2],
    /// What markers on legacy's cluster took to be written.
    pub probes: Probes,
    pub lag_history: VecDeque<Option<Micros>>,
    pub observed: [Option<(Micros, Observation)>; 2],
    /// What each cluster said about its load, and when.
    pub loads: [Option<(Micros, Load)>; 2],
    /// Write conflicts a second, by cluster; `None` before two readings of the counter.
    pub conflicts: [Option<f64>; 2],
    /// Who measures latencies now.
    pub latency_source: Option<LatencySource>,
    pub applications: BTreeMap<String, AppSeen>,
    /// Totals of processes that have withdrawn.
    pub gone: Totals,
    pub gone_oracle: bool,
    pub events: VecDeque<EventLine>,
    pub frozen_since: Option<Micros>,
    /// The longest that writes were held so far in this process.
    pub longest_freeze: Option<Micros>,
    pub rates: (f64, f64),
    pub counted: (Micros, u64, u64),
}

impl LiveView {
    /// How far the copy of `src` is behind, in time.
    pub(super) fn apply_lag(&self, src: Side, now: Micros) -> Option<Micros> {
        self.lag[src as usize].lag(now)
    }

    /// The worst member's lag over both clusters, as last observed.
    pub(super) fn replication_lag(&self) -> Option<Micros> {
        self.observed.iter().flatten().filter_map(|(_, o)| o.replication_lag()).max()
    }

    /// How far back the shorter oplog reaches, as last observed.
    pub(super) fn oplog_window(&self) -> Option<Micros> {
        self.observed.iter().flatten().filter_map(|(_, o)| o.oplog_window).min()
    }

    /// True while a process that follows the route reports latencies of its own.
    pub(super) fn applications_report(&self) -> bool {
        self.applications.values().any(|a| a.slice >= 0)
    }

    /// Once a second.
    pub(super) fn push_lag(&mut self, lag: Option<Micros>) {
        self.lag_history.push_back(lag);
        if self.lag_history.len() > HISTORY {
            self.lag_history.pop_front();
        }
    }

    pub(super) fn push_event(&mut self, line: EventLine) {
        self.events.push_back(line);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// The last slice of a process that was taken; -1 for a process that is new, or was started anew.
    pub(super) fn slices_taken(&self, process: &str, beat: i64) -> i64 {
        self.applications.get(process).filter(|a| beat >= a.beat).map_or(-1, |a| a.slice)
    }

    /// Takes a process's report into the metrics. Slices that were taken before are skipped.
    pub(super) fn take_report(&mut self, process: &str, epoch: i64, beat: i64, report: &ReadReport, now: Micros) {
        let seen = self.applications.entry(process.to_owned()).or_insert(AppSeen {
            epoch,
            beat,
            last_change: now,
            totals: Totals::default(),
            has_oracle: report.has_oracle,
            slice: -1,
        });
        if beat < seen.beat {
            // The process was started anew under the same name.
            seen.slice = -1;
            self.gone = self.gone + seen.totals;
        }
        if beat != seen.beat {
            seen.last_change = now;
        }
        let (mut compared, mut different) = (0, 0);
        if report.totals != seen.totals {
            compared = (report.totals.shadow_compared - seen.totals.shadow_compared).max(0);
            different = (report.totals.shadow_different - seen.totals.shadow_different).max(0);
        }
        (seen.epoch, seen.beat, seen.totals) = (epoch, beat, report.totals);
        for slice in report.slices.iter().filter(|s| s.n > seen.slice) {
            for (kind, op) in [crate::route::OpKind::Read, crate::route::OpKind::Write].into_iter().enumerate() {
                for side in Side::BOTH {
                    for (us, n) in &slice.latency[kind][side as usize] {
                        self.metrics.record_latency(op, side, now, Micros(u64::from(*us)), u64::from(*n));
                    }
                    let errors = slice.errors[kind][side as usize];
                    if errors > 0 {
                        self.metrics.record_errors(op, side, now, u64::from(errors));
                    }
                }
            }
        }
        if let Some(last) = report.slices.last() {
            seen.slice = seen.slice.max(last.n);
        }
        if compared > 0 {
            self.metrics.record_shadow(now, compared as u64, different as u64);
        }
    }

    /// Totals over all processes, those withdrawn included; and whether any of them keeps an oracle.
    pub(super) fn totals(&self) -> (Totals, bool) {
        let all = self.applications.values().fold(self.gone, |t, a| t + a.totals);
        (all, self.gone_oracle || self.applications.values().any(|a| a.has_oracle))
    }

    /// A process withdrew its ack document.
    pub(super) fn withdrawn(&mut self, process: &str) {
        if let Some(seen) = self.applications.remove(process) {
            self.gone = self.gone + seen.totals;
            self.gone_oracle |= seen.has_oracle;
        }
    }
}
