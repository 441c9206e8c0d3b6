//! Reads both sides whole, side by side: pages of legacy in `_id` order, each with what next holds between its ends, a few of them at a
//! time. Writes nothing, and says nothing about what it reads: whoever asks judges the pairs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::crew::{Crew, joined};
use super::ctx::{Ctx, Halt, lock};
use super::throttle::Pacer;
use crate::cluster::{Doc, Key, Page, PageLimit};
use crate::route::Side;

/// A page of a comparison.
pub(super) const PAGE: PageLimit = PageLimit { docs: 2_000, bytes: 4 << 20 };
/// Pages being read and judged at the same time.
const READERS: usize = 4;
/// Where next holds more than legacy between two keys, the rest is asked for in pages of at least so many documents.
const REST: usize = 100;

/// A key and what either side holds of it.
pub(super) type Pair = (Key, Option<Doc>, Option<Doc>);

struct Reading {
    /// Where the next page of legacy begins; whose turn it is to read that has it locked.
    from: tokio::sync::Mutex<Option<Key>>,
    /// Over once legacy has been read to its end.
    crew: Crew,
}

/// Has every key of either side judged: `judge` gets pairs in `_id` order, off the executor, and `take` what it made of them. Pages come in
/// any order; each key comes at most once. Work that is `paced` keeps to the throttle, and answers false when the
/// engine is stopping.
pub(super) async fn side_by_side<T: Send + 'static>(
    ctx: &Arc<Ctx>,
    paced: bool,
    judge: impl Fn(&Ctx, Vec<Pair>) -> T + Send + Sync + 'static,
    take: impl FnMut(T) -> Result<(), Halt> + Send,
) -> Result<bool, Halt> {
    let reading = Reading { from: tokio::sync::Mutex::new(None), crew: Crew::default() };
    let (judge, take) = (Arc::new(judge), Mutex::new(take));
    let pacer = || paced.then(|| Pacer::new(ctx).one_of(READERS));
    let one = |_| reading.crew.one(read_on(ctx, &reading, pacer(), &judge, &take));
    joined(join_all((0..READERS).map(one)).await)?;
    Ok(!reading.crew.has_left())
}

/// One reader: page after page, until there is none.
async fn read_on<T: Send + 'static>(
    ctx: &Arc<Ctx>,
    reading: &Reading,
    mut pacer: Option<Pacer<'_>>,
    judge: &Arc<impl Fn(&Ctx, Vec<Pair>) -> T + Send + Sync + 'static>,
    take: &Mutex<impl FnMut(T) -> Result<(), Halt> + Send>,
) -> Result<(), Halt> {
    loop {
        if let Some(pacer) = &mut pacer {
            if !pacer.pace(0).await {
                reading.crew.leave();
            }
            pacer.waits();
        }
        let mut turn = reading.from.lock().await;
        if reading.crew.is_over() {
            return Ok(());
        }
        if pacer.as_mut().is_some_and(|pacer| !pacer.begins()) {
            continue;
        }
        let page = scan(ctx, Side::Legacy, turn.as_ref(), PAGE).await?;
        let last = page.docs.last().map(|(k, _)| k.clone()).or_else(|| turn.clone());
        let from = std::mem::replace(&mut *turn, last.clone());
        if page.end {
            reading.crew.end();
        }
        drop(turn);
        let to = last.filter(|_| !page.end);
        beside(ctx, page, from, to, judge, take).await?;
    }
}

/// Reads what next holds after `from` up to `to`, or to the end, and has it judged beside legacy's page of that range.
async fn beside<T: Send + 'static>(
    ctx: &Arc<Ctx>,
    page: Page,
    mut from: Option<Key>,
    to: Option<Key>,
    judge: &Arc<impl Fn(&Ctx, Vec<Pair>) -> T + Send + Sync + 'static>,
    take: &Mutex<impl FnMut(T) -> Result<(), Halt> + Send>,
) -> Result<(), Halt> {
    let mut legacy: VecDeque<(Key, Doc)> = page.docs.into();
    loop {
        let docs = if to.is_some() { legacy.len().clamp(REST, PAGE.docs) } else { PAGE.docs };
        let mut next = scan(ctx, Side::Next, from.as_ref(), PageLimit { docs, ..PAGE }).await?;
        let mut whole = next.end;
        if let Some(to) = &to {
            whole |= next.docs.last().is_some_and(|(k, _)| k >= to);
            next.docs.truncate(next.docs.partition_point(|(k, _)| k <= to));
        }
        from = next.docs.last().map(|(k, _)| k.clone()).or(from);
        let pairs = pair(&mut legacy, next.docs, whole);
        let (with, judge) = (ctx.clone(), judge.clone());
        let judged = off(ctx, move || judge(&with, pairs)).await?;
        lock(take)(judged)?;
        if whole {
            return Ok(());
        }
    }
}

async fn scan(ctx: &Arc<Ctx>, side: Side, from: Option<&Key>, limit: PageLimit) -> Result<Page, Halt> {
    let after = ctx.seen(side);
    let page = ctx.retry("scanning", || ctx.db(side).scan(ctx.ns(side), from, limit, after)).await?;
    ctx.saw(side, page.at);
    Ok(page)
}

/// Both in `_id` order. What legacy has after the last of next's documents stays for later, unless these are the last.
fn pair(legacy: &mut VecDeque<(Key, Doc)>, next: Vec<(Key, Doc)>, last: bool) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(legacy.len().max(next.len()));
    for (key, n) in next {
        while legacy.front().is_some_and(|(k, _)| *k < key) {
            pairs.extend(legacy.pop_front().map(|(k, l)| (k, Some(l), None)));
        }
        let l = if legacy.front().is_some_and(|(k, _)| *k == key) { legacy.pop_front() } else { None };
        pairs.push((key, l.map(|(_, l)| l), Some(n)));
    }
    if last {
        pairs.extend(legacy.drain(..).map(|(k, l)| (k, Some(l), None)));
    }
    pairs
}

/// Computes something where it keeps no task waiting.
async fn off<T: Send + 'static>(ctx: &Ctx, f: impl FnOnce() -> T + Send + 'static) -> Result<T, Halt> {
    let made = Arc::new(Mutex::new(None));
    let into = made.clone();
    ctx.rt.blocking(Box::new(move || *lock(&into) = Some(f()))).await;
    let made = lock(&made).take();
    made.ok_or_else(|| Halt::Broken("comparing documents failed; the log says why".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn docs(keys: &[i64]) -> Vec<(Key, Doc)> {
        keys.iter().map(|k| (Key::from(*k), Doc::from(rawdoc! { "_id": *k }))).collect()
    }

    fn shown(pairs: &[Pair]) -> Vec<(String, bool, bool)> {
        pairs.iter().map(|(k, l, n)| (k.to_string(), l.is_some(), n.is_some())).collect()
    }

    #[test]
    fn both_sides_come_in_order_and_what_may_still_have_a_partner_waits() {
        let mut legacy: VecDeque<_> = docs(&[1, 2, 4, 6]).into();
        let first = pair(&mut legacy, docs(&[2, 3, 4]), false);
        let is = |k: &str, l, n| (k.to_owned(), l, n);
        assert_eq!(
            shown(&first),
            [is("1", true, false), is("2", true, true), is("3", false, true), is("4", true, true)]
        );
        assert_eq!(shown(&pair(&mut legacy, docs(&[5]), true)), [is("5", false, true), is("6", true, false)]);
        assert!(legacy.is_empty());
    }
}
