//! The commands that carry documents: looking, bringing, deleting, comparing. All of them run on the servers.

use bson::{Bson, Document, doc};

use super::Expect;
use super::commands::{Way, majority};
use crate::cluster::Ns;
use crate::engine::server_gate::first_hash;
use crate::route::{Bucket, Side};
use crate::transform::Class;

/// Where the images of next's documents are, on legacy's cluster and in its database as far as a join needs it.
pub(super) struct Source {
    /// The collection.
    ns: Ns,
    /// Stages that make legacy's documents of what is there.
    stages: Vec<Document>,
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

impl Way<'_> {
    pub(super) fn look_for_what_cannot_come_back(&mut self, below: Bucket) {
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
        self.push((Side::Next, &next.db),
            "Look for documents that cannot come back",
            command,
            Expect::Nothing,
            "Only reads. Lists documents on next that the plan's steps, undone and done again, would not make again: an application \
             has put something there that legacy's shape cannot hold.",
            "firstBatch is empty. Otherwise mend the documents it names first; the steps below would bring back a likeness of them. \
             A stage that raises an error has met a document that cannot be undone at all: the error names the reason.",
        );
    }

    /// Next's documents where legacy's cluster can join them with its own: next itself, or a copy.
    pub(super) fn source(&mut self, below: Bucket) -> Source {
        let (legacy, next) = (self.s.ns(Side::Legacy).clone(), self.s.ns(Side::Next).clone());
        let mut stages = owned(below);
        if self.s.one_cluster && legacy.db == next.db {
            stages.extend(self.s.inverse.clone());
            return Source { ns: next, stages };
        }
        let copy = Ns::new(&legacy.db, &format!("{}.back.{}", legacy.coll, self.s.plan.id));
        self.push(
            (Side::Legacy, &copy.db),
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
            self.push((Side::Next, &next.db), "Copy what next owns", command, Expect::Ok, why, "ok is 1.");
        } else {
            let command = doc! {
                "aggregate": &*next.coll, "pipeline": array(stages), "cursor": {}, "readConcern": { "level": "majority" },
            };
            self.push((Side::Next, &next.db),
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

    pub(super) fn bring(&mut self, source: &Source) {
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
            (Side::Legacy, &source.ns.db),
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

    pub(super) fn remove(&mut self, below: Bucket, source: &Source) {
        let legacy = self.s.ns(Side::Legacy).clone();
        let kept = format!("{}.removed.{}", legacy.coll, self.s.plan.id);
        let mut keep = self.gone(below, source);
        keep.extend([
            doc! { "$unset": "tidegate_on_next" },
            doc! { "$merge": { "into": &kept, "on": "_id", "whenMatched": "replace" } },
        ]);
        self.push((Side::Legacy, &legacy.db),
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
        self.push((Side::Legacy, &legacy.db),
            "Mark it on legacy",
            aggregate(&legacy.coll, marked),
            Expect::Ok,
            "The server deletes by a filter on the document itself: so each gets a field of its own first. Nobody reads these documents there.",
            "ok is 1.",
        );
        self.push((Side::Legacy, &legacy.db),
            "Delete it on legacy",
            doc! { "delete": &*legacy.coll, "deletes": [{ "q": { "tidegate_removed": mark }, "limit": 0 }], "writeConcern": majority() },
            Expect::Ok,
            "Deletes exactly what the step before has marked.",
            &format!("ok is 1; n is the number of documents, as many as the step before the last put into {kept}."),
        );
    }

    pub(super) fn compare(&mut self, below: Bucket, source: &Source) {
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
            self.push((Side::Legacy, &legacy.db),
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
            (Side::Next, &next.db),
            "Count what next owns",
            counted(&next.coll),
            Expect::Ok,
            "For the comparison with the next step.",
            "Remember `documents`.",
        );
        self.push(
            (Side::Legacy, &legacy.db),
            "Count the same on legacy",
            counted(&legacy.coll),
            Expect::Ok,
            "The same buckets on the other side.",
            "`documents` is the number of the step before (no document at all counts as none). Otherwise do not go on.",
        );
    }
}
