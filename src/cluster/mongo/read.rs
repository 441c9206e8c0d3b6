//! Scans and reads by key, as snapshot reads: unlike a majority read, the answer says exactly which time it reflects.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bson::{Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use futures_util::StreamExt;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::errors::Phase;
use super::{Mongo, OP_TIMEOUT, snapshot_after};
use crate::cluster::{ClusterTime, Doc, Failed, Key, Ns, Page, PageLimit, Read, Reason};
use crate::runtime::{Micros, sleep, timeout};

/// Keys asked for in one command, by their size.
const KEY_BYTES: usize = 4 << 20;
/// Before anything is known about a collection's documents.
const FIRST_GUESS: usize = 512;
/// SnapshotUnavailable, just after a collection or index was made, passes by itself.
const RETRIES: u64 = 8;

impl Mongo {
    pub(super) async fn scan_page(
        &self,
        ns: &Ns,
        from: Option<&Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Result<Page, Failed> {
        let wanted = limit.docs.max(1).min(self.fitting(ns, limit.bytes));
        // One more than wanted tells whether this is the end; `min` includes the boundary, which may be gone.
        let ask = i64::try_from(wanted + 1 + usize::from(from.is_some())).unwrap_or(i64::MAX);
        let mut find = rawdoc! { "find": &*ns.coll, "filter": {}, "sort": { "_id": 1 }, "hint": { "_id": 1 } };
        if let Some(from) = from {
            let mut min = RawDocumentBuf::new();
            min.append(bson::cstr!("_id"), from.value());
            find.append(bson::cstr!("min"), min);
        }
        find.append(bson::cstr!("limit"), ask);
        find.append(bson::cstr!("batchSize"), ask);
        find.append(bson::cstr!("readConcern"), snapshot_after(after));
        let (mut batch, mut cursor) = self.find_first(ns, find).await?;
        let at = snapshot_time(batch.as_raw_document(), after)?;
        let mut page = Page { docs: Vec::new(), end: false, at };
        let (mut bytes, mut got, mut cut) = (0, 0i64, false);
        // An open cursor means that the server's batch was full before the limit was reached.
        let mut open;
        loop {
            for doc in docs_of(&batch)? {
                let doc = doc?;
                got += 1;
                let key = key_of(doc)?;
                if from == Some(&key) {
                    continue;
                }
                let size = doc.as_bytes().len();
                if page.docs.len() >= wanted || (!page.docs.is_empty() && bytes + size > limit.bytes) {
                    cut = true;
                    break;
                }
                bytes += size;
                page.docs.push((key, doc.into()));
            }
            open = cursor_id(batch.as_raw_document()) != 0;
            if cut || !page.docs.is_empty() || !open {
                break;
            }
            // The next document has no room in a batch beside the boundary.
            match timeout(&self.rt, OP_TIMEOUT, cursor.next()).await {
                None => return Err(timed_out()),
                Some(None) => {
                    open = false;
                    break;
                }
                Some(Some(next)) => batch = next.map_err(|e| self.failed(&e, Phase::Harmless))?,
            }
        }
        page.end = !cut && got < ask && !open;
        let last = Key::new(RawBsonRef::MaxKey).map_err(malformed)?;
        if page.end && from.is_some_and(|f| *f < last) {
            // A server's `min` without `max` leaves out the very last key there can be, MaxKey itself.
            if page.docs.last().is_none_or(|(k, _)| *k != last) {
                let found = self.read_keys(ns, std::slice::from_ref(&last), after).await?;
                match found.docs.into_iter().next().flatten() {
                    Some(doc) if page.docs.len() < wanted => page.docs.push((last, doc)),
                    Some(_) => page.end = false,
                    None => {}
                }
            }
        }
        if let Some(average) = bytes.checked_div(page.docs.len()) {
            let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            sizes.insert(ns.clone(), average.max(1));
        }
        if page.docs.is_empty() && !page.end {
            return Err(Failed::NotDone(Reason::Refused(format!("the server sent an empty page of {ns}"))));
        }
        Ok(page)
    }

    /// About how many documents of this collection make up so many bytes.
    fn fitting(&self, ns: &Ns, bytes: usize) -> usize {
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let average = sizes.get(ns).copied().unwrap_or(FIRST_GUESS);
        // A quarter more than the average says, so that a page is rarely short.
        (bytes / average).saturating_mul(5) / 4 + 1
    }

    pub(super) async fn read_keys(&self, ns: &Ns, keys: &[Key], after: ClusterTime) -> Result<Read, Failed> {
        let mut places: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (i, key) in keys.iter().enumerate() {
            places.entry(key.clone()).or_default().push(i);
        }
        let mut read = Read { docs: vec![None; keys.len()], at: after };
        let mut first = true;
        let mut rest = places.keys().peekable();
        while rest.peek().is_some() {
            let mut wanted = RawArrayBuf::new();
            let mut n = 0;
            while n < 10_000 && wanted.as_bytes().len() < KEY_BYTES {
                let Some(key) = rest.next() else { break };
                wanted.push(key.value());
                n += 1;
            }
            let at = self.read_some(ns, wanted, n, after, &places, &mut read.docs).await?;
            read.at = if first { at } else { read.at.min(at) };
            first = false;
        }
        Ok(read)
    }

    pub(super) async fn read_some(
        &self,
        ns: &Ns,
        wanted: RawArrayBuf,
        n: i32,
        after: ClusterTime,
        places: &BTreeMap<Key, Vec<usize>>,
        docs: &mut [Option<Doc>],
    ) -> Result<ClusterTime, Failed> {
        let find = rawdoc! {
            "find": &*ns.coll,
            "filter": { "_id": { "$in": wanted } },
            "hint": { "_id": 1 },
            "batchSize": n + 1,
            "readConcern": snapshot_after(after),
        };
        let (batch, cursor) = self.find_first(ns, find).await?;
        let at = snapshot_time(batch.as_raw_document(), after)?;
        // A batch holds at most 16 MB; the rest comes from the same snapshot.
        self.each(batch, cursor, |doc| {
            for i in places.get(&key_of(doc)?).into_iter().flatten() {
                docs[*i] = Some(doc.into());
            }
            Ok(())
        })
        .await?;
        Ok(at)
    }

    /// Hands every document of a cursor on, from its first batch.
    pub(super) async fn each(
        &self,
        mut batch: RawBatch,
        mut cursor: RawBatchCursor,
        mut take: impl FnMut(&RawDocument) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        loop {
            for doc in docs_of(&batch)? {
                take(doc?)?;
            }
            match timeout(&self.rt, OP_TIMEOUT, cursor.next()).await {
                None => return Err(timed_out()),
                Some(None) => return Ok(()),
                Some(Some(next)) => batch = next.map_err(|e| self.failed(&e, Phase::Harmless))?,
            }
        }
    }

    /// Sends a find and answers its first batch; the cursor is closed when dropped.
    pub(super) async fn find_first(&self, ns: &Ns, find: RawDocumentBuf) -> Result<(RawBatch, RawBatchCursor), Failed> {
        let mut tried = 0;
        loop {
            let answer = timeout(&self.rt, OP_TIMEOUT, self.cursor(&ns.db, find.clone(), None)).await;
            match answer.unwrap_or_else(|| Err(timed_out())) {
                Err(Failed::NotDone(Reason::Conflict(_))) if tried < RETRIES => {
                    tried += 1;
                    sleep(&self.rt, Micros::from_ms(tried * tried)).await;
                }
                other => return other,
            }
        }
    }

    /// Runs a command that answers with a cursor, and takes the first batch.
    pub(super) async fn cursor(
        &self,
        db: &str,
        command: RawDocumentBuf,
        wait: Option<Micros>,
    ) -> Result<(RawBatch, RawBatchCursor), Failed> {
        let db = self.client.database(db);
        let mut run = db.run_raw_cursor_command(command);
        if let Some(wait) = wait {
            run = run.max_time(std::time::Duration::from_micros(wait.0));
        }
        let mut cursor = run.batch().await.map_err(|e| self.failed(&e, Phase::Harmless))?;
        match cursor.next().await {
            Some(batch) => Ok((batch.map_err(|e| self.failed(&e, Phase::Harmless))?, cursor)),
            None => Err(malformed("no first batch")),
        }
    }

    /// Every document of a command that answers with a cursor; for a few small ones.
    pub(super) async fn list(&self, db: &str, command: RawDocumentBuf) -> Result<Vec<Document>, Failed> {
        let all = async {
            let (mut batch, mut cursor) = self.cursor(db, command, None).await?;
            let mut out = Vec::new();
            loop {
                for d in docs_of(&batch)? {
                    out.push(Document::try_from(d?).map_err(malformed)?);
                }
                match cursor.next().await {
                    None => return Ok(out),
                    Some(next) => batch = next.map_err(|e| self.failed(&e, Phase::Harmless))?,
                }
            }
        };
        timeout(&self.rt, OP_TIMEOUT, all).await.unwrap_or_else(|| Err(timed_out()))
    }
}

fn timed_out() -> Failed {
    Failed::NotDone(Reason::Timeout(format!("no answer within {OP_TIMEOUT}")))
}

pub(super) fn malformed(what: impl std::fmt::Display) -> Failed {
    Failed::NotDone(Reason::Network(crate::scrub::short(&format!("malformed answer: {what}"), 300)))
}

/// The documents of a batch.
pub(super) fn docs_of(batch: &RawBatch) -> Result<impl Iterator<Item = Result<&RawDocument, Failed>>, Failed> {
    let array = batch.doc_slices().map_err(malformed)?;
    Ok(array.into_iter().map(|item| match item {
        Ok(v) => v.as_document().ok_or_else(|| malformed("a batch holds something that is no document")),
        Err(e) => Err(malformed(e)),
    }))
}

pub(super) fn key_of(doc: &RawDocument) -> Result<Key, Failed> {
    Key::of(doc).map_err(|e| Failed::NotDone(Reason::Refused(e.to_string())))
}

fn cursor_id(reply: &RawDocument) -> i64 {
    reply.get_document("cursor").and_then(|c| c.get_i64("id")).unwrap_or(0)
}

/// The time a snapshot read reflects. The server waits for `after`; should it ever answer from before, that is no answer.
fn snapshot_time(reply: &RawDocument, after: ClusterTime) -> Result<ClusterTime, Failed> {
    let cursor = reply.get_document("cursor").map_err(malformed)?;
    let at = match cursor.get("atClusterTime") {
        Ok(Some(RawBsonRef::Timestamp(at))) => ClusterTime::from(at),
        // A collection that does not exist has no snapshot: it was absent at some time not before `after`.
        Ok(None) if cursor.get_array("firstBatch").is_ok_and(bson::RawArray::is_empty) => after,
        _ => return Err(malformed("a snapshot read without its time")),
    };
    if at < after {
        return Err(Failed::NotDone(Reason::Timeout(format!("read at {at}, which is before {after}"))));
    }
    Ok(at)
}
