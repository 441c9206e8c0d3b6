//! Why a migration cannot begin as things stand: one set of words, for who looks beforehand and for who finds out.

use crate::cluster::{Ns, Validation};
use crate::plan::{Plan, Step};
use crate::scrub::short;
use crate::transform::Class;

/// Why a migration cannot begin as things stand.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Legacy is nothing that is migrated.
    #[error(
        "{0} is not a plain collection: it does not exist, is capped, a view, time-series, or has a collation or encrypted fields"
    )]
    NotPlain(Ns),
    /// Legacy refuses duplicates of something else than `_id`.
    #[error("{ns} has the unique index `{index}`; unique indexes other than _id cannot be carried yet")]
    Unique {
        /// Legacy.
        ns: Ns,
        /// The index, safe to print.
        index: String,
    },
    /// Something else stands under next's name.
    #[error("{0} exists and is not a plain collection")]
    NextNotPlain(Ns),
    /// Next is in use.
    #[error("{0} holds documents already; name an empty or a new collection as next")]
    NextFilled(Ns),
    /// A change in place over two clusters.
    #[error("{0} would change in place, so it is on one cluster: leave `next_uri` out")]
    TwoClusters(Ns),
    /// The server gate would make a lenient validator strict.
    #[error(
        "{ns} has a validator of level `{level}` and action `{action}`, which the server gate would make strict; make it strict, take it away, \
         or set `server_gate = false`"
    )]
    Lenient {
        /// The collection.
        ns: Ns,
        /// `moderate` or `off`, safe to print.
        level: String,
        /// `error` or `warn`.
        action: String,
    },
    /// A step that loses something, between two collections.
    #[error(
        "step {number} {step} is lossy: {why}; originals are kept only where documents change in place, so between two collections it has no way back"
    )]
    Lossy {
        /// From 1.
        number: usize,
        /// The step as a person would say it.
        step: String,
        /// What is lost.
        why: String,
    },
}

impl Refusal {
    /// The unique index of legacy, made safe to print.
    pub(super) fn unique(ns: &Ns, index: &str) -> Refusal {
        Refusal::Unique { ns: ns.clone(), index: short(index, 60) }
    }

    /// A validator that the server gate would make strict; `None` for one that is.
    pub(super) fn lenient(ns: &Ns, v: &Validation) -> Option<Refusal> {
        let lenient = v.validator.is_some() && (v.level != "strict" || v.action != "error");
        lenient.then(|| Refusal::Lenient { ns: ns.clone(), level: short(&v.level, 20), action: short(&v.action, 20) })
    }
}

/// The first step that would leave documents without a way back: originals that a lossy step changes are kept only in place.
#[must_use]
pub fn lossy_step(plan: &Plan) -> Option<Refusal> {
    let steps = plan.collections.iter().filter(|c| !c.in_place()).flat_map(|c| &c.steps).enumerate();
    let (i, step): (usize, &Step) = steps.into_iter().find(|(_, s)| s.class() == Class::Lossy)?;
    Some(Refusal::Lossy { number: i + 1, step: short(&step.to_string(), 160), why: short(&step.reason(), 160) })
}
