//! The hash-chained record of everything decided and done: records, the chain, the store port and its stores.
//!
//! A record is acknowledged only once it is durable (append, fsync, acknowledge); a failed append is fatal and never
//! retried. No decision is taken in here, and no secret may reach a record: connection strings lose their credentials
//! on the way in. docs/journal.md is the format, for people and for other languages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::cluster::Failed;
use crate::runtime::{Fut, Rt};

mod chain;
mod cluster;
mod file;
mod mask;
mod mem;
mod record;
mod tee;
mod verify;

pub use chain::Head;
pub use cluster::ClusterStore;
pub use file::FileStore;
pub use mem::{Fault, MemStore};
pub use record::{By, CLOSED, GENESIS, Record, show};
pub use tee::TeeStore;
pub use verify::{VerifyReport, read_file, verify_file};

use chain::Chain;

/// A text without the credentials of connection strings, as records have it.
pub(crate) fn masked(text: &str) -> String {
    mask::text(text.to_owned())
}

/// The same for everything in a JSON value.
pub(crate) fn masked_value(value: Value) -> Value {
    mask::value(value)
}

/// Why the journal cannot be read or written. Every one of them stops the rollout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing a file failed.
    #[error("the journal cannot be written or read: {0}")]
    Io(String),
    /// A record is not what was written: changed, removed, reordered, or the journal ends before its head.
    #[error("the journal is damaged at line {line}: {what}; restore it from a copy, do not edit it")]
    Damaged {
        /// Line number in a file, or sequence number in the database; from 1.
        line: u64,
        /// What is wrong there.
        what: String,
    },
    /// The head that is kept beside the journal is missing or unreadable.
    #[error("the journal's head is not usable: {what}")]
    Head {
        /// What is wrong with it, and where.
        what: String,
    },
    /// Somebody else has written a record with this sequence number: this runner is stale and must stop.
    #[error("record {seq} was already written by another runner; this one is stale and must stop")]
    Stale {
        /// The sequence number.
        seq: u64,
    },
    /// The file to be created holds something already.
    #[error("{path} exists already; resume its rollout or name another file")]
    Exists {
        /// The file.
        path: String,
    },
    /// Another process writes the file.
    #[error("{path} is in use: another process observes with it; end that one, or name another file with --journal")]
    InUse {
        /// The file.
        path: String,
    },
    /// The journal belongs to another rollout.
    #[error("the journal belongs to rollout `{found}`, not to `{wanted}`")]
    OtherRollout {
        /// The rollout that was opened.
        wanted: String,
        /// The rollout in the record.
        found: String,
    },
    /// The local copy holds what the database does not.
    #[error("the local journal and the database's differ from record {seq} on; move the local file away and resume")]
    Diverged {
        /// The first record that differs.
        seq: u64,
    },
    /// The journal ended in a `closed` record.
    #[error("the journal is closed: its rollout is over")]
    Closed,
    /// An earlier append failed or was cut off, so nothing more may be written by this process.
    #[error("an earlier journal record could not be made durable; end this process and resume the rollout")]
    Broken,
    /// The database refused, or did not answer for too long.
    #[error("the journal in the database cannot be written or read: {0}")]
    Cluster(Failed),
}

/// Where records are kept. Every store accepts a record only in sequence: the one after its last; the last one again,
/// unchanged, is already done; another one in its place is [`JournalError::Stale`].
pub trait JournalStore: Send + Sync {
    /// Makes one record durable. Acknowledged means it survives a crash.
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>>;
    /// Every record, in order, its chain verified.
    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>>;
}

/// The journal of one rollout: gives records their number, time and hash, and stops at the first failure.
pub struct Journal {
    store: Arc<dyn JournalStore>,
    rt: Rt,
    rollout: String,
    seq: u64,
    hash: String,
    /// The newest epoch that has written here.
    epoch: i64,
    opened: bool,
    closed: bool,
    /// Set while an append is under way, so that one cut off half-way counts as failed.
    broken: bool,
}

impl Journal {
    /// A journal over `store`; call [`Journal::open`] before the first append of a resumed rollout.
    #[must_use]
    pub fn new(store: Arc<dyn JournalStore>, rt: Rt, rollout: String) -> Self {
        let hash = GENESIS.to_owned();
        Journal { store, rt, rollout, seq: 0, hash, epoch: 0, opened: false, closed: false, broken: false }
    }

    /// Loads and verifies what is stored, and continues after it. Empty for a new rollout.
    ///
    /// # Errors
    /// When the store cannot be read, the chain is damaged, or the records belong to another rollout.
    pub async fn open(&mut self) -> Result<Vec<Record>, JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        let records = self.store.load().await?;
        let mut chain = Chain::default();
        for r in &records {
            if r.rollout != self.rollout {
                return Err(JournalError::OtherRollout { wanted: self.rollout.clone(), found: r.rollout.clone() });
            }
            chain.add(r).map_err(|what| JournalError::Damaged { line: chain.next_seq(), what })?;
        }
        self.closed = chain.closed();
        self.epoch = records.iter().map(|r| r.epoch).max().unwrap_or(0);
        (self.seq, self.hash) = chain.into_head();
        self.opened = true;
        Ok(records)
    }

    /// Writes the next record and returns it once it is durable. After a failure every later append fails.
    ///
    /// # Errors
    /// What the store says; [`JournalError::Broken`] after an earlier failure, [`JournalError::Closed`] after a
    /// `closed` record, [`JournalError::Stale`] when a newer epoch has written here before.
    pub async fn append(
        &mut self,
        epoch: i64,
        by: By,
        kind: &str,
        body: Map<String, Value>,
    ) -> Result<Record, JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        if !self.opened {
            self.open().await?;
        }
        if self.closed {
            return Err(JournalError::Closed);
        }
        if epoch < self.epoch {
            // Fenced out before it had read what the newer runner wrote: it must not push that one out.
            return Err(JournalError::Stale { seq: self.seq });
        }
        let record = Record {
            seq: self.seq + 1,
            at_ms: self.rt.wall_ms(),
            rollout: self.rollout.clone(),
            epoch,
            by: by.clean(),
            kind: kind.to_owned(),
            body: mask::body(body),
            prev: self.hash.clone(),
            hash: String::new(),
        }
        .sealed();
        self.broken = true;
        self.store.append(&record).await?;
        self.broken = false;
        self.seq = record.seq;
        self.hash.clone_from(&record.hash);
        self.epoch = epoch;
        self.closed = record.kind == CLOSED;
        Ok(record)
    }

    /// Sequence number and hash of the last durable record; `(0, GENESIS)` when there is none.
    #[must_use]
    pub fn head(&self) -> (u64, String) {
        (self.seq, self.hash.clone())
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the stores keep behind a lock is changed only after a step succeeded, so a panic elsewhere leaves it whole.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
