//! The fields of a document one after the other, as type byte, name and value bytes: nothing is decoded, checked or copied. For places
//! that every document comes through; and documents put together in one buffer.

use bson::RawDocumentBuf;
use bson::spec::ElementType;

/// One field of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawField<'a> {
    /// Its type byte.
    pub kind: u8,
    /// Its name, without the zero that ends it.
    pub name: &'a [u8],
    /// The bytes of its value.
    pub value: &'a [u8],
}

impl RawField<'_> {
    /// A 64-bit number.
    pub(crate) fn int64(&self) -> Option<i64> {
        if self.kind == 0x12 { Some(i64::from_le_bytes(self.value.try_into().ok()?)) } else { None }
    }

    /// A 32-bit number.
    pub(crate) fn int32(&self) -> Option<i32> {
        if self.kind == 0x10 { Some(i32::from_le_bytes(self.value.try_into().ok()?)) } else { None }
    }
}

/// The fields of a document or an array. They end where the bytes make no sense any more.
pub(crate) fn fields(doc: &[u8]) -> impl Iterator<Item = RawField<'_>> {
    let mut rest = doc.get(4..doc.len().saturating_sub(1)).unwrap_or_default();
    std::iter::from_fn(move || {
        let kind = *rest.first()?;
        let (name, value) = rest[1..].split_at_checked(name_length(&rest[1..])?)?;
        let value = &value[1..];
        let (value, after) = value.split_at_checked(value_size(kind, value)?)?;
        rest = after;
        Some(RawField { kind, name, value })
    })
}

/// The first field of this name.
pub(crate) fn field<'a>(doc: &'a [u8], name: &str) -> Option<RawField<'a>> {
    fields(doc).find(|f| f.name == name.as_bytes())
}

/// Where the first zero byte is. Eight bytes at a time: every document comes through here, each of its fields.
pub(crate) fn name_length(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        // The lowest bit that is set stands in the first byte that is zero (Mycroft's test).
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + bytes[at..].iter().position(|b| *b == 0)?)
}

/// Eight bytes as a number.
#[inline]
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The length that stands before a document or a text.
#[inline]
pub(crate) fn int32(bytes: &[u8]) -> Option<usize> {
    let head: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    usize::try_from(i32::from_le_bytes(head)).ok()
}

/// How many bytes a value takes; `None` when that cannot be told.
#[inline]
pub(crate) fn value_size(kind: u8, rest: &[u8]) -> Option<usize> {
    let cstring = |from: usize| rest.get(from..)?.iter().position(|b| *b == 0).map(|n| from + n + 1);
    match kind {
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x02 | 0x0D | 0x0E => {
            let n = int32(rest)?.checked_add(4)?;
            (n >= 5 && *rest.get(n - 1)? == 0).then_some(n)
        }
        0x03 | 0x04 => {
            let n = int32(rest)?;
            (n >= 5 && *rest.get(n - 1)? == 0).then_some(n)
        }
        0x05 => int32(rest)?.checked_add(5),
        0x06 | 0x0A | 0x7F | 0xFF => Some(0),
        0x07 => Some(12),
        0x08 => Some(1),
        0x0B => cstring(cstring(0)?),
        0x0C => int32(rest)?.checked_add(16),
        0x0F => int32(rest).filter(|n| *n >= 14),
        0x10 => Some(4),
        0x13 => Some(16),
        _ => None,
    }
}

/// A document put together in one buffer, where one is made with every write: appending values one by one to a [`RawDocumentBuf`]
/// costs several times as much. Names hold no zero.
pub(crate) struct DocBytes(Vec<u8>);

impl DocBytes {
    /// An empty document, with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> DocBytes {
        let mut all = Vec::with_capacity(bytes);
        all.extend_from_slice(&[0; 4]);
        DocBytes(all)
    }

    /// A field of a type and value bytes.
    pub(crate) fn element(&mut self, kind: ElementType, name: &str, value: &[u8]) {
        self.0.push(kind as u8);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.0.extend_from_slice(value);
    }

    /// A 64-bit number.
    pub(crate) fn int64(&mut self, name: &str, n: i64) {
        self.element(ElementType::Int64, name, &n.to_le_bytes());
    }

    /// A 32-bit number.
    pub(crate) fn int32(&mut self, name: &str, n: i32) {
        self.element(ElementType::Int32, name, &n.to_le_bytes());
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.text_of(name, |out| out.extend_from_slice(text.as_bytes()));
    }

    /// A text that is written where it belongs.
    pub(crate) fn text_of(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.element(ElementType::String, name, &[0; 4]);
        let from = self.0.len();
        write(&mut self.0);
        self.0.push(0);
        let length = (self.0.len() - from) as i32;
        self.0[from - 4..from].copy_from_slice(&length.to_le_bytes());
    }

    /// The elements of an array.
    pub(crate) fn items(&mut self, kind: ElementType, values: impl Iterator<Item = impl AsRef<[u8]>>) {
        for (i, value) in values.enumerate() {
            self.0.push(kind as u8);
            push_decimal(&mut self.0, i as u64);
            self.0.push(0);
            self.0.extend_from_slice(value.as_ref());
        }
    }

    /// Begins a document or an array; what it answers goes to [`DocBytes::close`].
    pub(crate) fn open(&mut self, kind: ElementType, name: &str) -> usize {
        self.element(kind, name, &[0; 4]);
        self.0.len() - 4
    }

    /// Ends what was begun there.
    pub(crate) fn close(&mut self, at: usize) {
        self.0.push(0);
        let len = (self.0.len() - at) as i32;
        self.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// The document.
    pub(crate) fn finish(mut self) -> RawDocumentBuf {
        self.close(0);
        // Closed as it should be, the one thing that is looked at.
        RawDocumentBuf::from_bytes(self.0).unwrap_or_default()
    }
}

/// The digits of a number.
pub(crate) fn push_decimal(out: &mut Vec<u8>, n: u64) {
    if n >= 10 {
        push_decimal(out, n / 10);
    }
    out.push(b'0' + (n % 10) as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{RawBsonRef, RawDocument, rawdoc};

    #[test]
    fn fields_are_those_that_a_decoder_finds() {
        let doc = rawdoc! {
            "_id": "x", "a": 1, "b": 2i64, "c": { "d": [1.5, null] }, "e": true, "regular": bson::Timestamp { time: 1, increment: 2 },
            "": bson::oid::ObjectId::from_bytes([7; 12]), "long name of a field": bson::DateTime::from_millis(9),
        };
        let names: Vec<&[u8]> = fields(doc.as_bytes()).map(|f| f.name).collect();
        let decoded: Vec<Vec<u8>> = doc.iter().map(|i| i.unwrap().0.as_str().as_bytes().to_vec()).collect();
        assert_eq!(names, decoded);
        assert_eq!(field(doc.as_bytes(), "b").unwrap().int64(), Some(2));
        assert_eq!(field(doc.as_bytes(), "a").unwrap().int32(), Some(1));
        let inner = RawDocument::from_bytes(field(doc.as_bytes(), "c").unwrap().value).unwrap();
        assert!(matches!(inner.get("d"), Ok(Some(RawBsonRef::Array(_)))));
        for cut in 0..doc.as_bytes().len() {
            assert!(fields(&doc.as_bytes()[..cut]).count() <= names.len());
        }
    }

    #[test]
    fn a_document_in_one_buffer_is_the_one_that_is_appended_to() {
        let mut d = DocBytes::with_capacity(0);
        d.text("_id", "x");
        d.int64("n", -5);
        d.int32("m", 12);
        let at = d.open(ElementType::EmbeddedDocument, "sub");
        d.text_of("t", |out| push_decimal(out, 1_203));
        d.close(at);
        assert_eq!(d.finish(), rawdoc! { "_id": "x", "n": -5i64, "m": 12, "sub": { "t": "1203" } });
    }
}
