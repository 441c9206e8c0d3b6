//! What happened, as the journal keeps it. An event's name is the journal record's `kind`, its fields are the record's body.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::task::Task;
use crate::route::{Bucket, Goes};

/// One durable fact about a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The rollout began.
    Started {
        /// The plan's hash.
        plan_hash: String,
        /// Stages advance by themselves whatever the plan says (`--advance auto`), or never do (`operator`).
        advance: Option<String>,
        /// Who runs it.
        holder: String,
    },
    /// Another process (or the same one again) took it up.
    Resumed {
        /// Who runs it now.
        holder: String,
        /// Why it was taken from a holder whose lease had not run out.
        reason: Option<String>,
    },
    /// What gates are compared with was measured, before the first stage.
    BaselineTaken {
        /// The figures, as [`crate::gate::Baseline`] writes them.
        baseline: Value,
    },
    /// A stage began.
    StageEntered {
        /// Its index in the plan.
        stage: usize,
        /// Its id.
        id: String,
        /// Wall-clock milliseconds.
        at_ms: i64,
    },
    /// A task will be carried out now.
    TaskIntended {
        /// Its position in the stage.
        index: usize,
        /// What it is.
        #[serde(flatten)]
        task: Task,
    },
    /// The task is done.
    TaskDone {
        /// Its position in the stage.
        index: usize,
        /// What it found or changed.
        evidence: Value,
    },
    /// The task could not be done now and will be tried again.
    TaskHeld {
        /// Its position in the stage.
        index: usize,
        /// Why.
        why: String,
    },
    /// A change of the route document will be attempted.
    RouteIntended {
        /// The route epoch it would get.
        epoch: i64,
        /// What changes, in words and numbers.
        change: Value,
    },
    /// A change of the route document was made, lost against another, or was undone.
    RouteSettled {
        /// The route epoch in force.
        epoch: i64,
        /// True when the intended change is the one in force.
        won: bool,
        /// Writes of the buckets below this belong to next.
        writes_next_below: u16,
        /// Reads of the buckets below this come from next.
        reads_next_below: u16,
        /// Percent of reads shadowed.
        shadow: u8,
        /// Where reads and writes of the pilot cohort go; `None` without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pilot: Option<(Goes, Goes)>,
    },
    /// The stage's work is done; its gates are watched from here.
    SoakBegan {
        /// Wall-clock milliseconds.
        at_ms: i64,
    },
    /// Stops advancing and copying.
    Paused {
        /// Why: the operator's key, a trigger's sentence.
        why: String,
        /// The raw measurements a trigger stood on.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        evidence: Value,
    },
    /// Goes on.
    Continued {},
    /// The stage's gates held for as long as they had to.
    StagePassed {
        /// Its index.
        stage: usize,
        /// Its id.
        id: String,
        /// The gates it stood on.
        evidence: Value,
    },
    /// It cannot go on by itself.
    NeedsOperator {
        /// What is wrong and what to do.
        why: String,
    },
    /// Every stage passed.
    Completed {
        /// Totals for the summary.
        evidence: Value,
    },
    /// It goes back. Whatever the stage was doing ends at its next safe point.
    RollbackBegan {
        /// Everything at once, rather than stage by stage.
        hard: bool,
        /// Why: by the operator, or a trigger's sentence.
        why: String,
        /// Index of the stage to come to rest in; `None` is before the first one.
        to: Option<usize>,
        /// What was at risk at that moment, and what a trigger stood on.
        evidence: Value,
        /// Only the pilot cohort goes back, and stays there; `to` says nothing then.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cohort: bool,
        /// Buckets below this stay on next, whatever the stage to come to rest in says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<Bucket>,
    },
    /// The pilot cohort is back on legacy, alone, and the stage is as it was.
    CohortReturned {
        /// Wall-clock milliseconds.
        at_ms: i64,
    },
    /// The pilot cohort goes forward again, to where the stage has it.
    CohortForward {},
    /// A rollback has come to rest in an earlier stage.
    Returned {
        /// Its index.
        stage: usize,
        /// Its id.
        id: String,
        /// Wall-clock milliseconds.
        at_ms: i64,
    },
    /// Everything is on legacy again, compared and recovered.
    RolledBack {
        /// Totals for the summary.
        evidence: Value,
    },
    /// A write on a key its side does not own.
    StrayFound {
        /// The key.
        key: String,
        /// The side it was written on.
        side: String,
        /// In place: why the document is neither shape.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// The `_id` of its record in `tidegate.quarantine`, as text: told twice, it is one stray.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        kept: String,
    },
    /// What became of a stray is decided, and done.
    StrayResolved {
        /// The key.
        key: String,
        /// The side it was written on.
        side: String,
        /// The `_id` of its record in `tidegate.quarantine`.
        kept: String,
        /// What became of it.
        how: String,
    },
    /// A repair will be carried out now.
    RepairBegan {
        /// The template's id.
        template: String,
        /// Which of its actions.
        action: String,
        /// How many documents (or indexes) it is about.
        documents: u64,
        /// Who has it done.
        operator: String,
        /// Why, where that was said.
        reason: Option<String>,
        /// What it is about: the first few, in words.
        evidence: Value,
    },
    /// A repair is done, as far as it could be.
    RepairEnded {
        /// The template's id.
        template: String,
        /// Which of its actions.
        action: String,
        /// What was mended.
        done: u64,
        /// What needed no mending any more.
        skipped: u64,
        /// What is left for a person.
        conflicts: u64,
        /// The first of those, in words.
        evidence: Value,
    },
    /// The keys that a repair was about were compared again.
    RepairVerified {
        /// The template's id.
        template: String,
        /// Which of its actions.
        action: String,
        /// Keys equal on both sides.
        matched: u64,
        /// Keys that still differ.
        differing: u64,
        /// True as of this wall-clock time, milliseconds.
        through_ms: i64,
    },
    /// A hard rollback may leave writes behind on a next that does not answer.
    StrandDecided {
        /// Who decided it, and why.
        why: String,
        /// What was at risk at that moment.
        evidence: Value,
    },
    /// Next is left behind: from here nothing is written there until what is there has been salvaged.
    Sealed {
        /// Everything next had up to this cluster time of its own is on legacy.
        through: (u32, u32),
        /// No application had written the buckets on legacy before this cluster time of legacy.
        flip: (u32, u32),
        /// Next owned the buckets below this.
        below: u16,
        /// What is at risk: the time exactly, the count as an estimate.
        evidence: Value,
    },
    /// A key was written on both sides after next was left behind: both versions are kept, a person decides.
    ConflictFound {
        /// The key.
        key: String,
        /// The `_id` of the record in `tidegate.quarantine` that holds both versions.
        kept: String,
    },
    /// A person said which version of a key is the right one, and legacy holds it.
    ConflictResolved {
        /// The key.
        key: String,
        /// `legacy` or `next`.
        side: String,
    },
    /// A TTL index will be suspended: no document expires by it.
    TtlSuspended {
        /// `legacy` or `next`.
        side: String,
        /// The index by name.
        index: String,
        /// What it was set to, seconds.
        seconds: i64,
    },
    /// A suspended TTL index will be set to what it was.
    TtlRestored {
        /// `legacy` or `next`.
        side: String,
        /// The index by name.
        index: String,
        /// What it is set to, seconds.
        seconds: i64,
    },
    /// tidegate's own work slows down: a signal is over its limit.
    ThrottleBegan {
        /// The signal, its limit and the speed.
        why: String,
        /// The same in figures.
        evidence: Value,
    },
    /// Its work has gone at full speed for a while again.
    ThrottleEnded {
        /// How long it was held back and how much.
        evidence: Value,
    },
    /// The rollout goes on with another plan, of the same steps, sides and stages.
    Amended {
        /// The hash of the plan before.
        was: String,
        /// The hash of the plan from here on.
        is: String,
        /// Why.
        reason: String,
        /// What changes, in words.
        changes: Vec<String>,
    },
    /// Somebody at another terminal asks for something. It is in the journal before anything is done for it.
    CommandAsked {
        /// Its id, which is never used twice.
        id: String,
        /// What is asked, in words.
        command: String,
        /// The lease epoch it was asked of.
        epoch: i64,
    },
    /// What became of it.
    CommandAnswered {
        /// Its id.
        id: String,
        /// Why nothing was done; `None` when it was.
        refused: Option<String>,
    },
    /// Values of a document that the plan masks are shown to somebody.
    Revealed {
        /// The key.
        key: String,
    },
    /// A hook will be called now.
    HookCalled {
        /// Its id in the plan.
        hook: String,
        /// The number of the record it is called for.
        of: u64,
        /// The occasion.
        on: String,
        /// It may have been called for that record before: a runner was cut off, or an operator goes on after it had failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// What became of calling a hook.
    HookSettled {
        /// Its id in the plan.
        hook: String,
        /// The number of the record it was called for.
        of: u64,
        /// The occasion.
        on: String,
        /// It succeeded.
        ok: bool,
        /// How often it was attempted.
        attempts: u32,
        /// How it ended, in words without secrets.
        outcome: String,
        /// A command's exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<i32>,
        /// A webhook's status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// The end of what it answered.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        output: String,
    },
    /// Applications will be told which side is theirs.
    SwitchCalled {
        /// The route's epoch.
        epoch: i64,
        /// Percent of reads that go to next.
        reads: u8,
        /// `legacy`, `held` or `next`.
        writes: String,
    },
    /// What became of telling them.
    SwitchSettled {
        /// The route's epoch.
        epoch: i64,
        /// Percent of reads that go to next.
        reads: u8,
        /// `legacy`, `held` or `next`.
        writes: String,
        /// Every process goes by it.
        ok: bool,
        /// How long it took, milliseconds.
        took_ms: u64,
        /// How it ended, in words without secrets.
        outcome: String,
    },
    /// The runner was told to stop, and did so at a safe point.
    Stopped {},
    /// Nothing follows.
    Closed {
        /// `completed`, `rolled_back` or `failed`.
        outcome: String,
    },
}

/// A journal record that is no event of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record of kind `{kind}` cannot be understood: {why}")]
pub struct EventError {
    /// The record's kind.
    pub kind: String,
    /// What serde said.
    pub why: String,
}

impl Event {
    /// The journal's kind and body.
    #[must_use]
    pub fn to_parts(&self) -> (String, Map<String, Value>) {
        // Plain structs of strings, numbers and JSON values always serialise to an object.
        let Ok(Value::Object(mut map)) = serde_json::to_value(self) else { return (String::new(), Map::new()) };
        let kind = match map.remove("kind") {
            Some(Value::String(k)) => k,
            _ => String::new(),
        };
        (kind, map)
    }

    /// Reads a journal record back.
    ///
    /// # Errors
    /// When the kind is unknown or its body has another shape.
    pub fn from_parts(kind: &str, body: &Map<String, Value>) -> Result<Event, EventError> {
        let mut map = body.clone();
        map.insert("kind".into(), Value::String(kind.to_owned()));
        serde_json::from_value(Value::Object(map))
            .map_err(|e| EventError { kind: crate::scrub::short(kind, 40), why: e.to_string() })
    }

    /// One plain sentence for the event log.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Event::Started { holder, .. } => format!("rollout started by {holder}"),
            Event::Resumed { holder, reason: None } => format!("resumed by {holder}"),
            Event::Resumed { holder, reason: Some(r) } => format!("taken over by {holder}: {r}"),
            Event::BaselineTaken { .. } => "baseline taken: what gates compare with was measured".to_owned(),
            Event::StageEntered { id, .. } => format!("stage {id} entered"),
            Event::TaskIntended { task, .. } => match task {
                Task::MoveWrites { from, to } => format!("cutover of buckets {from}..{to} begins"),
                Task::MoveReads { below } => format!("reads of buckets below {below} move to next"),
                Task::Shadow { percent } => format!("shadow reads: {percent}%"),
                Task::ReturnWrites { below: 0, .. } => "every write goes back to legacy".to_owned(),
                Task::ReturnWrites { below, .. } => format!("writes from bucket {below} on go back to legacy"),
                Task::ReturnReads { below } => format!("reads from bucket {below} on come from legacy again"),
                Task::Undo { .. } => "every document goes back to legacy's shape".to_owned(),
                Task::Quiet => "waiting until nobody writes the shape that is left behind".to_owned(),
                Task::Pilot { reads, writes } => {
                    format!("the pilot cohort moves: reads {}, writes {}", reads.name(), writes.name())
                }
                Task::ReturnPilot { reads, writes, .. } => {
                    format!("the pilot cohort goes back: reads {}, writes {}", reads.name(), writes.name())
                }
                t => format!("{} begins", t.name()),
            },
            Event::TaskDone { evidence, .. } => match evidence.get("text").and_then(Value::as_str) {
                Some(t) => t.to_owned(),
                None => "task done".to_owned(),
            },
            Event::TaskHeld { why, .. } => format!("held: {why}"),
            Event::RouteIntended { epoch, change } => {
                format!("route {epoch} intended: {}", change.get("text").and_then(Value::as_str).unwrap_or("change"))
            }
            Event::RouteSettled { epoch, won: true, .. } => format!("route {epoch} in force"),
            Event::RouteSettled { epoch, won: false, .. } => format!("route change lost; {epoch} is in force"),
            Event::SoakBegan { .. } => "work done, gates are watched".to_owned(),
            Event::Paused { why, .. } => format!("PAUSED: {why}"),
            Event::Continued {} => "continued".to_owned(),
            Event::StagePassed { id, .. } => format!("stage {id} passed"),
            Event::NeedsOperator { why } => format!("operator needed: {why}"),
            Event::Completed { .. } => "rollout completed".to_owned(),
            Event::RollbackBegan { hard, why, cohort: true, .. } => {
                format!("ROLLBACK of the pilot cohort alone ({}): {why}", if *hard { "hard" } else { "soft" })
            }
            Event::CohortReturned { .. } => "the pilot cohort is back on legacy and stays there".to_owned(),
            Event::CohortForward {} => "the pilot cohort goes forward again".to_owned(),
            Event::RollbackBegan { hard, why, keep: Some(from), .. } => {
                format!("ROLLBACK of the buckets from {from} on ({}): {why}", if *hard { "hard" } else { "soft" })
            }
            Event::RollbackBegan { hard, why, .. } => {
                format!("ROLLBACK ({}): {why}", if *hard { "hard" } else { "soft" })
            }
            Event::Returned { id, .. } => format!("back in stage {id}"),
            Event::RolledBack { .. } => "rolled back: everything is on legacy".to_owned(),
            Event::StrayFound { key, why: Some(why), .. } => format!("{key} is left for a person: {why}"),
            Event::StrayFound { key, side, why: None, .. } => {
                format!("stray write of {key} on {side}; `tidegate repair PLAN --template carry-stray` carries it over")
            }
            Event::StrayResolved { key, side, how, .. } => format!("stray write of {key} on {side} resolved: {how}"),
            Event::RepairBegan { template, action, documents, operator, reason, .. } => {
                let named = if template == action { template.clone() } else { format!("{template}: {action}") };
                let why = reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
                format!("repair {named} of {documents} begins, by {operator}{why}")
            }
            Event::RepairEnded { action, done, skipped, conflicts, .. } => {
                format!("repair {action}: {done} mended, {skipped} needed nothing, {conflicts} left for a person")
            }
            Event::RepairVerified { action, matched, differing: 0, .. } => {
                format!("repair {action} verified: {matched} keys are equal on both sides")
            }
            Event::RepairVerified { action, matched, differing, .. } => {
                format!("repair {action} verified: {matched} keys are equal, {differing} DIFFER")
            }
            Event::StrandDecided { why, .. } => format!("WRITES MAY BE LEFT BEHIND on next: {why}"),
            Event::Sealed { evidence, .. } => match evidence.get("text").and_then(Value::as_str) {
                Some(t) => format!("NEXT IS SEALED: {t}"),
                None => "NEXT IS SEALED".to_owned(),
            },
            Event::ConflictFound { key, .. } => {
                format!("CONFLICT: {key} was written on both sides; both versions are kept in tidegate.quarantine")
            }
            Event::ConflictResolved { key, side } => format!("conflict of {key} resolved: {side}'s version"),
            Event::TtlSuspended { side, index, seconds } => {
                format!("TTL index `{index}` of {side} suspended, it was {seconds} s: nothing expires by it")
            }
            Event::TtlRestored { side, index, seconds } => {
                format!("TTL index `{index}` of {side} lets documents expire again after {seconds} s")
            }
            Event::ThrottleBegan { why, .. } => format!("throttled: {why}"),
            Event::ThrottleEnded { evidence } => match evidence.get("text").and_then(Value::as_str) {
                Some(t) => t.to_owned(),
                None => "full speed again".to_owned(),
            },
            Event::Amended { reason, changes, .. } => format!("AMENDED: {reason}: {}", changes.join("; ")),
            Event::CommandAsked { command, .. } => format!("asked from another terminal: {command}"),
            Event::CommandAnswered { refused: None, .. } => {
                "what was asked from another terminal is applied".to_owned()
            }
            Event::CommandAnswered { refused: Some(why), .. } => format!("refused to another terminal: {why}"),
            Event::Revealed { key } => format!("masked values of {key} are shown"),
            Event::HookCalled { hook, on, again, .. } => {
                format!("hook {hook} is called for {on}{}", if *again { ", again" } else { "" })
            }
            Event::HookSettled { hook, ok, outcome, .. } => {
                format!("hook {hook} {}: {outcome}", if *ok { "done" } else { "FAILED" })
            }
            Event::SwitchCalled { reads, writes, .. } => {
                format!("applications are told: {reads}% of reads from next, writes {writes}")
            }
            Event::SwitchSettled { reads, writes, ok: true, took_ms, .. } => {
                format!("applications follow: {reads}% of reads from next, writes {writes} ({took_ms} ms)")
            }
            Event::SwitchSettled { writes, ok: false, outcome, .. } => {
                format!("applications do NOT follow yet (writes {writes}): {outcome}")
            }
            Event::Stopped {} => "stopped at a safe point".to_owned(),
            Event::Closed { outcome } => format!("closed: {outcome}"),
        }
    }
}
