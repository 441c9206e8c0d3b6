//! What an application process reports with its ack: latencies in short slices, and running totals.
//!
//! A slice carries exact (value, count) pairs, so that the reader merges histograms and never averages percentiles. The last few
//! slices are repeated in every ack: a reader that misses one ack misses nothing.

use std::collections::{BTreeMap, VecDeque};

use bson::spec::ElementType;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::Side;
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

    /// Closes the current slice (at most four a second) and writes everything down.
    pub(super) fn take_document(&mut self, now: Micros) -> RawDocumentBuf {
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
        let mut d = Bytes::document();
        d.element(ElementType::Boolean, "oracle", &[u8::from(self.has_oracle)]);
        let at = d.open(ElementType::Array, "totals");
        d.items(ElementType::Int64, totals.iter().map(|n| n.to_le_bytes()));
        d.close(at);
        let at = d.open(ElementType::Array, "slices");
        d.items(ElementType::EmbeddedDocument, self.closed.iter());
        d.close(at);
        d.finish()
    }
}

/// BSON put together in one buffer: a report is made with every ack, and an array of a few hundred numbers costs ten times as much
/// where each is appended as a value of its own.
struct Bytes(Vec<u8>);

impl Bytes {
    fn document() -> Bytes {
        Bytes(vec![0; 4])
    }

    fn element(&mut self, kind: ElementType, name: &str, value: &[u8]) {
        self.0.push(kind as u8);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.0.extend_from_slice(value);
    }

    /// The elements of an array.
    fn items(&mut self, kind: ElementType, values: impl Iterator<Item = impl AsRef<[u8]>>) {
        for (i, value) in values.enumerate() {
            self.0.push(kind as u8);
            push_decimal(&mut self.0, i);
            self.0.push(0);
            self.0.extend_from_slice(value.as_ref());
        }
    }

    /// Begins a document or an array; what it answers goes to [`Bytes::close`].
    fn open(&mut self, kind: ElementType, name: &str) -> usize {
        self.element(kind, name, &[0; 4]);
        self.0.len() - 4
    }

    fn close(&mut self, at: usize) {
        self.0.push(0);
        let len = (self.0.len() - at) as i32;
        self.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn finish(mut self) -> RawDocumentBuf {
        self.close(0);
        // Closed as it should be, the one thing that is looked at.
        RawDocumentBuf::from_bytes(self.0).unwrap_or_default()
    }
}

fn push_decimal(out: &mut Vec<u8>, n: usize) {
    if n >= 10 {
        push_decimal(out, n / 10);
    }
    out.push(b'0' + (n % 10) as u8);
}

const NAMES: [[&str; 2]; 2] = [["read_legacy", "read_next"], ["write_legacy", "write_next"]];

fn slice_bytes(s: &Slice) -> Vec<u8> {
    let mut d = Bytes::document();
    d.element(ElementType::Int64, "n", &s.n.to_le_bytes());
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
                d.element(ElementType::Int32, "errors", &(s.errors[kind][side] as i32).to_le_bytes());
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
        let Ok(report) = ack.get_document("report") else { return out };
        out.has_oracle = report.get_bool("oracle").unwrap_or(false);
        if let Ok(list) = report.get_array("totals") {
            let t: Vec<i64> = list.into_iter().map(|v| v.ok().and_then(|v| v.as_i64()).unwrap_or(0)).collect();
            let at = |i: usize| t.get(i).copied().unwrap_or(0);
            out.totals = Totals {
                acknowledged: at(0),
                lost: at(1),
                stale_owner: at(2),
                stale_copy: at(3),
                shadow_compared: at(4),
                shadow_different: at(5),
            };
        }
        if let Ok(list) = report.get_array("slices") {
            for s in list.into_iter().filter_map(|s| s.ok().and_then(|s| s.as_document())) {
                if s.get_i64("n").is_ok_and(|n| n > after) {
                    out.slices.push(read_slice(s));
                }
            }
        }
        out
    }
}

fn read_slice(d: &RawDocument) -> Slice {
    let mut s = Slice { n: d.get_i64("n").unwrap_or(0), ..Slice::default() };
    for (kind, names) in NAMES.iter().enumerate() {
        for (side, name) in names.iter().enumerate() {
            let Ok(part) = d.get_document(name) else { continue };
            s.errors[kind][side] = part.get_i32("errors").unwrap_or(0).max(0) as u32;
            let Ok(flat) = part.get_array("us_count") else { continue };
            let mut value = None;
            for v in flat.into_iter().filter_map(|v| v.ok().and_then(as_count)) {
                match value.take() {
                    None => value = Some(v),
                    Some(us) => *s.latency[kind][side].entry(us).or_insert(0) += v,
                }
            }
        }
    }
    s
}

fn as_count(v: RawBsonRef<'_>) -> Option<u32> {
    v.as_i32().map(|n| n.max(0) as u32)
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
