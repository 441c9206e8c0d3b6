//! What an application process reports with its ack: latencies in short slices, and running totals.
//!
//! A slice carries exact (value, count) pairs, so that the reader merges histograms and never averages percentiles. The last few
//! slices are repeated in every ack: a reader that misses one ack misses nothing.

use std::collections::{BTreeMap, VecDeque};

use bson::RawDocument;
#[cfg(test)]
use bson::RawDocumentBuf;
use bson::spec::ElementType;

use super::Side;
use crate::cluster::fields::{DocBytes, field, fields};
use crate::runtime::Micros;

/// Slices repeated in each ack.
const KEEP: usize = 16;

/// Reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// One closed slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice {
    /// Its number in this run of the process.
    pub n: i64,
    /// Latency in µs (rounded to two significant digits) → count, by kind and side.
    pub latency: [[BTreeMap<u32, u32>; 2]; 2],
    /// Failed operations, by kind and side.
    pub errors: [[u32; 2]; 2],
}

/// Running totals of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Writes acknowledged.
    pub acknowledged: i64,
    /// Acknowledged writes that a later read of the owner did not return, as far as the process keeps an oracle.
    pub lost: i64,
    /// Reads of the owner's side older than an acknowledged write.
    pub stale_owner: i64,
    /// Reads of a copy older than an acknowledged write.
    pub stale_copy: i64,
    /// Shadow reads compared.
    pub shadow_compared: i64,
    /// Shadow reads that differed and stayed different.
    pub shadow_different: i64,
}

impl std::ops::Add for Totals {
    type Output = Totals;
    fn add(self, b: Totals) -> Totals {
        Totals {
            acknowledged: self.acknowledged + b.acknowledged,
            lost: self.lost + b.lost,
            stale_owner: self.stale_owner + b.stale_owner,
            stale_copy: self.stale_copy + b.stale_copy,
            shadow_compared: self.shadow_compared + b.shadow_compared,
            shadow_different: self.shadow_different + b.shadow_different,
        }
    }
}

/// What a process accumulates between acks.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Running totals.
    pub totals: Totals,
    /// The process checks what it reads against what it wrote, so that `lost` means something.
    pub has_oracle: bool,
    /// The epoch of the last ack that was written.
    pub(super) acked_epoch: i64,
    current: Slice,
    /// Written down once, when they are closed.
    closed: VecDeque<Vec<u8>>,
    closed_at: Micros,
}

/// A report as read back from an ack document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadReport {
    /// Running totals.
    pub totals: Totals,
    /// `lost` means something.
    pub has_oracle: bool,
    /// The last few slices, oldest first.
    pub slices: Vec<Slice>,
}

/// Two significant binary-friendly digits: keeps a slice to a few dozen pairs at under 2 % error.
fn rounded(us: u64) -> u32 {
    let us = us.min(u64::from(u32::MAX >> 1)) as u32;
    let drop = (32 - us.leading_zeros()).saturating_sub(6);
    ((us >> drop) << drop) + if drop > 0 { (1 << drop) >> 1 } else { 0 }
}

impl Report {
    /// One operation's latency.
    pub fn latency(&mut self, kind: OpKind, side: Side, took: Micros) {
        *self.current.latency[kind as usize][side as usize].entry(rounded(took.0)).or_insert(0) += 1;
    }

    /// One operation that failed for the user.
    pub fn error(&mut self, kind: OpKind, side: Side) {
        self.current.errors[kind as usize][side as usize] += 1;
    }

    #[cfg(test)]
    fn take_document(&mut self, now: Micros) -> RawDocumentBuf {
        let mut d = DocBytes::with_capacity(0);
        self.take_into(&mut d, now);
        d.finish()
    }

    /// Closes the current slice (at most four a second) and writes everything down as fields of a document.
    pub(super) fn take_into(&mut self, d: &mut DocBytes, now: Micros) {
        let empty = self.current.errors == [[0; 2]; 2] && self.current.latency.iter().flatten().all(BTreeMap::is_empty);
        if !empty && now.since(self.closed_at) >= Micros::from_ms(240) {
            let n = self.current.n;
            let closed = std::mem::replace(&mut self.current, Slice { n: n + 1, ..Slice::default() });
            self.closed.push_back(slice_bytes(&closed));
            self.closed_at = now;
            if self.closed.len() > KEEP {
                self.closed.pop_front();
            }
        }
        let t = self.totals;
        let totals = [t.acknowledged, t.lost, t.stale_owner, t.stale_copy, t.shadow_compared, t.shadow_different];
        d.element(ElementType::Boolean, "oracle", &[u8::from(self.has_oracle)]);
        let at = d.open(ElementType::Array, "totals");
        d.items(ElementType::Int64, totals.iter().map(|n| n.to_le_bytes()));
        d.close(at);
        let at = d.open(ElementType::Array, "slices");
        d.items(ElementType::EmbeddedDocument, self.closed.iter());
        d.close(at);
    }

    /// About how many bytes that takes.
    pub(super) fn size(&self) -> usize {
        self.closed.iter().map(|slice| slice.len() + 8).sum::<usize>() + 1_024
    }
}

const NAMES: [[&str; 2]; 2] = [["read_legacy", "read_next"], ["write_legacy", "write_next"]];

fn slice_bytes(s: &Slice) -> Vec<u8> {
    let mut d = DocBytes::with_capacity(1_024);
    d.int64("n", s.n);
    for (kind, names) in NAMES.iter().enumerate() {
        for (side, name) in names.iter().enumerate() {
            let pairs = &s.latency[kind][side];
            if !pairs.is_empty() || s.errors[kind][side] > 0 {
                let part = d.open(ElementType::EmbeddedDocument, name);
                let at = d.open(ElementType::Array, "us_count");
                d.items(
                    ElementType::Int32,
                    pairs.iter().flat_map(|(us, n)| [*us, *n]).map(|n| (n as i32).to_le_bytes()),
                );
                d.close(at);
                d.int32("errors", s.errors[kind][side] as i32);
                d.close(part);
            }
        }
    }
    d.finish().into_bytes()
}

impl ReadReport {
    /// Reads the `report` of an ack document, of its slices those after number `after`; anything that is not understood is left
    /// out, for another process's bug must not stop a rollout.
    #[must_use]
    pub fn from_ack(ack: &RawDocument, after: i64) -> ReadReport {
        let mut out = ReadReport::default();
        let Some(report) = field(ack.as_bytes(), "report").filter(|f| f.kind == DOCUMENT) else { return out };
        for f in fields(report.value) {
            match (f.name, f.kind) {
                (b"oracle", BOOLEAN) => out.has_oracle = f.value == [1],
                (b"totals", ARRAY) => {
                    let mut t = fields(f.value).map(|n| n.int64().unwrap_or(0));
                    let mut next = || t.next().unwrap_or(0);
                    out.totals = Totals {
                        acknowledged: next(),
                        lost: next(),
                        stale_owner: next(),
                        stale_copy: next(),
                        shadow_compared: next(),
                        shadow_different: next(),
                    };
                }
                (b"slices", ARRAY) => {
                    let slices = fields(f.value).filter(|s| s.kind == DOCUMENT).map(|s| s.value);
                    let number = |s: &[u8]| field(s, "n").and_then(|n| n.int64());
                    let new = slices.filter_map(|s| Some((number(s).filter(|n| *n > after)?, s)));
                    out.slices.extend(new.map(|(n, s)| read_slice(n, s)));
                }
                _ => {}
            }
        }
        out
    }
}

const DOCUMENT: u8 = ElementType::EmbeddedDocument as u8;
const ARRAY: u8 = ElementType::Array as u8;
const BOOLEAN: u8 = ElementType::Boolean as u8;

fn read_slice(n: i64, d: &[u8]) -> Slice {
    let mut s = Slice { n, ..Slice::default() };
    for part in fields(d).filter(|f| f.kind == DOCUMENT) {
        let named = |names: &[&str; 2]| names.iter().position(|name| name.as_bytes() == part.name);
        let place = NAMES.iter().enumerate().find_map(|(kind, names)| Some((kind, named(names)?)));
        let Some((kind, side)) = place else { continue };
        for f in fields(part.value) {
            match (f.name, f.kind) {
                (b"errors", _) => s.errors[kind][side] = f.int32().unwrap_or(0).max(0) as u32,
                (b"us_count", ARRAY) => {
                    let mut numbers = fields(f.value).filter_map(|v| v.int32()).map(|n| n.max(0) as u32);
                    while let (Some(us), Some(n)) = (numbers.next(), numbers.next()) {
                        let count = s.latency[kind][side].entry(us).or_insert(0);
                        *count = count.saturating_add(n);
                    }
                }
                _ => {}
            }
        }
    }
    s
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::cstr;

    #[test]
    fn a_report_is_the_document_that_anybody_would_read() {
        let mut r = Report::default();
        r.totals.lost = -2;
        for us in 1..=600 {
            r.latency(OpKind::Write, Side::Legacy, Micros(us * us));
        }
        let d = r.take_document(Micros::from_secs(1));
        let read = bson::Document::try_from(&*d).unwrap();
        assert_eq!(RawDocumentBuf::try_from(&read).unwrap(), d);
        assert_eq!(read.get_array("totals").unwrap()[1], bson::Bson::Int64(-2));
    }

    #[test]
    fn a_report_survives_its_document() {
        let mut r = Report::default();
        r.totals.acknowledged = 3;
        r.latency(OpKind::Read, Side::Next, Micros(1_234));
        r.latency(OpKind::Read, Side::Next, Micros(1_236));
        r.error(OpKind::Write, Side::Legacy);
        let mut ack = RawDocumentBuf::new();
        ack.append(cstr!("report"), r.take_document(Micros::from_secs(1)));
        assert!(ReadReport::from_ack(&ack, 0).slices.is_empty(), "slice 0 was taken before");
        let back = ReadReport::from_ack(&ack, -1);
        assert_eq!(back.totals.acknowledged, 3);
        assert_eq!(back.slices.len(), 1);
        assert_eq!(back.slices[0].latency[0][1].values().sum::<u32>(), 2);
        assert_eq!(back.slices[0].errors[1][0], 1);
    }

    #[test]
    fn rounding_stays_within_two_percent() {
        for us in (1..2_000_000u64).step_by(997) {
            let r = f64::from(rounded(us));
            assert!((r - us as f64).abs() <= us as f64 * 0.02 + 0.5, "{us} -> {r}");
        }
    }
}
