//! Why a migration cannot begin as things stand: one set of words, for who looks beforehand and for who finds out.

use crate::cluster::{Ns, Validation};
use crate::scrub::short;

/// Why a migration cannot begin as things stand.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Legacy is nothing that is migrated.
    #[error(
        "{0} is not a plain collection: it does not exist, is capped, a view, time-series, or has a collation or encrypted fields"
    )]
    NotPlain(Ns),
    /// Legacy refuses duplicates that next could not be made to refuse.
    #[error("{ns} has the unique index `{index}`{why}")]
    Unique {
        /// Legacy.
        ns: Ns,
        /// The index, safe to print.
        index: String,
        /// What is in the way and what to do, to follow it.
        why: String,
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
}

impl Refusal {
    /// A validator that the server gate would make strict; `None` for one that is.
    pub(super) fn lenient(ns: &Ns, v: &Validation) -> Option<Refusal> {
        let lenient = v.validator.is_some() && (v.level != "strict" || v.action != "error");
        lenient.then(|| Refusal::Lenient { ns: ns.clone(), level: short(&v.level, 20), action: short(&v.action, 20) })
    }
}
