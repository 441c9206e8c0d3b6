//! The chain of hashes, the head kept outside the journal, and what a journal's raw bytes say about both.

use serde::{Deserialize, Serialize};

use super::JournalError;
use super::record::{CLOSED, GENESIS, Record};

/// The last durable record, as kept beside the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its sequence number; 0 for an empty journal.
    pub seq: u64,
    /// Its hash; [`GENESIS`] for an empty journal.
    pub hash: String,
}

/// Checks records one after the other.
pub(super) struct Chain {
    seq: u64,
    hash: String,
    rollout: Option<String>,
    closed: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { seq: 0, hash: GENESIS.to_owned(), rollout: None, closed: false }
    }
}

impl Chain {
    /// The number the next record must have.
    pub(super) fn next_seq(&self) -> u64 {
        self.seq + 1
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    pub(super) fn into_head(self) -> (u64, String) {
        (self.seq, self.hash)
    }

    /// Takes the next record, or says why it cannot follow.
    pub(super) fn add(&mut self, r: &Record) -> Result<(), String> {
        if self.closed {
            return Err("a record follows the closed one".to_owned());
        }
        if r.seq != self.next_seq() {
            return Err(format!("record {} stands where {} belongs", r.seq, self.next_seq()));
        }
        if r.prev != self.hash {
            return Err("it does not follow the record before it".to_owned());
        }
        if !r.is_intact() {
            return Err("its content does not match its hash".to_owned());
        }
        match &self.rollout {
            None => self.rollout = Some(r.rollout.clone()),
            Some(rollout) if *rollout == r.rollout => {}
            Some(rollout) => return Err(format!("it belongs to rollout {}, not {rollout}", r.rollout)),
        }
        self.seq = r.seq;
        self.hash.clone_from(&r.hash);
        self.closed = r.kind == CLOSED;
        Ok(())
    }
}

/// What a journal's bytes hold.
pub(super) struct Scan {
    pub(super) records: Vec<Record>,
    /// The bytes of the complete records; anything after them is a torn tail.
    pub(super) whole: usize,
    pub(super) torn: bool,
    pub(super) closed: bool,
}

impl Scan {
    pub(super) fn head(&self) -> Head {
        match self.records.last() {
            Some(r) => Head { seq: r.seq, hash: r.hash.clone() },
            None => Head { seq: 0, hash: GENESIS.to_owned() },
        }
    }
}

/// Reads every record, checks the chain, and that the journal reaches `head`.
pub(super) fn scan(bytes: &[u8], head: Option<&Head>) -> Result<Scan, JournalError> {
    let mut chain = Chain::default();
    let mut records = Vec::new();
    let mut whole = 0;
    while let Some(len) = bytes[whole..].iter().position(|b| *b == b'\n') {
        let line = chain.next_seq();
        let damaged = |what: String| JournalError::Damaged { line, what };
        let record = Record::parse(&bytes[whole..whole + len]).map_err(damaged)?;
        chain.add(&record).map_err(damaged)?;
        records.push(record);
        whole += len + 1;
    }
    let line = chain.next_seq();
    let damaged = |what: &str| Err(JournalError::Damaged { line, what: what.to_owned() });
    let tail = &bytes[whole..];
    if let Some(h) = head {
        if h.seq >= line {
            return damaged(&format!("the journal ends before its head, record {}", h.seq));
        }
        let found = h.seq.checked_sub(1).and_then(|i| records.get(i as usize)).map_or(GENESIS, |r| r.hash.as_str());
        if found != h.hash {
            return Err(JournalError::Damaged {
                line: h.seq,
                what: "it is not the record that the head names".to_owned(),
            });
        }
    }
    if let [start @ .., _] = tail {
        // A write that was cut short is the beginning of a line; a whole record and one byte more is a changed line
        // end.
        if Record::parse(start).is_ok() {
            return damaged("its line end was changed");
        }
        if chain.closed() {
            return damaged("something follows the closed record");
        }
    }
    Ok(Scan { records, whole, torn: !tail.is_empty(), closed: chain.closed() })
}
