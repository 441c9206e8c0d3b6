//! Documents of legacy that cannot be carried: T refuses them, or their `_id` has no bucket. They are left out and listed for a person,
//! each with the reason; the rollout pauses, and no stage passes while they are missing on next.

use std::sync::Arc;

use bson::RawDocument;

use super::backfill::CHUNK_BYTES;
use super::crew::Crew;
use super::ctx::{Ctx, Halt};
use super::lossy;
use super::resync::image;
use super::throttle::Pacer;
use crate::cluster::{Doc, Key, Page, PageLimit};
use crate::route::{BucketError, Side, bucket_of};

/// A document that cannot be carried, and why.
pub(super) type Misfit = (Key, String);

/// After so many the steps do not fit the collection, and a longer list helps nobody.
const AHEAD_MAX: usize = 1_000;

fn cannot_be_routed(no_bucket: &BucketError) -> String {
    format!("its _id cannot be routed: {no_bucket}")
}

/// Why an `_id` has no bucket; `None` when it has one.
fn unrouted(key: &Key) -> Option<String> {
    bucket_of(key).err().map(|e| cannot_be_routed(&e))
}

/// Takes the documents out of a page whose `_id` has no bucket.
pub(super) fn take_unrouted(page: &mut Page) -> Vec<Misfit> {
    let found: Vec<Misfit> = page.docs.iter().filter_map(|(k, _)| Some((k.clone(), unrouted(k)?))).collect();
    if !found.is_empty() {
        page.docs.retain(|(k, _)| bucket_of(k).is_ok());
    }
    found
}

/// Lists what cannot be carried. Answers how many of it nobody had been told of.
pub(super) async fn list(ctx: &Arc<Ctx>, found: &[Misfit]) -> Result<usize, Halt> {
    let mut new = 0;
    for (key, why) in found {
        new += usize::from(!ctx.aside.has(Side::Legacy, key));
        lossy::unclear(ctx, Side::Legacy, key, why).await?;
    }
    Ok(new)
}

/// Lists what the copy would come upon later, so that a person has one list to mend and not one document at a time. Reads only, and goes
/// on while the rollout is paused over the first of them, until the copy is over. False when the task is to be left.
pub(super) async fn look_ahead(ctx: &Arc<Ctx>, mut from: Option<Key>, copying: &Crew) -> Result<bool, Halt> {
    let limit = PageLimit { docs: ctx.chunk_docs, bytes: CHUNK_BYTES };
    let mut pacer = Pacer::new(ctx);
    let mut listed = 0;
    while listed < AHEAD_MAX && !copying.is_over() {
        if !pacer.pace(0).await {
            return Ok(false);
        }
        let after = ctx.seen(Side::Legacy);
        let scan = || ctx.db(Side::Legacy).scan(ctx.ns(Side::Legacy), from.as_ref(), limit, after);
        let page = ctx.retry("looking through legacy", scan).await?;
        ctx.saw(Side::Legacy, page.at);
        let why = |key: &Key, doc: &RawDocument| unrouted(key).or_else(|| image(ctx, Side::Legacy, doc).err());
        let odd: Vec<Key> = page.docs.iter().filter(|(k, d)| why(k, d).is_some()).map(|(k, _)| k.clone()).collect();
        // Mended or deleted meanwhile, perhaps, and the tail has been there already.
        let now = super::reconcile::read(ctx, Side::Legacy, &odd).await?;
        let still = |(key, doc): (Key, Option<Doc>)| {
            let why = why(&key, &doc?)?;
            Some((key, why))
        };
        let found: Vec<Misfit> = odd.into_iter().zip(now).filter_map(still).collect();
        listed += list(ctx, &found).await?;
        from = page.docs.last().map(|(k, _)| k.clone()).or(from);
        if page.end {
            break;
        }
    }
    Ok(true)
}

/// What becomes of an event on a key that has no bucket, for this reason: there is no copy of it to write.
pub(super) async fn heard(
    ctx: &Arc<Ctx>,
    src: Side,
    key: &Key,
    no_bucket: &BucketError,
    deleted: bool,
) -> Result<(), Halt> {
    if deleted {
        ctx.aside.written(src, std::slice::from_ref(key), &[]);
        return Ok(());
    }
    lossy::unclear(ctx, src, key, &cannot_be_routed(no_bucket)).await
}
