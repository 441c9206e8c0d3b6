//! One runner at a time: a lease with an epoch on legacy's cluster, in the server's time.
//!
//! The lease only says who may try; what keeps a stale runner out is the epoch in every fencing slot.

use std::future::Future;

use bson::{Bson, RawDocument, RawDocumentBuf, doc};

use crate::cluster::{CONTROL_DB, ClusterTime, Db, Expect, Failed, Key, Ns, Reason, WriteOp};
use crate::runtime::{Micros, Rt, fnv1a, sleep};

/// How long a lease lasts without renewal.
pub const LEASE: Micros = Micros::from_secs(10);

/// The namespace of leases, one document a plan.
#[must_use]
pub fn rollouts_ns() -> Ns {
    Ns::new(CONTROL_DB, "rollouts")
}

/// A lease as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Moved by every new holder.
    pub epoch: i64,
    /// Who holds it.
    pub holder: String,
    /// Server time since when, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Server time until when.
    pub expires_ms: i64,
    nonce: i64,
}

/// Why a lease was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Somebody holds it.
    #[error(
        "rollout `{plan}` is run by {holder} since {since}; its lease lasts until {until}, for another {left_s}s, and is renewed while it runs: `tidegate watch PLAN` looks on, `tidegate resume PLAN --take-over --reason TEXT` takes it over"
    )]
    Held {
        /// The plan.
        plan: String,
        /// Who.
        holder: String,
        /// Since when, RFC 3339.
        since: String,
        /// Until when without being renewed, RFC 3339, by the server's clock.
        until: String,
        /// Seconds left.
        left_s: i64,
    },
    /// The cluster does not answer.
    #[error("the lease could not be taken: {0}")]
    Cluster(String),
}

/// Somebody holds it, for so many more milliseconds.
pub(super) fn held(plan: &str, holder: &str, since_ms: i64, (until_ms, left_ms): (i64, i64)) -> LeaseError {
    let time = super::watch::time;
    LeaseError::Held {
        plan: plan.to_owned(),
        holder: holder.to_owned(),
        since: time(since_ms),
        until: time(until_ms),
        left_s: (left_ms + 999) / 1_000,
    }
}

pub(super) fn parse(d: &RawDocument) -> Option<Lease> {
    Some(Lease {
        epoch: d.get_i64("epoch").ok()?,
        holder: crate::scrub::short(d.get_str("holder").ok()?, 120),
        since_ms: d.get_i64("since_ms").ok()?,
        expires_ms: d.get_i64("expires_ms").ok()?,
        nonce: d.get_i64("nonce").ok()?,
    })
}

fn document(plan: &str, l: &Lease) -> RawDocumentBuf {
    let d = doc! {
        "_id": plan, "epoch": l.epoch, "holder": &l.holder, "since_ms": l.since_ms, "expires_ms": l.expires_ms, "nonce": l.nonce,
    };
    // A plan id and a holder's name without NUL, far below 16 MB: cannot fail.
    RawDocumentBuf::try_from(&d).unwrap_or_default()
}

/// Waits out what passes by itself, for a while.
async fn patient<T, F>(rt: &Rt, what: &str, mut op: impl FnMut() -> F) -> Result<T, LeaseError>
where
    F: Future<Output = Result<T, Failed>>,
{
    for attempt in 0u64.. {
        match op().await {
            Ok(v) => return Ok(v),
            Err(f) if f.is_transient() && attempt < 60 => sleep(rt, Micros::from_ms(100 + 20 * attempt)).await,
            Err(f) => return Err(LeaseError::Cluster(format!("{what}: {f}"))),
        }
    }
    Err(LeaseError::Cluster(what.to_owned()))
}

/// The lease as stored, read no earlier than `after`.
pub(super) async fn read(rt: &Rt, db: &Db, plan: &str, after: ClusterTime) -> Result<Option<Lease>, LeaseError> {
    let (ns, keys) = (rollouts_ns(), [Key::from(plan)]);
    let found = patient(rt, "reading the lease", || db.read(&ns, &keys, after)).await?;
    Ok(found.docs.first().and_then(|d| d.as_deref()).and_then(parse))
}

/// Takes the lease, under an epoch above every earlier one. A live holder is refused unless `take_over`.
///
/// # Errors
/// When another runner holds it, or the cluster does not answer.
pub async fn acquire(rt: &Rt, db: &Db, plan: &str, holder: &str, take_over: bool) -> Result<Lease, LeaseError> {
    for _ in 0..100 {
        // The majority time now: a stale view must not hide a newer lease.
        let seen = patient(rt, "asking for the time", || db.observe()).await?;
        let old = read(rt, db, plan, seen.majority).await?;
        if let Some(l) = old.as_ref().filter(|l| l.expires_ms > seen.server_ms && !take_over) {
            let left = (l.expires_ms, l.expires_ms - seen.server_ms);
            return Err(held(plan, &l.holder, l.since_ms, left));
        }
        let lease = Lease {
            epoch: old.as_ref().map_or(0, |l| l.epoch) + 1,
            holder: holder.to_owned(),
            since_ms: seen.server_ms,
            expires_ms: seen.server_ms + LEASE.as_ms() as i64,
            nonce: nonce(rt, holder),
        };
        if put(rt, db, plan, &lease, old.as_ref().map(|l| l.epoch)).await? {
            return Ok(lease);
        }
    }
    Err(LeaseError::Cluster("another runner keeps taking it at the same time".into()))
}

/// Tells this attempt from that of another who tries at the same moment: two who both believed that they had won would have one epoch,
/// and no fence between them.
fn nonce(rt: &Rt, holder: &str) -> i64 {
    (rt.draw(0x1ea5e, fnv1a(holder.bytes()), rt.now().0) >> 1) as i64
}

/// Compare-and-set on the epoch (`None`: nothing there). The outcome is known when this returns.
async fn put(rt: &Rt, db: &Db, plan: &str, lease: &Lease, was: Option<i64>) -> Result<bool, LeaseError> {
    let doc = document(plan, lease);
    let op = match was {
        None => WriteOp::Insert { ns: rollouts_ns(), doc },
        Some(epoch) => WriteOp::Replace {
            ns: rollouts_ns(),
            key: Key::from(plan),
            only_if: Some(Expect { field: "epoch", value: Bson::Int64(epoch) }),
            doc,
            upsert: false,
        },
    };
    let write = || async {
        match db.write(&op).await {
            Ok(w) => Ok(w.at),
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(ClusterTime::ZERO),
            Err(f) => Err(f),
        }
    };
    let at = patient(rt, "writing the lease", write).await?;
    let now = read(rt, db, plan, at).await?;
    Ok(now.is_some_and(|l| l.nonce == lease.nonce && l.epoch == lease.epoch))
}

/// Extends the lease. `Ok(Some(newer))` when another runner has taken it; transient failures are errors to try again after.
///
/// # Errors
/// When the cluster did not answer this time.
pub async fn renew(db: &Db, plan: &str, lease: &mut Lease) -> Result<Option<i64>, Failed> {
    let seen = db.observe().await?;
    lease.expires_ms = seen.server_ms + LEASE.as_ms() as i64;
    let op = replace(plan, lease);
    let written = db.write(&op).await?;
    if written.matched == 1 {
        return Ok(None);
    }
    let found = db.read(&rollouts_ns(), &[Key::from(plan)], written.at).await?;
    let now = found.docs.first().and_then(|d| d.as_deref()).and_then(parse);
    Ok(Some(now.map_or(lease.epoch + 1, |l| l.epoch)))
}

fn replace(plan: &str, lease: &Lease) -> WriteOp {
    WriteOp::Replace {
        ns: rollouts_ns(),
        key: Key::from(plan),
        only_if: Some(Expect { field: "epoch", value: Bson::Int64(lease.epoch) }),
        doc: document(plan, lease),
        upsert: false,
    }
}

/// Lets the lease run out now, so that nobody need wait for it.
pub async fn release(db: &Db, plan: &str, lease: &Lease) {
    let over = Lease { expires_ms: 0, ..lease.clone() };
    // Best effort: it runs out by itself.
    let _ = db.write(&replace(plan, &over)).await;
}
