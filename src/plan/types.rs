//! A plan that has been checked.

use crate::cluster::{IndexSpec, Ns};
use crate::runtime::Micros;

use super::gates::{Gate, Trigger};

/// A checked plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Names the rollout and its route.
    pub id: String,
    /// For people.
    pub title: String,
    /// The author's version number.
    pub version: u32,
    /// The team that owns it.
    pub owner: String,
    /// SHA-256 of the plan's canonical JSON form, hex; names exactly this plan.
    pub hash: String,
    /// Where the data is.
    pub cluster: ClusterSpec,
    /// How the team adopted tidegate.
    pub mode: Mode,
    /// The largest apply lag at which reads may run ahead of writes.
    pub max_staleness: Micros,
    /// How long an application's lease on the route lasts.
    pub lease: Micros,
    /// Validators on both sides refuse the writes of a side that does not own them (rule 6 of the design).
    pub server_gate: bool,
    /// How long a cutover may hold writes.
    pub freeze_max: Micros,
    /// What a hard rollback does about writes that would stay behind on next.
    pub strand: Strand,
    /// What the application promises its users.
    pub slo: Option<Slo>,
    /// The traffic the author counts on; only for checking the plan.
    pub expects: Expects,
    /// The collections; exactly one for now.
    pub collections: Vec<Collection>,
    /// Queries compared and explained on both shapes.
    pub queries: Vec<Query>,
    /// Limits on tidegate's own load.
    pub throttle: Throttle,
    /// Plan-wide triggers; a stage may add its own.
    pub triggers: Vec<Trigger>,
    /// The stages, in order; never empty.
    pub stages: Vec<Stage>,
}

/// Where the data is. Text with `${VARIABLE}` is kept as written: secrets are put in only when connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Connection string of legacy's cluster, variables not yet filled in; `None` for an embedded cluster.
    pub uri: Option<String>,
    /// Connection string of next's cluster when it is another one.
    pub next_uri: Option<String>,
    /// `production`, `staging`, …
    pub environment: String,
}

/// How the team adopted tidegate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Applications follow the route document.
    Route,
}

/// What a hard rollback does when next does not answer and acknowledged writes would stay behind there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strand {
    /// An operator decides.
    Ask,
    /// It goes back without them when next has not answered for so long.
    After(Micros),
}

/// A service level objective: of the operations of a period, the share that must be good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// The share, above 0.5 and below 1. The rest is the error budget.
    pub objective: f64,
    /// What the budget is for.
    pub period: Micros,
    /// An operation that takes longer than this is not good either.
    pub latency: Option<Micros>,
}

/// The traffic the author of the plan counts on, operations a second over both sides; `None` when nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expects {
    /// Reads a second.
    pub reads: Option<f64>,
    /// Writes a second.
    pub writes: Option<f64>,
}

/// One collection's migration.
#[derive(Clone, Debug, PartialEq)]
pub struct Collection {
    /// Where it is now.
    pub legacy: Ns,
    /// Where it goes.
    pub next: Ns,
    /// T, in order.
    pub steps: Vec<Step>,
    /// Indexes to build on next.
    pub indexes: Vec<IndexSpec>,
    /// Tells next's shape from legacy's: a filter of `field: value`, `$exists` and `$type`. Always there in place.
    pub shape: Option<bson::Document>,
}

impl Collection {
    /// True when the documents change where they are instead of moving to another collection.
    #[must_use]
    pub fn in_place(&self) -> bool {
        self.legacy == self.next
    }
}

/// A step of the transform. Paths are dotted field names.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Moves a field; the inverse moves it back.
    Rename {
        /// From this path.
        from: String,
        /// To this path.
        to: String,
    },
    /// Changes a value's type; the inverse changes it back.
    Convert {
        /// The path.
        path: String,
        /// The type on legacy.
        from: ValueType,
        /// The type on next.
        to: ValueType,
    },
    /// Adds a field that legacy does not have; the inverse removes it.
    Set {
        /// The path.
        path: String,
        /// The value.
        value: bson::Bson,
    },
    /// Removes a field whose value on legacy is always `was`; the inverse puts it back.
    Unset {
        /// The path.
        path: String,
        /// The value every legacy document has there.
        was: bson::Bson,
    },
}

/// A BSON type that `convert` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// UTF-8 text.
    String,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    Long,
    /// 64-bit float.
    Double,
    /// Decimal128.
    Decimal,
}

/// A query that is compared and explained on both shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// For people; unique in the plan.
    pub name: String,
    /// The filter on legacy, JSON text.
    pub legacy: String,
    /// The filter on next, JSON text.
    pub next: String,
    /// It must be answered by an index.
    pub uses_index: bool,
}

/// Limits on tidegate's own load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throttle {
    /// Copying slows when apply or replication lag is above this.
    pub max_lag: Option<Micros>,
    /// Copying goes at most so fast, documents a second.
    pub max_rate: Option<u32>,
}

/// Work a stage does besides moving traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Create next's collection.
    Create,
    /// Copy what exists, then keep it in step.
    Backfill,
    /// Build next's indexes.
    Indexes,
    /// Rename legacy away and leave an empty view under its name.
    QuarantineLegacy,
}

/// How a stage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// An operator advances.
    Operator,
    /// It advances by itself once its gates hold.
    Auto,
}

/// One slice of the rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Unique in the plan.
    pub id: String,
    /// Work, in order.
    pub work: Vec<Work>,
    /// Percent of reads shadowed; inherited from the stage before when not given, 0 once legacy is quarantined.
    pub shadow: u8,
    /// Percent of buckets read from next; inherited likewise.
    pub reads: u8,
    /// Percent of buckets written to next; inherited likewise.
    pub writes: u8,
    /// How long it soaks after its work is done.
    pub soak: Micros,
    /// How it ends.
    pub advance: Advance,
    /// Where its runbook text is.
    pub runbook: Option<String>,
    /// There is no way back after it.
    pub irreversible: bool,
    /// Its gates.
    pub gates: Vec<Gate>,
    /// Its triggers, beside the plan-wide ones.
    pub triggers: Vec<Trigger>,
}
