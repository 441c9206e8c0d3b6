//! The journey of one document, as a screen and the command line show it. Pure data; every text in here has been scrubbed, and what the
//! plan masks has been masked, where it entered.

use serde::Serialize;

use crate::route::{Bucket, Side};
use crate::runtime::Micros;

/// What somebody wants to see traced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceAsk {
    /// Tells the answer from older ones.
    pub id: u64,
    /// The key, as a person types it.
    pub key: String,
    /// Masked values are shown; it is in the journal before they are.
    pub reveal: bool,
}

/// How the document stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceVerdict {
    /// Both sides hold the same.
    Agrees,
    /// No document has the key.
    Absent,
    /// Nothing has been carried yet: it is not there, or as it was.
    NotCopied,
    /// Only one side counts any more: the rollout is over.
    Alone,
    /// It is being written: what was read may be about to change.
    Moving,
    /// The copy is not what it should be.
    Differs,
    /// It could not be read.
    #[default]
    Unknown,
}

impl TraceVerdict {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            TraceVerdict::Agrees => "AGREES",
            TraceVerdict::Absent => "ABSENT",
            TraceVerdict::NotCopied => "NOT COPIED",
            TraceVerdict::Alone => "ONE SIDE",
            TraceVerdict::Moving => "BEING WRITTEN",
            TraceVerdict::Differs => "DIFFERS",
            TraceVerdict::Unknown => "UNKNOWN",
        }
    }

    /// Nothing is wrong with it.
    #[must_use]
    pub fn is_right(self) -> bool {
        matches!(self, TraceVerdict::Agrees | TraceVerdict::Absent | TraceVerdict::NotCopied | TraceVerdict::Alone)
    }
}

/// Which side the key belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceRoute {
    /// The epoch of the route in force; `None` while there is no route, and everything is legacy's.
    pub epoch: Option<i64>,
    /// Whose document a write changes.
    pub owner: Side,
    /// Where a read goes.
    pub reads: Side,
    /// Writes of the bucket are held at this moment.
    pub frozen: bool,
    /// Whether it belongs to the pilot cohort, and which one that is; `None` without one.
    pub cohort: Option<(bool, String)>,
    /// Buckets below this read from next.
    pub reads_next_below: Bucket,
    /// Buckets below this write to next.
    pub writes_next_below: Bucket,
}

/// One value of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceField {
    /// Where it stands, its names joined by dots.
    pub path: String,
    /// The value, as text; of a masked one only its type.
    pub value: String,
    /// The plan has it masked.
    pub masked: bool,
}

/// The document as one side holds it, or as it would be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TraceVersion {
    /// `legacy`, `next`, `T(legacy)`, `inverse(next)`, `document`, `was`, …
    pub name: String,
    /// Where it was read; empty for one that is made.
    pub place: String,
    /// Why it cannot be shown: it could not be read, or cannot be made.
    pub problem: Option<String>,
    /// Its size; `None` where there is no document.
    pub bytes: Option<usize>,
    /// Its values, in its order; as many as there is room for.
    pub fields: Vec<TraceField>,
    /// Values that there was no room for.
    pub more: usize,
    /// Of one that is made: the other side holds just that. `None` where there is nothing to compare it with.
    pub is_held: Option<bool>,
}

/// A value in which the copy is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceDifference {
    /// Where.
    pub path: String,
    /// What should be there; `None` is nothing.
    pub wanted: Option<String>,
    /// What is there; `None` is nothing.
    pub holds: Option<String>,
}

/// Something kept of the document in the control database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceKept {
    /// `stray`, `refused`, `mixed`, `conflict`, `salvage`, `repair`, `pre-image`.
    pub kind: String,
    /// The `_id` of its record.
    pub id: String,
    /// A person has to decide about it.
    pub open: bool,
    /// What it says, in a sentence.
    pub text: String,
    /// The documents in it.
    pub versions: Vec<TraceVersion>,
}

/// A change of the document, from a side's oplog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceEvent {
    /// On which side.
    pub side: Side,
    /// When, milliseconds since the Unix epoch, to the second.
    pub at_ms: i64,
    /// The cluster time.
    pub at: String,
    /// `insert`, `update`, `replace`, `delete`.
    pub kind: String,
    /// tidegate wrote it; `None` where that cannot be told.
    pub own: Option<bool>,
}

/// How far back the events of a side were looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceReach {
    /// Which side.
    pub side: Side,
    /// Every event of the last so long is known; `None` is of none.
    #[serde(rename = "back_us")]
    pub back: Option<Micros>,
    /// Why not further.
    pub why: String,
}

/// A journal record about the key or its bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceRecord {
    /// The record's number.
    pub seq: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What happened, in a sentence.
    pub text: String,
}

/// A step of the plan and what it does to the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceStep {
    /// Its place in the plan, from 1.
    pub number: usize,
    /// The step, as a person would say it.
    pub text: String,
    /// What it reads.
    pub from: Vec<String>,
    /// What it writes.
    pub to: Vec<String>,
    /// How well it comes back: `exact`, `reordered` (up to the order of fields), `declared`, `lossy`.
    pub class: String,
    /// Why it is of that class.
    pub reason: String,
    /// It touches a field that this document has; `None` where there is no document to tell by.
    pub touches: Option<bool>,
}

/// Everything that is known of one document.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TraceView {
    /// [`TraceAsk::id`] of what it answers.
    #[serde(skip)]
    pub ask: u64,
    /// The key.
    pub key: String,
    /// When it was looked at, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// How it stands.
    pub verdict: TraceVerdict,
    /// That in a sentence.
    pub why: String,
    /// Why a person is needed; `None` when none is.
    pub person: Option<String>,
    /// Its bucket; `None` when it has none, and `notes` say why.
    pub bucket: Option<Bucket>,
    /// Which side it belongs to; `None` where another tool migrates, in place, or when that is not known.
    pub route: Option<TraceRoute>,
    /// The document on each side, and as T and its inverse would make it.
    pub versions: Vec<TraceVersion>,
    /// Where the copy is not what it should be.
    pub differences: Vec<TraceDifference>,
    /// What quarantine and undo keep of it.
    pub kept: Vec<TraceKept>,
    /// Its changes, oldest first.
    pub events: Vec<TraceEvent>,
    /// How far back they were looked for.
    pub reach: Vec<TraceReach>,
    /// What the journal says of it, oldest first.
    pub journal: Vec<TraceRecord>,
    /// The plan's steps.
    pub lineage: Vec<TraceStep>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// Some of its values are masked.
    pub masked: bool,
    /// Values that the plan masks are shown.
    pub revealed: bool,
}

impl TraceView {
    /// The answer to something that cannot be traced.
    #[must_use]
    pub fn failed(ask: &TraceAsk, why: &str) -> TraceView {
        let (key, why) = (crate::scrub::short(ask.key.trim(), 200), crate::scrub::short(why, 400));
        TraceView { ask: ask.id, key, why, ..TraceView::default() }
    }

    /// A version by its name.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&TraceVersion> {
        self.versions.iter().find(|v| v.name == name)
    }
}
