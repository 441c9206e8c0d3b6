//! The one way a copy is written: a fresh re-sync of keys from the side that owns them (DESIGN rule 1).

use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf};

use super::ctx::{Ctx, Halt};
use super::lossy::{self, Wanted};
use super::planted::Bug;
use super::unique::{GROUP, Group, carry_group};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{Doc, Key, TxnOp};
use crate::route::Side;
use crate::runtime::Micros;

/// The document that the other side should hold for one that `src` owns, or why there is none.
pub(super) fn image(ctx: &Ctx, src: Side, doc: &RawDocument) -> Result<RawDocumentBuf, String> {
    let out = match src {
        Side::Legacy => ctx.transform.apply(doc),
        Side::Next => ctx.transform.invert(doc),
    };
    out.map_err(|e| e.reason())
}

/// Keys a transaction (DESIGN rule 3).
pub(super) const PUTS: usize = 200;
/// More replaces than this are a deletion and an insertion each: a server carries those out several times faster (DESIGN rule 3).
const MANY: usize = 40;
/// Bytes a transaction, unless a single document has more.
const BYTES: usize = 4 << 20;
/// How long a single document is tried, on a cluster that takes other writes, before a person is asked.
const GIVE_UP: Micros = Micros::from_secs(60);
/// A cluster that takes longer for a write of its own has other troubles than the document.
const UNWELL: Micros = Micros::from_secs(1);

/// What became of one transaction's worth.
enum Part {
    /// So many documents were written.
    Done(usize),
    /// Nothing; what should be written now must be read afresh.
    Again,
    /// More bytes than one transaction should hold.
    TooLarge,
    /// Aborted, and why.
    Aborted(String),
    /// The cluster takes it in no case, and why.
    Refused(String),
    /// A unique index refuses it: another document of the copy has its value.
    Duplicate,
}

/// Brings the copies of `keys` in line with the documents that `src` owns now, and stores the checkpoint with the last of them.
/// Returns how many documents were written. The keys must be distinct, and no other worker may write them meanwhile.
///
/// A transaction that is aborted is halved, down to a single document (DESIGN rule 3); one that cannot be written even by itself is
/// a person's to mend.
pub(super) async fn resync(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    keys: &[Key],
    checkpoint: Option<RawDocumentBuf>,
) -> Result<usize, Halt> {
    let mut rest = keys;
    let mut written = 0;
    let mut stuck_since = None;
    loop {
        let (part, after) = rest.split_at(writer.batch(rest.len().min(PUTS)));
        let point = checkpoint.clone().filter(|_| after.is_empty());
        match write(ctx, writer, src, part, point.clone()).await? {
            Part::Done(n) => {
                written += n;
                writer.went_well();
                stuck_since = None;
                rest = after;
                if rest.is_empty() {
                    return Ok(written);
                }
            }
            Part::Again => {}
            Part::TooLarge => writer.halve(),
            Part::Aborted(_) | Part::Refused(_) if part.len() > 1 => writer.halve(),
            Part::Duplicate if part.len() > GROUP / 2 => writer.halve(),
            Part::Duplicate => {
                written += match carry_group(ctx, writer, src, part, point.as_ref()).await? {
                    Group::Done(n) => n,
                    Group::Refused => {
                        writer.halve();
                        continue;
                    }
                    Group::Aside => {
                        store(ctx, writer, src, point).await?;
                        0
                    }
                };
                stuck_since = None;
                rest = after;
                if rest.is_empty() {
                    return Ok(written);
                }
            }
            Part::Refused(why) => return Err(unwritable(ctx, src, part, &why)),
            Part::Aborted(why) => {
                let before = ctx.rt.now();
                let since = *stuck_since.get_or_insert(before);
                ctx.marker(src.other()).await?;
                let now = ctx.rt.now();
                if now.since(before) > UNWELL {
                    stuck_since = None;
                } else if now.since(since) > GIVE_UP && !part.is_empty() {
                    return Err(unwritable(ctx, src, part, &why));
                }
            }
        }
    }
}

async fn write(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    keys: &[Key],
    checkpoint: Option<RawDocumentBuf>,
) -> Result<Part, Halt> {
    let _together = ctx.together[src as usize].read().await;
    let Differences { ops, written, unclear } = match keys.is_empty() {
        true => Differences::default(),
        false => differences(ctx, src, keys, Absent::Put).await?,
    };
    if ops.is_empty() && checkpoint.is_none() {
        ctx.aside.written(src, keys, &unclear);
        return Ok(Part::Done(0));
    }
    let bytes = |op: &TxnOp| match op {
        TxnOp::Put { doc, .. } => doc.as_bytes().len(),
        TxnOp::Insert { docs, .. } => docs.iter().map(|d| d.as_bytes().len()).sum(),
        TxnOp::Delete { .. } | TxnOp::Expect { .. } => 0,
    };
    if keys.len() > 1 && ops.iter().map(bytes).sum::<usize>() > BYTES {
        return Ok(Part::TooLarge);
    }
    match writer.commit(&ops, checkpoint).await {
        Ok(_) => {
            ctx.aside.written(src, keys, &unclear);
            Ok(Part::Done(written))
        }
        Err(NotCommitted::Again) => Ok(Part::Again),
        Err(NotCommitted::Aborted(why)) => Ok(Part::Aborted(why)),
        Err(NotCommitted::Refused(why)) => Ok(Part::Refused(why)),
        Err(NotCommitted::Duplicate(_)) => Ok(Part::Duplicate),
        Err(NotCommitted::Halt(h)) => Err(h),
    }
}

/// Stores a position that nothing is written with.
pub(super) async fn store(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    checkpoint: Option<RawDocumentBuf>,
) -> Result<(), Halt> {
    while checkpoint.is_some() {
        match write(ctx, writer, src, &[], checkpoint.clone()).await? {
            Part::Done(_) => break,
            Part::Refused(why) => return Err(unwritable(ctx, src, &[], &why)),
            Part::Again | Part::Aborted(_) | Part::TooLarge | Part::Duplicate => ctx.sleep(Micros::from_ms(50)).await,
        }
    }
    Ok(())
}

/// The one document of a part that cannot be written, for the person who mends it.
fn unwritable(ctx: &Ctx, src: Side, part: &[Key], why: &str) -> Halt {
    let dst = ctx.ns(src.other());
    Halt::Broken(match part.first() {
        Some(key) => format!(
            "document {key} of {} cannot be written to {dst}: {why}; mend the document, or what {dst} refuses",
            ctx.ns(src)
        ),
        None => format!("how far {} has been carried cannot be stored: {why}", ctx.ns(src)),
    })
}

/// How a copy that is not there yet is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// One at a time, whatever is there.
    Put,
    /// All in one statement: many times faster, and refused should one be there after all.
    Insert,
}

/// The owner's documents, and then the copies, as they are now.
pub(super) async fn fresh(ctx: &Arc<Ctx>, src: Side, keys: &[Key]) -> Result<(Docs, Docs), Halt> {
    let dst = src.other();
    let after = ctx.seen(src);
    let owned = ctx.retry("reading the owner's documents", || ctx.db(src).read(ctx.ns(src), keys, after)).await?;
    ctx.saw(src, owned.at);
    let after = ctx.seen(dst);
    let copies = ctx.retry("reading the copies", || ctx.db(dst).read(ctx.ns(dst), keys, after)).await?;
    Ok((owned.docs, copies.docs))
}

type Docs = Vec<Option<Doc>>;

/// What must be written so that the copies equal the images of the owner's documents; equal bytes are not written.
pub(super) async fn differences(ctx: &Arc<Ctx>, src: Side, keys: &[Key], absent: Absent) -> Result<Differences, Halt> {
    let (owned, copies) = fresh(ctx, src, keys).await?;
    let ns = ctx.ns(src.other());
    let lossy = lossy::applies(ctx, src);
    let (mut put, mut gone, mut new, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut unclear = Vec::new();
    for ((key, own), copy) in keys.iter().zip(owned).zip(copies) {
        let change = match own {
            None if copy.is_some() && !ctx.planted.has(Bug::DeleteIgnored) => Change::Gone,
            None => continue,
            Some(doc) => match lossy::wanted(ctx, src, &doc, copy.as_deref()) {
                Wanted::Same => continue,
                Wanted::Write(doc) => Change::Put(doc),
                Wanted::Unclear(why) => {
                    lossy::unclear(ctx, src, key, &why).await?;
                    unclear.push(key.clone());
                    continue;
                }
            },
        };
        let absent_now = copy.is_none();
        if lossy && !ctx.planted.has(Bug::PreImageNotKept) {
            kept.push((key.clone(), copy));
        }
        match change {
            Change::Gone => gone.push(key.clone()),
            Change::Put(doc) if absent_now && absent == Absent::Insert => new.push(doc),
            Change::Put(doc) => put.push((key, absent_now, doc)),
        }
    }
    let written = put.len() + gone.len() + new.len();
    let mut ops = lossy::keep(ctx, &kept).await?;
    // Legacy's own followers see a replacement for what it is.
    if put.len() > MANY && src == Side::Legacy {
        gone.extend(put.iter().filter(|(_, absent, _)| !absent).map(|(key, ..)| (*key).clone()));
        new.extend(put.drain(..).map(|(.., doc)| doc));
    }
    ops.extend(put.into_iter().map(|(.., doc)| TxnOp::Put { ns: ns.clone(), doc }));
    // Before the inserts: a document of theirs may have been there.
    if !gone.is_empty() {
        ops.push(TxnOp::Delete { ns: ns.clone(), keys: gone });
    }
    if !new.is_empty() {
        ops.push(TxnOp::Insert { ns: ns.clone(), docs: new });
    }
    Ok(Differences { ops, written, unclear })
}

/// What must be written to copies.
#[derive(Default)]
pub(super) struct Differences {
    /// In order.
    pub ops: Vec<TxnOp>,
    /// Copies that they change.
    pub written: usize,
    /// Keys of which nobody can say what their copies should be; they are listed for a person.
    pub unclear: Vec<Key>,
}

/// What is done to a copy.
enum Change {
    Put(RawDocumentBuf),
    Gone,
}

/// Those of the operations that change copies; the others keep what was there before.
pub(super) fn changes<'a>(ctx: &'a Ctx, src: Side, ops: &'a [TxnOp]) -> impl Iterator<Item = &'a TxnOp> {
    let ns = ctx.ns(src.other());
    ops.iter().filter(move |op| !matches!(op, TxnOp::Expect { .. }) && op.ns() == ns)
}
