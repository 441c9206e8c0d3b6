//! Preflight: what is known of the clusters, the collections and the documents before a rollout, and what speaks against it.
//!
//! `gather` asks (and only asks); every check is then a pure function of the facts, defined once in `list`. A check that lacks a fact says
//! why, it never passes without it.

mod capacity;
mod clusters;
mod collections;
mod documents;
mod facts;
mod gather;
mod list;
mod page;
mod rights;
mod rollouts;
mod shape;
mod study;

use std::fmt;

pub use facts::{Facts, Held, JournalEnds, Known};
pub use gather::{Surveys, gather};
pub use list::CHECKS;
pub use page::{page, pretty_role};
pub use rights::role;

use crate::cluster::survey::{ClusterFacts, Unanswered};
use crate::scrub::short;
use capacity::Estimates;
use study::Study;

/// What a check came to, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing speaks against it.
    Pass,
    /// Nothing speaks against it, but it should be known.
    Note,
    /// It could not be checked.
    Skipped,
    /// It may go wrong.
    Warn,
    /// It will go wrong, or be refused.
    Fail,
}

impl Verdict {
    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Note => "note",
            Verdict::Skipped => "skipped",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Servers and the way to them.
    Clusters,
    /// What the user may do.
    Rights,
    /// Legacy and next.
    Collections,
    /// Sampled documents.
    Documents,
    /// Time, space, the oplog.
    Capacity,
    /// What the plan says, held against what is there.
    Plan,
    /// This rollout, earlier ones, and others.
    Rollouts,
}

impl Topic {
    /// Every topic, in the order of the documentation.
    pub const ALL: [Topic; 7] = [
        Topic::Clusters,
        Topic::Rights,
        Topic::Collections,
        Topic::Documents,
        Topic::Capacity,
        Topic::Plan,
        Topic::Rollouts,
    ];

    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Topic::Clusters => "clusters",
            Topic::Rights => "rights",
            Topic::Collections => "collections",
            Topic::Documents => "documents",
            Topic::Capacity => "capacity",
            Topic::Plan => "plan",
            Topic::Rollouts => "rollouts",
        }
    }
}

/// A check: defined once, in [`CHECKS`].
pub struct Check {
    /// Its name, unique.
    pub name: &'static str,
    /// What it looks at.
    pub topic: Topic,
    /// What it is for, one sentence.
    pub purpose: &'static str,
    judge: fn(&View<'_>) -> Vec<Finding>,
}

/// What a check has found in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// Where: a cluster, a collection, a step.
    pub place: String,
    /// What.
    pub what: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

impl Finding {
    fn new(verdict: Verdict, place: &str, what: impl fmt::Display, remedy: &str) -> Finding {
        // Texts hold names and messages of others: scrubbed once, here.
        Finding { verdict, place: short(place, 300), what: short(&what.to_string(), 1_200), remedy: short(remedy, 600) }
    }

    fn pass(place: &str, what: impl fmt::Display) -> Finding {
        Finding::new(Verdict::Pass, place, what, "")
    }

    fn note(place: &str, what: impl fmt::Display, remedy: &str) -> Finding {
        Finding::new(Verdict::Note, place, what, remedy)
    }

    fn warn(place: &str, what: impl fmt::Display, remedy: &str) -> Finding {
        Finding::new(Verdict::Warn, place, what, remedy)
    }

    fn fail(place: &str, what: impl fmt::Display, remedy: &str) -> Finding {
        Finding::new(Verdict::Fail, place, what, remedy)
    }

    fn skipped(place: &str, why: &Unanswered) -> Finding {
        let remedy = match why {
            Unanswered::Right(_) => "grant it to see this checked; docs/check.md has the whole role",
            Unanswered::Failed(_) => "run the check again when the server answers this",
            Unanswered::NotAsked(_) => "mend what comes first and run the check again",
        };
        Finding::new(Verdict::Skipped, place, why, remedy)
    }
}

/// A check and what it has found.
pub struct Outcome {
    /// The check.
    pub check: &'static Check,
    /// The worst of its findings.
    pub verdict: Verdict,
    /// Never empty; worst first.
    pub findings: Vec<Finding>,
}

/// Every check and what it came to, in the order of [`CHECKS`].
pub struct Report {
    /// One a check.
    pub outcomes: Vec<Outcome>,
    /// Distinct documents that were looked at; `None` when none could be read.
    pub sampled: Option<usize>,
}

impl Report {
    /// How many checks came to this.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|o| o.verdict == verdict).count()
    }

    /// Nothing failed, nothing warns. What could not be checked does not count here; [`Report::sentence`] says it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.count(Verdict::Fail) + self.count(Verdict::Warn) == 0
    }

    /// The whole in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let n = |verdict| self.count(verdict);
        let checks = |n: usize| if n == 1 { "1 check".to_owned() } else { format!("{n} checks") };
        let (fails, warns) = (n(Verdict::Fail), n(Verdict::Warn));
        let found = match (fails, warns) {
            (0, 0) => "nothing speaks against the rollout".to_owned(),
            (0, w) => format!("the rollout may go wrong: {} {}", checks(w), if w == 1 { "warns" } else { "warn" }),
            (f, 0) => format!("do not begin: {} failed", checks(f)),
            (f, w) => format!("do not begin: {} failed, {w} more {}", checks(f), if w == 1 { "warns" } else { "warn" }),
        };
        match n(Verdict::Skipped) {
            0 => format!("{found}."),
            s => format!("{found}; {} could not be made.", checks(s)),
        }
    }
}

/// What the checks judge by.
struct View<'a> {
    f: &'a Facts,
    study: Result<Study, Unanswered>,
    estimates: Estimates,
}

impl View<'_> {
    fn legacy(&self) -> String {
        format!("legacy {}", self.f.legacy_ns())
    }

    fn next(&self) -> String {
        format!("next {}", self.f.next_ns())
    }

    /// One finding for each cluster.
    fn each(&self, judge: impl Fn(&str, &ClusterFacts) -> Finding) -> Vec<Finding> {
        let places: &[&str] =
            if self.f.clusters.len() < 2 { &["the cluster"] } else { &["legacy's cluster", "next's cluster"] };
        self.f.clusters.iter().zip(places).map(|(c, place)| judge(place, c)).collect()
    }
}

/// Judges the facts by every check.
#[must_use]
pub fn judge(facts: &Facts) -> Report {
    let study = facts.sample.as_ref().map(|docs| Study::of(facts, docs)).map_err(Clone::clone);
    let estimates = Estimates::of(facts, study.as_ref().ok());
    let view = View { f: facts, study, estimates };
    let outcomes = CHECKS
        .iter()
        .map(|check| {
            let mut findings = match facts.plan.observes() && !list::OBSERVED.contains(&check.name) {
                false => (check.judge)(&view),
                true => vec![Finding::pass("", "does not apply: tidegate only observes and writes nothing")],
            };
            findings.sort_by_key(|f| std::cmp::Reverse(f.verdict));
            if findings.is_empty() {
                findings.push(Finding::pass("", "does not apply"));
            }
            Outcome { check, verdict: findings[0].verdict, findings }
        })
        .collect();
    Report { outcomes, sampled: view.study.as_ref().ok().map(|s| s.documents) }
}
