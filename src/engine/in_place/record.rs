//! The records of `undo`: `{ _id: { rollout, key }, ns, was, wrote, later: { was, wrote } }`.

use std::sync::Arc;

use bson::spec::BinarySubtype;
use bson::{Binary, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::super::ctx::{Ctx, Halt};
use super::judge::{Image, Undo};
use super::undo_ns;
use crate::cluster::{Doc, Key};
use crate::route::Side;

/// A record as it was read.
pub(super) struct Kept {
    pub undo: Undo,
    /// Its bytes: a record is written over the very bytes that were read, like any document.
    pub doc: Doc,
}

/// The record's key for a document's.
pub(in crate::engine) fn key_of(ctx: &Ctx, key: &Key) -> Result<Key, Halt> {
    Key::new(RawBsonRef::Document(&id(ctx, key))).map_err(|e| Halt::Broken(format!("the _id {key}: {e}")))
}

/// The record's `_id`.
pub(in crate::engine) fn id(ctx: &Ctx, key: &Key) -> RawDocumentBuf {
    let mut id = RawDocumentBuf::new();
    id.append(bson::cstr!("rollout"), ctx.plan.id.as_str());
    id.append(bson::cstr!("key"), RawBson::from(key.value()));
    id
}

/// The record as stored.
pub(super) fn to_doc(ctx: &Ctx, key: &Key, undo: &Undo) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), id(ctx, key));
    d.append(bson::cstr!("ns"), ctx.ns(Side::Legacy).to_string());
    append(&mut d, &undo.first);
    if let Some(later) = &undo.later {
        let mut l = RawDocumentBuf::new();
        append(&mut l, later);
        d.append(bson::cstr!("later"), l);
    }
    d
}

fn append(d: &mut RawDocumentBuf, image: &Image) {
    d.append(bson::cstr!("was"), image.was.clone());
    d.append(bson::cstr!("wrote"), Binary { subtype: BinarySubtype::Generic, bytes: image.wrote.to_vec() });
}

fn image(d: &RawDocument) -> Option<Image> {
    let was = d.get_document("was").ok()?.to_owned();
    let wrote = match d.get("wrote").ok()?? {
        RawBsonRef::Binary(b) => b.bytes.try_into().ok()?,
        _ => return None,
    };
    Some(Image { was, wrote })
}

/// A record as it was stored; `None` when it is damaged, or keeps a document of another collection.
pub(in crate::engine) fn parse(d: &RawDocument) -> Option<Undo> {
    let later = match d.get("later").ok()? {
        Some(RawBsonRef::Document(l)) => Some(image(l)?),
        Some(_) => return None,
        None => None,
    };
    Some(Undo { first: image(d)?, later })
}

/// What is kept of these documents, in their order.
pub(super) async fn read(ctx: &Arc<Ctx>, keys: &[Key]) -> Result<Vec<Option<Kept>>, Halt> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let ns = undo_ns();
    let ids = keys.iter().map(|k| key_of(ctx, k)).collect::<Result<Vec<_>, _>>()?;
    let after = ctx.seen(Side::Legacy);
    let read = ctx.retry("reading pre-images", || ctx.db(Side::Legacy).read(&ns, &ids, after)).await?;
    ctx.saw(Side::Legacy, read.at);
    let kept = |(doc, key): (Option<Doc>, &Key)| match doc {
        None => Ok(None),
        Some(doc) => match parse(&doc) {
            Some(undo) => Ok(Some(Kept { undo, doc })),
            None => Err(Halt::Broken(format!("the record of {key} in {ns} is damaged: mend or restore it first"))),
        },
    };
    read.docs.into_iter().zip(keys).map(kept).collect()
}
