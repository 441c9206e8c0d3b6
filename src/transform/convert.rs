//! Conversion of single values. Every result is converted back and compared byte for byte before it is accepted.

use bson::Decimal128;

use super::Why;
use super::tree::{NULL, Value, type_name};
use crate::plan::ValueType;

impl ValueType {
    /// The BSON type byte.
    #[must_use]
    pub(crate) fn kind(self) -> u8 {
        match self {
            ValueType::Double => 0x01,
            ValueType::String => 0x02,
            ValueType::Int => 0x10,
            ValueType::Long => 0x12,
            ValueType::Decimal => 0x13,
        }
    }

    /// Its name in plans.
    #[must_use]
    pub fn name(self) -> &'static str {
        type_name(self.kind())
    }
}

/// A decoded value.
enum Val<'a> {
    Text(&'a str),
    Whole(i64),
    Double(f64),
    Decimal([u8; 16]),
}

/// The converted value; `None` when it stays as it is (null).
pub(super) fn convert<'a>(value: &Value<'_>, from: ValueType, to: ValueType) -> Result<Option<Value<'a>>, Why> {
    let bytes: &[u8] = match value {
        Value::Raw(NULL, _) => return Ok(None),
        Value::Raw(kind, bytes) if *kind == from.kind() => bytes,
        Value::Owned(kind, bytes) if *kind == from.kind() => bytes,
        other => return Err(Why::Type { expected: from.name(), found: type_name(other.kind()) }),
    };
    let refuse = |why| Why::NotExact { from: from.name(), to: to.name(), why };
    let out = one_way(bytes, from, to).map_err(refuse)?;
    match one_way(&out, to, from) {
        Ok(back) if back == bytes => Ok(Some(Value::Owned(to.kind(), out))),
        _ => Err(refuse("the value coming back would be written differently")),
    }
}

fn one_way(bytes: &[u8], from: ValueType, to: ValueType) -> Result<Vec<u8>, &'static str> {
    let value = decode(bytes, from).ok_or("its bytes are not valid")?;
    match (value, to) {
        (Val::Text(t), _) => from_text(t, to),
        (Val::Whole(n), ValueType::String) => Ok(text_bytes(&n.to_string())),
        (Val::Whole(n), _) => from_whole(n, to),
        (Val::Double(x), ValueType::String) => Ok(text_bytes(&double_text(x))),
        (Val::Double(x), ValueType::Decimal) => from_text(&double_text(x), to),
        (Val::Double(x), _) => {
            // Beyond this a double cannot tell neighbouring integers apart; comparing bits afterwards refuses -0.
            if x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0 {
                from_whole(x as i64, to)
            } else {
                Err("it is not a whole number that both types hold")
            }
        }
        (Val::Decimal(d), ValueType::String) => Ok(text_bytes(&decimal_text(d))),
        (Val::Decimal(d), _) => from_text(&decimal_text(d), to),
    }
}

fn decode(bytes: &[u8], kind: ValueType) -> Option<Val<'_>> {
    Some(match kind {
        ValueType::String => {
            let text = bytes.get(4..bytes.len().checked_sub(1)?)?;
            Val::Text(std::str::from_utf8(text).ok()?)
        }
        ValueType::Int => Val::Whole(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::Long => Val::Whole(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::Double => Val::Double(f64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::Decimal => Val::Decimal(bytes.try_into().ok()?),
    })
}

fn text_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 5);
    // Numerals are far below the 2 GiB a length can say.
    out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

fn from_whole(n: i64, to: ValueType) -> Result<Vec<u8>, &'static str> {
    match to {
        ValueType::Int => {
            i32::try_from(n).map(|n| n.to_le_bytes().to_vec()).map_err(|_| "it does not fit into 32 bits")
        }
        ValueType::Long => Ok(n.to_le_bytes().to_vec()),
        ValueType::Double if i128::from(n) == (n as f64) as i128 => Ok((n as f64).to_le_bytes().to_vec()),
        ValueType::Double => Err("a double does not hold it exactly"),
        ValueType::Decimal => Ok(pack(n < 0, 0, n.unsigned_abs().into()).to_vec()),
        ValueType::String => Ok(text_bytes(&n.to_string())),
    }
}

fn from_text(text: &str, to: ValueType) -> Result<Vec<u8>, &'static str> {
    match to {
        ValueType::Int => {
            text.parse::<i32>().map(|n| n.to_le_bytes().to_vec()).map_err(|_| "it is not a 32-bit integer")
        }
        ValueType::Long => {
            text.parse::<i64>().map(|n| n.to_le_bytes().to_vec()).map_err(|_| "it is not a 64-bit integer")
        }
        ValueType::Double => text.parse::<f64>().map(|n| n.to_le_bytes().to_vec()).map_err(|_| "it is not a number"),
        ValueType::Decimal => match plain_decimal(text) {
            Some(d) => Ok(d.to_vec()),
            None => text
                .parse::<Decimal128>()
                .map(|d| d.bytes().to_vec())
                .map_err(|_| "it is not a decimal number of at most 34 digits"),
        },
        ValueType::String => Ok(text_bytes(text)),
    }
}

/// The shortest text that reads back as the same double.
fn double_text(x: f64) -> String {
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    if x == 0.0 || (1e-7..1e21).contains(&x.abs()) { x.to_string() } else { format!("{x:e}") }
}

const BIAS: i32 = 6176;
const COEFFICIENT_BITS: u32 = 113;

fn pack(negative: bool, exponent: i32, coefficient: u128) -> [u8; 16] {
    // Callers stay within 34 digits and the exponent's range, so the fields do not overlap.
    let biased = (exponent + BIAS) as u128;
    ((u128::from(negative) << 127) | (biased << COEFFICIENT_BITS) | coefficient).to_le_bytes()
}

/// `-12.340` and its like: no exponent, no leading zeros, at most 34 digits, the form that [`decimal_text`] writes. Everything
/// else goes the slow way through bson.
fn plain_decimal(text: &str) -> Option<[u8; 16]> {
    let body = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let digits = whole.len() + fraction.len();
    if whole.is_empty() || digits > 34 || (body.len() > whole.len() && fraction.is_empty()) {
        return None;
    }
    let mut coefficient = 0u128;
    for b in whole.bytes().chain(fraction.bytes()) {
        if !b.is_ascii_digit() {
            return None;
        }
        coefficient = coefficient * 10 + u128::from(b - b'0');
    }
    Some(pack(text.len() > body.len(), -(fraction.len() as i32), coefficient))
}

/// The text of a decimal as the server prints it.
fn decimal_text(bytes: [u8; 16]) -> String {
    let bits = u128::from_le_bytes(bytes);
    let exponent = ((bits >> COEFFICIENT_BITS) & 0x3FFF) as i32 - BIAS;
    let coefficient = bits & ((1 << COEFFICIENT_BITS) - 1);
    // The plain form, for the exponents and coefficients of everyday numbers (which also rules out NaN, infinity and the large form).
    if (-6..=0).contains(&exponent) && coefficient < 10u128.pow(34) {
        let scale = exponent.unsigned_abs();
        let sign = if bits >> 127 == 1 { "-" } else { "" };
        if scale == 0 {
            return format!("{sign}{coefficient}");
        }
        let unit = 10u128.pow(scale);
        return format!("{sign}{}.{:0width$}", coefficient / unit, coefficient % unit, width = scale as usize);
    }
    Decimal128::from_bytes(bytes).to_string()
}
