//! What an application process reports with its ack: latencies in short slices, and running totals.
//!
//! A slice carries exact (value, count) pairs, so that the reader merges histograms and never averages percentiles. The last few
//! slices are repeated in every ack: a reader that misses one ack misses nothing.

use std::collections::{BTreeMap, VecDeque};

use bson::{Bson, Document, RawDocument, doc};

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
    closed: VecDeque<Slice>,
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
    pub(super) fn take_document(&mut self, now: Micros) -> Document {
        let empty = self.current.errors == [[0; 2]; 2] && self.current.latency.iter().flatten().all(BTreeMap::is_empty);
        if !empty && now.since(self.closed_at) >= Micros::from_ms(240) {
            let n = self.current.n;
            self.closed.push_back(std::mem::replace(&mut self.current, Slice { n: n + 1, ..Slice::default() }));
            self.closed_at = now;
            if self.closed.len() > KEEP {
                self.closed.pop_front();
            }
        }
        let t = self.totals;
        let slices: Vec<Bson> = self.closed.iter().map(|s| Bson::Document(slice_document(s))).collect();
        doc! {
            "oracle": self.has_oracle,
            "totals": [t.acknowledged, t.lost, t.stale_owner, t.stale_copy, t.shadow_compared, t.shadow_different],
            "slices": slices,
        }
    }
}

const NAMES: [[&str; 2]; 2] = [["read_legacy", "read_next"], ["write_legacy", "write_next"]];

fn slice_document(s: &Slice) -> Document {
    let mut d = doc! { "n": s.n };
    for (kind, names) in NAMES.iter().enumerate() {
        for (side, name) in names.iter().enumerate() {
            let pairs = &s.latency[kind][side];
            if !pairs.is_empty() || s.errors[kind][side] > 0 {
                let flat: Vec<Bson> =
                    pairs.iter().flat_map(|(v, c)| [Bson::Int32(*v as i32), Bson::Int32(*c as i32)]).collect();
                d.insert(*name, doc! { "us_count": flat, "errors": s.errors[kind][side] as i32 });
            }
        }
    }
    d
}

impl ReadReport {
    /// Reads the `report` of an ack document; anything that is not understood is left out, for another process's bug must not
    /// stop a rollout.
    #[must_use]
    pub fn from_ack(ack: &RawDocument) -> ReadReport {
        let mut out = ReadReport::default();
        let Ok(Some(report)) = ack.get("report").map(|v| v.and_then(|v| v.as_document())) else { return out };
        let Ok(report) = Document::try_from(report) else { return out };
        out.has_oracle = report.get_bool("oracle").unwrap_or(false);
        if let Ok(t) = report.get_array("totals") {
            let at = |i: usize| t.get(i).and_then(Bson::as_i64).unwrap_or(0);
            out.totals = Totals {
                acknowledged: at(0),
                lost: at(1),
                stale_owner: at(2),
                stale_copy: at(3),
                shadow_compared: at(4),
                shadow_different: at(5),
            };
        }
        for s in report.get_array("slices").map(Vec::as_slice).unwrap_or(&[]) {
            if let Some(s) = s.as_document() {
                out.slices.push(read_slice(s));
            }
        }
        out
    }
}

fn read_slice(d: &Document) -> Slice {
    let mut s = Slice { n: d.get_i64("n").unwrap_or(0), ..Slice::default() };
    for (kind, names) in NAMES.iter().enumerate() {
        for (side, name) in names.iter().enumerate() {
            let Ok(part) = d.get_document(name) else { continue };
            s.errors[kind][side] = part.get_i32("errors").unwrap_or(0).max(0) as u32;
            let flat = part.get_array("us_count").map(Vec::as_slice).unwrap_or(&[]);
            for pair in flat.chunks_exact(2) {
                if let (Some(v), Some(c)) = (pair[0].as_i32(), pair[1].as_i32()) {
                    *s.latency[kind][side].entry(v.max(0) as u32).or_insert(0) += c.max(0) as u32;
                }
            }
        }
    }
    s
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_report_survives_its_document() {
        let mut r = Report::default();
        r.totals.acknowledged = 3;
        r.latency(OpKind::Read, Side::Next, Micros(1_234));
        r.latency(OpKind::Read, Side::Next, Micros(1_236));
        r.error(OpKind::Write, Side::Legacy);
        let mut ack = Document::new();
        ack.insert("report", r.take_document(Micros::from_secs(1)));
        let raw = bson::RawDocumentBuf::try_from(&ack).unwrap();
        let back = ReadReport::from_ack(&raw);
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
