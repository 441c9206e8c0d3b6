//! Reads that give up: a trace says what it could not see, and never waits for a cluster that does not answer.

use std::sync::Arc;

use crate::cluster::{AdminDone, AdminOp, CollKind, Doc, Failed, Key, Ns};
use crate::engine::ctx::Ctx;
use crate::route::Side;
use crate::runtime::{Fut, Micros, timeout};

/// How long one answer may take.
const ANSWER: Micros = Micros::from_secs(5);
/// Attempts at a read whose failure may pass by itself, and the pause between them.
const ATTEMPTS: usize = 4;
const PAUSE: Micros = Micros::from_ms(250);

/// Why something could not be read: in words, without a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unread(pub String);

/// Asks until it is answered, refused, or nobody answers.
async fn asked<'a, T>(ctx: &Ctx, mut ask: impl FnMut() -> Fut<'a, Result<T, Failed>>) -> Result<T, Unread> {
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            ctx.sleep(PAUSE).await;
        }
        match timeout(&ctx.rt, ANSWER, ask()).await {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(f)) if f.is_transient() => last = f.to_string(),
            Some(Err(f)) => return Err(Unread(crate::scrub::short(&f.to_string(), 300))),
            None => return Err(Unread(format!("no answer for {ANSWER}"))),
        }
    }
    Err(Unread(crate::scrub::short(&last, 300)))
}

/// Documents by key, no older than anything seen of that cluster.
pub(super) async fn read(ctx: &Arc<Ctx>, side: Side, ns: &Ns, keys: &[Key]) -> Result<Vec<Option<Doc>>, Unread> {
    let after = ctx.seen(side);
    let found = asked(ctx, || ctx.db(side).read(ns, keys, after)).await?;
    ctx.saw(side, found.at);
    Ok(found.docs)
}

/// What stands under a name; `None` when the cluster does not say.
pub(super) async fn kind(ctx: &Arc<Ctx>, side: Side, ns: &Ns) -> Option<CollKind> {
    let op = AdminOp::Kind { ns: ns.clone() };
    match asked(ctx, || ctx.db(side).admin(&op)).await {
        Ok(AdminDone::Kind(kind)) => Some(kind),
        _ => None,
    }
}
