//! Change streams, read as raw batches.
//!
//! The driver's own stream resumes by itself and hides where it stands between events; here every error ends the stream and every
//! batch carries the server's resume token, so that the position moves on an idle collection too.

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use futures_util::StreamExt;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::errors::{Phase, classify};
use super::read::{docs_of, malformed};
use super::redact::Secrets;
use super::{Mongo, OP_TIMEOUT};
use crate::cluster::{
    Change, ChangeBatch, ChangeKind, Changes, ClusterTime, Failed, Key, Ns, Reason, SessionId, StreamPos,
};
use crate::runtime::{Either, Fut, Micros, Rt, race, sleep, timeout};

/// How long the server waits for an event before it answers with an empty batch and a newer position. Short, because a drain waits
/// for that position while writes are frozen.
const AWAIT: Micros = Micros::from_ms(100);
/// Events a batch holds at most.
const BATCH: i32 = 2_000;
/// A batch of this size may have been cut off by the server's limit of 16 MB.
const FULL_BYTES: usize = 12 << 20;

impl Mongo {
    pub(super) async fn open_stream(&self, ns: &Ns, from: &StreamPos) -> Result<Box<dyn Changes>, Failed> {
        let mut stage = RawDocumentBuf::new();
        match &from.token {
            Some(token) => stage.append(bson::cstr!("startAfter"), token.clone()),
            None if from.at > ClusterTime::ZERO => {
                // Not the time after it: until somebody writes, that is a time the cluster has not come to, and the server's first
                // position would be one that no read can wait for.
                stage.append(bson::cstr!("startAtOperationTime"), Timestamp::from(from.at));
            }
            None => {}
        }
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$changeStream": stage });
        // The documents are read afresh by key, so they need not travel.
        pipeline.push(rawdoc! {
            "$project": { "operationType": 1, "clusterTime": 1, "lsid": 1, "documentKey": 1 },
        });
        let command = rawdoc! {
            "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": { "batchSize": BATCH },
            "readConcern": { "level": "majority" },
        };
        let opened = timeout(&self.rt, OP_TIMEOUT, self.cursor(&ns.db, command, Some(AWAIT))).await;
        let (first, cursor) = opened
            .unwrap_or_else(|| Err(Failed::NotDone(Reason::Timeout(format!("no stream within {OP_TIMEOUT}")))))?;
        Ok(Box::new(Stream {
            rt: self.rt.clone(),
            secrets: self.secrets.clone(),
            cursor,
            first: Some(first),
            pos: from.clone(),
            after: from.token.is_none().then_some(from.at),
            state: State::Open,
        }))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// The collection is gone: nothing follows.
    Gone,
    Failed,
}

struct Stream {
    rt: Rt,
    secrets: Secrets,
    cursor: RawBatchCursor,
    first: Option<RawBatch>,
    pos: StreamPos,
    /// Opened at this time: its own events are not among those that follow.
    after: Option<ClusterTime>,
    state: State,
}

impl Changes for Stream {
    fn next(&mut self, max_wait: Micros) -> Fut<'_, Result<ChangeBatch, Failed>> {
        Box::pin(self.next_batch(max_wait))
    }
}

impl Stream {
    async fn next_batch(&mut self, max_wait: Micros) -> Result<ChangeBatch, Failed> {
        match self.state {
            State::Open => {}
            State::Gone => {
                sleep(&self.rt, max_wait).await;
                return Ok(ChangeBatch { events: Vec::new(), pos: self.pos.clone() });
            }
            State::Failed => return Err(Failed::NotDone(Reason::Network("the stream has failed before".into()))),
        }
        let answer = match self.first.take() {
            Some(first) => Ok(first),
            // The cursor keeps a request on its way, so that giving up waiting loses nothing.
            None => match race(self.cursor.next(), sleep(&self.rt, max_wait)).await {
                Either::Right(()) => return Ok(ChangeBatch { events: Vec::new(), pos: self.pos.clone() }),
                Either::Left(Some(Ok(batch))) => Ok(batch),
                Either::Left(Some(Err(e))) => Err(classify(&e, Phase::Harmless, |t| self.secrets.hide(t))),
                Either::Left(None) => {
                    Err(Failed::NotDone(Reason::Network("the server closed the change stream".into())))
                }
            },
        };
        let read = answer.and_then(|batch| self.take(&batch));
        if read.is_err() {
            self.state = State::Failed;
        }
        read
    }

    fn take(&mut self, batch: &RawBatch) -> Result<ChangeBatch, Failed> {
        let mut events = Vec::new();
        let mut count = 0;
        for doc in docs_of(batch)? {
            count += 1;
            let event = change(doc?)?;
            if let Some(event) = event.filter(|e| self.after.is_none_or(|t| e.at > t)) {
                let gone = event.kind == ChangeKind::Gone;
                events.push(event);
                if gone {
                    self.state = State::Gone;
                    break;
                }
            }
        }
        let reply = batch.as_raw_document();
        let cursor = reply.get_document("cursor").map_err(malformed)?;
        if let Ok(token) = cursor.get_document("postBatchResumeToken") {
            let full = count >= BATCH as usize || reply.as_bytes().len() >= FULL_BYTES;
            let reached = position(token).map(|p| p.reached(full));
            let last = events.last().map_or(ClusterTime::ZERO, |e| e.at);
            self.pos = StreamPos {
                at: self.pos.at.max(reached.unwrap_or(if full { before(last) } else { last })),
                token: Some(token.to_owned()),
            };
        }
        Ok(ChangeBatch { events, pos: self.pos.clone() })
    }
}

/// What a resume token says about its place.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Position {
    time: ClusterTime,
    /// Made for a time rather than for an event.
    high_water: bool,
}

impl Position {
    /// Everything up to and including this has been seen. The events of one transaction share one time, and a full batch may have
    /// ended between two of them.
    fn reached(self, full: bool) -> ClusterTime {
        if full && !self.high_water { before(self.time) } else { self.time }
    }
}

/// Decodes a token: in `_data`, hex, the byte 0x82, seconds and increment big-endian, then a version and the token's type, of which
/// 0 (`29`) is a high-water mark.
fn position(token: &RawDocument) -> Option<Position> {
    let data = token.get_str("_data").ok()?;
    let time = |from: usize| u32::from_str_radix(data.get(from..from + 8)?, 16).ok();
    if !data.starts_with("82") {
        return None;
    }
    let time = ClusterTime { secs: time(2)?, inc: time(10)? };
    Some(Position { time, high_water: data.get(18..20) == Some("2B") && data.get(22..24) == Some("29") })
}

fn before(t: ClusterTime) -> ClusterTime {
    match t.inc.checked_sub(1) {
        Some(inc) => ClusterTime { inc, ..t },
        None if t.secs == 0 => ClusterTime::ZERO,
        None => ClusterTime { secs: t.secs - 1, inc: u32::MAX },
    }
}

/// One event; `None` for kinds that concern no document and do not end the stream.
fn change(event: &RawDocument) -> Result<Option<Change>, Failed> {
    let kind = match event.get_str("operationType").map_err(malformed)? {
        "insert" => ChangeKind::Insert,
        "update" => ChangeKind::Update,
        "replace" => ChangeKind::Replace,
        "delete" => ChangeKind::Delete,
        "drop" | "rename" | "dropDatabase" | "invalidate" => ChangeKind::Gone,
        _ => return Ok(None),
    };
    let at = event.get_timestamp("clusterTime").map_err(malformed)?.into();
    let key = match kind {
        ChangeKind::Gone => None,
        _ => {
            let key = event.get_document("documentKey").map_err(malformed)?;
            Some(Key::of(key).map_err(|e| Failed::NotDone(Reason::Refused(format!("a change event: {e}"))))?)
        }
    };
    Ok(Some(Change { key, kind, at, session: session(event) }))
}

fn session(event: &RawDocument) -> Option<SessionId> {
    match event.get_document("lsid").ok()?.get("id").ok()?? {
        RawBsonRef::Binary(b) => Some(SessionId(b.bytes.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_tell_their_time_and_their_kind() {
        // Both from a 6.0.5 server: a high-water mark, and the token of an insert.
        let mark = rawdoc! { "_data": "826B018FF8000000162B0229296E04" };
        let p = position(&mark).unwrap();
        assert_eq!(p, Position { time: ClusterTime { secs: 0x6B01_8FF8, inc: 0x16 }, high_water: true });
        assert_eq!(p.reached(true), p.time);
        let event = rawdoc! { "_data": "826B018FF8000000182B022C0100296E5A10040415B029962B40413ED514F707117B4295461E5F6964002B040004" };
        let p = position(&event).unwrap();
        assert!(!p.high_water);
        assert_eq!(p.reached(false), p.time);
        assert_eq!(p.reached(true), ClusterTime { secs: 0x6B01_8FF8, inc: 0x17 });
        assert_eq!(position(&rawdoc! { "_data": "82ZZ" }), None);
    }

    #[test]
    fn times_step_over_the_second() {
        let t = ClusterTime { secs: 7, inc: 0 };
        assert_eq!(before(t), ClusterTime { secs: 6, inc: u32::MAX });
        assert_eq!(before(ClusterTime { inc: 1, ..t }), t);
    }
}
