//! Comparing both sides outside a rollout: `tidegate verify`.

use super::answers::{self, Answer};
use super::ctx::{Ctx, Halt};
use super::reconcile::pass;
use super::{Config, Deps, observe};
use crate::route::Side;
use tokio::sync::mpsc;

/// Why a verification could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The cluster.
    #[error("{0}")]
    Cluster(#[from] Halt),
    /// Legacy has been renamed away.
    #[error(
        "rollout `{plan}` is finished: legacy is kept as {kept} and no longer follows, so there is nothing to compare"
    )]
    Finished {
        /// The plan.
        plan: String,
        /// Where legacy is.
        kept: String,
    },
    /// There is nothing to compare with.
    #[error("rollout `{0}` has not been begun: there is no route, and next holds nothing to compare with")]
    NoRoute(String),
}

/// What a comparison of both sides found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifyOutcome {
    /// Keys equal on both sides.
    pub matched: u64,
    /// Keys the owner has and the copy has not.
    pub missing: u64,
    /// Keys the copy has and the owner has not.
    pub extra: u64,
    /// Keys whose documents differ.
    pub differing: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
    /// True as of this wall-clock time, milliseconds since the Unix epoch.
    pub through_ms: i64,
    /// What the plan declares, asked about every document.
    pub answers: Vec<Answer>,
    /// Documents asked about, and those that were written too often to be.
    pub asked: [u64; 2],
    /// Too many of those for the answers to say much.
    pub in_flux: bool,
    /// A collection that documents refer to and that is not there.
    pub lacking: Option<String>,
}

impl VerifyOutcome {
    /// Every document has its like on the other side.
    #[must_use]
    pub fn documents_match(&self) -> bool {
        self.missing + self.extra + self.differing == 0
    }

    /// Nothing differs.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.documents_match() && !self.in_flux && self.lacking.is_none() && self.answers.iter().all(|a| a.alike)
    }
}

/// Compares both sides whole, as an onlooker: nothing is written, no tail runs. Differences that a running rollout is about to mend
/// are looked at again a few times before they count.
///
/// # Errors
/// When a cluster cannot be read, or the rollout has not been begun.
pub async fn verify(deps: &Deps) -> Result<VerifyOutcome, VerifyError> {
    let (to_runner, _inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, &Config::default(), 0, to_runner);
    for side in Side::BOTH {
        let seen = ctx.retry("looking at the cluster", || ctx.db(side).observe()).await?;
        ctx.saw(side, seen.majority);
    }
    // Where another tool migrates there is no route, and legacy is what next is held against.
    if ctx.observing.is_none() {
        let route = observe::read_route(&ctx).await?.ok_or_else(|| VerifyError::NoRoute(deps.plan.id.clone()))?;
        if super::tasks::is_quarantined(&ctx).await? {
            let kept = super::tasks::quarantine_ns(ctx.ns(Side::Legacy), &deps.plan.id).to_string();
            return Err(VerifyError::Finished { plan: deps.plan.id.clone(), kept });
        }
        ctx.ownership.set(route);
    }
    // Nothing can stop it: it answers with an outcome.
    let out = pass(&ctx).await?.unwrap_or_default();
    let asked = if deps.plan.asks() { answers::pass(&ctx, true).await? } else { None };
    Ok(VerifyOutcome {
        matched: out.matched,
        missing: out.missing,
        extra: out.extra,
        differing: out.differing + out.in_flight,
        examples: out.examples,
        through_ms: out.through_ms,
        asked: asked.as_ref().map_or([0; 2], |a| [a.documents, a.in_flight]),
        in_flux: asked.as_ref().is_some_and(|a| a.is_in_flux()),
        lacking: asked.as_ref().and_then(|a| a.lacking.clone()),
        answers: asked.map(|a| a.answers()).unwrap_or_default(),
    })
}
