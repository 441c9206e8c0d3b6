//! The commands themselves, in the order of DESIGN rule 8 with the sides exchanged: fence, freeze, bring over, compare, hand back.

use bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::{Expect, Standing, Step};
use crate::cluster::{CONTROL_DB, CollKind, Ns, SessionId};
use crate::engine::back::isolated_ns;
use crate::journal::{By, ClusterStore, Record};
use crate::rollout::Event;
use crate::route::{BUCKETS, Bucket, Side};
use crate::transform::Class;

/// Who holds the lease meanwhile, and who the journal names.
const HOLDER: &str = "the way back by hand";
/// How long the lease is taken for: nobody resumes by accident meanwhile.
const LEASE_MS: i64 = 24 * 3_600_000;
/// How long writes are held at most: afterwards applications give them back to next by themselves.
const FREEZE_MS: i64 = 3_600_000;

/// Every command, for where the rollout stands.
pub(super) fn all(s: &Standing) -> Vec<Step> {
    let mut way = Way::new(s);
    let below = s.route.as_ref().map_or(0, |r| r.writes_next_below);
    if below > 0 && s.class == Class::Exact {
        way.look_for_what_cannot_come_back(below);
    }
    way.take_the_lease();
    way.fence();
    way.journal_the_beginning();
    if below > 0 {
        way.freeze(below);
        way.await_acks("Every process has stopped writing there");
        let source = way.source(below);
        way.bring(&source);
        way.remove(below, &source);
        way.compare(below, &source);
        way.hand_back();
        way.await_acks("Every process reads and writes legacy");
        way.thaw();
    } else {
        way.reads_to_legacy();
    }
    way.put_next_away();
    way.journal_the_end();
    way.steps
}

/// Where the images of next's documents are, on legacy's cluster and in its database as far as a join needs it.
struct Source {
    /// The collection.
    ns: Ns,
    /// Stages that make legacy's documents of what is there.
    stages: Vec<Document>,
}

struct Way<'a> {
    s: &'a Standing,
    steps: Vec<Step>,
    /// Of the lease, once it is taken.
    epoch: i64,
    /// Of the route, after the steps so far.
    route_epoch: i64,
    /// Of the journal, after the steps so far.
    head: (u64, String),
}

fn majority() -> Document {
    doc! { "w": "majority", "j": true }
}

/// The first hashed value of a bucket; `None` past the last bucket.
fn first_hash(bucket: Bucket) -> Option<i64> {
    (bucket < BUCKETS).then(|| i64::MIN.wrapping_add(i64::from(bucket) << 54))
}

/// A stage that keeps the documents of the buckets below `below`.
fn owned(below: Bucket) -> Vec<Document> {
    let hash = doc! { "$toHashedIndexKey": "$_id" };
    first_hash(below).map(|h| doc! { "$match": { "$expr": { "$lt": [hash, h] } } }).into_iter().collect()
}

fn array(stages: impl IntoIterator<Item = Document>) -> Bson {
    Bson::Array(stages.into_iter().map(Bson::Document).collect())
}

fn aggregate(coll: &str, stages: Vec<Document>) -> Document {
    doc! {
        "aggregate": coll, "pipeline": array(stages), "cursor": {}, "allowDiskUse": true,
        "bypassDocumentValidation": true, "readConcern": { "level": "majority" }, "writeConcern": majority(),
    }
}

fn uuid(id: SessionId) -> Bson {
    Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: id.0.to_vec() })
}

impl<'a> Way<'a> {
    fn new(s: &'a Standing) -> Way<'a> {
        Way {
            s,
            steps: Vec::new(),
            epoch: s.lease.as_ref().map_or(0, |l| l.epoch) + 1,
            route_epoch: s.route.as_ref().map_or(0, |r| r.epoch),
            head: s.head.clone(),
        }
    }

    fn push(&mut self, on: Side, db: &str, title: &str, command: Document, expect: Expect, why: &str, check: &str) {
        self.steps.push(Step {
            title: title.to_owned(),
            on,
            db: db.to_owned(),
            why: why.to_owned(),
            check: check.to_owned(),
            expect,
            command,
            copy_to: None,
        });
    }

    /// The sides with a control database of their own.
    fn clusters(&self) -> &'static [Side] {
        if self.s.one_cluster { &[Side::Legacy] } else { &Side::BOTH }
    }

    fn look_for_what_cannot_come_back(&mut self, below: Bucket) {
        let next = self.s.ns(Side::Next).clone();
        let mut there_and_back = self.s.inverse.clone();
        there_and_back.extend(self.s.forward.clone());
        let mut stages = owned(below);
        stages.extend([
            doc! { "$project": { "is": "$$ROOT" } },
            doc! { "$lookup": {
                "from": &*next.coll, "localField": "_id", "foreignField": "_id", "pipeline": array(there_and_back), "as": "would_be",
            } },
            doc! { "$match": { "$expr": { "$ne": [["$is"], "$would_be"] } } },
            doc! { "$limit": 20 },
            doc! { "$project": { "_id": 1 } },
        ]);
        let command = doc! {
            "aggregate": &*next.coll, "pipeline": array(stages), "cursor": {}, "readConcern": { "level": "majority" },
        };
        self.push(
            Side::Next,
            &next.db,
            "Look for documents that cannot come back",
            command,
            Expect::Nothing,
            "Only reads. Lists documents on next that the plan's steps, undone and done again, would not make again: an application \
             has put something there that legacy's shape cannot hold.",
            "firstBatch is empty. Otherwise mend the documents it names first; the steps below would bring back a likeness of them. \
             A stage that raises an error has met a document that cannot be undone at all: the error names the reason.",
        );
    }

    /// A compare-and-set on the epoch that may be sent again: what it has set already is what it may set.
    fn now_or_again(&self, epoch: i64) -> Vec<Document> {
        vec![doc! { "epoch": epoch }, doc! { "epoch": epoch + 1, "nonce": self.s.wall_ms }]
    }

    fn take_the_lease(&mut self) {
        let plan = self.s.plan.id.as_str();
        let now = doc! { "$toLong": "$$NOW" };
        let set = doc! {
            "epoch": self.epoch, "holder": HOLDER, "since_ms": now.clone(),
            "expires_ms": { "$add": [now, LEASE_MS] }, "nonce": self.s.wall_ms,
        };
        let q = match &self.s.lease {
            Some(l) => doc! { "_id": plan, "$or": self.now_or_again(l.epoch) },
            None => doc! { "_id": plan },
        };
        let update = doc! { "q": q, "u": [{ "$set": set }], "upsert": self.s.lease.is_none() };
        let command = doc! { "update": "rollouts", "updates": [update], "writeConcern": majority() };
        self.push(
            Side::Legacy,
            CONTROL_DB,
            "Take the lease",
            command,
            Expect::N(1),
            "From here on a tidegate that is still running, or is started by accident, stops or is refused: the lease is yours for a day.",
            "n is 1. If it is 0, somebody has taken the rollout up since these commands were printed: print them again.",
        );
    }

    fn fence(&mut self) {
        let plan = &self.s.plan.id;
        for &side in self.clusters() {
            let mut sessions: Vec<SessionId> = self.s.sessions[side as usize].clone();
            sessions.sort_unstable();
            sessions.dedup();
            if !sessions.is_empty() {
                let list: Vec<Bson> = sessions.iter().map(|s| Bson::Document(doc! { "id": uuid(*s) })).collect();
                self.push(
                    side,
                    "admin",
                    &format!("End the sessions of tidegate's workers on {}'s cluster", side.name()),
                    doc! { "killSessions": list },
                    Expect::Ok,
                    "A process that was killed may have left a transaction open, which would hold up the next step.",
                    "ok is 1. Without the privilege killAnySession go on: the next step then waits until the server gives up the transaction \
                     (60 seconds unless configured otherwise).",
                );
            }
            let moved = doc! { "$set": { "epoch": self.epoch }, "$inc": { "seq": 1_i64 } };
            let mut mark = moved.clone();
            mark.insert("$setOnInsert", doc! { "done": 0_i64, "session": uuid(SessionId([0; 16])) });
            let older = doc! { "$lt": self.epoch };
            let updates = vec![
                Bson::Document(
                    doc! { "q": { "_id": format!("{plan}/"), "epoch": { "$ne": self.epoch } }, "u": mark, "upsert": true },
                ),
                // '0' is the character after '/'.
                Bson::Document(doc! {
                    "q": { "_id": { "$gte": format!("{plan}/"), "$lt": format!("{plan}0") }, "epoch": older }, "u": moved, "multi": true,
                }),
            ];
            self.push(
                side,
                CONTROL_DB,
                &format!("Fence tidegate's workers out on {}'s cluster", side.name()),
                doc! { "update": "fences", "updates": updates, "writeConcern": majority() },
                Expect::Ok,
                "Every write of tidegate begins with its worker's document in `fences`. Moved on, none of them can commit any more, \
                 not even one that a stopped process would resume half-way.",
                "ok is 1 and n is at least 1. A write error 11000 says that it had been done before, which is as good. Until it has worked, \
                 nothing below is safe.",
            );
        }
    }

    /// The next record of the journal. Its hash is over what is printed here, its time included.
    fn record(&mut self, event: &Event) -> Document {
        let (kind, body) = event.to_parts();
        let record = Record {
            seq: self.head.0 + 1,
            at_ms: self.s.wall_ms,
            rollout: self.s.plan.id.clone(),
            epoch: self.epoch,
            by: By::Operator(Some(HOLDER.to_owned())),
            kind,
            body,
            prev: self.head.1.clone(),
            hash: String::new(),
        }
        .sealed();
        self.head = (record.seq, record.hash.clone());
        ClusterStore::document(&record)
    }

    fn journal_the_beginning(&mut self) {
        if self.s.state.back.as_ref().is_some_and(|b| b.to.is_none()) {
            return;
        }
        let why = "by hand, with the commands of `tidegate rollback --explain`".to_owned();
        let record = self.record(&Event::RollbackBegan { hard: true, why, to: None, evidence: Value::Null });
        let command = doc! { "insert": "journal", "documents": [record], "writeConcern": majority() };
        self.push(
            Side::Legacy,
            CONTROL_DB,
            "Write down that it goes back",
            command,
            Expect::N(1),
            "The journal's next record, its hash made when this was printed. Whoever resumes the rollout from here on goes on with the way back.",
            "n is 1. Error 11000, if this is the first time that you run it, says that a record was written since these commands were \
             printed: print them again.",
        );
    }

    fn route(&mut self, title: &str, set: Document, why: &str, check: &str) {
        let mut all = doc! { "epoch": self.route_epoch + 1, "nonce": self.s.wall_ms };
        all.extend(set);
        let again = self.now_or_again(self.route_epoch);
        let update = doc! { "q": { "_id": &self.s.plan.id, "$or": again }, "u": [{ "$set": all }] };
        let command = doc! { "update": "routes", "updates": [update], "writeConcern": majority() };
        self.route_epoch += 1;
        self.push(Side::Legacy, CONTROL_DB, title, command, Expect::N(1), why, check);
    }

    fn freeze(&mut self, below: Bucket) {
        let until = doc! { "$add": ["$$NOW", FREEZE_MS] };
        self.route(
            "Stop the writes",
            doc! { "frozen": { "from": 0, "to": i32::from(below), "until": until } },
            "Applications that follow the route hold their writes to what next owns from here on, for an hour at most: until then the \
             step that gives the writes to legacy must have been made. Users wait meanwhile.",
            "n is 1. If it is 0, the route has changed since these commands were printed: print them again.",
        );
    }

    fn await_acks(&mut self, title: &str) {
        let plan = &self.s.plan.id;
        let filter = doc! {
            "_id": { "$gte": format!("{plan}/"), "$lt": format!("{plan}0") }, "epoch": { "$lt": self.route_epoch },
        };
        let command = doc! {
            "find": "route_acks", "filter": filter, "projection": { "process": 1, "epoch": 1 }, "readConcern": { "level": "majority" },
        };
        self.push(
            Side::Legacy,
            CONTROL_DB,
            title,
            command,
            Expect::NothingInTime,
            "Lists the processes that have not acknowledged the route of the step before. One that has acknowledged it has no older \
             write under way whose outcome is open.",
            "firstBatch is empty; run it again until it is. A process that stays in the list does not answer: see that it is dead (only \
             then), and delete its document in tidegate.route_acks. What it still writes afterwards may be lost.",
        );
    }

    /// Next's documents where legacy's cluster can join them with its own: next itself, or a copy.
    fn source(&mut self, below: Bucket) -> Source {
        let (legacy, next) = (self.s.ns(Side::Legacy).clone(), self.s.ns(Side::Next).clone());
        let mut stages = owned(below);
        if self.s.one_cluster && legacy.db == next.db {
            stages.extend(self.s.inverse.clone());
            return Source { ns: next, stages };
        }
        let copy = Ns::new(&legacy.db, &format!("{}.back.{}", legacy.coll, self.s.plan.id));
        self.push(
            Side::Legacy,
            &copy.db,
            "Empty the place for copies",
            doc! { "delete": &*copy.coll, "deletes": [{ "q": {}, "limit": 0 }], "writeConcern": majority() },
            Expect::Ok,
            &format!(
                "Next is not in legacy's database. What it owns is copied to {copy} first; nothing else uses that name."
            ),
            "ok is 1.",
        );
        stages.extend(self.s.inverse.clone());
        let why = "Undoes the plan's steps on every document that next owns.";
        if self.s.one_cluster {
            stages.push(doc! { "$merge": { "into": { "db": &*copy.db, "coll": &*copy.coll }, "on": "_id", "whenMatched": "replace" } });
            let command = aggregate(&next.coll, stages);
            self.push(Side::Next, &next.db, "Copy what next owns", command, Expect::Ok, why, "ok is 1.");
        } else {
            let command = doc! {
                "aggregate": &*next.coll, "pipeline": array(stages), "cursor": {}, "readConcern": { "level": "majority" },
            };
            self.push(
                Side::Next,
                &next.db,
                "Copy what next owns to legacy's cluster",
                command,
                Expect::Ok,
                &format!(
                    "{why} Each is inserted over there. The shell must not turn numbers into its own kind: hence promoteValues. A field \
                     whose name is a whole number would change its place all the same: copy with mongodump and mongorestore then."
                ),
                "It ends without an error. After an error begin again with the step before. The counts below tell whether all are there.",
            );
            if let Some(step) = self.steps.last_mut() {
                step.copy_to = Some(copy.clone());
            }
        }
        Source { ns: copy, stages: Vec::new() }
    }

    fn bring(&mut self, source: &Source) {
        let legacy = self.s.ns(Side::Legacy);
        let mut stages = source.stages.clone();
        stages.push(doc! { "$merge": {
            "into": { "db": &*legacy.db, "coll": &*legacy.coll }, "on": "_id", "whenMatched": "replace", "whenNotMatched": "insert",
        } });
        let mut why = "Writes every document that next owns to legacy, in legacy's shape; one that is equal is not written. It reads all of \
                       next, so it takes as long as that does."
            .to_owned();
        if self.s.class != Class::Exact {
            why.push_str(
                " Some steps do not keep the order of fields: documents that nobody changed may get another one.",
            );
        }
        let command = aggregate(&source.ns.coll, stages);
        self.push(
            Side::Legacy,
            &source.ns.db,
            "Bring the documents to legacy",
            command,
            Expect::Ok,
            &why,
            "ok is 1. After an error mend what it names and run it again.",
        );
    }

    /// Stages on legacy that keep what next owns and does not have.
    fn gone(&self, below: Bucket, source: &Source) -> Vec<Document> {
        let mut stages = owned(below);
        stages.extend([
            doc! { "$lookup": {
                "from": &*source.ns.coll, "localField": "_id", "foreignField": "_id", "pipeline": [{ "$project": { "_id": 1 } }],
                "as": "tidegate_on_next",
            } },
            doc! { "$match": { "tidegate_on_next": [] } },
        ]);
        stages
    }

    fn remove(&mut self, below: Bucket, source: &Source) {
        let legacy = self.s.ns(Side::Legacy).clone();
        let kept = format!("{}.removed.{}", legacy.coll, self.s.plan.id);
        let mut keep = self.gone(below, source);
        keep.extend([
            doc! { "$unset": "tidegate_on_next" },
            doc! { "$merge": { "into": &kept, "on": "_id", "whenMatched": "replace" } },
        ]);
        self.push(
            Side::Legacy,
            &legacy.db,
            "Keep what was deleted on next",
            aggregate(&legacy.coll, keep),
            Expect::Ok,
            &format!("What legacy has and next, its owner, has not was deleted there. It goes from legacy too; {kept} keeps a copy of it."),
            &format!("ok is 1. Look into {kept}: are these deletions that you would expect?"),
        );
        let mark = format!("{}/{}", self.s.plan.id, self.epoch);
        let mut marked = self.gone(below, source);
        marked.extend([
            doc! { "$project": { "_id": 1, "tidegate_removed": { "$literal": &mark } } },
            doc! { "$merge": { "into": &*legacy.coll, "on": "_id", "whenMatched": "merge", "whenNotMatched": "discard" } },
        ]);
        self.push(
            Side::Legacy,
            &legacy.db,
            "Mark it on legacy",
            aggregate(&legacy.coll, marked),
            Expect::Ok,
            "The server deletes by a filter on the document itself: so each gets a field of its own first. Nobody reads these documents there.",
            "ok is 1.",
        );
        self.push(
            Side::Legacy,
            &legacy.db,
            "Delete it on legacy",
            doc! { "delete": &*legacy.coll, "deletes": [{ "q": { "tidegate_removed": mark }, "limit": 0 }], "writeConcern": majority() },
            Expect::Ok,
            "Deletes exactly what the step before has marked.",
            &format!("ok is 1; n is the number of documents, as many as the step before the last put into {kept}."),
        );
    }

    fn compare(&mut self, below: Bucket, source: &Source) {
        let legacy = self.s.ns(Side::Legacy).clone();
        if legacy.db == source.ns.db {
            let mut stages = source.stages.clone();
            stages.extend([
                doc! { "$project": { "is": "$$ROOT" } },
                doc! { "$lookup": { "from": &*legacy.coll, "localField": "_id", "foreignField": "_id", "as": "on_legacy" } },
                doc! { "$match": { "$expr": { "$ne": [["$is"], "$on_legacy"] } } },
                doc! { "$limit": 20 },
                doc! { "$project": { "_id": 1 } },
            ]);
            let command = doc! {
                "aggregate": &*source.ns.coll, "pipeline": array(stages), "cursor": {}, "readConcern": { "level": "majority" },
            };
            self.push(
                Side::Legacy,
                &legacy.db,
                "Compare both sides",
                command,
                Expect::Nothing,
                "Lists documents that next owns and that legacy does not hold in the same way now.",
                "firstBatch is empty. Otherwise writes have gone on in spite of the freeze: bring and delete again, and find out who writes.",
            );
        }
        let counted = |coll: &str| {
            let mut stages = owned(below);
            stages.push(doc! { "$count": "documents" });
            doc! { "aggregate": coll, "pipeline": array(stages), "cursor": {}, "readConcern": { "level": "majority" } }
        };
        let next = self.s.ns(Side::Next).clone();
        self.push(
            Side::Next,
            &next.db,
            "Count what next owns",
            counted(&next.coll),
            Expect::Ok,
            "For the comparison with the next step.",
            "Remember `documents`.",
        );
        self.push(
            Side::Legacy,
            &legacy.db,
            "Count the same on legacy",
            counted(&legacy.coll),
            Expect::Ok,
            "The same buckets on the other side.",
            "`documents` is the number of the step before (no document at all counts as none). Otherwise do not go on.",
        );
    }

    fn hand_back(&mut self) {
        self.route(
            "Give everything to legacy",
            doc! { "reads_next_below": 0, "writes_next_below": 0, "shadow": 0 },
            "From here on legacy owns every document and answers every read. Writes wait for a moment more, until every process knows.",
            "n is 1. If it is 0, the freeze was undone because its hour was over, and next has been written to since: print the \
             commands again and begin anew.",
        );
    }

    fn thaw(&mut self) {
        self.route(
            "Let the writes go on",
            doc! { "frozen": Bson::Null },
            "Users' writes go to legacy from here on.",
            "n is 1. If it is 0, look at the document in tidegate.routes: an application has thawed it already, which is as good, if \
             writes_next_below is 0 and frozen is null.",
        );
    }

    /// Nothing has been written on next: reads are all there is to bring back.
    fn reads_to_legacy(&mut self) {
        let Some(r) = &self.s.route else { return };
        if (r.reads_next_below, r.shadow, r.frozen) != (0, 0, None) {
            self.route(
                "Give the reads to legacy",
                doc! { "reads_next_below": 0, "shadow": 0, "frozen": Bson::Null },
                "Next owns no document: legacy has everything.",
                "n is 1. If it is 0, the route has changed since these commands were printed: print them again.",
            );
        }
        self.await_acks("Every process reads and writes legacy");
    }

    fn put_next_away(&mut self) {
        let next = self.s.ns(Side::Next).clone();
        let kept = isolated_ns(&next, &self.s.plan.id);
        let [here, there] = self.s.next;
        if here == CollKind::Collection {
            self.push(
                Side::Next,
                &next.db,
                "Seal next",
                doc! {
                    "collMod": &*next.coll, "validator": { "_id": { "$exists": false } }, "validationLevel": "strict",
                    "validationAction": "error", "writeConcern": majority(),
                },
                Expect::Ok,
                "A process that does not follow the route gets an error from here on, instead of writing where nobody looks.",
                "ok is 1.",
            );
            self.push(
                Side::Next,
                "admin",
                "Put next away",
                doc! { "renameCollection": next.to_string(), "to": kept.to_string(), "dropTarget": false, "writeConcern": majority() },
                Expect::Ok,
                &format!("Nothing is dropped: {kept} keeps all of it. Drop it once nobody asks for it any more."),
                "ok is 1. If the connection broke and it fails when run again, look whether it has that name already.",
            );
        }
        if here == CollKind::Collection || here == CollKind::Absent && there == CollKind::Collection {
            self.push(
                Side::Next,
                &next.db,
                "Leave an empty view in its place",
                doc! {
                    "create": &*next.coll, "viewOn": &*kept.coll, "pipeline": [{ "$match": { "$expr": false } }],
                    "writeConcern": majority(),
                },
                Expect::Ok,
                "Late reads find nothing and late writes fail, instead of silently making a new collection.",
                "ok is 1.",
            );
        }
    }

    fn journal_the_end(&mut self) {
        let mut records = Vec::new();
        if self.s.route.is_some() {
            records.push(Event::RouteSettled {
                epoch: self.route_epoch,
                won: true,
                writes_next_below: 0,
                reads_next_below: 0,
                shadow: 0,
            });
        }
        records.push(Event::RolledBack { evidence: json!({ "by_hand": true }) });
        records.push(Event::Closed { outcome: "rolled_back".into() });
        let documents: Vec<Bson> = records.iter().map(|e| Bson::Document(self.record(e))).collect();
        let n = documents.len() as u32;
        self.push(
            Side::Legacy,
            CONTROL_DB,
            "Close the journal",
            doc! { "insert": "journal", "documents": documents, "ordered": true, "writeConcern": majority() },
            Expect::N(n),
            "Writes down that everything is on legacy, by hand. `tidegate resume` then answers that the rollout is finished.",
            &format!(
                "n is {n}. Error 11000, if this is the first time that you run it, says that somebody has resumed the rollout meanwhile: \
                 find out who."
            ),
        );
        let update =
            doc! { "q": { "_id": &self.s.plan.id, "epoch": self.epoch }, "u": { "$set": { "expires_ms": 0_i64 } } };
        self.push(
            Side::Legacy,
            CONTROL_DB,
            "Give the lease back",
            doc! { "update": "rollouts", "updates": [update], "writeConcern": majority() },
            Expect::N(1),
            "Nobody needs it any more.",
            "n is 1.",
        );
    }
}
