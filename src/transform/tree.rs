//! A document as a list of fields that still point into its bytes; a nested document is opened only where a step goes through it.

use std::borrow::Cow;

use super::{At, Why};
use crate::cluster::fields::{int32, name_length, value_size, word};

/// One field.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub(super) name: Cow<'a, [u8]>,
    pub(super) value: Value<'a>,
}

/// A value: its type byte and bytes, or an opened document.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Raw(u8, &'a [u8]),
    Owned(u8, Vec<u8>),
    Doc(Vec<Field<'a>>),
}

pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const UNDEFINED: u8 = 0x06;
pub(super) const NULL: u8 = 0x0A;

impl<'a> Value<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Value::Raw(kind, _) | Value::Owned(kind, _) => *kind,
            Value::Doc(_) => DOCUMENT,
        }
    }

    /// True when it is exactly this type and these bytes.
    pub(super) fn is(&self, kind: u8, bytes: &[u8]) -> bool {
        match self {
            Value::Raw(k, b) => *k == kind && *b == bytes,
            Value::Owned(k, b) => *k == kind && b == bytes,
            Value::Doc(fields) => kind == DOCUMENT && write(fields, bytes.len()) == bytes,
        }
    }

    /// The fields of a document; `None` for null, which stands for "nothing there".
    pub(super) fn open(&mut self, path: &str) -> At<Option<&mut Vec<Field<'a>>>> {
        if let Value::Raw(DOCUMENT, bytes) = self {
            *self = Value::Doc(parse(bytes, path)?);
        }
        match self {
            Value::Doc(fields) => Ok(Some(fields)),
            Value::Raw(NULL, _) | Value::Owned(NULL, _) => Ok(None),
            Value::Raw(kind, _) | Value::Owned(kind, _) => {
                Err((path.into(), Why::Type { expected: "document (or nothing) on the way", found: type_name(*kind) }))
            }
        }
    }
}

/// Splits a document into fields; refuses duplicate names at this level.
pub(super) fn parse<'a>(bytes: &'a [u8], path: &str) -> At<Vec<Field<'a>>> {
    let bad = |why| (path.to_owned(), Why::Malformed(why));
    let length = int32(bytes).ok_or_else(|| bad("it is shorter than its length"))?;
    if length != bytes.len() || length < 5 || bytes[length - 1] != 0 {
        return Err(bad("its length is wrong"));
    }
    let end = length - 1;
    let mut fields: Vec<Field<'a>> = Vec::with_capacity((length / 10).min(16));
    let mut names = Names::default();
    let mut at = 4;
    while at < end {
        let kind = bytes[at];
        let length = name_length(&bytes[at + 1..]).filter(|n| at + 1 + n < end);
        let length = length.ok_or_else(|| bad("a field name does not end"))?;
        let name = &bytes[at + 1..at + 1 + length];
        names.add(name, &bytes[at + 1..], &fields);
        let start = at + length + 2;
        let rest = bytes.get(start..end).ok_or_else(|| bad("a field has no value"))?;
        let size = value_size(kind, rest).filter(|n| *n <= rest.len()).ok_or_else(|| bad("a value does not fit"))?;
        fields.push(Field { name: Cow::Borrowed(name), value: Value::Raw(kind, &rest[..size]) });
        at = start + size;
    }
    if let Some(name) = names.duplicate(&fields) {
        let name = String::from_utf8_lossy(name);
        return Err((if path.is_empty() { name.into_owned() } else { format!("{path} / {name}") }, Why::Duplicate));
    }
    Ok(fields)
}

/// Up to here every name is held against every other.
const FEW: usize = 24;

/// Finds a name that stands twice. Names are compared only where their lengths and first bytes agree.
#[derive(Default)]
struct Names<'a> {
    tags: [u64; FEW],
    twice: Option<&'a [u8]>,
}

impl<'a> Names<'a> {
    /// The name of the next field; `from` is what begins with it, `before` the fields before.
    fn add(&mut self, name: &'a [u8], from: &[u8], before: &[Field<'a>]) {
        let i = before.len();
        if i >= FEW || self.twice.is_some() {
            return;
        }
        let tag = tag(name, from);
        let again = |(j, t): (usize, &u64)| *t == tag && *before[j].name == *name;
        if self.tags[..i].iter().enumerate().any(again) {
            self.twice = Some(name);
        }
        self.tags[i] = tag;
    }

    fn duplicate<'f>(&self, fields: &'f [Field<'a>]) -> Option<&'f [u8]> {
        if self.twice.is_some() || fields.len() <= FEW {
            return self.twice;
        }
        let mut seen = std::collections::BTreeSet::new();
        fields.iter().map(|f| &*f.name).find(|name| !seen.insert(*name))
    }
}

/// Equal for equal names: their first seven bytes and how many there are.
fn tag(name: &[u8], from: &[u8]) -> u64 {
    let n = name.len().min(7);
    let first = match word(from, 0) {
        Some(word) => word & !(u64::MAX << (8 * n)),
        None => name[..n].iter().rev().fold(0, |word, b| word << 8 | u64::from(*b)),
    };
    first | (name.len() as u64) << 56
}

/// Writes the fields as a document.
pub(super) fn write(fields: &[Field<'_>], capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    write_into(&mut out, fields);
    out
}

fn write_into(out: &mut Vec<u8>, fields: &[Field<'_>]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    for f in fields {
        out.push(f.value.kind());
        out.extend_from_slice(&f.name);
        out.push(0);
        match &f.value {
            Value::Raw(_, bytes) => out.extend_from_slice(bytes),
            Value::Owned(_, bytes) => out.extend_from_slice(bytes),
            Value::Doc(inner) => write_into(out, inner),
        }
    }
    out.push(0);
    // A result beyond i32 is refused by its size afterwards.
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// True when [`write`] would make exactly these bytes.
pub(super) fn writes(fields: &[Field<'_>], bytes: &[u8]) -> bool {
    rest_after(fields, bytes).is_some_and(<[u8]>::is_empty)
}

/// What follows the fields as a document at the beginning of `bytes`; `None` when they are not what stands there.
fn rest_after<'b>(fields: &[Field<'_>], bytes: &'b [u8]) -> Option<&'b [u8]> {
    let mut at = bytes.get(4..)?;
    for f in fields {
        let n = f.name.len();
        if *at.first()? != f.value.kind() || at.get(1..=n)? != &*f.name || *at.get(n + 1)? != 0 {
            return None;
        }
        at = &at[n + 2..];
        at = match &f.value {
            Value::Raw(_, value) => at.strip_prefix(*value)?,
            Value::Owned(_, value) => at.strip_prefix(&**value)?,
            Value::Doc(inner) => rest_after(inner, at)?,
        };
    }
    at = at.strip_prefix(&[0])?;
    (int32(bytes)? == bytes.len() - at.len()).then_some(at)
}

pub(super) fn position(fields: &[Field<'_>], name: &[u8]) -> Option<usize> {
    fields.iter().position(|f| *f.name == *name)
}

/// The fields of the document at `parts`; `None` when nothing is there.
pub(super) fn descend<'f, 'a>(
    fields: &'f mut Vec<Field<'a>>,
    parts: &[Vec<u8>],
    path: &str,
) -> At<Option<&'f mut Vec<Field<'a>>>> {
    let mut level = fields;
    for part in parts {
        let Some(i) = position(level, part) else { return Ok(None) };
        match level[i].value.open(path)? {
            Some(inner) => level = inner,
            None => return Ok(None),
        }
    }
    Ok(Some(level))
}

/// The value at `parts`, which is never empty.
pub(super) fn find<'f, 'a>(
    fields: &'f mut Vec<Field<'a>>,
    parts: &[Vec<u8>],
    path: &str,
) -> At<Option<&'f mut Value<'a>>> {
    let Some((last, parents)) = parts.split_last() else { return Ok(None) };
    let Some(level) = descend(fields, parents, path)? else { return Ok(None) };
    Ok(position(level, last).map(|i| &mut level[i].value))
}

/// Takes a value out, and with it every parent that it leaves empty.
pub(super) fn take<'a>(fields: &mut Vec<Field<'a>>, parts: &[Vec<u8>], path: &str) -> At<Option<Value<'a>>> {
    let Some((first, rest)) = parts.split_first() else { return Ok(None) };
    let Some(i) = position(fields, first) else { return Ok(None) };
    if rest.is_empty() {
        return Ok(Some(fields.remove(i).value));
    }
    let Some(inner) = fields[i].value.open(path)? else { return Ok(None) };
    let value = take(inner, rest, path)?;
    if value.is_some() && inner.is_empty() {
        fields.remove(i);
    }
    Ok(value)
}

/// Puts a value where nothing is, making the parents that are missing; first or last among its new neighbours.
pub(super) fn insert<'a>(
    fields: &mut Vec<Field<'a>>,
    parts: &'a [Vec<u8>],
    value: Value<'a>,
    first: bool,
    path: &str,
) -> At<()> {
    let Some((name, rest)) = parts.split_first() else { return Ok(()) };
    match position(fields, name) {
        Some(_) if rest.is_empty() => Err((path.into(), Why::Occupied)),
        Some(i) => match fields[i].value.open(path)? {
            Some(inner) if inner.is_empty() => Err((parent_text(path, rest.len()), Why::EmptyParent)),
            Some(inner) => insert(inner, rest, value, first, path),
            None => {
                Err((parent_text(path, rest.len()), Why::Type { expected: "document (or nothing)", found: "null" }))
            }
        },
        None => {
            let field = Field { name: Cow::Borrowed(name), value: nest(rest, value) };
            fields.insert(if first { 0 } else { fields.len() }, field);
            Ok(())
        }
    }
}

/// The path without its last `n` segments.
fn parent_text(path: &str, n: usize) -> String {
    let keep = path.split('.').count().saturating_sub(n);
    path.split('.').take(keep).collect::<Vec<_>>().join(".")
}

/// Wraps a value in a document for each name, outermost first.
pub(super) fn nest<'a>(names: &'a [Vec<u8>], value: Value<'a>) -> Value<'a> {
    names.iter().rev().fold(value, |value, name| Value::Doc(vec![Field { name: Cow::Borrowed(name), value }]))
}

/// The server's name of a type byte.
pub(super) fn type_name(kind: u8) -> &'static str {
    match kind {
        0x01 => "double",
        0x02 => "string",
        0x03 => "document",
        0x04 => "array",
        0x05 => "binary",
        0x06 => "undefined",
        0x07 => "objectId",
        0x08 => "bool",
        0x09 => "date",
        0x0A => "null",
        0x0B => "regex",
        0x0C => "dbPointer",
        0x0D => "javascript",
        0x0E => "symbol",
        0x0F => "javascriptWithScope",
        0x10 => "int",
        0x11 => "timestamp",
        0x12 => "long",
        0x13 => "decimal",
        0x7F => "maxKey",
        0xFF => "minKey",
        _ => "unknown",
    }
}
