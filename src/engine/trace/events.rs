//! The latest changes of one key, from a side's change stream.
//!
//! Streams are read forward only, and every event of the collection passes: so the near past is read first, then what lies before it,
//! as long as that stays cheap.

use std::sync::Arc;

use crate::cluster::{AdminDone, AdminOp, Change, ChangeKind, ClusterTime, Key, Observation, SessionId, StreamPos};
use crate::engine::ctx::Ctx;
use crate::route::Side;
use crate::runtime::{Micros, timeout};
use crate::snapshot::{TraceEvent, TraceReach};

/// How far back it is looked, in turn.
const WINDOWS: [Micros; 6] = [
    Micros::from_secs(10),
    Micros::from_secs(60),
    Micros::from_secs(600),
    Micros::from_secs(3_600),
    Micros::from_secs(6 * 3_600),
    Micros::from_secs(24 * 3_600),
];
/// Events of other keys that are read past, on one side.
const PASSED: usize = 50_000;
/// How long it may take, on one side.
const WITHIN: Micros = Micros::from_secs(4);
/// Events told of the key.
const TOLD: usize = 100;

/// A side's latest events of the key, oldest first.
pub(super) struct Past {
    pub events: Vec<TraceEvent>,
    pub reach: TraceReach,
}

/// Reads them.
pub(super) async fn events(ctx: &Arc<Ctx>, side: Side, key: &Key, now: &Observation) -> Past {
    let own = sessions(ctx, side).await;
    let mut scan = Scan { ctx, side, key, own, passed: 0, until: ctx.rt.now() + WITHIN };
    let (mut events, mut back, mut why) = (Vec::new(), None, "as far as is looked".to_owned());
    let mut to = now.majority;
    for window in windows(now.oplog_window) {
        let from = before(now.majority, window);
        match scan.read(from, to).await {
            Ok(found) => {
                events.splice(0..0, found);
                (back, to) = (Some(window), from);
            }
            Err(stop) => {
                why = stop;
                break;
            }
        }
    }
    let more = events.len().saturating_sub(TOLD);
    events.drain(..more);
    if more > 0 {
        why = format!("the last {TOLD} events are shown");
    }
    Past { events, reach: TraceReach { side, back, why: crate::scrub::short(&why, 200) } }
}

/// The windows that the oplog holds, the last of them as far as it reaches.
fn windows(oplog: Option<Micros>) -> Vec<Micros> {
    // Its oldest second may be gone by the time it is asked for.
    let Some(all) = oplog.map(|all| all.since(Micros::from_secs(2))) else { return WINDOWS.to_vec() };
    let mut list: Vec<Micros> = WINDOWS.into_iter().filter(|w| *w < all).collect();
    list.extend((list.len() < WINDOWS.len() && all > Micros::ZERO).then_some(all));
    list
}

fn before(at: ClusterTime, span: Micros) -> ClusterTime {
    let secs = u32::try_from(span.as_ms() / 1_000).unwrap_or(u32::MAX);
    ClusterTime { secs: at.secs.saturating_sub(secs), inc: 0 }
}

/// The sessions whose writes are tidegate's own; `None` when the cluster does not say.
async fn sessions(ctx: &Arc<Ctx>, side: Side) -> Option<Vec<SessionId>> {
    if ctx.observing.is_some() {
        return None;
    }
    let op = AdminOp::Sessions { rollout: ctx.plan.id.clone() };
    match timeout(&ctx.rt, WITHIN, ctx.db(side).admin(&op)).await {
        Some(Ok(AdminDone::Sessions(list))) => Some(list),
        _ => None,
    }
}

struct Scan<'a> {
    ctx: &'a Arc<Ctx>,
    side: Side,
    key: &'a Key,
    own: Option<Vec<SessionId>>,
    passed: usize,
    until: Micros,
}

impl Scan<'_> {
    /// The key's events after `from` and up to `to`; the error says why not all of them could be read.
    async fn read(&mut self, from: ClusterTime, to: ClusterTime) -> Result<Vec<TraceEvent>, String> {
        let pos = StreamPos { token: None, at: from };
        let (rt, ns) = (&self.ctx.rt, self.ctx.ns(self.side));
        let left = |until: Micros| until.since(rt.now());
        let late = || "more events than there was time for".to_owned();
        let opened = timeout(rt, left(self.until), self.ctx.db(self.side).changes(ns, &pos)).await;
        let mut stream = opened.ok_or_else(late)?.map_err(|f| f.to_string())?;
        let mut found = Vec::new();
        loop {
            let next = timeout(rt, left(self.until), stream.next(Micros::from_ms(200))).await;
            let batch = next.ok_or_else(late)?.map_err(|f| f.to_string())?;
            self.passed += batch.events.len();
            for event in &batch.events {
                if event.kind == ChangeKind::Gone {
                    return Err(format!("{ns} was renamed or dropped since"));
                }
                if event.at <= to && event.key.as_ref() == Some(self.key) {
                    found.push(self.told(event));
                }
            }
            if batch.pos.at >= to {
                return Ok(found);
            }
            if self.passed > PASSED {
                return Err(format!("more than {PASSED} events of other documents"));
            }
        }
    }

    fn told(&self, event: &Change) -> TraceEvent {
        let own = self.own.as_ref().map(|own| event.session.is_some_and(|s| own.contains(&s)));
        TraceEvent {
            side: self.side,
            at_ms: i64::from(event.at.secs) * 1_000,
            at: event.at.to_string(),
            kind: format!("{:?}", event.kind).to_lowercase(),
            own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_looked_further_back_than_the_oplog_reaches() {
        let secs = |s| Micros::from_secs(s);
        assert_eq!(windows(None), WINDOWS);
        assert_eq!(windows(Some(secs(1))), []);
        assert_eq!(windows(Some(secs(90))), [secs(10), secs(60), secs(88)]);
        assert_eq!(windows(Some(secs(1_000_000))), WINDOWS);
        assert_eq!(before(ClusterTime { secs: 100, inc: 7 }, secs(10)), ClusterTime { secs: 90, inc: 0 });
        assert_eq!(before(ClusterTime { secs: 5, inc: 7 }, secs(10)).secs, 0);
    }
}
