//! The one way a copy is written: a fresh re-sync of keys from the side that owns them (DESIGN rule 1).

use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf};

use super::ctx::{Ctx, Halt};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{Key, TxnOp};
use crate::route::Side;

/// The document that the other side should hold for one that `src` owns.
pub(super) fn image(ctx: &Ctx, src: Side, doc: &RawDocument) -> Result<RawDocumentBuf, Halt> {
    let out = match src {
        Side::Legacy => ctx.transform.apply(doc),
        Side::Next => ctx.transform.invert(doc),
    };
    out.map_err(|e| {
        let key = Key::of(doc).map_or_else(|e| e.to_string(), |k| k.to_string());
        Halt::Broken(format!("document {key} of {} cannot be carried: {e}", ctx.ns(src)))
    })
}

/// Brings the copies of `keys` in line with the documents that `src` owns now, and stores the checkpoint with them. Returns how
/// many documents were written. The keys must be distinct, and no other worker may write them meanwhile.
pub(super) async fn resync(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    keys: &[Key],
    checkpoint: Option<RawDocumentBuf>,
) -> Result<usize, Halt> {
    loop {
        let ops = if keys.is_empty() { Vec::new() } else { differences(ctx, src, keys, Absent::Put).await? };
        if ops.is_empty() && checkpoint.is_none() {
            return Ok(0);
        }
        match writer.commit(&ops, checkpoint.clone()).await {
            Ok(_) => return Ok(ops.len()),
            Err(NotCommitted::Again) => {}
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Duplicate(m)) => {
                return Err(Halt::Broken(format!(
                    "a unique index on {} refuses a document that {} holds: {m}; mend the document or the index",
                    ctx.ns(src.other()),
                    ctx.ns(src)
                )));
            }
        }
    }
}

/// How a copy that is not there yet is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// One at a time, whatever is there.
    Put,
    /// All in one statement: many times faster, and refused should one be there after all.
    Insert,
}

/// What must be written so that the copies equal the images of the owner's documents; equal bytes are not written.
pub(super) async fn differences(ctx: &Arc<Ctx>, src: Side, keys: &[Key], absent: Absent) -> Result<Vec<TxnOp>, Halt> {
    let dst = src.other();
    let after = ctx.seen(src);
    let owned = ctx.retry("reading the owner's documents", || ctx.db(src).read(ctx.ns(src), keys, after)).await?;
    ctx.saw(src, owned.at);
    let after = ctx.seen(dst);
    let copies = ctx.retry("reading the copies", || ctx.db(dst).read(ctx.ns(dst), keys, after)).await?;
    let ns = ctx.ns(dst);
    let mut ops = Vec::new();
    let mut gone = Vec::new();
    let mut new = Vec::new();
    for ((key, own), copy) in keys.iter().zip(owned.docs).zip(copies.docs) {
        match own {
            None if copy.is_some() => gone.push(key.clone()),
            None => {}
            Some(doc) => {
                let wanted = image(ctx, src, &doc)?;
                if copy.is_none() && absent == Absent::Insert {
                    new.push(wanted);
                } else if copy.is_none_or(|c| c.as_bytes() != wanted.as_bytes()) {
                    ops.push(TxnOp::Put { ns: ns.clone(), doc: wanted });
                }
            }
        }
    }
    if !new.is_empty() {
        ops.push(TxnOp::Insert { ns: ns.clone(), docs: new });
    }
    if !gone.is_empty() {
        ops.push(TxnOp::Delete { ns: ns.clone(), keys: gone });
    }
    Ok(ops)
}
