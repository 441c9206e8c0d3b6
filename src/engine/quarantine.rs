//! Strays: events on keys that their side does not own. The event and both documents are put aside, and the rollout is told. So is it of
//! an owner's document that its copy refuses.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf, Timestamp};

use super::ctx::{Ctx, Halt};
use crate::cluster::{CONTROL_DB, ChangeKind, ClusterTime, Doc, Failed, Key, Ns, Reason, WriteOp};
use crate::rollout::Event;
use crate::route::Side;

/// Where documents are put aside for a person.
pub(super) fn quarantine_ns() -> Ns {
    Ns::new(CONTROL_DB, "quarantine")
}

/// The largest document that is kept in a list: a server takes 16 MiB, and the record has fields of its own.
const KEPT_MAX: usize = 15 << 20;

/// Puts a stray aside in `quarantine` (idempotent: a replayed event finds its record there) and reports it.
pub(super) async fn put_aside(ctx: &Arc<Ctx>, src: Side, key: &Key, kind: ChangeKind, at: ClusterTime) {
    let keys = [key.clone()];
    let id = format!("{}/{}/{at}/{key}", ctx.plan.id, src.name());
    let ns = quarantine_ns();
    let known = [Key::from(id.as_str())];
    let seen =
        ctx.retry("looking for a stray", || ctx.db(Side::Legacy).read(&ns, &known, ctx.seen(Side::Legacy))).await;
    if seen.is_ok_and(|r| r.docs.first().is_some_and(Option::is_some)) {
        return;
    }
    // Told before it is stored: cut off between the two, a restart tells it again rather than never.
    let found = Event::StrayFound { key: key.to_string(), side: src.name().to_owned(), why: None, kept: id.clone() };
    ctx.record(found).await;
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), id);
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("side"), src.name());
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("at"), Timestamp::from(at));
    d.append(bson::cstr!("event"), format!("{kind:?}").to_lowercase());
    for (side, name) in [(Side::Legacy, bson::cstr!("legacy")), (Side::Next, bson::cstr!("next"))] {
        let read = ctx.retry("reading a stray", || ctx.db(side).read(ctx.ns(side), &keys, ctx.seen(side))).await;
        match read.ok().and_then(|r| r.docs.into_iter().next().flatten()) {
            Some(doc) => d.append(name, &*doc),
            None => d.append(name, RawBson::Null),
        }
    }
    let op = WriteOp::Insert { ns: ns.clone(), doc: d };
    let store = || async {
        match ctx.db(Side::Legacy).write(&op).await {
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(()),
            other => other.map(drop),
        }
    };
    if let Err(halt) = ctx.retry("storing a stray", store).await {
        ctx.report_halt(halt).await;
    }
}

/// Lists an owner's document that cannot be written on the other side, with why, and tells the rollout: until a person has mended it,
/// the way back would lose it. Told once; the list holds the newest version.
pub(super) async fn leave(ctx: &Arc<Ctx>, src: Side, key: &Key, why: &str) -> Result<(), Halt> {
    // One at a time: two that meet the same document would both tell of it.
    let _alone = ctx.listing.lock().await;
    let keys = [key.clone()];
    let id = format!("{}/{}/refused/{key}", ctx.plan.id, src.name());
    let ns = quarantine_ns();
    let known = [Key::from(id.as_str())];
    let seen = ctx.retry("looking into the list", || ctx.db(Side::Legacy).read(&ns, &known, ctx.seen(Side::Legacy)));
    let listed = seen.await?.docs.into_iter().next().flatten();
    let read = ctx.retry("reading a document", || ctx.db(src).read(ctx.ns(src), &keys, ctx.seen(src))).await?;
    // One that leaves no room for the rest of its record is named, and not kept.
    let document = read.docs.into_iter().next().flatten().filter(|d| d.as_bytes().len() <= KEPT_MAX);
    let open = listed.as_ref().is_some_and(|d| !matches!(d.get("outcome"), Ok(Some(_))));
    let same = |d: &Doc| {
        d.get_document("document").ok().map(bson::RawDocument::as_bytes) == document.as_deref().map(|d| d.as_bytes())
    };
    if open && listed.as_ref().is_some_and(same) {
        return Ok(());
    }
    if !open {
        // Told before it is stored, as a stray is.
        let event = Event::StrayFound {
            key: key.to_string(),
            side: src.name().to_owned(),
            why: Some(why.to_owned()),
            kept: id.clone(),
        };
        ctx.record(event).await;
    }
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), id);
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("side"), src.name());
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("event"), "refused");
    d.append(bson::cstr!("why"), why);
    match &document {
        Some(doc) => d.append(bson::cstr!("document"), &**doc),
        None => d.append(bson::cstr!("document"), RawBson::Null),
    }
    let [known] = known;
    let op = WriteOp::Replace { ns: ns.clone(), key: known, only_if: None, doc: d, upsert: true };
    ctx.retry("listing a document", || async { ctx.db(Side::Legacy).write(&op).await.map(drop) }).await
}

/// The keys of a side that [`leave`] has listed.
pub(super) async fn left(ctx: &Arc<Ctx>, src: Side) -> Result<Vec<Key>, Halt> {
    let prefix = format!("{}/{}/refused/", ctx.plan.id, src.name());
    let all = super::cleanup::with_prefix(ctx, Side::Legacy, &quarantine_ns(), &prefix).await?;
    let open = all.iter().filter(|(_, d)| !matches!(d.get("outcome"), Ok(Some(_))));
    Ok(open.filter_map(|(_, d)| Key::new(d.get("key").ok()??).ok()).collect())
}
