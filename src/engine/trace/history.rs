//! What the journal says of keys and buckets, folded as its records come: when which buckets moved, and what was told of which key.
//!
//! The runner folds every record that it writes, the command those that it reads; neither reads a journal twice.

use std::collections::{BTreeMap, BTreeSet};

use super::Located;
use crate::journal::Record;
use crate::plan::Plan;
use crate::rollout::{Event, Task};
use crate::route::{Bucket, Goes, Side};
use crate::snapshot::TraceRecord;

/// Keys that are remembered; more strays than that are no matter of single keys.
const KEYS_MAX: usize = 100_000;
/// Records remembered of one key.
const OF_KEY: usize = 50;

/// Where reads and writes went after a change of the route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shares {
    writes_below: Bucket,
    reads_below: Bucket,
    pilot: Option<(Goes, Goes)>,
}

impl Shares {
    /// Owner and reader of a key.
    fn sides(&self, bucket: Bucket, in_cohort: bool) -> (Side, Side) {
        let (reads, writes) = self.pilot.filter(|_| in_cohort).unwrap_or_default();
        (writes.side(bucket, self.writes_below), reads.side(bucket, self.reads_below))
    }
}

#[derive(Clone, Debug)]
struct Change {
    seq: u64,
    at_ms: i64,
    epoch: i64,
    /// The task it was made by, and the stage.
    how: String,
    shares: Shares,
}

#[derive(Clone, Debug)]
struct Told {
    record: TraceRecord,
    /// The `_id` of what quarantine keeps.
    kept: Option<String>,
}

/// The journal as a trace needs it.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct History {
    changes: Vec<Change>,
    told: BTreeMap<String, Vec<Told>>,
    repairs: BTreeSet<i64>,
    copied: bool,
    stage: String,
    doing: Option<Event>,
}

impl History {
    /// Folds one record in.
    pub(in crate::engine) fn note(&mut self, record: &Record, event: &Event) {
        let (key, kept) = match event {
            Event::StageEntered { id, .. } => return self.stage.clone_from(id),
            Event::TaskIntended { .. } => return self.doing = Some(event.clone()),
            Event::TaskDone { .. } => {
                let done = self.doing.take();
                self.copied |= matches!(done, Some(Event::TaskIntended { task: Task::Backfill, .. }));
                return;
            }
            Event::RouteSettled { .. } => return self.moved(record, event),
            Event::RepairBegan { .. } => {
                self.repairs.insert(record.epoch);
                return;
            }
            Event::StrayFound { key, kept, .. } | Event::ConflictFound { key, kept } => (key, Some(kept)),
            Event::StrayResolved { key, kept, .. } => (key, Some(kept)),
            Event::ConflictResolved { key, .. } | Event::Revealed { key } => (key, None),
            _ => return,
        };
        if self.told.len() >= KEYS_MAX && !self.told.contains_key(key) {
            return;
        }
        let told = self.told.entry(key.clone()).or_default();
        if told.len() < OF_KEY {
            // Records of before may quote values of documents.
            let text = crate::scrub::short(crate::scrub::before_values(&event.text()), 400);
            let record = TraceRecord { seq: record.seq, at_ms: record.at_ms, text };
            told.push(Told { record, kept: kept.filter(|k| !k.is_empty()).cloned() });
        }
    }

    fn moved(&mut self, record: &Record, event: &Event) {
        let Event::RouteSettled { epoch, writes_next_below, reads_next_below, pilot, .. } = event else { return };
        let shares = Shares { writes_below: *writes_next_below, reads_below: *reads_next_below, pilot: *pilot };
        if self.changes.last().map_or_else(Shares::default, |c| c.shares) == shares {
            return;
        }
        let task = self.doing.as_ref().map(Event::text);
        let how = match (task, self.stage.as_str()) {
            (Some(task), "") => task,
            (Some(task), stage) => format!("{task}, in stage {stage}"),
            (None, "") => "before the first stage".to_owned(),
            (None, stage) => format!("in stage {stage}"),
        };
        self.changes.push(Change { seq: record.seq, at_ms: record.at_ms, epoch: *epoch, how, shares });
    }

    /// Everything that exists has been gone through once.
    pub(super) fn copied(&self) -> bool {
        self.copied
    }

    /// The epochs of leases under which repairs were made, newest first.
    pub(super) fn repairs(&self) -> impl Iterator<Item = i64> {
        self.repairs.iter().rev().copied()
    }

    /// The `_id`s of what quarantine is said to keep of a key.
    pub(super) fn kept(&self, key: &str) -> BTreeSet<String> {
        self.told.get(key).into_iter().flatten().filter_map(|t| t.kept.clone()).collect()
    }

    /// What the journal says of a key and its bucket, oldest first.
    pub(super) fn of(&self, plan: &Plan, at: &Located) -> Vec<TraceRecord> {
        let mut all: Vec<TraceRecord> =
            self.told.get(&at.text).into_iter().flatten().map(|t| t.record.clone()).collect();
        if let Some(bucket) = at.bucket {
            let in_cohort = plan.pilot.as_ref().is_some_and(|c| c.contains(at.key.value()));
            let mut was = (Side::Legacy, Side::Legacy);
            for change in &self.changes {
                let is = change.shares.sides(bucket, in_cohort);
                all.extend(words(was, is).map(|what| TraceRecord {
                    seq: change.seq,
                    at_ms: change.at_ms,
                    text: crate::scrub::short(&format!("{what} with route {}: {}", change.epoch, change.how), 400),
                }));
                was = is;
            }
        }
        all.sort_by_key(|r| r.seq);
        all
    }
}

/// What a change meant for a key, if anything.
fn words(was: (Side, Side), is: (Side, Side)) -> Option<String> {
    Some(match (was.0 != is.0, was.1 != is.1) {
        (false, false) => return None,
        (true, true) if is.0 == is.1 => format!("its writes and reads moved to {}", is.0.name()),
        (true, true) => format!("its writes moved to {}, its reads to {}", is.0.name(), is.1.name()),
        (true, false) => format!("its writes moved to {}", is.0.name()),
        (false, true) => format!("its reads moved to {}", is.1.name()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cluster::Key;
    use crate::journal::By;

    fn record(seq: u64, event: &Event) -> Record {
        let (kind, body) = event.to_parts();
        let (rollout, prev, hash) = ("p".into(), String::new(), String::new());
        Record { seq, at_ms: seq as i64 * 1_000, rollout, epoch: 1, by: By::Engine, kind, body, prev, hash }
    }

    fn settled(epoch: i64, writes: u16, reads: u16, pilot: Option<(Goes, Goes)>) -> Event {
        let (writes_next_below, reads_next_below) = (writes, reads);
        Event::RouteSettled { epoch, won: true, writes_next_below, reads_next_below, shadow: 0, pilot }
    }

    fn plan(pilot: bool) -> Plan {
        let mut plan = Plan::parse(include_str!("../../../scenarios/first-watch/plan.toml"), "plan.toml").unwrap();
        plan.pilot = pilot.then(|| crate::route::Cohort::new("_id", &[bson::Bson::Int32(17)]).unwrap());
        plan
    }

    fn located(key: i64, bucket: Bucket) -> Located {
        let key = Key::from(key);
        Located { text: key.to_string(), key, bucket: Some(bucket), no_bucket: None }
    }

    #[test]
    fn only_what_moves_the_bucket_is_told_and_with_the_task_that_moved_it() {
        let mut h = History::default();
        let events = [
            Event::StageEntered { stage: 0, id: "canary".into(), at_ms: 1 },
            settled(1, 0, 0, None),
            Event::TaskIntended { index: 0, task: Task::MoveReads { below: 100 } },
            settled(2, 0, 100, None),
            Event::TaskIntended { index: 1, task: Task::MoveWrites { from: 0, to: 50 } },
            settled(3, 0, 100, None),
            settled(4, 50, 100, None),
            settled(5, 0, 0, None),
        ];
        events.iter().zip(1..).for_each(|(e, n)| h.note(&record(n, e), e));
        let texts = |bucket| h.of(&plan(false), &located(17, bucket)).into_iter().map(|r| r.text).collect::<Vec<_>>();
        assert_eq!(
            texts(20),
            [
                "its reads moved to next with route 2: reads of buckets below 100 move to next, in stage canary",
                "its writes moved to next with route 4: cutover of buckets 0..50 begins, in stage canary",
                "its writes and reads moved to legacy with route 5: cutover of buckets 0..50 begins, in stage canary",
            ]
        );
        assert_eq!(texts(70).len(), 2, "{:?}", texts(70));
        assert!(texts(100).is_empty());
    }

    #[test]
    fn a_cohort_goes_its_own_way() {
        let mut h = History::default();
        for (n, e) in [
            settled(2, 0, 0, Some((Goes::Next, Goes::Buckets))),
            settled(3, 0, 0, Some((Goes::Next, Goes::Next))),
            settled(4, 1024, 1024, Some((Goes::Legacy, Goes::Legacy))),
        ]
        .iter()
        .enumerate()
        {
            h.note(&record(n as u64 + 1, e), e);
        }
        let texts = |key| h.of(&plan(true), &located(key, 5)).into_iter().map(|r| r.text).collect::<Vec<_>>();
        let begin = |t: &String| t.split(" with").next().unwrap().to_owned();
        let pilot: Vec<String> = texts(17).iter().map(begin).collect();
        assert_eq!(
            pilot,
            ["its reads moved to next", "its writes moved to next", "its writes and reads moved to legacy"]
        );
        assert_eq!(texts(18).iter().map(begin).collect::<Vec<_>>(), ["its writes and reads moved to next"]);
    }

    #[test]
    fn what_was_told_of_a_key_is_found_by_its_text() {
        let mut h = History::default();
        let found =
            Event::StrayFound { key: "17".into(), side: "next".into(), why: None, kept: "p/next/1:1/17".into() };
        h.note(&record(1, &found), &found);
        assert_eq!(h.of(&plan(false), &located(17, 5)).len(), 1);
        assert_eq!(h.kept("17").into_iter().collect::<Vec<_>>(), ["p/next/1:1/17"]);
        assert!(h.kept("1").is_empty() && h.of(&plan(false), &located(1, 5)).is_empty());
    }
}
