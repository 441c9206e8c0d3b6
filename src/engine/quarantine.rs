//! Strays: events on keys that their side does not own. The event and both documents are put aside, and the rollout is told.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf, Timestamp};

use super::ctx::Ctx;
use crate::cluster::{CONTROL_DB, Change, Failed, Key, Ns, Reason, WriteOp};
use crate::route::Side;

/// Puts a stray aside in `quarantine` (idempotent: a replayed event finds its record there) and reports it.
pub(super) async fn put_aside(ctx: &Arc<Ctx>, src: Side, key: &Key, event: &Change) {
    let keys = [key.clone()];
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), format!("{}/{}/{}/{key}", ctx.plan.id, src.name(), event.at));
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("side"), src.name());
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("at"), Timestamp::from(event.at));
    d.append(bson::cstr!("event"), format!("{:?}", event.kind).to_lowercase());
    for (side, name) in [(Side::Legacy, bson::cstr!("legacy")), (Side::Next, bson::cstr!("next"))] {
        let read = ctx.retry("reading a stray", || ctx.db(side).read(ctx.ns(side), &keys, ctx.seen(side))).await;
        match read.ok().and_then(|r| r.docs.into_iter().next().flatten()) {
            Some(doc) => d.append(name, doc),
            None => d.append(name, RawBson::Null),
        }
    }
    let op = WriteOp::Insert { ns: Ns::new(CONTROL_DB, "quarantine"), doc: d };
    let stored = ctx
        .retry("storing a stray", || async {
            match ctx.db(Side::Legacy).write(&op).await {
                Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(false),
                other => other.map(|_| true),
            }
        })
        .await;
    match stored {
        Ok(false) => {}
        Ok(true) => ctx.stray(src, key),
        Err(halt) => ctx.report_halt(halt).await,
    }
}
