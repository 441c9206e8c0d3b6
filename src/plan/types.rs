//! A plan that has been checked.

use super::declared::Declared;
use super::pipeline::Pipeline;
use crate::cluster::{IndexSpec, Ns};
use crate::route::{Cohort, Goes};
use crate::runtime::Micros;

use super::calendar::Calendar;
use super::gates::{Gate, Trigger};
use super::hook::{Hook, Switch};
use super::throttle::Throttle;

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
    /// Validators on both sides refuse inserts and updates of buckets that the side does not own, or that are frozen.
    pub server_gate: bool,
    /// How long a cutover may hold writes.
    pub freeze_max: Micros,
    /// What a hard rollback does about writes that would stay behind on next.
    pub strand: Strand,
    /// How many times slower than before the first stage legacy may be when a rollback is called recovered.
    pub baseline_ratio: f64,
    /// What the application promises its users.
    pub slo: Option<Slo>,
    /// The traffic the author counts on; only for checking the plan.
    pub expects: Expects,
    /// The cohort that may go ahead of everybody else, and come back alone.
    pub pilot: Option<Cohort>,
    /// The collections; exactly one for now.
    pub collections: Vec<Collection>,
    /// What both sides are asked.
    pub declared: Declared,
    /// Limits on tidegate's own load.
    pub throttle: Throttle,
    /// Plan-wide triggers; a stage may add its own.
    pub triggers: Vec<Trigger>,
    /// The stages, in order; never empty.
    pub stages: Vec<Stage>,
    /// What is called when something happens.
    pub hooks: Vec<Hook>,
    /// How applications are told which side is theirs; there exactly where the mode says that they are.
    pub switch: Option<Switch>,
    /// When changes may be made.
    pub calendar: Calendar,
    /// Paths whose values a rehearsal masks before it carries the documents, and a trace until they are revealed.
    pub masked: Vec<String>,
}

impl Plan {
    /// True when another tool migrates and nothing is written.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.mode == Mode::Observe
    }

    /// True when nobody tells what applications wrote: to an onlooker nobody does, and who goes by a switch of their own has nothing to
    /// `report` it with.
    #[must_use]
    pub fn is_unreported(&self, report: bool) -> bool {
        self.observes() || (self.mode.is_told() && !report)
    }

    /// Everything that is called: the hooks, and what tells applications which side is theirs.
    pub fn called(&self) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().chain(self.switch.iter().flat_map(Switch::hooks))
    }

    /// True when the documents change where they are.
    #[must_use]
    pub fn in_place(&self) -> bool {
        self.collections.iter().any(Collection::in_place)
    }

    /// True when it declares something that both sides are asked. In place there is one.
    #[must_use]
    pub fn asks(&self) -> bool {
        !self.in_place() && (!self.declared.is_empty() || self.collections.iter().any(|c| !c.types.is_empty()))
    }
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
    /// Another tool migrates; tidegate only looks, and writes nothing.
    Observe,
    /// Applications go by a switch of their own, which hooks turn: all reads and writes at once.
    Copy,
    /// As `Copy`, but reads go by a percentage in an exported flag file.
    Flags,
    /// Applications follow the route document.
    Route,
}

impl Mode {
    /// Its word in plans.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Copy => "copy",
            Mode::Flags => "flags",
            Mode::Route => "route",
        }
    }

    /// Every one.
    pub const ALL: [Mode; 4] = [Mode::Observe, Mode::Copy, Mode::Flags, Mode::Route];

    /// True when applications are told which side is theirs instead of following the route document.
    #[must_use]
    pub fn is_told(self) -> bool {
        matches!(self, Mode::Copy | Mode::Flags)
    }
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
    /// Indexes to build on next; where tidegate only observes, those that the other tool builds.
    pub indexes: Vec<IndexSpec>,
    /// Tells next's shape from legacy's: a filter of `field: value`, `$exists` and `$type`. Always there in place.
    pub shape: Option<bson::Document>,
    /// Which types next's fields may have, by their paths; a field may be missing.
    pub types: Vec<(String, Vec<String>)>,
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
        /// Values that do not come back as they were are converted too.
        lossy: bool,
    },
    /// Adds a field that legacy does not have; the inverse removes it.
    Set {
        /// The path.
        path: String,
        /// The value.
        value: bson::Bson,
    },
    /// Removes a field; the inverse puts it back.
    Unset {
        /// The path.
        path: String,
        /// The value every legacy document has there; `None` drops whatever is there, which is lossy.
        was: Option<bson::Bson>,
    },
    /// Moves fields into a document; the same as one rename for each.
    Nest {
        /// The fields.
        paths: Vec<String>,
        /// The document's path.
        into: String,
    },
    /// Moves the fields of a document up beside it; the inverse of `Nest`.
    Flatten {
        /// The document's path.
        path: String,
        /// Stands before each name; never empty when `fields` is `None`.
        prefix: String,
        /// These fields only; `None` is every field, whatever it is called.
        fields: Option<Vec<String>>,
    },
    /// Cuts a text into fields beside it; the inverse joins them.
    Split {
        /// The text's path.
        path: String,
        /// The separator; never empty.
        at: String,
        /// The fields, with the same parent, at least two; the last takes the rest.
        into: Vec<String>,
    },
    /// Joins the texts of fields; the inverse of `Split`.
    Join {
        /// The fields, at least two, with the same parent.
        paths: Vec<String>,
        /// The separator; never empty.
        with: String,
        /// The text's path, with the same parent.
        to: String,
    },
    /// Puts a value into an array or a document of its own; the inverse takes it out.
    Wrap {
        /// The path.
        path: String,
        /// The field of the new document; `None` makes an array of one element.
        field: Option<String>,
    },
    /// Replaces values by others.
    Map {
        /// The path.
        path: String,
        /// What becomes what: texts, whole numbers, booleans and dates, in the plan's order.
        values: Vec<(bson::Bson, bson::Bson)>,
        /// Other values stay as they are instead of being refused.
        keep: bool,
        /// Values that do not come back as they were are replaced too.
        lossy: bool,
    },
    /// A raw aggregation pipeline.
    Pipeline {
        /// Makes next's document of legacy's.
        forward: Pipeline,
        /// Makes legacy's document of next's; without it the step is lossy.
        inverse: Option<Pipeline>,
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
    /// Milliseconds since 1970, UTC.
    Date,
    /// The server's 12-byte id.
    ObjectId,
    /// True or false.
    Bool,
}

/// What a conversion between two types keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// What it accepts comes back as it was, whether the step says `lossy` or not.
    All,
    /// So do some values; the others are refused unless the step says `lossy = true`. Says what they lose.
    Some(&'static str),
    /// No value does. Says what is lost.
    None(&'static str),
}

impl ValueType {
    /// Every type, in the order of the documentation.
    pub const ALL: [ValueType; 8] = [
        ValueType::String,
        ValueType::Int,
        ValueType::Long,
        ValueType::Double,
        ValueType::Decimal,
        ValueType::Date,
        ValueType::ObjectId,
        ValueType::Bool,
    ];

    /// Its name in plans, which is the server's alias.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ValueType::String => "string",
            ValueType::Int => "int",
            ValueType::Long => "long",
            ValueType::Double => "double",
            ValueType::Decimal => "decimal",
            ValueType::Date => "date",
            ValueType::ObjectId => "objectId",
            ValueType::Bool => "bool",
        }
    }

    /// What a conversion keeps; `None` when there is no such conversion.
    #[must_use]
    pub fn converts_to(self, to: ValueType) -> Option<Keeps> {
        use ValueType::{Bool, Date, Decimal, Double, Int, Long, ObjectId, String};
        const DIGITS: &str = "how the number was written (leading zeros, a plus sign, an exponent)";
        const FRACTION: &str = "the fraction, and the sign of -0";
        const TRUTH: &str = "every number but 0 and 1";
        Some(match (self, to) {
            (a, b) if a == b => return None,
            (Int | Bool, String | Long | Double | Decimal) | (Bool, Int) | (Long, String | Int | Decimal | Date) => {
                Keeps::All
            }
            (String, Bool) | (Double | Decimal | Date | ObjectId, String) | (Date, Long | Decimal) => Keeps::All,
            (Double, Decimal) => Keeps::All,
            (String, Int | Long | Double | Decimal) => Keeps::Some(DIGITS),
            (String, Date) => Keeps::Some("how the time was written (its zone, other than 3 digits after the second)"),
            (String, ObjectId) => Keeps::Some("capital letters"),
            (Long | Date, Double) => Keeps::Some("digits beyond 53 bits"),
            (Double, Int | Long | Date) => Keeps::Some(FRACTION),
            (Decimal, Int | Long | Date) => Keeps::Some("the fraction, the exponent and the sign of -0"),
            (Decimal, Double) => Keeps::Some("trailing zeros, and digits beyond 17"),
            (Int | Long | Double | Decimal, Bool) => Keeps::Some(TRUTH),
            (ObjectId, Date) => Keeps::None("all but the seconds of the id's time"),
            _ => return None,
        })
    }
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

/// What the tool that migrates must have reached before a stage of an observed rollout soaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Next has the plan's indexes.
    Indexes,
    /// Both sides, compared whole, are equal.
    Reconciled,
}

impl Reached {
    /// Its word in plans.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reached::Indexes => "indexes",
            Reached::Reconciled => "reconciled",
        }
    }
}

/// How a stage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// An operator advances.
    Operator,
    /// It advances by itself once its gates hold.
    Auto,
}

/// How far the pilot cohort is on next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PilotLevel {
    /// It goes as everybody else.
    #[default]
    Off,
    /// Its reads are on next.
    Reads,
    /// Its reads and writes are on next.
    Writes,
}

impl PilotLevel {
    /// Its word in plans.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PilotLevel::Off => "off",
            PilotLevel::Reads => "reads",
            PilotLevel::Writes => "writes",
        }
    }

    /// Where the cohort's reads and writes go.
    #[must_use]
    pub fn goes(self) -> (Goes, Goes) {
        match self {
            PilotLevel::Off => (Goes::Buckets, Goes::Buckets),
            PilotLevel::Reads => (Goes::Next, Goes::Buckets),
            PilotLevel::Writes => (Goes::Next, Goes::Next),
        }
    }
}

/// One slice of the rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Unique in the plan.
    pub id: String,
    /// Work, in order.
    pub work: Vec<Work>,
    /// Only where tidegate observes: what the other tool must have reached, in order.
    pub reached: Vec<Reached>,
    /// Percent of reads shadowed; inherited from the stage before when not given, 0 once legacy is quarantined.
    pub shadow: u8,
    /// Percent of buckets read from next; inherited likewise.
    pub reads: u8,
    /// Percent of buckets written to next; inherited likewise.
    pub writes: u8,
    /// How far the pilot cohort is; inherited likewise.
    pub pilot: PilotLevel,
    /// The stage says so itself: a cohort that had gone back alone goes forward again.
    pub pilot_said: bool,
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
