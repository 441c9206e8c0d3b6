//! The immutable picture of a rollout that the engine publishes, and the commands that go back.
//!
//! The dashboard, the headless printer, the recorder and the replayer speak these types and nothing else. Pure data: no I/O, no
//! engine type, no clock. Text in here has been scrubbed where it entered. A figure that is not known is `None`, never 0.

use serde::{Deserialize, Serialize};

mod load;
mod trace;

pub use crate::route::Goes;
use crate::route::{Bucket, Side};
use crate::runtime::Micros;
pub use load::{LatencySource, LoadView, ThrottleView};
pub use trace::{
    TraceAsk, TraceDifference, TraceEvent, TraceField, TraceKept, TraceReach, TraceRecord, TraceRoute, TraceStep,
    TraceVerdict, TraceVersion, TraceView,
};

mod wire;

/// Everything a screen may show.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The engine's clock when this was taken; all other `Micros` points are on the same clock.
    pub at: Micros,
    /// Wall-clock time of the same moment, milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// What is being carried out.
    pub plan: PlanView,
    /// The rollout's lease epoch.
    pub epoch: i64,
    /// Who holds the lease.
    pub holder: String,
    /// True for a drill on the embedded cluster.
    pub drill: bool,
    /// What the rollout is doing.
    pub phase: Phase,
    /// Why it waits, is slowed, or what it works on: always one plain sentence.
    pub why: String,
    /// What happens next if nobody does anything: one plain sentence.
    pub if_nothing: String,
    /// The long-running work under way, if any.
    pub activity: Option<Activity>,
    /// What holds tidegate's own work back, if anything.
    pub throttle: Option<ThrottleView>,
    /// What servers say about their load.
    pub load: LoadView,
    /// Who measured the latencies; `None` while there are none.
    pub latency_source: Option<LatencySource>,
    /// Every stage of the plan, in order.
    pub stages: Vec<StageView>,
    /// The route in force.
    pub route: RouteView,
    /// The pilot cohort, if the plan names one.
    pub pilot: Option<PilotView>,
    /// The current stage's gates, worst first.
    pub gates: Vec<GateView>,
    /// Latency of reads, per side (index with `Side as usize`).
    pub reads: [LatencyView; 2],
    /// Latency of writes, per side.
    pub writes: [LatencyView; 2],
    /// Replication and apply lag.
    pub lag: LagView,
    /// Reconciliation, per collection.
    pub reconcile: Vec<ReconcileView>,
    /// When changes may be made, if the plan says.
    pub calendar: Option<CalendarView>,
    /// What the applications report about their writes and reads.
    pub traffic: TrafficView,
    /// Whether and how it is possible to go back.
    pub way_back: WayBack,
    /// The rollback under way, if any.
    pub back: Option<BackView>,
    /// Next does not answer, or was left behind.
    pub strand: Option<StrandView>,
    /// Where it came to rest, once it has.
    pub rest: Option<RestView>,
    /// The latest journal records, oldest first; at most 200.
    pub events: Vec<EventLine>,
    /// Applications that follow the route.
    pub applications: Vec<ApplicationView>,
    /// Other terminals see an older picture than this one: since when and why. `None` when they do not, or nobody publishes.
    pub unpublished: Option<String>,
    /// The document that this terminal asked about last. It holds values of documents, so it never leaves the process.
    #[serde(skip)]
    pub trace: Option<std::sync::Arc<TraceView>>,
}

/// Change windows and freezes, as they stand now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarView {
    /// Until when and why no stage may begin or be left: one sentence. `None` while it is open.
    pub closed: Option<String>,
    /// When it opens, or closes, milliseconds since the Unix epoch; `None` when that is not within sight.
    pub changes_ms: Option<i64>,
}

/// The plan, as far as a screen names it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PlanView {
    /// The plan's id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// `production`, `staging`, `drill`, … as the plan says.
    pub environment: String,
    /// `observe`, `copy`, `flags` or `route`.
    pub mode: String,
    /// The hash that names the plan, shortened by the screen.
    pub hash: String,
    /// Legacy and next namespace of each collection.
    pub collections: Vec<(String, String)>,
    /// The largest apply lag at which reads on next still count as fresh.
    pub max_staleness: Micros,
}

impl PlanView {
    /// True where another tool migrates and nothing is written.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.mode == "observe"
    }
}

/// What the rollout is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Taking the lease, opening streams.
    #[default]
    Starting,
    /// Carrying out the stage's work.
    Working,
    /// The stage's work is done; it soaks while the gates are watched.
    Soaking,
    /// Everything holds and the plan wants an operator to advance.
    AwaitingOperator,
    /// The soak is over but a gate does not pass.
    Blocked,
    /// The operator (or a trigger) paused it.
    Paused,
    /// Every stage passed.
    Completed,
    /// Going back to legacy.
    RollingBack,
    /// Everything is back on legacy.
    RolledBack,
    /// It cannot go on by itself; `why` says what to do.
    NeedsOperator,
    /// It failed; `why` says how.
    Failed,
}

impl Phase {
    /// True when nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Phase::Completed | Phase::RolledBack | Phase::Failed)
    }
}

/// Long-running work with progress.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Activity {
    /// `backfill`, `reconcile`, `cutover`, …
    pub name: String,
    /// Done of total, when a total is known.
    pub done: u64,
    /// The total (an estimate for a live collection).
    pub total: Option<u64>,
    /// Per second, over the last few seconds.
    pub rate: Option<f64>,
    /// Time left at that rate.
    pub eta: Option<Micros>,
    /// Why it is slower than it could be.
    pub throttled: Option<String>,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Current,
    /// Passed.
    Passed,
}

/// One stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StageView {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub status: StageStatus,
    /// Percent of reads on next that it aims at.
    pub reads: u8,
    /// Percent of writes on next that it aims at.
    pub writes: u8,
    /// Percent of reads shadowed.
    pub shadow: u8,
    /// Where it has the reads and the writes of the pilot cohort.
    pub pilot: (Goes, Goes),
    /// Time since it began (until it passed).
    pub elapsed: Micros,
    /// How long it must soak.
    pub soak: Micros,
    /// How long it has soaked.
    pub soaked: Micros,
    /// There is no way back after it.
    pub irreversible: bool,
    /// It waits for an operator at its end.
    pub operator: bool,
    /// Where its runbook text is, if the plan says.
    pub runbook: Option<String>,
}

/// The route in force.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RouteView {
    /// Its epoch.
    pub epoch: i64,
    /// Percent of reads shadowed.
    pub shadow: u8,
    /// Buckets (of 1024) below this read from next.
    pub reads_next_below: Bucket,
    /// Buckets (of 1024) below this write to next.
    pub writes_next_below: Bucket,
    /// Frozen from, to, and since when.
    pub frozen: Option<(Bucket, Bucket, Micros)>,
}

/// The pilot cohort and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PilotView {
    /// Which documents, in words: `_id.region in "eu"`.
    pub cohort: String,
    /// Where their reads go.
    pub reads: Goes,
    /// Where their writes go.
    pub writes: Goes,
}

impl PilotView {
    /// It has gone back alone, or is on its way.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.writes == Goes::Legacy || self.reads == Goes::Legacy
    }
}

/// What a gate says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The limit is broken.
    Fail,
    /// The newest data is too old to judge by.
    Stale,
    /// Too few samples, or no data at all.
    #[default]
    Inconclusive,
    /// Within the limit, but not yet for long enough.
    Holding,
    /// Within the limit for long enough.
    Pass,
}

/// One of a handful of words: a relation or a unit.
pub type Word = &'static str;

/// One gate of the current stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GateView {
    /// Short name: `next read p99`.
    pub name: String,
    /// The measured value, in `unit`.
    pub actual: Option<f64>,
    /// The limit, in `unit`.
    pub limit: f64,
    /// `<=` or `>=`.
    #[serde(deserialize_with = "wire::word")]
    pub relation: Word,
    /// `ms`, `s`, `%`, `x` or empty for a count.
    #[serde(deserialize_with = "wire::word")]
    pub unit: Word,
    /// Room left as a share of the limit: 0.2 is 20 % left, negative is broken.
    pub room: Option<f64>,
    /// What it says.
    pub verdict: Verdict,
    /// How long the limit has held (or been broken, when failing).
    pub held: Micros,
    /// How long it must hold.
    pub hold_for: Micros,
    /// Samples in the window.
    pub samples: u64,
    /// Samples needed.
    pub min_samples: u64,
    /// Age of the newest sample.
    pub age: Option<Micros>,
}

/// Quarter-octave buckets of the fixed axis, 0.25 ms to 16 s, with one below and one above.
pub const LATENCY_BINS: usize = 66;
/// Octave rows of the heat map, 0.25 ms to 16 s, with one below and one above.
pub const HEAT_ROWS: usize = 18;
/// What a heat-map column spans.
pub const HEAT_COLUMN: Micros = Micros::from_secs(5);

/// The latencies of one kind of operation on one side, over the last 60 s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatencyView {
    /// Samples in the window.
    pub count: u64,
    /// Operations a second over the window.
    pub rate: f64,
    /// Percentiles in microseconds; `None` when n·(1−q) < 10.
    pub p50: Option<Micros>,
    /// 90th.
    pub p90: Option<Micros>,
    /// 99th.
    pub p99: Option<Micros>,
    /// 99.9th.
    pub p999: Option<Micros>,
    /// The largest.
    pub max: Option<Micros>,
    /// p99 of each of the last 60 heat columns, oldest first, for a sparkline.
    pub p99_history: Vec<Option<Micros>>,
    /// Counts on the fixed log2 axis: `[0]` below 0.25 ms, then quarter octaves, last above 16 s.
    #[serde(with = "wire::sparse")]
    pub bins: [u32; LATENCY_BINS],
    /// Up to 120 columns of [`HEAT_COLUMN`], oldest first; the last one is still filling.
    pub heat: Vec<HeatColumn>,
    /// Age of the newest sample.
    pub age: Option<Micros>,
    /// Errors as a share of operations over the window; `None` without operations.
    pub error_ratio: Option<f64>,
}

impl Default for LatencyView {
    fn default() -> Self {
        LatencyView {
            count: 0,
            rate: 0.0,
            p50: None,
            p90: None,
            p99: None,
            p999: None,
            max: None,
            p99_history: Vec::new(),
            bins: [0; LATENCY_BINS],
            heat: Vec::new(),
            age: None,
            error_ratio: None,
        }
    }
}

/// One column of the heat map.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct HeatColumn {
    /// When it begins.
    pub start: Micros,
    /// Counts per octave: `[0]` below 0.25 ms, last above 16 s.
    #[serde(with = "wire::sparse")]
    pub rows: [u32; HEAT_ROWS],
}

/// Replication and apply lag.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LagView {
    /// Member name, state, lag behind its primary.
    pub members: Vec<(String, String, Option<Micros>)>,
    /// How far next is behind legacy.
    pub apply: Option<Micros>,
    /// How far legacy is behind next, for what next owns; `None` while nothing runs backward.
    pub reverse: Option<Micros>,
    /// Apply lag once a second, oldest first, at most 120.
    pub apply_history: Vec<Option<Micros>>,
    /// The plan's limit (`throttle.max_lag`).
    pub limit: Option<Micros>,
    /// Events a second read from legacy's stream.
    pub source_rate: f64,
    /// Events a second applied to next.
    pub apply_rate: f64,
    /// How far back the oplog reaches.
    pub oplog_window: Option<Micros>,
}

/// Counts of one collection's reconciliation. `None` is "not checked", never 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReconcileView {
    /// The collection's short name.
    pub collection: String,
    /// Keys equal on both sides.
    pub matched: Option<u64>,
    /// Keys missing on the copy.
    pub missing: Option<u64>,
    /// Keys on the copy only.
    pub extra: Option<u64>,
    /// Keys whose documents differ.
    pub differing: Option<u64>,
    /// Differences within the lag window, not yet judged.
    pub in_flight: Option<u64>,
    /// Share of the keys checked in the pass under way (or the last one), 0 to 1.
    pub checked: Option<f64>,
    /// Up to which wall-clock time the data is verified.
    pub verified_through_ms: Option<i64>,
    /// A pass is under way.
    pub running: bool,
}

/// What the applications report about what they got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TrafficView {
    /// Writes acknowledged to applications.
    pub acknowledged: u64,
    /// Acknowledged writes that a later read did not return; `None` when nobody keeps an oracle.
    pub lost: Option<u64>,
    /// Reads from the owner's side that were older than an acknowledged write.
    pub stale_owner: u64,
    /// Reads from a copy that were older than an acknowledged write.
    pub stale_copy: u64,
    /// Events on a key its side does not own.
    pub stray: u64,
    /// Shadow reads compared and found different, and compared at all.
    pub shadow: (u64, u64),
}

/// The way back, in the terms of the verdict line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WayBack {
    /// Legacy can still take everything back.
    pub open: bool,
    /// Acknowledged writes that legacy does not have yet.
    pub writes_at_risk: Option<u64>,
    /// The stage after which it is shut.
    pub until_stage: Option<String>,
    /// How far legacy is behind next: what would be missing should next be gone this moment.
    pub seconds_at_risk: Option<Micros>,
    /// How long writes would be held by going back now: the longest freeze so far; `None` while nothing was frozen yet.
    pub freeze: Option<Micros>,
    /// One plain sentence.
    pub text: String,
}

/// A rollback under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BackView {
    /// Everything at once, rather than stage by stage.
    pub hard: bool,
    /// Why it goes back.
    pub why: String,
    /// The stage it comes to rest in; `None` is before the first one.
    pub to: Option<String>,
    /// What it does now.
    pub step: String,
    /// Steps done, of how many.
    pub steps: (usize, usize),
    /// Only the pilot cohort goes back.
    pub cohort: bool,
}

/// Next does not answer while writes belong to it, or has been left behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StrandView {
    /// For how long next has not answered; `None` when it does.
    pub silent: Option<Micros>,
    /// Since which wall-clock time legacy lacks what was written on next. `None` when nothing is lacking.
    pub since_ms: Option<i64>,
    /// How long that is: exact. After the flip it stands still.
    pub at_risk: Option<Micros>,
    /// How many acknowledged writes that may be: an estimate.
    pub estimate: Option<u64>,
    /// What the estimate stands on.
    pub basis: String,
    /// Goes back without them by itself after next has not answered for so long; `None` asks an operator.
    pub policy: Option<Micros>,
    /// It may go back without them: who decided that, and why.
    pub decided: Option<String>,
    /// Only an operator can say now whether to wait or to leave them behind.
    pub asks: bool,
    /// Nothing is written on next until what was left behind is salvaged.
    pub sealed: bool,
    /// Keys looked at by the salvage, of how many.
    pub progress: Option<(u64, u64)>,
    /// What the salvage found, once it is done.
    pub salvaged: Option<Salvaged>,
    /// Keys written on both sides that no person has decided yet: the first few, and how many.
    pub conflicts: (Vec<String>, u64),
}

impl StrandView {
    /// What was left behind has not been salvaged yet.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.sealed && self.salvaged.is_none()
    }
}

/// What became of the keys that were left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// Changed on next since the last that legacy has.
    pub changed: u64,
    /// Carried over to legacy, deletions included.
    pub carried: u64,
    /// Equal on both sides already.
    pub equal: u64,
    /// Written on both sides.
    pub conflicts: u64,
}

/// Where a finished rollout came to rest, in plain sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestView {
    /// Which side applications read and write.
    pub applications: String,
    /// What became of each side's collection.
    pub collections: Vec<String>,
    /// What proves that the data is whole.
    pub proof: String,
}

/// One line of the event log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventLine {
    /// Journal sequence number.
    pub seq: u64,
    /// When.
    pub wall_ms: i64,
    /// `operator`, `engine`, `trigger`.
    pub by: String,
    /// The record's kind.
    pub kind: String,
    /// One plain sentence.
    pub text: String,
}

/// One process of an application.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ApplicationView {
    /// Its name.
    pub name: String,
    /// The route epoch it has acknowledged.
    pub epoch: i64,
    /// Since its last acknowledgement.
    pub age: Micros,
}

/// What an operator may ask for. The engine answers each with a [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Stop advancing and copying; tails, probes and gates go on. Twice changes nothing.
    Pause,
    /// Go on after a pause.
    Continue,
    /// Leave the current stage, if it is still the stage the operator saw.
    Advance {
        /// Index of the stage the operator saw when asking.
        stage: usize,
    },
    /// Go back, from whatever it is doing. Twice changes nothing; a hard one overtakes a soft one under way.
    Rollback {
        /// Everything at once, rather than stage by stage.
        hard: bool,
        /// Index of the stage to come to rest in; `None` is before the first one.
        to: Option<usize>,
    },
    /// Only the buckets from `from` on go back: what lies below stays on next, and it comes to rest in the last stage that moves no more
    /// writes than that. Twice changes nothing.
    RollbackRange {
        /// Everything of the range at once.
        hard: bool,
        /// The first bucket that goes back.
        from: Bucket,
    },
    /// Go back at once and, should next not answer, leave behind what legacy does not have: those writes are at risk until they are
    /// salvaged. Twice changes nothing.
    LeaveBehind,
    /// Only the pilot cohort goes back to legacy, and stays there. Twice changes nothing; a hard one overtakes a soft one.
    RollbackCohort {
        /// Without a whole comparison before.
        hard: bool,
    },
    /// The pilot cohort goes forward again, to where the current stage has it; a pause ends.
    CohortForward,
    /// Come to a safe point and end the process; the rollout can be resumed.
    Stop,
}

/// How the engine answered a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum Reply {
    /// It is in the journal and its effect is under way.
    Accepted,
    /// Its effect is done.
    Applied,
    /// Nothing changed, for this reason.
    Refused(String),
}

/// A side's index into the two-element arrays above.
#[must_use]
pub fn side_index(side: Side) -> usize {
    side as usize
}
