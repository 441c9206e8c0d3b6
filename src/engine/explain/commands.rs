//! The commands themselves, in the order of DESIGN rule 8 with the sides exchanged: fence, freeze, bring over, compare, hand back.

use bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::{Expect, Standing, Step};
use crate::cluster::{CONTROL_DB, CollKind, SessionId};
use crate::engine::back::isolated_ns;
use crate::engine::ttl;
use crate::journal::{By, ClusterStore, Record};
use crate::rollout::Event;
use crate::route::{Bucket, Side};
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
        way.await_acks("Every process has stopped writing there", "writes held, reads as they are");
        let source = way.source(below);
        way.bring(&source);
        way.remove(below, &source);
        way.compare(below, &source);
        way.hand_back();
        way.await_acks("Every process reads and writes legacy", "writes held, reads from legacy");
        way.take_the_gate_down();
        way.thaw();
        if way.s.plan.mode.is_told() {
            way.await_acks("Users write again", "everything on legacy");
        }
    } else {
        way.take_the_gate_down();
        way.reads_to_legacy();
    }
    way.put_next_away();
    way.let_documents_expire();
    way.journal_the_end();
    way.steps
}

pub(super) struct Way<'a> {
    pub(super) s: &'a Standing,
    pub(super) steps: Vec<Step>,
    /// Of the lease, once it is taken.
    pub(super) epoch: i64,
    /// Of the route, after the steps so far.
    route_epoch: i64,
    /// Of the journal, after the steps so far.
    head: (u64, String),
}

pub(super) fn majority() -> Document {
    doc! { "w": "majority", "j": true }
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

    pub(super) fn push(
        &mut self,
        (on, db): (Side, &str),
        title: &str,
        command: Document,
        expect: Expect,
        why: &str,
        check: &str,
    ) {
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
        self.push((Side::Legacy, CONTROL_DB),
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
                self.push((side, "admin"),
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
            self.push((side, CONTROL_DB),
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
        let record = self.record(&Event::RollbackBegan {
            hard: true,
            why,
            to: None,
            cohort: false,
            keep: None,
            evidence: Value::Null,
        });
        let command = doc! { "insert": "journal", "documents": [record], "writeConcern": majority() };
        self.push((Side::Legacy, CONTROL_DB),
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
        self.push((Side::Legacy, CONTROL_DB), title, command, Expect::N(1), why, check);
    }

    fn freeze(&mut self, below: Bucket) {
        let until = doc! { "$add": ["$$NOW", FREEZE_MS] };
        self.route(
            "Stop the writes",
            doc! { "frozen": { "from": 0, "to": i32::from(below), "until": until } },
            match self.s.plan.mode.is_told() {
                true => "Nobody else moves the traffic from here on. Users wait from the next step on.",
                false => "Applications that follow the route hold their writes to what next owns from here on, for an hour at most: until then \
                          the step that gives the writes to legacy must have been made. Users wait meanwhile.",
            },
            "n is 1. If it is 0, the route has changed since these commands were printed: print them again.",
        );
    }

    /// `told` is what applications are to be told where they do not follow the route.
    fn await_acks(&mut self, title: &str, told: &str) {
        if self.s.plan.mode.is_told() {
            let flags = match self.s.plan.switch.as_ref().and_then(|s| s.flag_file.as_ref()) {
                Some(path) => format!(" The flag file is {path}."),
                None => String::new(),
            };
            self.push((Side::Legacy, CONTROL_DB),
                &format!("{title}: turn your switch"),
                doc! { "find": "routes", "filter": { "_id": &self.s.plan.id } },
                Expect::ByHand,
                &format!(
                    "Applications go by your own switch, not by the route that this shows. Turn it by hand to: {told}.{flags} Epoch {} or \
                     more is newer than whatever they were told before.",
                    self.route_epoch
                ),
                "Go on only once every process goes by it and has no older write under way (what the hook `confirm` asks).",
            );
            return;
        }
        let plan = &self.s.plan.id;
        let filter = doc! {
            "_id": { "$gte": format!("{plan}/"), "$lt": format!("{plan}0") }, "epoch": { "$lt": self.route_epoch },
        };
        let command = doc! {
            "find": "route_acks", "filter": filter, "projection": { "process": 1, "epoch": 1 }, "readConcern": { "level": "majority" },
        };
        self.push((Side::Legacy, CONTROL_DB),
            title,
            command,
            Expect::NothingInTime,
            "Lists the processes that have not acknowledged the route of the step before. One that has acknowledged it has no older \
             write under way whose outcome is open.",
            "firstBatch is empty; run it again until it is. A process that stays in the list does not answer: see that it is dead (only \
             then), and delete its document in tidegate.route_acks. What it still writes afterwards may be lost.",
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

    /// Otherwise the server would go on refusing what legacy did not own.
    fn take_the_gate_down(&mut self) {
        let Some(before) = self.s.before_gate.clone() else { return };
        let legacy = self.s.ns(Side::Legacy).clone();
        self.push((Side::Legacy, &legacy.db),
            "Let legacy take every write",
            doc! {
                "collMod": &*legacy.coll, "validator": before.validator.unwrap_or_default(), "validationLevel": before.level,
                "validationAction": before.action, "writeConcern": majority(),
            },
            Expect::Ok,
            "The server gate had legacy refuse what next owned. This puts the validator there that stood there before.",
            "ok is 1. Without it writes to legacy would be refused with error 121.",
        );
        let plan = &self.s.plan.id;
        let ids: Vec<Bson> = Side::BOTH.iter().map(|s| format!("{plan}/{}", s.name()).into()).collect();
        self.push((Side::Legacy, CONTROL_DB),
            "Forget the kept validators",
            doc! { "delete": "validators", "deletes": [{ "q": { "_id": { "$in": ids } }, "limit": 0 }], "writeConcern": majority() },
            Expect::Ok,
            "tidegate had kept them to put them back.",
            "ok is 1.",
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
        self.await_acks("Every process reads and writes legacy", "everything on legacy");
    }

    /// TTL indexes were suspended before the first write moved.
    fn let_documents_expire(&mut self) {
        let legacy = self.s.ns(Side::Legacy).clone();
        for kept in self.s.ttl.clone() {
            self.push((Side::Legacy, &legacy.db),
                &format!("Let documents expire again by {}", crate::scrub::short(&kept.index, 80)),
                ttl::command(&legacy.coll, &kept),
                Expect::Ok,
                "tidegate had suspended this TTL index while writes were on next. What has expired meanwhile goes with the server's next round.",
                "ok is 1. What was kept of it, in tidegate.ttl, is taken away by `tidegate cleanup`.",
            );
        }
    }

    fn put_next_away(&mut self) {
        let next = self.s.ns(Side::Next).clone();
        let kept = isolated_ns(&next, &self.s.plan.id);
        let [here, there] = self.s.next;
        if here == CollKind::Collection {
            self.push((Side::Next, &next.db),
                "Seal next",
                doc! {
                    "collMod": &*next.coll, "validator": { "_id": { "$exists": false } }, "validationLevel": "strict",
                    "validationAction": "error", "writeConcern": majority(),
                },
                Expect::Ok,
                "A process that does not follow the route gets an error from here on, instead of writing where nobody looks.",
                "ok is 1.",
            );
            self.push((Side::Next, "admin"),
                "Put next away",
                doc! { "renameCollection": next.to_string(), "to": kept.to_string(), "dropTarget": false, "writeConcern": majority() },
                Expect::Ok,
                &format!("Nothing is dropped: {kept} keeps all of it. Drop it once nobody asks for it any more."),
                "ok is 1. If the connection broke and it fails when run again, look whether it has that name already.",
            );
        }
        if here == CollKind::Collection || here == CollKind::Absent && there == CollKind::Collection {
            self.push(
                (Side::Next, &next.db),
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
                pilot: None,
            });
        }
        records.push(Event::RolledBack { evidence: json!({ "by_hand": true }) });
        records.push(Event::Closed { outcome: "rolled_back".into() });
        let documents: Vec<Bson> = records.iter().map(|e| Bson::Document(self.record(e))).collect();
        let n = documents.len() as u32;
        self.push((Side::Legacy, CONTROL_DB),
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
            (Side::Legacy, CONTROL_DB),
            "Give the lease back",
            doc! { "update": "rollouts", "updates": [update], "writeConcern": majority() },
            Expect::N(1),
            "Nobody needs it any more.",
            "n is 1.",
        );
    }
}
