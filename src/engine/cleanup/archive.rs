//! The journal of a finished rollout moves into the archive.

use std::sync::Arc;

use bson::{Document, RawBsonRef, RawDocumentBuf, doc};

use super::{Fate, How, Left, delete, item};
use crate::cluster::{CONTROL_DB, Failed, Key, Ns, Reason, WriteOp};
use crate::engine::ctx::{Ctx, Halt};
use crate::journal::{ClusterStore, Record};
use crate::route::Side;

/// Where journals of finished rollouts are kept.
pub(super) fn archive_ns() -> Ns {
    Ns::new(CONTROL_DB, "journal_archive")
}

/// Copies the journal into the archive, then takes it away. Its first record goes first and last: with a word of the move in its place
/// nobody takes what is left for a journal, and [`half_moved`] knows how far to go on.
pub(super) async fn archive(ctx: &Arc<Ctx>, records: &[Record]) -> Result<String, Halt> {
    let run: String = records.last().map_or_else(String::new, |r| r.hash.chars().take(12).collect());
    for r in records {
        let mut d = ClusterStore::document(r);
        d.insert("_id", doc! { "rollout": &r.rollout, "run": &run, "seq": r.seq as i64 });
        let op = WriteOp::Insert { ns: archive_ns(), doc: raw(&d)? };
        ctx.retry("keeping the journal", || async {
            match ctx.db(Side::Legacy).write(&op).await {
                Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(()),
                other => other.map(drop),
            }
        })
        .await?;
    }
    let keys = journal_keys(&ctx.plan.id, records.len() as u64)?;
    if let Some(first) = keys.last() {
        let id = doc! { "rollout": &ctx.plan.id, "seq": 1_i64 };
        let doc = raw(&doc! { "_id": id, "moved": &run, "records": records.len() as i64 })?;
        let op = WriteOp::Replace { ns: journal_ns(), key: first.clone(), only_if: None, doc, upsert: false };
        ctx.retry("moving the journal", || ctx.db(Side::Legacy).write(&op)).await?;
    }
    for key in &keys {
        delete(ctx, Side::Legacy, &journal_ns(), key).await?;
    }
    Ok(format!("moved to {} as run {run}", archive_ns()))
}

fn journal_ns() -> Ns {
    Ns::new(CONTROL_DB, "journal")
}

fn raw(d: &Document) -> Result<RawDocumentBuf, Halt> {
    RawDocumentBuf::try_from(d).map_err(|e| Halt::Broken(format!("the journal cannot be kept: {e}")))
}

/// The keys of so many records, the first one last.
fn journal_keys(plan: &str, records: u64) -> Result<Vec<Key>, Halt> {
    let key = |seq: u64| {
        let id = raw(&doc! { "rollout": plan, "seq": seq as i64 })?;
        Key::new(RawBsonRef::Document(&id)).map_err(|e| Halt::Broken(format!("the journal cannot be kept: {e}")))
    };
    (1..=records).rev().map(key).collect()
}

/// A journal that an earlier cleanup had begun to move when it was cut off: it is in the archive whole.
pub(super) async fn half_moved(ctx: &Arc<Ctx>) -> Result<Option<Left>, Halt> {
    let (ns, first) = (journal_ns(), journal_keys(&ctx.plan.id, 1)?);
    let read = ctx.retry("reading the journal", || ctx.db(Side::Legacy).read(&ns, &first, ctx.seen(Side::Legacy)));
    let Some(d) = read.await?.docs.into_iter().next().flatten() else { return Ok(None) };
    let (Ok(run), Ok(n)) = (d.get_str("moved"), d.get_i64("records")) else { return Ok(None) };
    let n = u64::try_from(n).unwrap_or(1).min(10_000_000);
    let what = format!("a journal of which {} has all as run {}", archive_ns(), crate::scrub::short(run, 20));
    let how = How::Keys(journal_ns(), journal_keys(&ctx.plan.id, n)?);
    Ok(Some(item(ctx, "journal", Side::Legacy, what, n, Fate::Removed, how)))
}
