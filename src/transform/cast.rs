//! Documents of one layout are carried alike: what the steps make of one of them is noted down in pieces, and the next one is made, or
//! compared, from its values, without being taken apart.
//!
//! A layout is the types and names of all fields that a step may look at. Only for going forward, and only for steps that look at
//! nothing else, but for the conversion of single values, which is made each time. Whatever does not fit goes the long way, which
//! alone says why a document is refused.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::convert;
use super::op::Op;
use super::tree::{self, DOCUMENT, Field, Value};
use crate::cluster::fields::{int32, value_size, word};
use crate::plan::ValueType;

/// Layouts that are noted.
const FEW: usize = 8;
/// Documents from which a layout is tried to be noted.
const TRIES: usize = 32;
/// Values of a layout.
const MOST: usize = 40;
/// Documents inside each other.
const DEEP: usize = 8;

/// What is expected of a document, in the order of its bytes.
#[derive(Debug)]
enum Part {
    Value(Head),
    /// A document that a step goes through; its fields follow. It is a value, too.
    Open(Head),
    Close,
}

/// What stands before a value: its type byte, its name and the name's end.
#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    /// The first eight bytes, and which of eight count: nearly every head is compared at once.
    first: u64,
    mask: u64,
}

impl Head {
    fn new(kind: u8, name: &[u8]) -> Head {
        let bytes = [&[kind], name, &[0]].concat();
        let n = bytes.len().min(8);
        let first = bytes[..n].iter().rev().fold(0, |word, b| word << 8 | u64::from(*b));
        Head { bytes, first, mask: u64::MAX >> (8 * (8 - n)) }
    }

    /// True when it stands at the beginning of `bytes`.
    fn begins(&self, bytes: &[u8]) -> bool {
        match word(bytes, 0) {
            Some(word) => {
                word & self.mask == self.first && (self.bytes.len() <= 8 || bytes[8..].starts_with(&self.bytes[8..]))
            }
            None => bytes.starts_with(&self.bytes),
        }
    }
}

/// What is written, in the order of its bytes.
#[derive(Debug)]
enum Piece {
    /// Heads and constants.
    Bytes(Vec<u8>),
    /// A value as it is.
    Copy(usize),
    /// Fields as they stand there one after the other: the first and the last value, and the length of the first one's head.
    Fields {
        first: usize,
        last: usize,
        head: usize,
    },
    /// A converted value with its head.
    Converted {
        value: usize,
        kind: u8,
        name: Vec<u8>,
        how: How,
    },
    Open,
    Close,
}

#[derive(Clone, Copy, Debug)]
struct How {
    from: ValueType,
    to: ValueType,
    lossy: bool,
}

/// What the steps make of a layout.
#[derive(Debug)]
pub(super) struct Cast {
    layout: Vec<Part>,
    pieces: Vec<Piece>,
}

/// Where the values of a document that fits begin and end.
struct Values<'a> {
    doc: &'a [u8],
    at: [(usize, usize); MOST],
}

impl<'a> Values<'a> {
    fn get(&self, value: usize) -> &'a [u8] {
        let (from, to) = self.at[value];
        &self.doc[from..to]
    }

    fn fields(&self, first: usize, last: usize, head: usize) -> &'a [u8] {
        &self.doc[self.at[first].0 - head..self.at[last].1]
    }
}

/// A layout while it is read: its parts, where the sample's values stand, and which of the parts each of them is.
#[derive(Default)]
struct Reading {
    parts: Vec<Part>,
    values: Vec<(usize, usize)>,
}

impl Cast {
    /// Notes what `ops` make of `sample`; `None` when that does not follow from its layout alone.
    fn of(ops: &[Op], sample: &[u8]) -> Option<Cast> {
        if !are_plain(ops) {
            return None;
        }
        let paths: Vec<&[Vec<u8>]> = ops.iter().flat_map(Op::paths).map(|p| &p.parts[..]).collect();
        let mut reading = Reading::default();
        read(sample, &paths, 0, &mut reading)?;
        if reading.values.len() > MOST {
            return None;
        }
        let mut fields = tree::parse(sample, "").ok()?;
        let mut converted: Vec<(usize, How)> = Vec::new();
        for op in ops {
            let Op::Convert { path, from, to, lossy } = op else {
                op.run(&mut fields, true).ok()?;
                continue;
            };
            // Left as it is here: nothing but its own type follows from a conversion.
            let Some(value) = tree::find(&mut fields, &path.parts, &path.text).ok()? else { continue };
            let Value::Raw(_, bytes) = value else { return None };
            let value = reading.number(bytes)?;
            if converted.iter().any(|(v, _)| *v == value) {
                return None;
            }
            converted.push((value, How { from: *from, to: *to, lossy: *lossy }));
        }
        let mut pieces = Vec::new();
        note(&fields, sample, &reading, &converted, &mut pieces)?;
        Some(Cast { layout: reading.parts, pieces })
    }

    /// Finds the values of a document; false when it is not of this layout.
    fn fits(&self, values: &mut Values<'_>) -> bool {
        self.find(values.doc, &mut values.at).is_some()
    }

    fn find(&self, doc: &[u8], values: &mut [(usize, usize); MOST]) -> Option<()> {
        if int32(doc)? != doc.len() || doc.len() < 5 || doc[doc.len() - 1] != 0 {
            return None;
        }
        let (mut n, mut at, mut end) = (0, 4, doc.len() - 1);
        let (mut outer, mut depth) = ([0; DEEP], 0);
        for part in &self.layout {
            let (Part::Value(head) | Part::Open(head)) = part else {
                if at != end {
                    return None;
                }
                depth -= 1;
                (at, end) = (end + 1, outer[depth]);
                continue;
            };
            let rest = doc.get(at..end).filter(|rest| head.begins(rest))?;
            let rest = &rest[head.bytes.len()..];
            let size = value_size(head.bytes[0], rest).filter(|n| *n <= rest.len())?;
            at += head.bytes.len();
            values[n] = (at, at + size);
            n += 1;
            if matches!(part, Part::Open(_)) {
                outer[depth] = end;
                depth += 1;
                (at, end) = (at + 4, at + size - 1);
            } else {
                at += size;
            }
        }
        (at == end).then_some(())
    }

    /// What the steps make of a document; `None` when it is to go the long way.
    fn write(&self, values: &mut Values<'_>) -> Option<Vec<u8>> {
        if !self.fits(values) {
            return None;
        }
        let mut out = Vec::with_capacity(values.doc.len() + 64);
        out.extend_from_slice(&[0; 4]);
        let (mut begun, mut depth) = ([0; DEEP], 0);
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::Copy(value) => out.extend_from_slice(values.get(*value)),
                Piece::Fields { first, last, head } => out.extend_from_slice(values.fields(*first, *last, *head)),
                Piece::Converted { value, kind, name, how } => {
                    let (kind, new) = how.convert(*kind, values.get(*value))?;
                    out.push(kind);
                    out.extend_from_slice(name);
                    out.extend_from_slice(new.as_deref().unwrap_or(values.get(*value)));
                }
                Piece::Open => {
                    begun[depth] = out.len();
                    depth += 1;
                    out.extend_from_slice(&[0; 4]);
                }
                Piece::Close => {
                    depth -= 1;
                    close(&mut out, begun[depth]);
                }
            }
        }
        close(&mut out, 0);
        Some(out)
    }

    /// Whether the steps make exactly `to` of a document; `None` when that is to be found out the long way.
    fn makes(&self, values: &mut Values<'_>, to: &[u8]) -> Option<bool> {
        if !self.fits(values) {
            return None;
        }
        let (mut begun, mut depth) = ([0; DEEP], 0);
        let Some(mut rest) = to.get(4..) else { return Some(false) };
        for piece in &self.pieces {
            let next = match piece {
                Piece::Bytes(bytes) => rest.strip_prefix(&bytes[..]),
                Piece::Copy(value) => rest.strip_prefix(values.get(*value)),
                Piece::Fields { first, last, head } => rest.strip_prefix(values.fields(*first, *last, *head)),
                Piece::Converted { value, kind, name, how } => {
                    let (kind, new) = how.convert(*kind, values.get(*value))?;
                    let new = new.as_deref().unwrap_or(values.get(*value));
                    let named = rest.strip_prefix(&[kind]).and_then(|r| r.strip_prefix(&name[..]));
                    named.and_then(|r| r.strip_prefix(new))
                }
                Piece::Open => {
                    begun[depth] = to.len() - rest.len();
                    depth += 1;
                    rest.get(4..)
                }
                Piece::Close => {
                    depth -= 1;
                    let from = begun[depth];
                    rest.strip_prefix(&[0]).filter(|r| int32(&to[from..]) == Some(to.len() - r.len() - from))
                }
            };
            match next {
                Some(next) => rest = next,
                None => return Some(false),
            }
        }
        Some(rest == [0] && int32(to) == Some(to.len()))
    }
}

/// True when what the steps do follows from types and names: they move, convert and add, and none goes through what another one has put
/// in place.
fn are_plain(ops: &[Op]) -> bool {
    let placed = |op: &Op| match op {
        Op::Move { to, .. } => Some(to.parts.clone()),
        Op::Constant { path, .. } => Some(path.parts.clone()),
        _ => None,
    };
    let kinds = ops
        .iter()
        .all(|op| matches!(op, Op::Move { .. } | Op::Convert { .. } | Op::Constant { value: Some(_), add: true, .. }));
    let through =
        |p: &[Vec<u8>]| ops.iter().flat_map(Op::paths).any(|q| q.parts.len() > p.len() && q.parts.starts_with(p));
    kinds && !ops.iter().filter_map(placed).any(|p| through(&p))
}

/// Reads the layout of a document, going into those that a path leads through.
fn read(doc: &[u8], paths: &[&[Vec<u8>]], depth: usize, into: &mut Reading) -> Option<()> {
    for f in &tree::parse(doc, "").ok()? {
        let Value::Raw(kind, bytes) = f.value else { return None };
        let head = Head::new(kind, &f.name);
        let below: Vec<&[Vec<u8>]> =
            paths.iter().filter(|p| p.len() > 1 && *p[0] == *f.name).map(|p| &p[1..]).collect();
        into.values.push((bytes.as_ptr().addr(), into.parts.len()));
        if kind != DOCUMENT || below.is_empty() {
            into.parts.push(Part::Value(head));
            continue;
        }
        if depth == DEEP {
            return None;
        }
        into.parts.push(Part::Open(head));
        read(bytes, &below, depth + 1, into)?;
        into.parts.push(Part::Close);
    }
    Some(())
}

impl Reading {
    /// Which of the sample's values these bytes are.
    fn number(&self, bytes: &[u8]) -> Option<usize> {
        self.values.iter().position(|(at, _)| *at == bytes.as_ptr().addr())
    }

    /// The length of a value's head, where it stands there as it is to be written and is not gone into.
    fn head(&self, value: usize, kind: u8, name: &[u8]) -> Option<usize> {
        match &self.parts[self.values[value].1] {
            Part::Value(head) if head.bytes[0] == kind && head.bytes[1..] == *name => Some(head.bytes.len()),
            _ => None,
        }
    }

    /// True when nothing stands between two values but the head of the second.
    fn follow(&self, first: usize, second: usize) -> bool {
        self.values[first].1 + 1 == self.values[second].1
    }
}

/// Notes how the fields are written. `None` when a value is neither one of the sample's nor a constant.
fn note(
    fields: &[Field<'_>],
    sample: &[u8],
    reading: &Reading,
    converted: &[(usize, How)],
    pieces: &mut Vec<Piece>,
) -> Option<()> {
    for f in fields {
        let mut name = f.name.to_vec();
        name.push(0);
        match &f.value {
            Value::Raw(kind, bytes) => match reading.number(bytes) {
                Some(value) => match converted.iter().find(|(v, _)| *v == value) {
                    Some((_, how)) => pieces.push(Piece::Converted { value, kind: *kind, name, how: *how }),
                    None => match (reading.head(value, *kind, &name), pieces.last_mut()) {
                        (Some(_), Some(Piece::Fields { last, .. })) if reading.follow(*last, value) => *last = value,
                        (Some(head), _) => pieces.push(Piece::Fields { first: value, last: value, head }),
                        (None, _) => {
                            bytes_piece(pieces, &[&[*kind], &name]);
                            pieces.push(Piece::Copy(value));
                        }
                    },
                },
                None if sample.as_ptr_range().contains(&bytes.as_ptr()) => return None,
                None => bytes_piece(pieces, &[&[*kind], &name, bytes]),
            },
            Value::Owned(..) => return None,
            Value::Doc(inner) => {
                bytes_piece(pieces, &[&[DOCUMENT], &name]);
                let depth = pieces.iter().filter(|p| matches!(p, Piece::Open)).count();
                if depth == DEEP {
                    return None;
                }
                pieces.push(Piece::Open);
                note(inner, sample, reading, converted, pieces)?;
                pieces.push(Piece::Close);
            }
        }
    }
    Some(())
}

/// Adds to the bytes that are written, or begins them.
fn bytes_piece(pieces: &mut Vec<Piece>, parts: &[&[u8]]) {
    match pieces.last_mut() {
        Some(Piece::Bytes(bytes)) => parts.iter().for_each(|p| bytes.extend_from_slice(p)),
        _ => pieces.push(Piece::Bytes(parts.concat())),
    }
}

fn close(out: &mut Vec<u8>, from: usize) {
    out.push(0);
    // A result beyond i32 is refused by its size afterwards.
    let length = u32::try_from(out.len() - from).unwrap_or(u32::MAX);
    out[from..from + 4].copy_from_slice(&length.to_le_bytes());
}

impl How {
    /// The new type and bytes, or the old type and none; `None` when it cannot be converted.
    fn convert(self, kind: u8, bytes: &[u8]) -> Option<(u8, Option<Vec<u8>>)> {
        match convert::convert(&Value::Raw(kind, bytes), self.from, self.to, self.lossy, true).ok()? {
            None => Some((kind, None)),
            Some(Value::Owned(kind, new)) => Some((kind, Some(new))),
            Some(_) => None,
        }
    }
}

/// The layouts that have been met.
#[derive(Debug, Default)]
pub(super) struct Casts {
    known: [OnceLock<Cast>; FEW],
    /// The one that fitted last.
    last: AtomicUsize,
    tried: AtomicUsize,
}

impl Clone for Casts {
    /// They are noted anew.
    fn clone(&self) -> Self {
        Casts::default()
    }
}

impl Casts {
    fn first<T>(&self, doc: &[u8], with: impl Fn(&Cast, &mut Values<'_>) -> Option<T>) -> Option<T> {
        let last = self.last.load(Ordering::Relaxed);
        let mut values = Values { doc, at: [(0, 0); MOST] };
        if let Some(found) = self.known[last].get().and_then(|c| with(c, &mut values)) {
            return Some(found);
        }
        let others = self.known.iter().enumerate().filter(|(i, _)| *i != last);
        let (i, found) =
            others.map_while(|(i, c)| Some((i, c.get()?))).find_map(|(i, c)| Some((i, with(c, &mut values)?)))?;
        self.last.store(i, Ordering::Relaxed);
        Some(found)
    }

    /// What the steps make of a document, where it is of a known layout.
    pub(super) fn write(&self, doc: &[u8]) -> Option<Vec<u8>> {
        self.first(doc, |c, values| c.write(values))
    }

    /// Whether they make exactly `to` of it, where it is of a known layout.
    pub(super) fn makes(&self, doc: &[u8], to: &[u8]) -> Option<bool> {
        self.first(doc, |c, values| c.makes(values, to))
    }

    /// Notes the layout of a document that has been carried the long way, while there is room.
    pub(super) fn learn(&self, ops: &[Op], sample: &[u8]) {
        if self.tried.load(Ordering::Relaxed) >= TRIES || self.tried.fetch_add(1, Ordering::Relaxed) >= TRIES {
            return;
        }
        if let Some(free) = self.known.iter().find(|c| c.get().is_none())
            && let Some(cast) = Cast::of(ops, sample)
        {
            // Another thread may have been first.
            let _ = free.set(cast);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bson::{RawDocument, RawDocumentBuf, rawdoc};

    use super::super::Transform;
    use super::*;
    use crate::plan::Step;

    fn steps() -> Vec<Step> {
        vec![
            Step::Rename { from: "customer.name".into(), to: "customer_name".into() },
            Step::Nest { paths: vec!["lat".into(), "lon".into()], into: "at".into() },
            Step::Convert { path: "total".into(), from: ValueType::String, to: ValueType::Decimal, lossy: false },
            Step::Rename { from: "total".into(), to: "sum.total".into() },
            Step::Set { path: "version".into(), value: 2.into() },
        ]
    }

    fn documents() -> Vec<RawDocumentBuf> {
        vec![
            rawdoc! { "_id": 1, "customer": { "name": "A", "city": "B" }, "total": "12.30", "lat": 1.5, "x": [1, {}] },
            rawdoc! { "_id": 2, "customer": { "name": "Long", "city": "" }, "total": "7", "lat": 2.5, "x": [] },
            rawdoc! { "_id": "t", "customer": { "name": "A" }, "total": null, "lat": 1, "lon": 2, "at": { "z": 1 } },
            rawdoc! { "_id": 3i64, "customer": null, "sum": { "a": "x" } },
            rawdoc! { "_id": 4i64, "customer": {}, "sum": { "a": "x" } },
            rawdoc! { "_id": 5 },
        ]
    }

    /// As a transform has it that has met no document yet, and one that has met them all.
    fn both_agree(known: &Transform, doc: &RawDocument, to: &RawDocument) {
        let new = Transform::new(&steps());
        assert_eq!(known.apply(doc), new.apply(doc), "{doc:?}");
        assert_eq!(known.makes(doc, to), Transform::new(&steps()).makes(doc, to), "{doc:?} {to:?}");
    }

    #[test]
    fn what_is_noted_of_a_layout_changes_no_outcome() {
        let known = Transform::new(&steps());
        let docs = documents();
        docs.iter().for_each(|d| drop(known.apply(d)));
        assert!(known.casts.known.iter().filter(|c| c.get().is_some()).count() > 3);
        for doc in &docs {
            let made = known.apply(doc).unwrap_or_default();
            both_agree(&known, doc, &made);
            // Every byte of either document is wrong once, in several ways.
            for (i, wrong) in (0..doc.as_bytes().len()).flat_map(|i| [0, 1, 3, 0x0A, b'9', 0xFF].map(|b| (i, b))) {
                let mut bytes = doc.as_bytes().to_vec();
                bytes[i] = wrong;
                if let Ok(doc) = RawDocumentBuf::from_bytes(bytes) {
                    both_agree(&known, &doc, &made);
                }
            }
            for (i, wrong) in (0..made.as_bytes().len()).flat_map(|i| [0, 1, b'9', 0xFF].map(|b| (i, b))) {
                let mut bytes = made.as_bytes().to_vec();
                bytes[i] = wrong;
                if let Ok(made) = RawDocumentBuf::from_bytes(bytes) {
                    assert_eq!(known.makes(doc, &made), Transform::new(&steps()).makes(doc, &made), "{made:?}");
                }
            }
        }
    }

    #[test]
    fn steps_that_look_at_more_than_a_layout_are_not_noted() {
        let map = Step::Map { path: "a".into(), values: vec![(1.into(), 2.into())], keep: true, lossy: false };
        let through =
            [Step::Rename { from: "a".into(), to: "b".into() }, Step::Rename { from: "b.x".into(), to: "y".into() }];
        for steps in [&[map][..], &through] {
            let t = Transform::new(steps);
            t.apply(&rawdoc! { "_id": 1, "a": { "x": 1 } }).unwrap();
            assert!(t.casts.known.iter().all(|c| c.get().is_none()));
        }
    }
}
