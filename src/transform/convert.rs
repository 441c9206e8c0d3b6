//! Conversion of single values. Unless the step is lossy, every result is converted back and compared byte for byte before it is
//! accepted; going back, always: what T makes of a copy must be what it is a copy of.

use super::Why;
use super::number;
use super::tree::{NULL, Value, type_name};
use crate::plan::ValueType;

impl ValueType {
    /// The BSON type byte.
    #[must_use]
    pub(crate) fn kind(self) -> u8 {
        match self {
            ValueType::Double => 0x01,
            ValueType::String => 0x02,
            ValueType::ObjectId => 0x07,
            ValueType::Bool => 0x08,
            ValueType::Date => 0x09,
            ValueType::Int => 0x10,
            ValueType::Long => 0x12,
            ValueType::Decimal => 0x13,
        }
    }
}

/// A decoded value.
enum Val<'a> {
    Text(&'a str),
    Whole(i64),
    Double(f64),
    Decimal([u8; 16]),
    Date(i64),
    Id([u8; 12]),
    Bool(bool),
}

/// The converted value; `None` when it stays as it is (null).
pub(super) fn convert<'a>(
    value: &Value<'_>,
    from: ValueType,
    to: ValueType,
    lossy: bool,
    forward: bool,
) -> Result<Option<Value<'a>>, Why> {
    let bytes: &[u8] = match value {
        Value::Raw(NULL, _) => return Ok(None),
        Value::Raw(kind, bytes) if *kind == from.kind() => bytes,
        Value::Owned(kind, bytes) if *kind == from.kind() => bytes,
        other => return Err(Why::Type { expected: from.name(), found: type_name(other.kind()) }),
    };
    if from.converts_to(to).is_none() {
        return Err(Why::NoInverse);
    }
    if let Some(out) = at_once(bytes, from, to) {
        return Ok(Some(Value::Owned(to.kind(), out)));
    }
    let refuse = |why| Why::NotExact { from: from.name(), to: to.name(), why };
    let out = one_way(bytes, from, to).map_err(refuse)?;
    if lossy && forward {
        return Ok(Some(Value::Owned(to.kind(), out)));
    }
    match one_way(&out, to, from) {
        Ok(back) if back == bytes => Ok(Some(Value::Owned(to.kind(), out))),
        _ => Err(refuse("the value coming back would be written differently")),
    }
}

/// What every document of a migration of amounts goes through: the usual form of a number, of which it is plain that it comes back
/// as it is. `None` says nothing.
fn at_once(bytes: &[u8], from: ValueType, to: ValueType) -> Option<Vec<u8>> {
    match (from, to) {
        (ValueType::String, ValueType::Decimal) => number::decimal_at_once(bytes).map(|d| d.to_vec()),
        (ValueType::Decimal, ValueType::String) => number::text_at_once(bytes),
        _ => None,
    }
}

/// Converts the bytes of a value, and may lose what [`ValueType::converts_to`] says.
pub(super) fn one_way(bytes: &[u8], from: ValueType, to: ValueType) -> Result<Vec<u8>, &'static str> {
    const NONE: &str = "there is no such conversion";
    let value = decode(bytes, from).ok_or("its bytes are not valid")?;
    match (value, to) {
        (Val::Text(t), _) => from_text(t, to),
        (Val::Whole(n), ValueType::Date) if from == ValueType::Long => Ok(n.to_le_bytes().to_vec()),
        (Val::Whole(n) | Val::Date(n), ValueType::Double) => Ok((n as f64).to_le_bytes().to_vec()),
        (Val::Whole(n), ValueType::Bool) => Ok(vec![u8::from(n != 0)]),
        (Val::Whole(n), _) => from_whole(n, to),
        (Val::Double(x), ValueType::String) => Ok(number::text_bytes(&number::double_text(x))),
        (Val::Double(x), ValueType::Decimal) => from_text(&number::double_text(x), to),
        (Val::Double(x), ValueType::Bool) => Ok(vec![u8::from(x != 0.0)]),
        // 2^63 is the first double beyond an i64.
        (Val::Double(x), _) if x.abs() < 9_223_372_036_854_775_808.0 => from_whole(x.trunc() as i64, to),
        (Val::Double(_), _) => Err("it is not a number that both types hold"),
        (Val::Decimal(d), ValueType::String) => Ok(number::text_bytes(&number::decimal_text(d))),
        // A server carries such bits into the double.
        (Val::Decimal(d), ValueType::Double) if number::is_odd_nan(d) => Err("it is a NaN with a payload or a sign"),
        (Val::Decimal(d), ValueType::Double) => from_text(&number::decimal_text(d), to),
        (Val::Decimal(d), ValueType::Bool) => Ok(vec![u8::from(number::is_true(d))]),
        (Val::Decimal(d), _) => {
            number::truncated(d).ok_or("it is not a number that both types hold").and_then(|n| from_whole(n, to))
        }
        (Val::Date(ms), ValueType::String) => {
            number::date_text(ms).map(|t| number::text_bytes(&t)).ok_or("its year is not one of 0 to 9999")
        }
        (Val::Date(ms), ValueType::Long | ValueType::Decimal) => from_whole(ms, to),
        (Val::Id(id), ValueType::String) => {
            Ok(number::text_bytes(&id.iter().map(|b| format!("{b:02x}")).collect::<String>()))
        }
        (Val::Id([a, b, c, d, ..]), ValueType::Date) => {
            // Seconds since 1970, signed, as the server reads them.
            Ok((i64::from(i32::from_be_bytes([a, b, c, d])) * 1_000).to_le_bytes().to_vec())
        }
        (Val::Bool(b), ValueType::String) => Ok(number::text_bytes(if b { "true" } else { "false" })),
        (Val::Bool(b), ValueType::Double) => Ok(f64::from(u8::from(b)).to_le_bytes().to_vec()),
        (Val::Bool(b), _) => from_whole(b.into(), to),
        (Val::Date(_) | Val::Id(_), _) => Err(NONE),
    }
}

fn decode(bytes: &[u8], kind: ValueType) -> Option<Val<'_>> {
    Some(match kind {
        ValueType::String => Val::Text(number::text(bytes)?),
        ValueType::Int => Val::Whole(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        ValueType::Long => Val::Whole(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::Double => Val::Double(f64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::Decimal => Val::Decimal(bytes.try_into().ok()?),
        ValueType::Date => Val::Date(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::ObjectId => Val::Id(bytes.try_into().ok()?),
        ValueType::Bool => Val::Bool(match bytes {
            [0] => false,
            [1] => true,
            _ => return None,
        }),
    })
}

fn from_whole(n: i64, to: ValueType) -> Result<Vec<u8>, &'static str> {
    match to {
        ValueType::Int => {
            i32::try_from(n).map(|n| n.to_le_bytes().to_vec()).map_err(|_| "it does not fit into 32 bits")
        }
        ValueType::Long | ValueType::Date => Ok(n.to_le_bytes().to_vec()),
        ValueType::Decimal => Ok(number::pack(n < 0, 0, n.unsigned_abs().into()).to_vec()),
        ValueType::String => Ok(number::text_bytes(&n.to_string())),
        ValueType::Double | ValueType::ObjectId | ValueType::Bool => Err("there is no such conversion"),
    }
}

fn from_text(text: &str, to: ValueType) -> Result<Vec<u8>, &'static str> {
    match to {
        ValueType::Int => number::whole(text)
            .and_then(|n| i32::try_from(n).ok())
            .map(|n| n.to_le_bytes().to_vec())
            .ok_or("it is not a 32-bit integer"),
        ValueType::Long => number::whole(text).map(|n| n.to_le_bytes().to_vec()).ok_or("it is not a 64-bit integer"),
        ValueType::Double => {
            number::double(text).map(|n| n.to_le_bytes().to_vec()).ok_or("it is not a number that a double can hold")
        }
        ValueType::Decimal => {
            number::decimal(text).map(|d| d.to_vec()).ok_or("it is not a decimal number of at most 34 digits")
        }
        ValueType::Date => {
            number::date(text).map(|ms| ms.to_le_bytes().to_vec()).ok_or("it is not a date and time with its zone")
        }
        ValueType::ObjectId => hex(text).ok_or("it is not 24 hexadecimal digits"),
        ValueType::Bool => match text {
            "true" => Ok(vec![1]),
            "false" => Ok(vec![0]),
            _ => Err("it is neither true nor false"),
        },
        ValueType::String => Err("there is no such conversion"),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes = text.as_bytes();
    if bytes.len() != 24 {
        return None;
    }
    bytes.chunks(2).map(|c| Some(digit(c[0])? << 4 | digit(c[1])?)).collect()
}
