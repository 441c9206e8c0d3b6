//! Everything the checks judge by.

use std::sync::Arc;

use crate::cluster::survey::{Answer, ClusterFacts, CollectionFacts, Explained};
use crate::cluster::{Doc, Ns};
use crate::plan::{Collection, Plan};
use crate::route::{Route, Side};

/// Everything the checks judge by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The plan.
    pub plan: Arc<Plan>,
    /// This machine's clock when they were gathered, milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Legacy's cluster, and next's when it is another one.
    pub clusters: Vec<ClusterFacts>,
    /// Legacy.
    pub legacy: CollectionFacts,
    /// Next; the same as legacy in place.
    pub next: CollectionFacts,
    /// What stands in legacy's database, and in next's.
    pub names: [Answer<Vec<String>>; 2],
    /// Documents of legacy, drawn at random.
    pub sample: Answer<Vec<Doc>>,
    /// How each query of the plan would be answered, on legacy and on next.
    pub queries: Vec<[Answer<Explained>; 2]>,
    /// This plan, and others whose route names one of the collections.
    pub known: Answer<Vec<Known>>,
    /// What is missing for each hook of the plan to be called, on this machine.
    pub hooks: Vec<Option<String>>,
    /// Collections of the control database that hold documents of an earlier rollout of this plan.
    pub leftovers: Answer<Vec<String>>,
}

/// What the control database knows of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The plan's id.
    pub plan: String,
    /// Its route.
    pub route: Option<Route>,
    /// Who holds its lease, or held it last.
    pub lease: Option<Held>,
    /// The first and the last record of its journal.
    pub journal: Option<JournalEnds>,
}

/// A lease as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Who.
    pub holder: String,
    /// Since when, on the server's clock, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Until when, on the server's clock, milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// What a journal began and ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalEnds {
    /// The hash of the plan it was begun with, or last amended to.
    pub plan_hash: String,
    /// It is closed: the rollout is over.
    pub closed: bool,
    /// Its last record's kind.
    pub last: String,
}

impl Facts {
    pub(super) fn collection(&self) -> &Collection {
        // A plan that parses has exactly one.
        &self.plan.collections[0]
    }

    pub(super) fn in_place(&self) -> bool {
        self.collection().in_place()
    }

    pub(super) fn legacy_ns(&self) -> &Ns {
        &self.collection().legacy
    }

    pub(super) fn next_ns(&self) -> &Ns {
        &self.collection().next
    }

    /// What is known of a side's collection.
    pub(super) fn side(&self, side: Side) -> (&CollectionFacts, &Ns) {
        match side {
            Side::Legacy => (&self.legacy, self.legacy_ns()),
            Side::Next => (&self.next, self.next_ns()),
        }
    }

    /// The cluster of a side.
    pub(super) fn cluster(&self, side: Side) -> Option<&ClusterFacts> {
        match side {
            Side::Legacy => self.clusters.first(),
            Side::Next => self.clusters.last(),
        }
    }

    /// The clock of legacy's primary now, milliseconds since the Unix epoch.
    pub(super) fn server_ms(&self) -> i64 {
        let hello = self.clusters.first().and_then(|c| c.hello.as_ref().ok());
        self.wall_ms + hello.map_or(0, |h| h.skew.ms)
    }

    /// What is known of this plan's own rollout.
    pub(super) fn own(&self) -> Option<&Known> {
        self.known.as_ref().ok()?.iter().find(|k| k.plan == self.plan.id)
    }

    /// This plan's rollout has been begun and is not over.
    pub(super) fn is_under_way(&self) -> bool {
        self.own().and_then(|k| k.journal.as_ref()).is_some_and(|j| !j.closed)
    }
}
