//! A document's `_id` with MongoDB's own notion of equality and order.
//!
//! The order bytes compare (memcmp) as the server compares `_id`s across all BSON types; numbers of any type that are equal have
//! equal bytes, so 5, 5.0 and Decimal 5 are one key.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use bson::oid::ObjectId;
use bson::{Bson, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

/// Why a value cannot be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The document has no `_id`.
    #[error("the document has no _id")]
    Missing,
    /// The bytes are not valid BSON.
    #[error("the document is not valid BSON: {0}")]
    Malformed(String),
    /// Arrays, regular expressions and undefined are no `_id`s.
    #[error("a value of type {0} cannot be an _id")]
    Type(&'static str),
}

/// A document's `_id`. Cheap to clone; clones share what is worked out about it.
#[derive(Clone)]
pub struct Key {
    /// The first order bytes, padded with zeros: most comparisons end here, without following the pointer.
    head: [u64; 2],
    /// How many order bytes there are, up to one more than fit into the head.
    len: u8,
    inner: Arc<Inner>,
}

struct Inner {
    value: RawBson,
    order: OrderBytes,
    /// The hashed-index value, once somebody has asked for it and it has one.
    hash: OnceLock<i64>,
}

/// Order bytes; those of a whole number, an ObjectId or a date fit in beside the value.
enum OrderBytes {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// Type, sign, exponent, 19 digits and their end: the longest 64-bit number.
const SHORT: usize = 24;

impl OrderBytes {
    fn new(bytes: &[u8]) -> Self {
        if bytes.len() > SHORT {
            return OrderBytes::Long(bytes.into());
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        OrderBytes::Short(bytes.len() as u8, short)
    }

    fn get(&self) -> &[u8] {
        match self {
            OrderBytes::Short(n, bytes) => &bytes[..usize::from(*n)],
            OrderBytes::Long(bytes) => bytes,
        }
    }
}

thread_local! {
    /// Where order bytes are put together.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
/// More than that is given back: few keys are so long.
const SCRATCH_MAX: usize = 64 << 10;

fn with_scratch<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        let out = f(scratch);
        scratch.shrink_to(SCRATCH_MAX);
        out
    })
}

impl Key {
    fn made(value: RawBson, order: &[u8]) -> Self {
        let mut head = [0u8; 16];
        let n = order.len().min(head.len());
        head[..n].copy_from_slice(&order[..n]);
        let len = order.len().min(head.len() + 1) as u8;
        let head = u128::from_be_bytes(head);
        let inner = Inner { value, order: OrderBytes::new(order), hash: OnceLock::new() };
        Key { head: [(head >> 64) as u64, head as u64], len, inner: Arc::new(inner) }
    }

    /// The key of a raw value.
    ///
    /// # Errors
    /// When the value cannot be an `_id` or is malformed.
    pub fn new(value: RawBsonRef<'_>) -> Result<Self, KeyError> {
        match value {
            RawBsonRef::Array(_) => return Err(KeyError::Type("array")),
            RawBsonRef::RegularExpression(_) => return Err(KeyError::Type("regex")),
            RawBsonRef::Undefined => return Err(KeyError::Type("undefined")),
            _ => {}
        }
        with_scratch(|order| push_value(order, value).map(|()| Key::made(value.into(), order)))
    }

    /// The key of a document.
    ///
    /// # Errors
    /// When there is no usable `_id`.
    pub fn of(doc: &RawDocument) -> Result<Self, KeyError> {
        if let Some(value) = leading_id(doc.as_bytes()) {
            return Key::new(value);
        }
        match doc.get("_id") {
            Ok(Some(v)) => Key::new(v),
            Ok(None) => Err(KeyError::Missing),
            Err(e) => Err(KeyError::Malformed(e.to_string())),
        }
    }

    /// True when a document's `_id` is exactly this value, of this type.
    pub(crate) fn is_id_of(&self, doc: &RawDocument) -> bool {
        match leading_id(doc.as_bytes()) {
            Some(id) => id == self.value(),
            None => doc.get("_id").is_ok_and(|id| id == Some(self.value())),
        }
    }

    /// The value as it was given; its numeric type may differ from that of an equal key.
    #[must_use]
    pub fn value(&self) -> RawBsonRef<'_> {
        self.inner.value.as_raw_bson_ref()
    }

    /// The value as an owned BSON value.
    #[must_use]
    pub fn to_bson(&self) -> Bson {
        Bson::try_from(self.value()).unwrap_or(Bson::Null)
    }

    /// The bytes that order keys; equal for equal keys.
    #[must_use]
    pub fn order_bytes(&self) -> &[u8] {
        self.inner.order.get()
    }

    /// Its hashed-index value, worked out by `hash` at the first time of asking and remembered.
    pub(crate) fn hash64<E>(&self, hash: impl FnOnce(RawBsonRef<'_>) -> Result<i64, E>) -> Result<i64, E> {
        if let Some(known) = self.inner.hash.get() {
            return Ok(*known);
        }
        let new = hash(self.value())?;
        Ok(*self.inner.hash.get_or_init(|| new))
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        with_scratch(|order| {
            order.push(STRING);
            push_escaped(order, text.as_bytes());
            Key::made(RawBson::String(text.to_owned()), order)
        })
    }
}

impl From<i64> for Key {
    fn from(n: i64) -> Self {
        with_scratch(|order| {
            order.push(NUMBER);
            push_int(order, n.into());
            Key::made(RawBson::Int64(n), order)
        })
    }
}

impl PartialEq for Key {
    fn eq(&self, o: &Self) -> bool {
        self.cmp(o) == Ordering::Equal
    }
}
impl Eq for Key {}
impl PartialOrd for Key {
    fn partial_cmp(&self, o: &Self) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Key {
    #[inline]
    fn cmp(&self, o: &Self) -> Ordering {
        // Padding is right: where two heads differ, a byte differs or one key ends, and an end orders first.
        if self.head[0] != o.head[0] {
            return self.head[0].cmp(&o.head[0]);
        }
        self.head[1].cmp(&o.head[1]).then_with(|| {
            if usize::from(self.len.min(o.len)) <= size_of_val(&self.head) {
                // One of them is all in its head, and the other begins with it.
                self.len.cmp(&o.len)
            } else if Arc::ptr_eq(&self.inner, &o.inner) {
                Ordering::Equal
            } else {
                self.order_bytes().cmp(o.order_bytes())
            }
        })
    }
}
impl Hash for Key {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.order_bytes().hash(h);
    }
}

impl fmt::Display for Key {
    /// Relaxed extended JSON, scrubbed of control and bidi characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.value() {
            RawBsonRef::String(s) => format!("{s:?}"),
            RawBsonRef::ObjectId(id) => format!("ObjectId({id})"),
            RawBsonRef::Int32(n) => n.to_string(),
            RawBsonRef::Int64(n) => n.to_string(),
            _ => self.to_bson().into_relaxed_extjson().to_string(),
        };
        f.write_str(&crate::scrub::line(&text))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// The server's canonical type order, shifted by one so that 0 ends a document.
const MIN_KEY: u8 = 1;
const UNDEFINED: u8 = 2;
const NULL: u8 = 6;
const NUMBER: u8 = 11;
const STRING: u8 = 16;
const OBJECT: u8 = 21;
const ARRAY: u8 = 26;
const BINARY: u8 = 31;
const OBJECT_ID: u8 = 36;
const BOOL: u8 = 41;
const DATE: u8 = 46;
const TIMESTAMP: u8 = 48;
const REGEX: u8 = 51;
const DB_POINTER: u8 = 56;
const CODE: u8 = 61;
const CODE_WITH_SCOPE: u8 = 66;
const MAX_KEY: u8 = 128;

/// The `_id` where it is the first field, as servers store it, and of one of the most common types.
fn leading_id(bytes: &[u8]) -> Option<RawBsonRef<'_>> {
    let value = bytes.get(5..)?.strip_prefix(b"_id\0")?;
    match bytes[4] {
        0x01 => Some(RawBsonRef::Double(f64::from_le_bytes(*value.first_chunk()?))),
        0x02 => {
            let length = usize::try_from(i32::from_le_bytes(*value.first_chunk()?)).ok()?;
            let text = value.get(4..length.checked_add(3)?)?;
            std::str::from_utf8(text).ok().filter(|_| value.get(length + 3) == Some(&0)).map(RawBsonRef::String)
        }
        0x07 => Some(RawBsonRef::ObjectId(ObjectId::from_bytes(*value.first_chunk()?))),
        0x10 => Some(RawBsonRef::Int32(i32::from_le_bytes(*value.first_chunk()?))),
        0x12 => Some(RawBsonRef::Int64(i64::from_le_bytes(*value.first_chunk()?))),
        _ => None,
    }
}

fn push_value(out: &mut Vec<u8>, v: RawBsonRef<'_>) -> Result<(), KeyError> {
    match v {
        RawBsonRef::MinKey => out.push(MIN_KEY),
        RawBsonRef::Undefined => out.push(UNDEFINED),
        RawBsonRef::Null => out.push(NULL),
        RawBsonRef::Int32(n) => number(out, |o| push_int(o, n.into())),
        RawBsonRef::Int64(n) => number(out, |o| push_int(o, n.into())),
        RawBsonRef::Double(x) => number(out, |o| push_double(o, x)),
        RawBsonRef::Decimal128(d) => number(out, |o| push_decimal_text(o, &d.to_string())),
        RawBsonRef::String(s) | RawBsonRef::Symbol(s) => {
            out.push(STRING);
            push_escaped(out, s.as_bytes());
        }
        RawBsonRef::Document(d) => {
            out.push(OBJECT);
            push_document(out, d, true)?;
        }
        RawBsonRef::Array(a) => {
            out.push(ARRAY);
            push_document(out, RawDocument::from_bytes(a.as_bytes()).map_err(malformed)?, false)?;
        }
        RawBsonRef::Binary(b) => {
            out.push(BINARY);
            out.extend_from_slice(&(b.bytes.len() as u32).to_be_bytes());
            out.push(b.subtype.into());
            out.extend_from_slice(b.bytes);
        }
        RawBsonRef::ObjectId(id) => {
            out.push(OBJECT_ID);
            out.extend_from_slice(&id.bytes());
        }
        RawBsonRef::Boolean(b) => out.extend_from_slice(&[BOOL, b.into()]),
        RawBsonRef::DateTime(d) => {
            out.push(DATE);
            out.extend_from_slice(&((d.timestamp_millis() as u64) ^ (1 << 63)).to_be_bytes());
        }
        RawBsonRef::Timestamp(t) => {
            out.push(TIMESTAMP);
            out.extend_from_slice(&t.time.to_be_bytes());
            out.extend_from_slice(&t.increment.to_be_bytes());
        }
        RawBsonRef::RegularExpression(r) => {
            out.push(REGEX);
            push_escaped(out, r.pattern.as_str().as_bytes());
            push_escaped(out, r.options.as_str().as_bytes());
        }
        RawBsonRef::DbPointer(_) => {
            out.push(DB_POINTER);
            out.extend_from_slice(&value_bytes(v)?);
        }
        RawBsonRef::JavaScriptCode(c) => {
            out.push(CODE);
            push_escaped(out, c.as_bytes());
        }
        RawBsonRef::JavaScriptCodeWithScope(c) => {
            out.push(CODE_WITH_SCOPE);
            push_escaped(out, c.code.as_bytes());
            push_document(out, c.scope, true)?;
        }
        RawBsonRef::MaxKey => out.push(MAX_KEY),
    }
    Ok(())
}

/// The server compares field by field: type, then name, then value.
fn push_document(out: &mut Vec<u8>, d: &RawDocument, names: bool) -> Result<(), KeyError> {
    for item in d {
        let (name, v) = item.map_err(malformed)?;
        let at = out.len();
        push_value(out, v)?;
        if names {
            let value = out.split_off(at + 1);
            push_escaped(out, name.as_str().as_bytes());
            out.extend_from_slice(&value);
        }
    }
    out.push(0);
    Ok(())
}

fn malformed(e: impl fmt::Display) -> KeyError {
    KeyError::Malformed(e.to_string())
}

/// The bytes of a value as they stand in a document, without type and name.
pub(crate) fn value_bytes(v: RawBsonRef<'_>) -> Result<Vec<u8>, KeyError> {
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!(""), RawBson::from(v));
    let bytes = d.as_bytes();
    // int32 length, type byte, empty name; and the closing NUL.
    Ok(bytes[6..bytes.len() - 1].to_vec())
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &b in bytes {
        out.push(b);
        if b == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn number(out: &mut Vec<u8>, f: impl FnOnce(&mut Vec<u8>)) {
    out.push(NUMBER);
    f(out);
}

const NAN: u8 = 1;
const NEG_INF: u8 = 2;
const NEG: u8 = 3;
const ZERO: u8 = 4;
const POS: u8 = 5;
const POS_INF: u8 = 6;

fn push_int(out: &mut Vec<u8>, n: i128) {
    let mut digits = [0u8; 40];
    let mut at = digits.len();
    let mut digit = |d: u8| {
        at -= 1;
        digits[at] = d;
    };
    let mut rest = n.unsigned_abs();
    // Dividing 128 bits takes long, and hardly any number has them.
    while rest > u128::from(u64::MAX) {
        digit((rest % 10) as u8);
        rest /= 10;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        digit((rest % 10) as u8);
        rest /= 10;
    }
    push_digits(out, n < 0, &digits[at..], (digits.len() - at) as i32 - 1);
}

fn push_double(out: &mut Vec<u8>, x: f64) {
    if x.is_nan() {
        out.push(NAN);
    } else if x.is_infinite() {
        out.push(if x > 0.0 { POS_INF } else { NEG_INF });
    } else if x.fract() == 0.0 && x.abs() < 1e30 {
        push_int(out, x as i128);
    } else {
        // Exact: every double has a finite decimal expansion of at most 767 digits.
        push_decimal_text(out, &format!("{x:.1074}"));
    }
}

/// A decimal numeral: optional sign, digits with an optional point, optional exponent; or NaN, Infinity.
fn push_decimal_text(out: &mut Vec<u8>, text: &str) {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if body.eq_ignore_ascii_case("nan") {
        return out.push(NAN);
    }
    if body.to_ascii_lowercase().starts_with("inf") {
        return out.push(if negative { NEG_INF } else { POS_INF });
    }
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().unwrap_or(0)),
        None => (body, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b.wrapping_sub(b'0')).collect();
    let lead = digits.iter().take_while(|d| **d == 0).count();
    push_digits(out, negative, &digits[lead..], whole.len() as i32 - 1 - lead as i32 + exponent);
}

/// `digits` without leading zeros, the first worth 10^`exponent`.
fn push_digits(out: &mut Vec<u8>, negative: bool, digits: &[u8], exponent: i32) {
    let end = digits.len() - digits.iter().rev().take_while(|d| **d == 0).count();
    if end == 0 {
        return out.push(ZERO);
    }
    out.push(if negative { NEG } else { POS });
    let at = out.len();
    out.extend_from_slice(&((exponent + 32_768) as u16).to_be_bytes());
    out.extend(digits[..end].iter().map(|d| d + 1));
    out.push(0);
    if negative {
        for b in &mut out[at..] {
            *b = !*b;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::{Decimal128, rawbson};

    fn key(v: RawBson) -> Key {
        Key::new(v.as_raw_bson_ref()).unwrap()
    }
    fn dec(t: &str) -> RawBson {
        RawBson::Decimal128(t.parse::<Decimal128>().unwrap())
    }

    #[test]
    fn equal_numbers_of_different_types_are_one_key() {
        for same in [
            vec![rawbson!(5), rawbson!(5i64), rawbson!(5.0), dec("5"), dec("5.00"), dec("0.5E1")],
            vec![rawbson!(0), rawbson!(-0.0), dec("0E+3"), dec("-0")],
            vec![rawbson!(0.5), dec("0.5"), dec("5E-1")],
            vec![rawbson!(f64::NAN), dec("NaN")],
            vec![rawbson!(-120), rawbson!(-120.0), dec("-1.2E2")],
        ] {
            for v in &same {
                assert_eq!(key(v.clone()), key(same[0].clone()), "{v:?}");
            }
        }
        assert_ne!(key(rawbson!(0.1)), key(dec("0.1")), "the double 0.1 is not one tenth");
    }

    #[test]
    fn keys_order_as_the_server_orders_ids() {
        let sorted = vec![
            RawBson::MinKey,
            rawbson!(null),
            rawbson!(f64::NAN),
            rawbson!(f64::NEG_INFINITY),
            rawbson!(-1000),
            rawbson!(-999.5),
            rawbson!(-1),
            dec("-0.001"),
            rawbson!(0),
            rawbson!(5e-324),
            rawbson!(0.1),
            dec("0.2"),
            rawbson!(1),
            rawbson!(9),
            rawbson!(10),
            rawbson!(i64::MAX),
            rawbson!(1e300),
            rawbson!(f64::INFINITY),
            rawbson!(""),
            rawbson!("a"),
            rawbson!("a\0"),
            rawbson!("a\0b"),
            rawbson!("ab"),
            rawbson!({}),
            rawbson!({"a": 1}),
            rawbson!({"a": 1, "b": 1}),
            rawbson!({"a": 2}),
            rawbson!({"b": 0}),
            rawbson!({"a": "x"}),
            RawBson::ObjectId(ObjectId::from_bytes([0; 12])),
            RawBson::ObjectId(ObjectId::from_bytes([9; 12])),
            rawbson!(false),
            rawbson!(true),
            RawBson::DateTime(bson::DateTime::from_millis(-5)),
            RawBson::DateTime(bson::DateTime::from_millis(5)),
            RawBson::Timestamp(bson::Timestamp { time: 1, increment: 2 }),
            RawBson::MaxKey,
        ];
        for pair in sorted.windows(2) {
            assert!(key(pair[0].clone()) < key(pair[1].clone()), "{:?} < {:?}", pair[0], pair[1]);
        }
    }

    #[test]
    fn keys_compare_as_their_order_bytes_around_the_length_of_the_head() {
        let texts = ["", "a", "\0", "a\0", "a\0\0"].into_iter().map(str::to_owned);
        let long = (8..20).flat_map(|n| ["a", "b", "\0"].map(|last| "a".repeat(n) + last));
        let keys: Vec<Key> = texts.chain(long).map(|t| Key::from(t.as_str())).collect();
        for a in &keys {
            for b in &keys {
                assert_eq!(a.cmp(b), a.order_bytes().cmp(b.order_bytes()), "{a} {b}");
            }
        }
    }

    #[test]
    fn arrays_are_no_ids() {
        assert_eq!(Key::new(rawbson!([1]).as_raw_bson_ref()).unwrap_err(), KeyError::Type("array"));
    }
}
