//! Compares both sides whole: both are read side by side, then every difference and every key with an event since is compared again after the
//! tails have passed a marker (DESIGN rule 14).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::RawDocument;
use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::sides::{Pair, side_by_side};
use crate::cluster::{Doc, Key};
use crate::route::{Side, bucket_of};
use crate::runtime::{Micros, fnv1a};

/// Rounds of comparing again before a difference counts.
pub(super) const ROUNDS: usize = 20;
/// The round from which a key that is still being written is judged by the worker that writes its copy.
pub(super) const BUSY_ROUND: usize = 3;
/// Keys kept for comparing again; more than that and the pass is started over later.
const KEYS_MAX: usize = 2_000_000;
/// Room made at once for so many fingerprints; more is made as they come.
const RESERVE_MAX: u64 = 16_000_000;
/// Differing keys that a pass names when it is asked to.
const FOUND_MAX: usize = 200_000;

/// How one key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Equal.
    Matched,
    /// On neither side.
    Absent,
    /// The owner has it, the copy has not.
    Missing,
    /// The copy has it, the owner has not.
    Extra,
    /// The documents differ.
    Differing,
}

impl Finding {
    pub(super) fn is_equal(self) -> bool {
        matches!(self, Finding::Matched | Finding::Absent)
    }

    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Finding::Matched => "matched",
            Finding::Absent => "absent",
            Finding::Missing => "missing",
            Finding::Extra => "extra",
            Finding::Differing => "differing",
        }
    }
}

/// The outcome of a pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub matched: u64,
    pub missing: u64,
    pub extra: u64,
    pub differing: u64,
    pub in_flight: u64,
    pub examples: Vec<String>,
    /// Which keys differ and how, as far as there is room; only of a pass that asks for them.
    pub found: Vec<(Key, Finding)>,
    /// In place: documents of neither shape, and why; they count as differing.
    pub mixed: Vec<(Key, String)>,
    /// In place: documents of neither shape that are listed and left for a person.
    pub aside: u64,
    /// What was found, where it is not that two sides match.
    pub text: Option<String>,
    /// Everything above was true of the data at this wall-clock time.
    pub through_ms: i64,
}

impl Outcome {
    /// Nothing missing, extra, differing or unresolved.
    pub(super) fn is_clean(&self) -> bool {
        self.missing + self.extra + self.differing + self.in_flight == 0
    }

    /// The evidence that the journal keeps of a clean pass.
    pub(super) fn evidence(&self) -> Value {
        let text = || format!("{} documents match on both sides", self.matched);
        let mut evidence = json!({
            "text": self.text.clone().unwrap_or_else(text),
            "matched": self.matched,
            "missing": self.missing,
            "extra": self.extra,
            "differing": self.differing,
            "checked_ratio": 1.0,
            "verified_through_ms": self.through_ms,
        });
        if self.aside > 0 {
            evidence["aside"] = json!(self.aside);
        }
        evidence
    }

    /// The outcome behind journalled evidence.
    pub(super) fn from_evidence(e: &Value) -> Outcome {
        let n = |name: &str| e.get(name).and_then(Value::as_u64).unwrap_or(0);
        Outcome {
            matched: n("matched"),
            missing: n("missing"),
            extra: n("extra"),
            differing: n("differing"),
            aside: n("aside"),
            through_ms: e.get("verified_through_ms").and_then(Value::as_i64).unwrap_or(0),
            ..Outcome::default()
        }
    }

    fn count(&mut self, key: &Key, finding: Finding) {
        match finding {
            Finding::Absent => {}
            Finding::Matched => self.matched += 1,
            Finding::Missing => self.missing += 1,
            Finding::Extra => self.extra += 1,
            Finding::Differing => self.differing += 1,
        }
        if finding.is_equal() {
            return;
        }
        if self.examples.len() < 5 {
            self.examples.push(format!("{key} {}", finding.word()));
        }
        if self.found.len() < FOUND_MAX {
            self.found.push((key.clone(), finding));
        }
    }
}

/// Compares a key's documents under its ownership.
pub(super) fn compare(ctx: &Ctx, owner: Side, legacy: Option<&RawDocument>, next: Option<&RawDocument>) -> Finding {
    match (owner, legacy, next) {
        (_, None, None) => Finding::Absent,
        (Side::Legacy, Some(_), None) | (Side::Next, None, Some(_)) => Finding::Missing,
        (Side::Legacy, None, Some(_)) | (Side::Next, Some(_), None) => Finding::Extra,
        (_, Some(l), Some(n)) => {
            // Next = T(legacy) also holds for a document untouched since its bucket moved.
            let equal = match owner {
                Side::Legacy => ctx.transform.makes(l, n),
                // What T loses only legacy has: its inverse of next's document is no proof.
                Side::Next if ctx.transform.is_lossy() => ctx.transform.makes(l, n),
                Side::Next => ctx.transform.agree(l, n),
            };
            if equal { Finding::Matched } else { Finding::Differing }
        }
    }
}

pub(super) fn owner_of(ctx: &Ctx, key: &Key) -> Side {
    bucket_of(key).map_or(Side::Legacy, |b| ctx.ownership.owner_now(key, b))
}

/// One whole pass. `None` when the engine is stopping.
pub(super) async fn pass(ctx: &Arc<Ctx>) -> Result<Option<Outcome>, Halt> {
    Ok(pass_naming(ctx, ROUNDS).await?.map(|out| Outcome { found: Vec::new(), ..out }))
}

/// As [`pass`], and names the keys that differ, after so many rounds.
pub(super) async fn pass_naming(ctx: &Arc<Ctx>, rounds: usize) -> Result<Option<Outcome>, Halt> {
    if ctx.in_place.is_some() {
        return super::in_place::reconcile(ctx).await;
    }
    *lock(&ctx.dirty) = Some(BTreeSet::new());
    lock(&ctx.live).reconcile.begin();
    let mut out = Outcome::default();
    let Some(scanned) = scan_both(ctx, &mut out).await? else { return Ok(None) };
    if !settle(ctx, &mut out, scanned, rounds).await? {
        return Ok(None);
    }
    let found = std::mem::take(&mut out.found);
    lock(&ctx.live).reconcile.finish(&out);
    Ok(Some(Outcome { found, ..out }))
}

/// What the scan found.
#[derive(Default)]
struct Scanned {
    /// Fingerprints of the keys that matched, to tell which of the keys touched later were counted already: 8 bytes a key.
    matched: Vec<u64>,
    /// The others.
    open: BTreeSet<Key>,
}

/// Equal for equal keys.
pub(super) fn fingerprint(key: &Key) -> u64 {
    fnv1a(key.order_bytes().iter().copied())
}

/// Compares both sides whole, page by page.
async fn scan_both(ctx: &Arc<Ctx>, out: &mut Outcome) -> Result<Option<Scanned>, Halt> {
    let total = super::observe::estimated_count(ctx).await;
    let mut scanned = Scanned::default();
    scanned.matched.reserve(total.unwrap_or(0).min(RESERVE_MAX) as usize);
    let mut seen = 0u64;
    let take = |page: Scanned| {
        seen += (page.matched.len() + page.open.len()) as u64;
        out.matched += page.matched.len() as u64;
        scanned.matched.extend(page.matched);
        scanned.open.extend(page.open);
        if scanned.open.len() > KEYS_MAX {
            return Err(Halt::Broken(format!(
                "more than {KEYS_MAX} keys differ between {} and {}: this is not a copy",
                ctx.ns(Side::Legacy),
                ctx.ns(Side::Next)
            )));
        }
        lock(&ctx.live).reconcile.progress(out, scanned.open.len() as u64, seen, total);
        Ok(())
    };
    if !side_by_side(ctx, true, compare_page, take).await? {
        return Ok(None);
    }
    scanned.matched.sort_unstable();
    Ok(Some(scanned))
}

fn compare_page(ctx: &Ctx, pairs: Vec<Pair>) -> Scanned {
    let mut page = Scanned::default();
    page.matched.reserve(pairs.len());
    for (key, l, n) in pairs {
        match compare(ctx, owner_of(ctx, &key), l.as_deref(), n.as_deref()) {
            Finding::Matched => page.matched.push(fingerprint(&key)),
            _ => drop(page.open.insert(key)),
        }
    }
    page
}

/// Compares again whatever differed or had an event up to a marker, until it is judged. The outcome is true of the data at that
/// marker: keys touched later stay in `dirty`, for whoever must know what has moved since. False when the engine is stopping.
async fn settle(ctx: &Arc<Ctx>, out: &mut Outcome, scanned: Scanned, rounds: usize) -> Result<bool, Halt> {
    let Some(through_ms) = pass_markers(ctx).await? else { return Ok(false) };
    out.through_ms = through_ms;
    let mut open = scanned.open;
    open.extend(lock(&ctx.dirty).replace(BTreeSet::new()).unwrap_or_default());
    let first_judged = ctx.rt.now();
    let Some(judged) = judge(ctx, open, rounds).await? else { return Ok(false) };
    if let Some(observing) = &ctx.observing {
        let since = || lock(&ctx.dirty).clone().unwrap_or_default();
        observing.rebase(&scanned.matched, &judged, since, first_judged, ctx.rt.now());
    }
    // Going back, what next cannot hold and legacy owns is where it belongs.
    let at_home = |key: &Key| ctx.aside.has(Side::Legacy, key) && owner_of(ctx, key) == Side::Legacy;
    let left = |key: &Key| ctx.returning.load(Ordering::SeqCst) && (ctx.aside.has(Side::Next, key) || at_home(key));
    let counted = judged.keys().filter(|k| scanned.matched.binary_search(&fingerprint(k)).is_ok()).count();
    out.matched = out.matched.saturating_sub(counted as u64);
    for (key, finding) in judged {
        if !finding.is_equal() && left(&key) {
            // Listed for a person, with its owner's version; nothing holds the way back up for it.
            out.aside += 1;
            continue;
        }
        let moving = !finding.is_equal() && lock(&ctx.dirty).as_ref().is_some_and(|d| d.contains(&key));
        if moving {
            out.in_flight += 1;
        } else {
            out.count(&key, finding);
        }
    }
    if out.aside > 0 {
        let n = out.aside;
        out.text = Some(format!("{} documents match on both sides, {n} are in quarantine for a person", out.matched));
    }
    Ok(true)
}

/// Compares keys again and again, until each is equal or the rounds are over. A key that is not, and had an event since, is in flight.
/// `None` when the engine is stopping.
pub(super) async fn judge(
    ctx: &Arc<Ctx>,
    mut open: BTreeSet<Key>,
    rounds: usize,
) -> Result<Option<BTreeMap<Key, Finding>>, Halt> {
    let mut judged: BTreeMap<Key, Finding> = BTreeMap::new();
    for round in 0..rounds {
        let keys: Vec<Key> = std::mem::take(&mut open).into_iter().collect();
        for (key, finding) in compare_again(ctx, &keys).await? {
            if !finding.is_equal() {
                open.insert(key.clone());
            }
            judged.insert(key, finding);
        }
        if round >= BUSY_ROUND {
            let keys: Vec<Key> = open.iter().cloned().collect();
            for (key, finding) in super::proof::judge_moving(ctx, &keys).await {
                if finding.is_equal() {
                    open.remove(&key);
                }
                judged.insert(key, finding);
            }
        }
        if open.is_empty() {
            break;
        }
        ctx.sleep(Micros::from_ms(50 * (round as u64 + 1))).await;
        // What was under way when it was read has been applied by then, or its key has an event.
        if pass_markers(ctx).await?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(judged))
}

/// Waits until every running tail has applied everything up to a marker taken now. Returns the wall-clock time of the markers, or
/// `None` when the engine is stopping.
pub(super) async fn pass_markers(ctx: &Arc<Ctx>) -> Result<Option<i64>, Halt> {
    let mut wall_ms = ctx.rt.wall_ms();
    for side in Side::BOTH {
        let tail = &ctx.tails[side as usize];
        if !tail.is_running() {
            continue;
        }
        let at = ctx.marker(side).await?;
        if ctx.observing.is_some() {
            // Nothing was written that proves the server to be at this moment: what it showed is true as of its own time.
            wall_ms = wall_ms.min(i64::from(at.secs) * 1_000);
        }
        while tail.is_running() && !tail.drain(ctx, at, ctx.rt.now() + Micros::from_secs(10)).await {
            if ctx.is_leaving() {
                return Ok(None);
            }
        }
    }
    Ok(Some(wall_ms))
}

/// Reads each key's owner first and the copy after, and compares. Nothing is cached.
pub(super) async fn compare_again(ctx: &Arc<Ctx>, keys: &[Key]) -> Result<Vec<(Key, Finding)>, Halt> {
    let mut found = Vec::with_capacity(keys.len());
    let mark = ctx.observing.as_ref().map(super::observing::Observing::mark);
    for owner in Side::BOTH {
        let owned: Vec<Key> = keys.iter().filter(|k| owner_of(ctx, k) == owner).cloned().collect();
        for part in owned.chunks(500) {
            let own = read(ctx, owner, part).await?;
            let copies = read(ctx, owner.other(), part).await?;
            let (legacy, next) = if owner == Side::Legacy { (own, copies) } else { (copies, own) };
            for ((key, l), n) in part.iter().zip(&legacy).zip(&next) {
                found.push((key.clone(), compare(ctx, owner, l.as_deref(), n.as_deref())));
            }
        }
    }
    if let (Some(observing), Some(mark)) = (&ctx.observing, mark) {
        observing.compared(&found, mark);
    }
    Ok(found)
}

pub(super) async fn read(ctx: &Arc<Ctx>, side: Side, keys: &[Key]) -> Result<Vec<Option<Doc>>, Halt> {
    let after = ctx.seen(side);
    let read = ctx.retry("reading to compare", || ctx.db(side).read(ctx.ns(side), keys, after)).await?;
    ctx.saw(side, read.at);
    Ok(read.docs)
}
