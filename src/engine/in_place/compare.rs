//! Reconciliation in place: every document is looked at, and whatever is not in the shape it is to have, or had an event, is looked at
//! again after the tail has passed a marker (DESIGN rule 14). Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::ctx::{Ctx, Halt, lock};
use super::super::observe::estimated_count;
use super::super::proof::judge_moving;
use super::super::reconcile::{BUSY_ROUND, Outcome, ROUNDS, fingerprint, pass_markers};
use super::super::sides::PAGE;
use super::super::throttle::Pacer;
use super::judge::{Judge, Standing, Verdict, Way};
use super::{InPlace, record};
use crate::cluster::{Doc, Key};
use crate::route::Side;
use crate::runtime::Micros;

/// How a document stands.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Absent,
    Right,
    /// In the other shape: the tail is about to change it, or should have.
    Other,
    /// For a person, and why.
    Mixed(String),
}

impl Found {
    fn is_right(&self) -> bool {
        matches!(self, Found::Right | Found::Absent)
    }
}

/// One whole pass. `None` when the task is left.
pub(in crate::engine) async fn pass(ctx: &Arc<Ctx>) -> Result<Option<Outcome>, Halt> {
    let Some(place) = &ctx.in_place else { return Ok(None) };
    let way = place.way();
    *lock(&ctx.dirty) = Some(BTreeSet::new());
    lock(&ctx.live).reconcile.begin();
    let mut out = Outcome::default();
    let Some(scanned) = scan(ctx, place, way, &mut out).await? else { return Ok(None) };
    if !settle(ctx, place, way, &mut out, scanned).await? {
        return Ok(None);
    }
    out.text = Some(format!("{} documents are in {}'s shape", out.matched, way.shape()));
    lock(&ctx.live).reconcile.finish(&out);
    Ok(Some(out))
}

#[derive(Default)]
struct Scanned {
    /// Fingerprints of the keys that were right, sorted, to tell which of the keys touched later were counted already.
    right: Vec<u64>,
    /// The others.
    open: BTreeSet<Key>,
}

async fn scan(ctx: &Arc<Ctx>, place: &InPlace, way: Way, out: &mut Outcome) -> Result<Option<Scanned>, Halt> {
    let total = estimated_count(ctx).await;
    let (mut scanned, mut from, mut seen) = (Scanned::default(), None, 0);
    let mut pacer = Pacer::new(ctx);
    loop {
        if !pacer.pace(0).await {
            return Ok(None);
        }
        let after = ctx.seen(Side::Legacy);
        let ns = ctx.ns(Side::Legacy);
        let page = ctx.retry("scanning", || ctx.db(Side::Legacy).scan(ns, from.as_ref(), PAGE, after)).await?;
        ctx.saw(Side::Legacy, page.at);
        from = page.docs.last().map(|(k, _)| k.clone()).or(from);
        seen += page.docs.len() as u64;
        let docs = page.docs.into_iter().map(|(k, d)| (k, Some(d))).collect();
        for (key, found) in look(ctx, place, way, docs).await? {
            if found.is_right() {
                out.matched += 1;
                scanned.right.push(fingerprint(&key));
            } else {
                scanned.open.insert(key);
            }
        }
        lock(&ctx.live).reconcile.progress(out, scanned.open.len() as u64, seen, total);
        if page.end {
            scanned.right.sort_unstable();
            return Ok(Some(scanned));
        }
    }
}

/// How documents stand. On the way back what is kept of one decides too: only a document that can be undone is on its way.
async fn look(
    ctx: &Arc<Ctx>,
    place: &InPlace,
    way: Way,
    docs: Vec<(Key, Option<Doc>)>,
) -> Result<Vec<(Key, Found)>, Halt> {
    let judge = Judge { transform: &ctx.transform, shape: &place.shape };
    let mut all = Vec::with_capacity(docs.len());
    let mut asked = Vec::new();
    for (key, doc) in docs {
        let found = match doc.as_deref().map(|d| judge.standing(d)) {
            None => Found::Absent,
            Some(Standing::Next) if way == Way::There => Found::Right,
            Some(Standing::Legacy) if way == Way::Back => Found::Right,
            Some(Standing::Mixed(why)) if way == Way::There => Found::Mixed(why),
            Some(_) => {
                asked.extend(doc.filter(|_| way == Way::Back).map(|d| (all.len(), key.clone(), d)));
                Found::Other
            }
        };
        all.push((key, found));
    }
    let keys: Vec<Key> = asked.iter().map(|(_, k, _)| k.clone()).collect();
    for ((i, _, doc), kept) in asked.into_iter().zip(record::read(ctx, &keys).await?) {
        all[i].1 = match judge.verdict(way, &doc, kept.as_ref().map(|k| &k.undo)) {
            Verdict::Leave => Found::Right,
            Verdict::Write(..) => Found::Other,
            Verdict::Mixed(why) => Found::Mixed(why),
        };
    }
    Ok(all)
}

/// Looks again at whatever was not right or had an event up to a marker, until it is judged. False when the task is left.
async fn settle(ctx: &Arc<Ctx>, place: &InPlace, way: Way, out: &mut Outcome, scanned: Scanned) -> Result<bool, Halt> {
    let Some(through_ms) = pass_markers(ctx).await? else { return Ok(false) };
    out.through_ms = through_ms;
    let mut open = scanned.open;
    open.extend(lock(&ctx.dirty).replace(BTreeSet::new()).unwrap_or_default());
    let mut judged: BTreeMap<Key, Found> = BTreeMap::new();
    for round in 0..ROUNDS {
        let keys: Vec<Key> = std::mem::take(&mut open).into_iter().collect();
        for part in keys.chunks(500) {
            for (key, found) in look_again(ctx, place, way, part).await? {
                if !found.is_right() {
                    open.insert(key.clone());
                }
                judged.insert(key, found);
            }
        }
        if round >= BUSY_ROUND {
            let keys: Vec<Key> = open.iter().cloned().collect();
            for (key, finding) in judge_moving(ctx, &keys).await {
                if finding.is_equal() {
                    open.remove(&key);
                    judged.insert(key, Found::Right);
                }
            }
        }
        let is_mixed = |key: &Key| matches!(judged.get(key), Some(Found::Mixed(_)));
        if open.is_empty() || (round >= BUSY_ROUND && open.iter().all(is_mixed)) {
            break;
        }
        ctx.sleep(Micros::from_ms(50 * (round as u64 + 1))).await;
        if pass_markers(ctx).await?.is_none() {
            return Ok(false);
        }
    }
    let counted = judged.keys().filter(|k| scanned.right.binary_search(&fingerprint(k)).is_ok()).count();
    out.matched = out.matched.saturating_sub(counted as u64);
    for (key, found) in judged {
        count(ctx, way, out, key, found);
    }
    Ok(true)
}

async fn look_again(ctx: &Arc<Ctx>, place: &InPlace, way: Way, keys: &[Key]) -> Result<Vec<(Key, Found)>, Halt> {
    let ns = ctx.ns(Side::Legacy);
    let after = ctx.seen(Side::Legacy);
    let read = ctx.retry("reading to compare", || ctx.db(Side::Legacy).read(ns, keys, after)).await?;
    ctx.saw(Side::Legacy, read.at);
    look(ctx, place, way, keys.iter().cloned().zip(read.docs).collect()).await
}

fn count(ctx: &Ctx, way: Way, out: &mut Outcome, key: Key, found: Found) {
    let moving = || lock(&ctx.dirty).as_ref().is_some_and(|d| d.contains(&key));
    let why = match found {
        Found::Absent => return,
        Found::Right => {
            out.matched += 1;
            return;
        }
        Found::Other if moving() => {
            out.in_flight += 1;
            return;
        }
        Found::Other => format!("{key} is in {}'s shape", way.from()),
        Found::Mixed(why) => {
            let text = format!("{key}: {why}");
            out.mixed.push((key, why));
            text
        }
    };
    out.differing += 1;
    if out.examples.len() < 5 {
        out.examples.push(why);
    }
}
