//! What the plan declares, asked of both sides: types, queries, control totals and references. The servers answer, so nothing of T is
//! believed that T itself says.
//!
//! A side gives a document and every answer about it as of one moment. Where the two documents of a key agree, so must the answers;
//! where they do not, the key is in flight, whatever is written meanwhile, and is asked about again. Nothing is written here.

mod sum;
mod tally;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::{Document, RawBson};
use serde_json::Value;

use super::coherence;
use super::ctx::{Ctx, Halt, lock};
use super::cutover::Held;
use super::live_view::Progress;
use super::reconcile::{Finding, compare, owner_of};
use super::sides::PAGE;
use super::throttle::Pacer;
use crate::cluster::{Ask, Here, Key, Question, Replies, Told};
use crate::plan::{Computed, Plan};
use crate::route::Side;
use crate::runtime::Micros;
use crate::transform::{Shape, computed};
pub use tally::Answer;
use tally::{Kind, Outcome};

/// Documents drawn from each side where not all are asked about.
const DRAWN: usize = 1_000;
/// Documents that a query finds, of each side, where not all are asked about.
const FOUND: usize = 100;
/// Keys asked about at a time, at most; fewer where their documents are large or the servers take long.
const BATCH: usize = 200;
/// Bytes of documents asked about at a time, by what they had the last time.
const DOC_BYTES: usize = 4 << 20;
/// A batch takes about as long: what waits for a rollback waits for no more than that, and the throttle has a say in between.
const TIME: Micros = Micros::from_ms(500);
/// Bytes of keys asked about at a time, unless one has more.
const BATCH_BYTES: usize = 1 << 20;
/// Rounds of asking again before a key is left in flight, or a difference counts that may pass.
const ROUNDS: u64 = 10;
/// Keys kept to ask about again; of more it is known that they are in flight.
const OPEN_MAX: usize = 100_000;
/// What is told of a question that takes too long.
const SLOW: &str = "no answer within 8 s; does it lack an index?";
/// After what is not as it must be; twice as long where it is the same again, for nobody mends a plan's question while it is asked.
const AGAIN: Micros = Micros::from_secs(5);
/// But not longer than this.
const AGAIN_MAX: Micros = Micros::from_secs(300);
/// How often next's indexes are looked at meanwhile: those are mended by hand.
const LOOK: Micros = Micros::from_secs(5);

/// One thing that a plan declares, as it is asked of each side.
struct Item {
    kind: Kind,
    name: String,
    /// Which it may be, of a type.
    types: Vec<String>,
    of: [Option<Question>; 2],
}

impl Item {
    /// It is something that was asked for.
    fn is_found(&self, v: &RawBson) -> bool {
        match v {
            RawBson::Null => false,
            RawBson::String(s) if self.kind == Kind::Type => s != "missing",
            _ => true,
        }
    }

    /// Whether the two answers about a document are alike; `None` where one was not given.
    fn judge(&self, answers: [Option<Option<&RawBson>>; 2]) -> Option<bool> {
        if self.kind == Kind::Type {
            return answers[1].map(|is| tally::is_of(is, &self.types));
        }
        if self.of.iter().zip(&answers).any(|(q, a)| q.is_some() && a.is_none()) {
            return None;
        }
        Some(tally::are_alike(answers.map(Option::flatten)))
    }
}

fn items(plan: &Plan) -> Vec<Item> {
    let mut all = Vec::new();
    for (path, types) in plan.collections.iter().flat_map(|c| &c.types) {
        let of = [None, Some(value(&Computed::type_of(path)))];
        all.push(Item { kind: Kind::Type, name: path.clone(), types: types.clone(), of });
    }
    let d = &plan.declared;
    all.extend(d.queries.iter().map(|q| Item {
        kind: Kind::Query,
        name: q.name.clone(),
        types: Vec::new(),
        of: [0, 1].map(|s| Some(matches(&q.filters[s]))),
    }));
    all.extend(d.totals.iter().map(|t| Item {
        kind: Kind::Total,
        name: t.name.clone(),
        types: Vec::new(),
        of: [0, 1].map(|s| Some(value(&t.values[s]))),
    }));
    all.extend(d.references.iter().map(|r| Item {
        kind: Kind::Reference,
        name: r.name.clone(),
        types: Vec::new(),
        of: [0, 1].map(|s| {
            let ask = Ask::Orphan { path: r.paths[s].clone(), from: r.to[s].clone(), field: r.field.clone() };
            Some(Question { ask, here: None })
        }),
    }));
    all
}

fn matches(filter: &Document) -> Question {
    let here = Shape::of_query(filter)
        .map(|shape| -> Here { Arc::new(move |d| Ok(shape.matches(d).then_some(RawBson::Boolean(true)))) });
    Question { ask: Ask::Matches(filter.clone()), here }
}

fn value(c: &Computed) -> Question {
    let of = c.clone();
    let here = c.is_computed_here().then(|| -> Here { Arc::new(move |d| computed(&of, d)) });
    Question { ask: Ask::Value(c.source.clone()), here }
}

/// Asks until both sides answer alike and next's indexes are as planned. `None` when the engine is stopping.
pub(super) async fn until_alike(
    ctx: &Arc<Ctx>,
    whole: bool,
    indexes: bool,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let (mut due, mut wait, mut before) = (ctx.rt.now(), AGAIN, None);
    while !ctx.is_leaving() {
        if ctx.is_paused() {
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        if let Some(why) = index_lacking(ctx, indexes).await? {
            held(why);
            // Whatever was found before, it is asked at once when this is mended.
            (due, wait) = (ctx.rt.now(), AGAIN);
        } else if ctx.rt.now() >= due {
            let Some(out) = pass(ctx, whole).await? else { return Ok(None) };
            // A pass may take its time, in which somebody drops one.
            let Some(why) = out.complaint().or(index_lacking(ctx, indexes).await?) else {
                return Ok(Some(out.evidence(indexes.then(|| coherence::planned(&ctx.plan)))));
            };
            wait = if before.as_ref() == Some(&why) { (wait + wait).min(AGAIN_MAX) } else { AGAIN };
            due = ctx.rt.now() + wait;
            held(why.clone());
            before = Some(why);
        }
        let rested = ctx.rt.now();
        while !ctx.is_leaving() && ctx.rt.now().since(rested) < LOOK {
            ctx.sleep(Micros::from_ms(250)).await;
        }
    }
    Ok(None)
}

async fn index_lacking(ctx: &Arc<Ctx>, indexes: bool) -> Result<Option<String>, Halt> {
    if indexes { coherence::lacking(ctx).await } else { Ok(None) }
}

/// Asks once. `None` when the engine is stopping.
pub(super) async fn pass(ctx: &Arc<Ctx>, whole: bool) -> Result<Option<Outcome>, Halt> {
    let asking = Asking::new(ctx, items(&ctx.plan));
    let mut out = Outcome::new(whole, &ctx.plan, asking.items.iter().map(|i| (i.kind, i.name.as_str())));
    let done = if whole { asking.every(&mut out).await } else { asking.some(&mut out).await };
    lock(&ctx.live).progress = None;
    if !done? {
        return Ok(None);
    }
    if out.asks_references() {
        out.lacking = coherence::reference_lacking(ctx).await?;
    }
    Ok(Some(out))
}

struct Asking<'c> {
    ctx: &'c Arc<Ctx>,
    items: Vec<Item>,
    /// The questions of each side, and which item each belongs to.
    questions: [(Vec<Question>, Vec<usize>); 2],
    /// Keys asked about at a time, for now.
    batch: AtomicUsize,
}

impl<'c> Asking<'c> {
    fn new(ctx: &'c Arc<Ctx>, items: Vec<Item>) -> Asking<'c> {
        let of =
            |side: usize| items.iter().enumerate().filter_map(|(i, item)| Some((item.of[side].clone()?, i))).unzip();
        let questions = [of(0), of(1)];
        Asking { ctx, items, questions, batch: AtomicUsize::new(BATCH) }
    }

    /// Some documents drawn from either side, and some that each query finds there. False when the engine is stopping.
    async fn some(&self, out: &mut Outcome) -> Result<bool, Halt> {
        let mut keys = BTreeSet::new();
        let mut pacer = Pacer::new(self.ctx);
        for side in Side::BOTH {
            let queries = self.items.iter().filter(|i| i.kind == Kind::Query);
            let among = queries.map(|i| (i.of[side as usize].as_ref(), FOUND));
            for (among, most) in std::iter::once((None, DRAWN)).chain(among) {
                if !pacer.pace(0).await {
                    return Ok(false);
                }
                keys.extend(self.draw(side, among, most).await?);
            }
        }
        let mut open = Vec::new();
        let keys: Vec<Key> = keys.into_iter().collect();
        Ok(self.about(&keys, &mut pacer, false, out, &mut open).await? && self.again(open, &mut pacer, out).await?)
    }

    /// Every document. False when the engine is stopping.
    async fn every(&self, out: &mut Outcome) -> Result<bool, Halt> {
        let ctx = self.ctx;
        let total = super::observe::estimated_count(ctx).await;
        let (began, mut done) = (ctx.rt.now(), 0);
        let mut pacer = Pacer::new(ctx);
        let (mut from, mut open) = (None, Vec::new());
        loop {
            let after = ctx.seen(Side::Legacy);
            let scan = || ctx.db(Side::Legacy).scan(ctx.ns(Side::Legacy), from.as_ref(), PAGE, after);
            let page = ctx.retry("scanning", scan).await?;
            ctx.saw(Side::Legacy, page.at);
            let keys: Vec<Key> = page.docs.into_iter().map(|(k, _)| k).collect();
            from = keys.last().cloned().or(from);
            done += keys.len() as u64;
            if !self.about(&keys, &mut pacer, false, out, &mut open).await? {
                return Ok(false);
            }
            let total = total.map(|t| t.max(done));
            lock(&ctx.live).progress = Some(Progress { name: "answers", done, total, began, from: 0 });
            if page.end || out.is_hopeless() {
                out.cut_short = out.is_hopeless();
                return self.again(open, &mut pacer, out).await;
            }
        }
    }

    /// Asks once more, a few times, about what was left open. False when the engine is stopping.
    async fn again(&self, mut keys: Vec<Key>, pacer: &mut Pacer<'_>, out: &mut Outcome) -> Result<bool, Halt> {
        for round in 1..=ROUNDS {
            if keys.is_empty() || out.is_hopeless() {
                break;
            }
            pacer.waits();
            self.ctx.sleep(Micros::from_ms(100 * round)).await;
            let mut open = Vec::new();
            if !self.about(&keys, pacer, round == ROUNDS, out, &mut open).await? {
                return Ok(false);
            }
            keys = open;
        }
        Ok(!self.ctx.is_leaving())
    }

    /// Asks about these keys. What may be otherwise in a moment is left open, unless this is the last time. False when the engine is
    /// stopping.
    async fn about(
        &self,
        keys: &[Key],
        pacer: &mut Pacer<'_>,
        last: bool,
        out: &mut Outcome,
        open: &mut Vec<Key>,
    ) -> Result<bool, Halt> {
        // Those that have no right copy are listed for a person.
        let has_copy = |k: &Key| !Side::BOTH.iter().any(|side| self.ctx.aside.has(*side, k));
        let (keys, without): (Vec<Key>, Vec<Key>) = keys.iter().cloned().partition(has_copy);
        out.aside += without.len() as u64;
        let mut rest = &keys[..];
        let mut most = BATCH;
        while !rest.is_empty() && !out.is_hopeless() {
            if !pacer.pace(0).await {
                return Ok(false);
            }
            let part = &rest[..fitting(rest, most.min(self.batch.load(Ordering::SeqCst)))];
            let began = self.ctx.rt.now();
            let (legacy, next) = futures_util::join!(self.ask(Side::Legacy, part), self.ask(Side::Next, part));
            let replies = [legacy?, next?];
            self.suit(part.len(), self.ctx.rt.now().since(began), &replies);
            // What one document is to blame for is found by asking about fewer.
            let is_told = |t: &Told| !matches!(t, Told::Slow | Told::Refused(_));
            if part.len() > 1 && !replies.iter().all(|r| r.told.iter().all(is_told)) {
                most = part.len() / 2;
                continue;
            }
            most = BATCH;
            self.judge(part, &replies, last, out, open);
            rest = &rest[part.len()..];
        }
        Ok(true)
    }

    /// How many keys the next batch has, by how long this one took and how large its documents were.
    fn suit(&self, keys: usize, took: Micros, replies: &[Replies; 2]) {
        let bytes: usize = replies.iter().flat_map(|r| r.docs.iter().flatten()).map(|d| d.size()).sum();
        let by_bytes = (DOC_BYTES * keys / bytes.max(1)).clamp(1, BATCH);
        let by_time = match took {
            took if took > TIME + TIME => keys / 2,
            took if took < TIME => keys * 2,
            _ => keys,
        };
        self.batch.store(by_time.clamp(1, by_bytes), Ordering::SeqCst);
    }

    /// Takes what both sides say of a batch.
    fn judge(&self, keys: &[Key], replies: &[Replies; 2], last: bool, out: &mut Outcome, open: &mut Vec<Key>) {
        let mut told = vec![[None; 2]; self.items.len()];
        let mut refused = Vec::new();
        for side in Side::BOTH {
            let s = side as usize;
            for (q, item) in self.questions[s].1.iter().enumerate() {
                let t = replies[s].told.get(q).unwrap_or(&Told::Unable);
                match t {
                    Told::Of(all) => told[*item][s] = Some(all),
                    Told::Refused(why) => refused.push((*item, side, why.clone())),
                    Told::Slow => refused.push((*item, side, SLOW.to_owned())),
                    Told::Unable => out.tallies[*item].unasked = true,
                }
            }
        }
        for (i, key) in keys.iter().enumerate() {
            let doc = |s: usize| replies[s].docs.get(i).and_then(Option::as_deref);
            let finding = compare(self.ctx, owner_of(self.ctx, key), doc(0), doc(1));
            if finding == Finding::Absent {
                continue;
            }
            let answer = |item: usize, s: usize| told[item][s].map(|all| all.get(i).and_then(Option::as_ref));
            let of = |(n, item): (usize, &Item)| item.judge([answer(n, 0), answer(n, 1)]);
            let judged: Vec<Option<bool>> = self.items.iter().enumerate().map(of).collect();
            // What a document refers to may come or go between the two answers; all else is of these very documents.
            let passes = |(item, alike): (&Item, &Option<bool>)| item.kind == Kind::Reference && *alike == Some(false);
            if !finding.is_equal() || (!last && self.items.iter().zip(&judged).any(passes)) {
                if last || open.len() >= OPEN_MAX {
                    out.in_flight += 1;
                } else {
                    open.push(key.clone());
                }
                continue;
            }
            // Of a batch of one: it is this document.
            for (item, side, why) in refused.drain(..) {
                out.tallies[item].refused(side, key, &why);
            }
            out.documents += 1;
            for (n, alike) in judged.into_iter().enumerate() {
                if let Some(alike) = alike {
                    let found = answer(n, Side::Legacy as usize).or_else(|| answer(n, Side::Next as usize));
                    let found = found.flatten().filter(|v| self.items[n].is_found(v));
                    out.tallies[n].count(alike, found, key);
                }
            }
        }
    }

    async fn ask(&self, side: Side, keys: &[Key]) -> Result<Replies, Halt> {
        let ctx = self.ctx;
        let questions = &self.questions[side as usize].0;
        let after = ctx.seen(side);
        let replies = ctx.retry("asking", || ctx.db(side).ask(ctx.ns(side), keys, questions, after)).await?;
        ctx.saw(side, replies.at);
        Ok(replies)
    }

    async fn draw(&self, side: Side, among: Option<&Question>, most: usize) -> Result<Vec<Key>, Halt> {
        let ctx = self.ctx;
        ctx.retry("drawing documents", || ctx.db(side).draw(ctx.ns(side), among, most)).await
    }
}

/// How many of `keys` are asked about together: at most so many, and few bytes of them, but one.
fn fitting(keys: &[Key], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |k: &&Key| {
        bytes += k.order_bytes().len();
        bytes <= BATCH_BYTES
    };
    keys.iter().take(most).take_while(fits).count().max(1).min(keys.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_few_keys_and_few_bytes_but_one_at_least() {
        let small: Vec<Key> = (0..401i64).map(Key::from).collect();
        assert_eq!((fitting(&small, 200), fitting(&small, 1), fitting(&small[400..], 200)), (200, 1, 1));
        let large: Vec<Key> = (0..3).map(|n| Key::from("x".repeat((n + 1) * 500_000).as_str())).collect();
        assert_eq!((fitting(&large, 200), fitting(&large[2..], 200), fitting(&[], 200)), (1, 1, 0));
    }
}
