//! The journal in the control database: one document a record, its `_id` the place in the sequence.

use bson::{Bson, Document, RawBson, RawDocument, RawDocumentBuf, doc};

use super::chain::Chain;
use super::{JournalError, JournalStore, Record};
use crate::cluster::{CONTROL_DB, ClusterTime, Db, Failed, Key, Ns, Reason, WriteOp};
use crate::runtime::{Fut, Micros, Rt, sleep};

/// Records read at a time.
const BATCH: u64 = 100;
/// How long a failing operation is tried again: longer than an election, shorter than a person waits.
const PATIENCE: Micros = Micros::from_secs(30);
/// The first and the longest wait between two tries.
const WAITS: (Micros, Micros) = (Micros::from_ms(100), Micros::from_secs(1));

/// Records in `tidegate.journal`: `{ _id: { rollout, seq }, kind, at, hash, line }`, where `line` is the record byte
/// for byte.
pub struct ClusterStore {
    db: Db,
    rt: Rt,
    rollout: String,
    ns: Ns,
}

impl ClusterStore {
    /// The journal of `rollout` on legacy's cluster.
    #[must_use]
    pub fn new(db: Db, rt: Rt, rollout: &str) -> Self {
        ClusterStore { db, rt, rollout: rollout.to_owned(), ns: Ns::new(CONTROL_DB, "journal") }
    }

    /// A record as it is stored.
    #[must_use]
    pub fn document(record: &Record) -> Document {
        doc! {
            "_id": { "rollout": &record.rollout, "seq": record.seq as i64 },
            "kind": &record.kind,
            "at": Bson::DateTime(bson::DateTime::from_millis(record.at_ms)),
            "hash": &record.hash,
            "line": record.line(),
        }
    }

    fn id(&self, seq: u64) -> Document {
        doc! { "rollout": &self.rollout, "seq": seq as i64 }
    }

    fn key(&self, seq: u64) -> Result<Key, JournalError> {
        let unusable = |what: String| JournalError::Damaged { line: seq, what };
        let raw = RawDocumentBuf::try_from(&self.id(seq)).map_err(|e| unusable(e.to_string()))?;
        Key::new(RawBson::Document(raw).as_raw_bson_ref()).map_err(|e| unusable(e.to_string()))
    }

    /// The stored records `from..from + BATCH`, `None` where there is none. Tries again while the failure may pass.
    async fn read(&self, from: u64, count: u64) -> Result<Vec<Option<Record>>, JournalError> {
        let keys = (from..from + count).map(|seq| self.key(seq)).collect::<Result<Vec<_>, _>>()?;
        let mut retry = Retry::new(&self.rt);
        let docs = loop {
            match self.db.read(&self.ns, &keys, ClusterTime::ZERO).await {
                Ok(read) => break read.docs,
                Err(e) if e.is_transient() => retry.wait(e).await?,
                Err(e) => return Err(JournalError::Cluster(e)),
            }
        };
        let parsed = docs.iter().zip(from..).map(|(d, seq)| d.as_ref().map(|d| parse(d, seq)).transpose());
        parsed.collect()
    }
}

fn parse(doc: &RawDocument, seq: u64) -> Result<Record, JournalError> {
    let damaged = |what: String| JournalError::Damaged { line: seq, what };
    let line = doc.get_str("line").map_err(|_| damaged("its document holds no line".to_owned()))?;
    Record::parse(line.as_bytes()).map_err(damaged)
}

/// Waits a little longer each time, until patience ends.
struct Retry<'a> {
    rt: &'a Rt,
    until: Micros,
    wait: Micros,
}

impl<'a> Retry<'a> {
    fn new(rt: &'a Rt) -> Self {
        Retry { rt, until: rt.now() + PATIENCE, wait: WAITS.0 }
    }

    async fn wait(&mut self, e: Failed) -> Result<(), JournalError> {
        if self.rt.now() >= self.until {
            return Err(JournalError::Cluster(e));
        }
        sleep(self.rt, self.wait).await;
        self.wait = (self.wait * 2).min(WAITS.1);
        Ok(())
    }
}

impl JournalStore for ClusterStore {
    /// A plain insert. An unknown outcome is settled by inserting the same document again: a duplicate with the same
    /// hash is done, one with another hash means that another runner writes this journal.
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(async move {
            let doc = RawDocumentBuf::try_from(&Self::document(record))
                .map_err(|e| JournalError::Cluster(Failed::NotDone(Reason::Refused(e.to_string()))))?;
            let op = WriteOp::Insert { ns: self.ns.clone(), doc };
            let mut retry = Retry::new(&self.rt);
            loop {
                let failed = match self.db.write(&op).await {
                    Ok(_) => return Ok(()),
                    Err(e) => e,
                };
                if let Failed::NotDone(Reason::DuplicateKey { .. }) = failed {
                    match self.read(record.seq, 1).await?.pop().flatten() {
                        Some(found) if found.hash == record.hash => return Ok(()),
                        Some(_) => return Err(JournalError::Stale { seq: record.seq }),
                        // There, but not majority-committed yet.
                        None => {}
                    }
                } else if !matches!(failed, Failed::Unknown(_)) && !failed.is_transient() {
                    return Err(JournalError::Cluster(failed));
                }
                retry.wait(failed).await?;
            }
        })
    }

    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        Box::pin(async move {
            let mut records: Vec<Record> = Vec::new();
            let mut chain = Chain::default();
            loop {
                let from = chain.next_seq();
                let batch = self.read(from, BATCH).await?;
                let whole = batch.iter().take_while(|r| r.is_some()).count();
                if let Some(beyond) = batch.iter().skip(whole).position(Option::is_some) {
                    let what = format!("it is missing though record {} exists", from + (whole + beyond) as u64);
                    return Err(JournalError::Damaged { line: from + whole as u64, what });
                }
                for r in batch.into_iter().flatten() {
                    chain.add(&r).map_err(|what| JournalError::Damaged { line: chain.next_seq(), what })?;
                    records.push(r);
                }
                if whole < BATCH as usize {
                    return Ok(records);
                }
            }
        })
    }
}
