//! What the quarantine keeps of each key: both versions, and what became of it.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf, Timestamp};

use super::super::ctx::{Ctx, Halt};
use super::super::quarantine::quarantine_ns;
use super::super::writer::{NotCommitted, SlotWriter};
use super::PART;
use crate::cluster::{Doc, Key, TxnOp};
use crate::route::Side;

/// Bytes copied to quarantine in one transaction, unless a single document has more.
const BYTES: usize = 4 << 20;

pub(super) async fn read(ctx: &Arc<Ctx>, side: Side, keys: &[Key]) -> Result<Vec<Option<Doc>>, Halt> {
    let after = ctx.seen(side);
    let get = || ctx.db(side).read(ctx.ns(side), keys, after);
    let found = match side {
        // A person resolves conflicts when next may be gone for good.
        Side::Legacy => ctx.insist("reading to salvage", get).await?,
        Side::Next => ctx.retry("reading to salvage", get).await?,
    };
    ctx.saw(side, found.at);
    Ok(found.docs)
}

/// The `_id` of a key's record in quarantine.
pub(super) fn record_id(ctx: &Ctx, key: &Key) -> String {
    format!("{}/salvage/{key}", ctx.plan.id)
}

pub(super) async fn records(ctx: &Arc<Ctx>, ids: &[String]) -> Result<Vec<Option<Doc>>, Halt> {
    let (ns, ids) = (quarantine_ns(), ids.iter().map(|id| Key::from(id.as_str())).collect::<Vec<_>>());
    let after = ctx.seen(Side::Legacy);
    let found = ctx.insist("reading the quarantine", || ctx.db(Side::Legacy).read(&ns, &ids, after)).await?;
    Ok(found.docs)
}

pub(super) fn outcome(record: Option<&Doc>) -> Option<&str> {
    record.and_then(|r| r.get_str("outcome").ok()).filter(|o| *o != "kept")
}

pub(super) fn record(ctx: &Ctx, key: &Key, outcome: &str, next: Option<&Doc>, legacy: Option<&Doc>) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), record_id(ctx, key));
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("event"), "salvage");
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("outcome"), outcome);
    d.append(bson::cstr!("at"), Timestamp::from(ctx.seen(Side::Legacy)));
    for (name, doc) in [(bson::cstr!("next"), next), (bson::cstr!("legacy"), legacy)] {
        match doc {
            Some(doc) => d.append(name, &**doc),
            None => d.append(name, RawBson::Null),
        }
    }
    d
}

/// Copies next's version of every key to quarantine before anything else is done with it.
pub(super) async fn keep(ctx: &Arc<Ctx>, writer: &mut SlotWriter, keys: &[Key]) -> Result<(), Halt> {
    for part in keys.chunks(PART) {
        let ids: Vec<String> = part.iter().map(|k| record_id(ctx, k)).collect();
        let (docs, known) = (read(ctx, Side::Next, part).await?, records(ctx, &ids).await?);
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for ((key, doc), known) in part.iter().zip(&docs).zip(&known) {
            if known.is_some() {
                continue;
            }
            let doc = record(ctx, key, "kept", doc.as_ref(), None);
            if bytes + doc.as_bytes().len() > BYTES && !ops.is_empty() {
                put(writer, &std::mem::take(&mut ops)).await?;
                bytes = 0;
            }
            bytes += doc.as_bytes().len();
            ops.push(TxnOp::Put { ns: quarantine_ns(), doc });
        }
        put(writer, &ops).await?;
    }
    Ok(())
}

/// Commits what nobody else writes.
pub(super) async fn put(writer: &mut SlotWriter, ops: &[TxnOp]) -> Result<(), Halt> {
    while !ops.is_empty() {
        match writer.commit(ops, None).await {
            Ok(_) => break,
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => {}
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Err(Halt::Broken(format!("what is on next cannot be kept in tidegate.quarantine: {why}")));
            }
        }
    }
    Ok(())
}
