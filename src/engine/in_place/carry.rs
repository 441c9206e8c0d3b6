//! Bringing documents into the shape they are to have: one transaction over the very bytes that were read, their pre-images with it.

use std::sync::Arc;

use bson::RawDocumentBuf;

use super::super::ctx::{Ctx, Halt};
use super::super::planted::Bug;
use super::super::reconcile::Finding;
use super::super::writer::{NotCommitted, SlotWriter};
use super::judge::{Image, Judge, Undo, Verdict, Way, fingerprint};
use super::{InPlace, record, undo_ns};
use crate::cluster::{Doc, Key, Ns, TxnOp};
use crate::route::Side;
use crate::runtime::Micros;

/// Documents a transaction (DESIGN rule 13).
pub(super) const DOCS: usize = 50;
/// Bytes of documents and pre-images a transaction, unless a single document has more.
const BYTES: usize = 4 << 20;
/// How long a single document is tried before a person is asked.
const GIVE_UP: Micros = Micros::from_secs(60);
/// A cluster that takes longer for a write of its own has other troubles than the document.
const UNWELL: Micros = Micros::from_secs(1);
/// Attempts at a single document that a unique index refuses. The first may have met a record made meanwhile.
const DUPLICATES: usize = 3;

/// What became of documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Carried {
    /// Written.
    pub written: usize,
    /// Left as they are, for a person.
    pub mixed: usize,
}

/// What a part is read from.
#[derive(Clone, Copy)]
pub(in crate::engine) enum Source<'a> {
    /// An application has written these keys: they are read now.
    Events(&'a [Key]),
    /// A page of a scan; what an attempt finds changed since is read again.
    Page(&'a [(Key, Doc)]),
}

impl<'a> Source<'a> {
    fn len(self) -> usize {
        match self {
            Source::Events(keys) => keys.len(),
            Source::Page(docs) => docs.len(),
        }
    }

    fn split_at(self, n: usize) -> (Source<'a>, Source<'a>) {
        match self {
            Source::Events(keys) => (Source::Events(&keys[..n]), Source::Events(&keys[n..])),
            Source::Page(docs) => (Source::Page(&docs[..n]), Source::Page(&docs[n..])),
        }
    }

    fn first(self) -> Option<Key> {
        match self {
            Source::Events(keys) => keys.first().cloned(),
            Source::Page(docs) => docs.first().map(|(k, _)| k.clone()),
        }
    }

    /// The documents: as they were scanned the first time, read afresh after that.
    async fn docs(self, ctx: &Arc<Ctx>, again: bool) -> Result<Vec<(Key, Option<Doc>)>, Halt> {
        let keys: Vec<Key> = match self {
            Source::Page(docs) if !again => {
                return Ok(docs.iter().map(|(k, d)| (k.clone(), Some(d.clone()))).collect());
            }
            Source::Page(docs) => docs.iter().map(|(k, _)| k.clone()).collect(),
            Source::Events(keys) => keys.to_vec(),
        };
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let ns = ctx.ns(Side::Legacy);
        let after = ctx.seen(Side::Legacy);
        let read = ctx.retry("reading documents", || ctx.db(Side::Legacy).read(ns, &keys, after)).await?;
        ctx.saw(Side::Legacy, read.at);
        Ok(keys.into_iter().zip(read.docs).collect())
    }
}

/// What became of one transaction's worth.
enum Part {
    Done(Carried),
    /// Nothing; what should be written now must be read afresh.
    Again,
    TooLarge,
    /// Aborted: another write was first, or it took too long.
    Aborted(String),
    Duplicate(String),
    Refused(String),
}

/// Brings the documents into the shape they are to have now, and stores the checkpoint with the last of them.
///
/// A transaction that is aborted is halved, down to a single document; one that cannot be written even by itself is a person's to mend.
pub(in crate::engine) async fn carry(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    from: Source<'_>,
    checkpoint: Option<RawDocumentBuf>,
) -> Result<Carried, Halt> {
    let (mut rest, mut all, mut again) = (from, Carried::default(), false);
    let (mut stuck_since, mut duplicates) = (None, 0);
    loop {
        let (part, after) = rest.split_at(writer.batch(rest.len().min(DOCS)));
        let point = checkpoint.clone().filter(|_| after.len() == 0);
        match write(ctx, writer, part, again, point).await? {
            Part::Done(n) => {
                all.written += n.written;
                all.mixed += n.mixed;
                writer.went_well();
                (stuck_since, duplicates) = (None, 0);
                rest = after;
                if rest.len() == 0 {
                    return Ok(all);
                }
                continue;
            }
            Part::Again => {}
            Part::TooLarge => writer.halve(),
            Part::Aborted(_) | Part::Duplicate(_) | Part::Refused(_) if part.len() > 1 => writer.halve(),
            Part::Duplicate(why) => {
                duplicates += 1;
                if duplicates >= DUPLICATES {
                    return Err(unwritable(ctx, part, &format!("a unique index has its value already: {why}")));
                }
            }
            Part::Refused(why) => return Err(unwritable(ctx, part, &why)),
            Part::Aborted(why) => {
                let before = ctx.rt.now();
                let since = *stuck_since.get_or_insert(before);
                ctx.marker(Side::Legacy).await?;
                let now = ctx.rt.now();
                if now.since(before) > UNWELL {
                    stuck_since = None;
                } else if now.since(since) > GIVE_UP && part.len() > 0 {
                    return Err(unwritable(ctx, part, &why));
                }
            }
        }
        again = true;
    }
}

async fn write(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    part: Source<'_>,
    again: bool,
    checkpoint: Option<RawDocumentBuf>,
) -> Result<Part, Halt> {
    let Some(place) = &ctx.in_place else { return Ok(Part::Done(Carried::default())) };
    let docs = part.docs(ctx, again).await?;
    let working = place.begin();
    let made = made_up(ctx, place, working.way, docs).await?;
    if made.ops.is_empty() && checkpoint.is_none() {
        return Ok(Part::Done(made.carried));
    }
    if part.len() > 1 && made.bytes > BYTES {
        return Ok(Part::TooLarge);
    }
    let outcome = writer.commit(&made.ops, checkpoint).await;
    drop(working);
    if outcome.is_ok() && matches!(part, Source::Events(_)) {
        made.written.iter().for_each(|key| place.saw_other(ctx.rt.now(), key));
    }
    match outcome {
        Ok(_) => Ok(Part::Done(made.carried)),
        Err(NotCommitted::Again) => Ok(Part::Again),
        Err(NotCommitted::Aborted(why)) => Ok(Part::Aborted(why)),
        Err(NotCommitted::Refused(why)) => Ok(Part::Refused(why)),
        Err(NotCommitted::Duplicate(why)) => Ok(Part::Duplicate(why)),
        Err(NotCommitted::Halt(h)) => Err(h),
    }
}

/// A transaction in the making.
#[derive(Default)]
struct Made {
    ops: Vec<TxnOp>,
    written: Vec<Key>,
    carried: Carried,
    bytes: usize,
}

async fn made_up(ctx: &Arc<Ctx>, place: &InPlace, way: Way, docs: Vec<(Key, Option<Doc>)>) -> Result<Made, Halt> {
    let judge = Judge { transform: &ctx.transform, shape: &place.shape };
    let overwrites = ctx.planted.has(Bug::PreImageOverwrittenOnResume) && place.resumed && way == Way::There;
    // On the way there only what is to be written has, or gets, a record; absent stays absent on either way.
    let wanted = |doc: &Doc| match way {
        Way::There => overwrites || matches!(judge.verdict(way, doc, None), Verdict::Write(..)),
        Way::Back => true,
    };
    let docs: Vec<(Key, Doc)> = docs.into_iter().filter_map(|(k, d)| Some((k, d?))).collect();
    let keys: Vec<Key> = docs.iter().filter(|(_, d)| wanted(d)).map(|(k, _)| k.clone()).collect();
    let mut kept = keys.iter().zip(record::read(ctx, &keys).await?).peekable();
    let mut made = Made::default();
    for (key, doc) in &docs {
        let kept = kept.next_if(|(k, _)| *k == key).and_then(|(_, kept)| kept);
        if overwrites && let Some(kept) = &kept {
            // The planted mistake: what is there now is taken for what was there before.
            let image = Image { was: (**doc).to_owned(), wrote: fingerprint(doc) };
            let undo = Undo { first: image, later: None };
            made.ops.extend(swap_record(ctx, key, kept, &undo)?);
            continue;
        }
        match judge.verdict(way, doc, kept.as_ref().map(|k| &k.undo)) {
            Verdict::Leave => {}
            Verdict::Mixed(_) => made.carried.mixed += 1,
            Verdict::Write(new, undo) => {
                made.bytes += new.as_bytes().len() + undo.as_ref().map_or(0, |_| doc.size());
                match (undo, &kept) {
                    (None, _) => {}
                    (Some(undo), None) => {
                        made.ops.push(TxnOp::Insert { ns: undo_ns(), docs: vec![record::to_doc(ctx, key, &undo)] });
                    }
                    (Some(undo), Some(kept)) => made.ops.extend(swap_record(ctx, key, kept, &undo)?),
                }
                made.ops.extend(swap(ctx.ns(Side::Legacy), key, doc, new));
                made.written.push(key.clone());
                made.carried.written += 1;
            }
        }
    }
    // Statements of a kind share a command.
    made.ops.sort_by_key(|op| match op {
        TxnOp::Expect { .. } => 0,
        TxnOp::Insert { .. } => 1,
        TxnOp::Put { ns, .. } if *ns == undo_ns() => 2,
        _ => 3,
    });
    Ok(made)
}

/// Writes only over the bytes that were read.
fn swap(ns: &Ns, key: &Key, was: &Doc, doc: RawDocumentBuf) -> [TxnOp; 2] {
    [TxnOp::Expect { ns: ns.clone(), key: key.clone(), doc: Some(was.clone()) }, TxnOp::Put { ns: ns.clone(), doc }]
}

fn swap_record(ctx: &Ctx, key: &Key, kept: &record::Kept, undo: &Undo) -> Result<[TxnOp; 2], Halt> {
    let doc = record::to_doc(ctx, key, undo);
    let id = Key::of(&doc).map_err(|e| Halt::Broken(format!("the undo record of {key} has no usable _id: {e}")))?;
    Ok(swap(&undo_ns(), &id, &kept.doc, doc))
}

/// The one document that cannot be written, for the person who mends it.
fn unwritable(ctx: &Ctx, part: Source<'_>, why: &str) -> Halt {
    let ns = ctx.ns(Side::Legacy);
    Halt::Broken(match part.first() {
        Some(key) => format!("document {key} of {ns} cannot be changed: {why}; mend the document, or what refuses it"),
        None => format!("the position of the changes of {ns} cannot be stored: {why}"),
    })
}

/// For a key that is written all the time: brings it into shape as its tail worker would, and says how it then stood.
pub(in crate::engine) async fn prove(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    key: &[Key; 1],
) -> Result<Option<Finding>, Halt> {
    let carried = carry(ctx, writer, Source::Events(key), None).await?;
    // Read and found right, or written by a commit: either was so at one moment after it was asked.
    Ok(Some(if carried.mixed > 0 { Finding::Differing } else { Finding::Matched }))
}
