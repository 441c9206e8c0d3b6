//! MongoDB's own hashed-index value of a BSON value: what buckets are made of, and what a server computes with `$toHashedIndexKey`.
//!
//! hash64 is the first 8 bytes, little-endian signed, of `md5(int32 0 ‖ int32 canonical type ‖ value)`, with doubles truncated to
//! int64 and NaN as 0 (MongoDB's `BSONElementHasher`).

use bson::{RawBsonRef, RawDocument};
use md5::{Digest, Md5};

use super::value_bytes;

/// Why a key has no bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// The server gives equal numbers of different types different hashes out there.
    #[error(
        "the number {0} is 2^63 or larger in magnitude: equal values of different numeric types would not share a bucket"
    )]
    TooLarge(String),
    /// The server rounds a decimal where it truncates a double, so that 1.5 and Decimal 1.5, one `_id`, differ in their hashes.
    #[error(
        "the decimal {0} is no whole number: the double of the same value, which is the same _id, would not share its bucket"
    )]
    Fraction(String),
    /// Nothing that can be an `_id`.
    #[error("the value is malformed: {0}")]
    Malformed(String),
}

/// MongoDB's hashed-index value of a BSON value.
///
/// # Errors
/// For numbers of magnitude 2^63 or more, decimals that are no whole number, and malformed values.
pub fn hash64(value: RawBsonRef<'_>) -> Result<i64, BucketError> {
    let mut md5 = Md5::new();
    md5.update(0i32.to_le_bytes());
    feed(&mut md5, value, None)?;
    let digest: [u8; 16] = md5.finalize().into();
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest[..8]);
    Ok(i64::from_le_bytes(first))
}

fn feed(md5: &mut Md5, v: RawBsonRef<'_>, name: Option<&str>) -> Result<(), BucketError> {
    md5.update(canonical_type(v).to_le_bytes());
    if let Some(name) = name {
        md5.update(name.as_bytes());
        md5.update([0]);
    }
    match v {
        RawBsonRef::Int32(n) => md5.update(i64::from(n).to_le_bytes()),
        // Equal to the double -2^63, which is refused.
        RawBsonRef::Int64(i64::MIN) => return Err(BucketError::TooLarge(i64::MIN.to_string())),
        RawBsonRef::Int64(n) => md5.update(n.to_le_bytes()),
        RawBsonRef::Double(x) => md5.update(truncate_double(x)?.to_le_bytes()),
        RawBsonRef::Decimal128(d) => md5.update(whole_decimal(&d.to_string())?.to_le_bytes()),
        // The usual ones, without their bytes being put together first.
        RawBsonRef::ObjectId(id) => md5.update(id.bytes()),
        RawBsonRef::String(s) => {
            // Of a document: far below 2 GiB.
            md5.update((s.len() as i32 + 1).to_le_bytes());
            md5.update(s.as_bytes());
            md5.update([0]);
        }
        RawBsonRef::Document(d) => feed_document(md5, d)?,
        RawBsonRef::Array(a) => feed_document(md5, RawDocument::from_bytes(a.as_bytes()).map_err(malformed)?)?,
        RawBsonRef::JavaScriptCodeWithScope(c) => {
            md5.update(c.code.as_bytes());
            md5.update([0]);
            feed_document(md5, c.scope)?;
        }
        other => md5.update(value_bytes(other).map_err(malformed)?),
    }
    Ok(())
}

fn feed_document(md5: &mut Md5, d: &RawDocument) -> Result<(), BucketError> {
    for item in d {
        let (name, v) = item.map_err(malformed)?;
        feed(md5, v, Some(name.as_str()))?;
    }
    // The end of the document is hashed as an element of canonical type 0 without name or value.
    md5.update(0i32.to_le_bytes());
    Ok(())
}

fn malformed(e: impl std::fmt::Display) -> BucketError {
    BucketError::Malformed(e.to_string())
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;

fn truncate_double(x: f64) -> Result<i64, BucketError> {
    if x.is_nan() {
        return Ok(0);
    }
    if x.abs() >= TWO_63 {
        return Err(BucketError::TooLarge(x.to_string()));
    }
    Ok(x as i64)
}

/// The whole number that a decimal numeral stands for.
fn whole_decimal(text: &str) -> Result<i64, BucketError> {
    let too_large = || BucketError::TooLarge(text.to_owned());
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if body.eq_ignore_ascii_case("nan") {
        return Ok(0);
    }
    if body.to_ascii_lowercase().starts_with("inf") {
        return Err(too_large());
    }
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i64>().map_err(malformed)?),
        None => (body, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<i128> = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b.wrapping_sub(b'0'))).collect();
    let places = whole.len() as i64 + exponent;
    let mut n: i128 = 0;
    let mut taken = 0i64;
    for d in digits {
        if taken >= places {
            if d != 0 {
                return Err(BucketError::Fraction(text.to_owned()));
            }
            continue;
        }
        n = n * 10 + d;
        taken += 1;
        if n >= 1 << 63 {
            return Err(too_large());
        }
    }
    while taken < places && n != 0 {
        n *= 10;
        taken += 1;
        if n >= 1 << 63 {
            return Err(too_large());
        }
    }
    i64::try_from(if negative { -n } else { n }).map_err(|_| too_large())
}

/// The server's `canonicalizeBSONType`.
fn canonical_type(v: RawBsonRef<'_>) -> i32 {
    match v {
        RawBsonRef::MinKey => -1,
        RawBsonRef::MaxKey => 127,
        RawBsonRef::Undefined => 0,
        RawBsonRef::Null => 5,
        RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_) | RawBsonRef::Decimal128(_) => 10,
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) => 15,
        RawBsonRef::Document(_) => 20,
        RawBsonRef::Array(_) => 25,
        RawBsonRef::Binary(_) => 30,
        RawBsonRef::ObjectId(_) => 35,
        RawBsonRef::Boolean(_) => 40,
        RawBsonRef::DateTime(_) => 45,
        RawBsonRef::Timestamp(_) => 47,
        RawBsonRef::RegularExpression(_) => 50,
        RawBsonRef::DbPointer(_) => 55,
        RawBsonRef::JavaScriptCode(_) => 60,
        RawBsonRef::JavaScriptCodeWithScope(_) => 65,
    }
}
