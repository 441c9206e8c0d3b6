//! Change streams: majority-committed events of one namespace, and a position that moves on without them.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocumentBuf, rawdoc};

use super::Core;
use super::faults::OpKind;
use super::ops::network;
use super::state::{Down, State, to_time, to_ts};
use super::store::Ts;
use crate::cluster::{Change, ChangeBatch, ChangeKind, Changes, ClusterTime, Failed, Ns, Reason, StreamPos};
use crate::runtime::{Fut, Micros, race, sleep};

struct Stream {
    core: Arc<Core>,
    ns: Ns,
    /// Everything up to here has been seen.
    cursor: Ts,
    /// The generation it was opened in.
    generation: u64,
    gone: bool,
}

fn token(ts: Ts) -> RawDocumentBuf {
    rawdoc! { "_data": bson::Timestamp::from(to_time(ts)) }
}

fn start(pos: &StreamPos) -> Ts {
    match pos.token.as_ref().and_then(|t| t.get("_data").ok().flatten()) {
        Some(RawBsonRef::Timestamp(t)) => to_ts(ClusterTime::from(t)),
        _ => to_ts(pos.at),
    }
}

fn history_lost(ns: &Ns) -> Failed {
    Failed::NotDone(Reason::HistoryLost(format!(
        "the resume point of the stream on {ns} is no longer in the oplog (286)"
    )))
}

/// Opens a stream after `pos`.
pub(super) async fn open(core: &Arc<Core>, ns: &Ns, pos: &StreamPos) -> Result<Box<dyn Changes>, Failed> {
    let plan = core.begin(OpKind::Changes, ns, 0).await?;
    sleep(&core.rt, plan.before + plan.after).await;
    let cursor = start(pos);
    core.with(|s, _| match s.down() {
        Some(Down::Electing) => {
            Err(Failed::NotDone(Reason::NotPrimary("the embedded cluster is electing a primary".into())))
        }
        _ if cursor < s.history() => Err(history_lost(ns)),
        _ => {
            Ok(Box::new(Stream { core: core.clone(), ns: ns.clone(), cursor, generation: s.streams, gone: false }) as _)
        }
    })
}

enum Look {
    /// There are events, or there is nothing to wait for any more.
    Ready,
    Wait(Option<Micros>),
}

impl Stream {
    fn look(&self, s: &State) -> Result<Look, Failed> {
        if self.gone {
            return Err(Failed::NotDone(Reason::Refused(format!("the stream on {} has ended", self.ns))));
        }
        if self.generation != s.streams {
            return Err(Failed::NotDone(network("and the change stream with it")));
        }
        if self.cursor < s.history() {
            return Err(history_lost(&self.ns));
        }
        if s.down() == Some(Down::Unreachable) {
            return Ok(Look::Wait(None));
        }
        Ok(match s.first_after(&self.ns, self.cursor) {
            Some(ts) if ts <= s.majority() => Look::Ready,
            _ => Look::Wait(s.next_visible(&self.ns)),
        })
    }

    fn take(&mut self, s: &State) -> ChangeBatch {
        let (events, upto) = s.events(&self.ns, self.cursor, self.core.config.batch);
        self.cursor = self.cursor.max(upto);
        self.gone = events.last().is_some_and(|e| e.kind == ChangeKind::Gone);
        ChangeBatch { events, pos: StreamPos { token: Some(token(self.cursor)), at: to_time(self.cursor) } }
    }

    async fn next(&mut self, max_wait: Micros) -> Result<ChangeBatch, Failed> {
        let core = self.core.clone();
        let plan = core.begin(OpKind::Changes, &self.ns, 0).await?;
        let begun = core.rt.now();
        // Even a call that does not wait takes a moment: a loop over it must not stop the clock.
        let way = plan.before + plan.after;
        let deadline = begun + max_wait.max(way);
        loop {
            let (look, unreachable, notify) = core.with(|s, _| {
                let unreachable = s.down() == Some(Down::Unreachable);
                (self.look(s), unreachable, s.log(&self.ns).notify.clone())
            });
            let notified = notify.notified();
            let now = core.rt.now();
            let look = match look {
                Ok(look) => look,
                Err(failed) => {
                    sleep(&core.rt, way).await;
                    return Err(failed);
                }
            };
            match look {
                Look::Ready => break,
                Look::Wait(_) if unreachable => {
                    if !core.reachable_by(begun + core.config.op_timeout.max(max_wait)).await {
                        return Err(Failed::NotDone(network("while waiting for events")));
                    }
                }
                Look::Wait(_) if now >= deadline => {
                    return Ok(core.with(|s, _| self.take(s)));
                }
                Look::Wait(visible) => {
                    let until = visible.map_or(deadline, |at| at.max(now + Micros(1)).min(deadline));
                    race(notified, core.rt.sleep_until(until)).await;
                }
            }
        }
        // On its way here; what becomes visible meanwhile comes along.
        sleep(&core.rt, way).await;
        core.with(|s, _| {
            self.look(s)?;
            Ok(self.take(s))
        })
    }
}

impl Changes for Stream {
    fn next(&mut self, max_wait: Micros) -> Fut<'_, Result<ChangeBatch, Failed>> {
        Box::pin(Stream::next(self, max_wait))
    }
}

impl State {
    /// The first event after `cursor`, whether or not a majority has it.
    fn first_after(&self, ns: &Ns, cursor: Ts) -> Option<Ts> {
        self.logged(ns)?.after(cursor).next().map(|e| e.ts)
    }

    /// Majority-committed events after `cursor`, about `limit` of them, and how far that is.
    fn events(&self, ns: &Ns, cursor: Ts, limit: usize) -> (Vec<Change>, Ts) {
        let mut out: Vec<Change> = Vec::new();
        let majority = self.majority();
        let Some(events) = self.logged(ns) else { return (out, majority) };
        let mut last = cursor;
        for e in events.after(cursor) {
            if e.ts > majority {
                break;
            }
            let ended = out.last().is_some_and(|c| c.kind == ChangeKind::Gone);
            if ended || (out.len() >= limit && e.ts != last) {
                return (out, last);
            }
            last = e.ts;
            out.push(Change { key: e.key.clone(), kind: e.kind, at: to_time(e.ts), session: e.session });
        }
        (out, majority)
    }
}
