//! The way back of lossy steps between two collections: legacy keeps what T loses, and a pre-image of everything first overwritten.
//!
//! What next holds cannot say what T has lost of a document, but the document on legacy still has it: next's version goes back over it,
//! value by value ([`crate::transform::Transform::restore`]), so that what nobody edited stays as it is. Before a document is
//! overwritten for the first time it is kept in `tidegate.undo`, by the same transaction.

use std::sync::Arc;

use bson::{RawBson, RawDocument, RawDocumentBuf};

use super::ctx::{Ctx, Halt};
use super::in_place::{record, undo_ns};
use super::planted::Bug;
use super::resync::image;
use super::unique::put_aside;
use crate::cluster::{Doc, Key, TxnOp};
use crate::route::Side;
use crate::transform::Transform;

/// What a copy is to be.
#[derive(Debug, PartialEq)]
pub(super) enum Wanted {
    /// As it is.
    Same,
    /// This.
    Write(RawDocumentBuf),
    /// Nobody can say: why, without any value of the document.
    Unclear(String),
}

/// True when `src`'s documents reach the other side through steps that lose something on the way back.
pub(super) fn applies(ctx: &Ctx, src: Side) -> bool {
    src == Side::Next && ctx.transform.is_lossy()
}

/// What the copy of an owner's document is to be, given what it is.
pub(super) fn wanted(ctx: &Ctx, src: Side, own: &RawDocument, copy: Option<&RawDocument>) -> Wanted {
    if applies(ctx, src) {
        // The planted mistake: legacy gets what its inverse makes of next's document.
        let over = copy.filter(|_| !ctx.planted.has(Bug::PreImageNotKept));
        return back(&ctx.transform, own, over);
    }
    match image(ctx, src, own) {
        Ok(wanted) if copy.is_some_and(|c| c.as_bytes() == wanted.as_bytes()) => Wanted::Same,
        Ok(wanted) => Wanted::Write(wanted),
        Err(why) => Wanted::Unclear(why),
    }
}

/// Next's document on legacy, over what legacy holds. Whatever is written, T makes of it what next holds.
fn back(t: &Transform, next: &RawDocument, legacy: Option<&RawDocument>) -> Wanted {
    if legacy.is_some_and(|l| t.makes(l, next)) {
        return Wanted::Same;
    }
    let made = match legacy {
        Some(l) => t.restore(next, l),
        // Legacy never had it, or has it no longer: only what T leads back from is its inverse.
        None => t.invert(next),
    };
    match made {
        Ok(made) if t.makes(&made, next) => Wanted::Write(made),
        Ok(_) => Wanted::Unclear("the steps do not lead back to it from what it would become".into()),
        Err(e) => Wanted::Unclear(e.to_string()),
    }
}

/// What a copy is to be, or why nobody can say.
pub(super) fn image_over(
    ctx: &Ctx,
    src: Side,
    own: &RawDocument,
    copy: Option<&RawDocument>,
) -> Result<RawDocumentBuf, String> {
    match (wanted(ctx, src, own, copy), copy) {
        (Wanted::Same, Some(copy)) => Ok(copy.to_owned()),
        // Only a copy that is there can be as it should be.
        (Wanted::Same, None) => Err("there is no copy".into()),
        (Wanted::Write(doc), _) => Ok(doc),
        (Wanted::Unclear(why), _) => Err(why),
    }
}

/// Lists an owner's document of which nobody can say what the other side should hold.
pub(super) async fn unclear(ctx: &Arc<Ctx>, src: Side, key: &Key, why: &str) -> Result<(), Halt> {
    let way = if src == Side::Next { "go back to legacy" } else { "be carried to next" };
    put_aside(ctx, src, key, &format!("it cannot {way}: {why}")).await
}

/// Next's version of a document on legacy, whatever the steps lose. `None` when nobody can say what it should be.
pub(super) fn version(ctx: &Ctx, next: &RawDocument, legacy: Option<&RawDocument>) -> Option<RawDocumentBuf> {
    match wanted(ctx, Side::Next, next, legacy) {
        Wanted::Same => legacy.map(RawDocument::to_owned),
        Wanted::Write(doc) => Some(doc),
        Wanted::Unclear(_) => None,
    }
}

/// What must go before documents of legacy that are overwritten or deleted: each is what was read, and is kept if none of its key is kept
/// yet. A key that legacy did not have is noted too, so that tidegate's own writing is never taken for an original.
pub(super) async fn keep(ctx: &Arc<Ctx>, about: &[(Key, Option<Doc>)]) -> Result<Vec<TxnOp>, Halt> {
    if about.is_empty() {
        return Ok(Vec::new());
    }
    let ids = about.iter().map(|(k, _)| record::key_of(ctx, k)).collect::<Result<Vec<_>, _>>()?;
    let (ns, after) = (undo_ns(), ctx.seen(Side::Legacy));
    let read = ctx.retry("reading pre-images", || ctx.db(Side::Legacy).read(&ns, &ids, after)).await?;
    ctx.saw(Side::Legacy, read.at);
    let (mut ops, mut docs) = (Vec::new(), Vec::new());
    for ((key, doc), kept) in about.iter().zip(read.docs) {
        // What it is made of must still be there when it is written.
        ops.push(TxnOp::Expect { ns: ctx.ns(Side::Legacy).clone(), key: key.clone(), doc: doc.clone() });
        if kept.is_none() {
            let mut d = RawDocumentBuf::new();
            d.append(bson::cstr!("_id"), record::id(ctx, key));
            d.append(bson::cstr!("ns"), ctx.ns(Side::Legacy).to_string());
            match doc {
                Some(doc) => d.append(bson::cstr!("was"), &**doc),
                None => d.append(bson::cstr!("was"), RawBson::Null),
            }
            docs.push(d);
        }
    }
    if !docs.is_empty() {
        ops.push(TxnOp::Insert { ns, docs });
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::{Step, ValueType};
    use bson::rawdoc;

    fn transform() -> Transform {
        Transform::new(&[
            Step::Unset { path: "secret".into(), was: None },
            Step::Convert { path: "n".into(), from: ValueType::Double, to: ValueType::Int, lossy: true },
            Step::Rename { from: "a".into(), to: "b".into() },
        ])
    }

    #[test]
    fn what_nobody_edited_stays_as_legacy_has_it() {
        let t = transform();
        let legacy = rawdoc! { "_id": 1, "a": "x", "n": 1.5, "secret": "s" };
        let next = t.apply(&legacy).unwrap();
        assert_eq!(back(&t, &next, Some(&legacy)), Wanted::Same);
        let edited = rawdoc! { "_id": 1, "b": "y", "n": 1 };
        let want = rawdoc! { "_id": 1, "a": "y", "n": 1.5, "secret": "s" };
        assert_eq!(back(&t, &edited, Some(&legacy)), Wanted::Write(want.clone()));
        assert_eq!(back(&t, &edited, Some(&want)), Wanted::Same, "and then it is right");
        // An edit of the very value that was lost goes back by itself; the rest is still there.
        let edited = rawdoc! { "_id": 1, "b": "y", "n": 7 };
        let want = rawdoc! { "_id": 1, "a": "y", "n": 7.0, "secret": "s" };
        assert_eq!(back(&t, &edited, Some(&want.clone())), Wanted::Same);
        assert_eq!(back(&t, &edited, Some(&legacy)), Wanted::Write(want));
    }

    #[test]
    fn what_legacy_never_had_is_its_inverse_or_for_a_person() {
        let t = transform();
        let new = rawdoc! { "_id": 2, "b": "z", "n": 3 };
        assert_eq!(back(&t, &new, None), Wanted::Write(rawdoc! { "_id": 2, "a": "z", "n": 3.0 }));
        // Next holds what legacy's shape drops: on legacy nobody would know what it is.
        let odd = rawdoc! { "_id": 2, "b": "z", "n": 3, "secret": "new" };
        assert!(matches!(back(&t, &odd, None), Wanted::Unclear(_)));
    }
}
