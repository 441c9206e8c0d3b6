//! A journal in memory that outlives the engine using it, with faults on demand. For drills and simulation.

use std::sync::{Arc, Mutex};

use super::{JournalError, JournalStore, Record, lock};
use crate::runtime::Fut;

/// What goes wrong at an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing is stored.
    FailBefore,
    /// It fails though the record is stored: a failed fsync.
    FailAfter,
    /// It never returns and nothing is stored; kill the task to go on.
    HangBefore,
    /// It never returns though the record is stored: a crash between write and acknowledgement.
    HangAfter,
}

#[derive(Default)]
struct Inner {
    records: Vec<Record>,
    /// The fault and the record it waits for; `None` is the next one.
    fault: Option<(Option<u64>, Fault)>,
    hung: bool,
    /// A planted mistake: a record is acknowledged before it is synced, which the next one does.
    #[cfg(feature = "planted-bugs")]
    ack_before_sync: bool,
}

/// Records in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemStore(Arc<Mutex<Inner>>);

impl MemStore {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        MemStore::default()
    }

    /// The next append meets `fault`, once.
    pub fn fail_next(&self, fault: Fault) {
        lock(&self.0).fault = Some((None, fault));
    }

    /// The append of record `seq` meets `fault`, once.
    pub fn fail_at(&self, seq: u64, fault: Fault) {
        lock(&self.0).fault = Some((Some(seq), fault));
    }

    /// The machine crashes: what was not synced is gone. Every acknowledged record is, so that nothing is; but for a planted mistake.
    pub fn crash(&self) {
        #[cfg(feature = "planted-bugs")]
        {
            let mut inner = lock(&self.0);
            if inner.ack_before_sync {
                inner.records.pop();
            }
        }
    }

    /// A planted mistake: records are acknowledged before they are synced, and the last one is lost in a crash.
    #[cfg(feature = "planted-bugs")]
    pub fn set_ack_before_sync(&self) {
        lock(&self.0).ack_before_sync = true;
    }

    /// How many records are stored.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.0).records.len()
    }

    /// True when nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records from the `n`th on, counted from 0.
    #[must_use]
    pub fn since(&self, n: usize) -> Vec<Record> {
        lock(&self.0).records.get(n..).map(<[Record]>::to_vec).unwrap_or_default()
    }

    /// True once an append hangs; false again after the next load.
    #[must_use]
    pub fn hung(&self) -> bool {
        lock(&self.0).hung
    }

    /// Every stored record.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        lock(&self.0).records.clone()
    }
}

impl Inner {
    fn store(&mut self, record: &Record) -> Result<(), JournalError> {
        match self.records.get(record.seq.saturating_sub(1) as usize) {
            Some(r) if r.hash == record.hash => Ok(()),
            Some(_) => Err(JournalError::Stale { seq: record.seq }),
            None if record.seq == self.records.len() as u64 + 1 => {
                self.records.push(record.clone());
                Ok(())
            }
            None => Err(JournalError::Stale { seq: record.seq }),
        }
    }

    /// The answer to an append, or `None` when it never answers.
    fn append(&mut self, record: &Record) -> Option<Result<(), JournalError>> {
        let due = self.fault.filter(|(seq, _)| seq.is_none_or(|s| s == record.seq)).map(|(_, fault)| fault);
        if due.is_some() {
            self.fault = None;
        }
        let failed = Err(JournalError::Io("a fault of the simulation".to_owned()));
        match due {
            None => Some(self.store(record)),
            Some(Fault::FailBefore) => Some(failed),
            Some(Fault::FailAfter) => Some(self.store(record).and(failed)),
            Some(Fault::HangBefore) => {
                self.hung = true;
                None
            }
            Some(Fault::HangAfter) => {
                self.hung = true;
                self.store(record).err().map(Err)
            }
        }
    }
}

impl JournalStore for MemStore {
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(async move {
            let answer = lock(&self.0).append(record);
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }

    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        Box::pin(async move {
            let mut inner = lock(&self.0);
            inner.hung = false;
            Ok(inner.records.clone())
        })
    }
}
