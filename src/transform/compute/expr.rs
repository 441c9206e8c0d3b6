//! Expressions: what each operator makes of its arguments.

use bson::Bson;

use super::super::convert;
use super::super::number;
use super::super::op::Constant;
use super::super::tree::{self, ARRAY, DOCUMENT, Field, NULL, STRING, UNDEFINED, Value};
use super::{At, THROUGH_ARRAY, Why, text};
use crate::plan::{Call, Expr, ValueType};

const DOUBLE: u8 = 0x01;
const BOOL: u8 = 0x08;
const INT: u8 = 0x10;
const LONG: u8 = 0x12;
const DECIMAL: u8 = 0x13;

/// A value on its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) kind: u8,
    pub(super) bytes: Vec<u8>,
}

fn fail<T>(why: &'static str) -> At<T> {
    Err((String::new(), Why::Compute(why)))
}

fn string(text: &str) -> Option<Item> {
    Some(Item { kind: STRING, bytes: number::text_bytes(text) })
}

fn boolean(b: bool) -> Option<Item> {
    Some(Item { kind: BOOL, bytes: vec![u8::from(b)] })
}

const NULL_ITEM: Item = Item { kind: NULL, bytes: Vec::new() };

/// Missing, null or undefined.
fn is_nullish(v: Option<&Item>) -> bool {
    v.is_none_or(|i| matches!(i.kind, NULL | UNDEFINED))
}

/// The value of an expression; `None` is a field that is not there.
pub(super) fn eval(e: &Expr, root: &[u8]) -> At<Option<Item>> {
    match e {
        Expr::Literal(v) => literal(v).map(Some),
        Expr::Root => Ok(Some(Item { kind: DOCUMENT, bytes: root.to_vec() })),
        Expr::Remove => Ok(None),
        Expr::Path(parts) => path(parts, root),
        Expr::Array(items) => {
            let names: Vec<Vec<u8>> = (0..items.len()).map(|i| i.to_string().into_bytes()).collect();
            let mut fields = Vec::with_capacity(items.len());
            for (name, item) in names.iter().zip(items) {
                fields.push(field(name, eval(item, root)?.unwrap_or(NULL_ITEM)));
            }
            Ok(Some(Item { kind: ARRAY, bytes: tree::write(&fields, 64) }))
        }
        Expr::Object(all) => {
            let mut fields: Vec<Field<'_>> = Vec::with_capacity(all.len());
            for (name, e) in all {
                if let Some(v) = eval(e, root)? {
                    fields.push(field(name, v));
                }
            }
            Ok(Some(Item { kind: DOCUMENT, bytes: tree::write(&fields, 64) }))
        }
        Expr::Merge(all) => merge(all, root),
        Expr::Call(call, arguments) => apply(*call, arguments, root),
    }
}

fn field(name: &[u8], v: Item) -> Field<'_> {
    Field { name: name.into(), value: Value::Owned(v.kind, v.bytes) }
}

fn literal(v: &Bson) -> At<Item> {
    match Constant::new(v) {
        Some(c) => Ok(Item { kind: c.kind, bytes: c.bytes }),
        None => Err(super::super::malformed("the plan's value is not valid BSON")),
    }
}

fn path(parts: &[Vec<u8>], root: &[u8]) -> At<Option<Item>> {
    let (mut kind, mut bytes) = (DOCUMENT, root);
    for part in parts {
        match kind {
            DOCUMENT => {}
            ARRAY => return Err((text(parts), THROUGH_ARRAY)),
            _ => return Ok(None),
        }
        let fields = tree::parse(bytes, &text(parts))?;
        match tree::position(&fields, part).map(|i| &fields[i].value) {
            Some(Value::Raw(k, b)) => (kind, bytes) = (*k, b),
            // Freshly parsed fields are all raw.
            Some(_) | None => return Ok(None),
        }
    }
    Ok(Some(Item { kind, bytes: bytes.to_vec() }))
}

fn merge(all: &[Expr], root: &[u8]) -> At<Option<Item>> {
    let documents: Vec<Item> =
        all.iter().map(|e| eval(e, root)).collect::<At<Vec<_>>>()?.into_iter().flatten().collect();
    let mut out: Vec<Field<'_>> = Vec::new();
    for d in &documents {
        match d.kind {
            NULL | UNDEFINED => continue,
            DOCUMENT => {}
            _ => return fail("$mergeObjects of something else than documents"),
        }
        for f in tree::parse(&d.bytes, "")? {
            match tree::position(&out, &f.name) {
                Some(i) => out[i].value = f.value,
                None => out.push(f),
            }
        }
    }
    Ok(Some(Item { kind: DOCUMENT, bytes: tree::write(&out, 64) }))
}

fn apply(call: Call, arguments: &[Expr], root: &[u8]) -> At<Option<Item>> {
    if call == Call::Cond
        && let [test, then, other] = arguments
    {
        let test = eval(test, root)?;
        return eval(if is_true(test.as_ref()) { then } else { other }, root);
    }
    let values: Vec<Option<Item>> = arguments.iter().map(|e| eval(e, root)).collect::<At<_>>()?;
    let truths = || values.iter().map(|v| is_true(v.as_ref()));
    match (call, values.as_slice()) {
        (Call::And, _) => Ok(boolean(truths().all(|t| t))),
        (Call::Or, _) => Ok(boolean(truths().any(|t| t))),
        (Call::Not, [v]) => Ok(boolean(!is_true(v.as_ref()))),
        (Call::IfNull, all) => {
            let first = all.iter().find(|v| !is_nullish(v.as_ref()));
            Ok(first.or(all.last()).cloned().flatten())
        }
        (Call::Concat, all) => concat(all),
        (Call::Eq, [a, b]) => equal(a.as_ref(), b.as_ref()).map(boolean),
        (Call::Ne, [a, b]) => equal(a.as_ref(), b.as_ref()).map(|e| boolean(!e)),
        (Call::ToLower, [v]) => case(v.as_ref(), |t| t.make_ascii_lowercase()),
        (Call::ToUpper, [v]) => case(v.as_ref(), |t| t.make_ascii_uppercase()),
        (Call::Type, [v]) => Ok(string(v.as_ref().map_or("missing", |i| alias(i.kind)))),
        (Call::To(_), [v]) if is_nullish(v.as_ref()) => Ok(Some(NULL_ITEM)),
        (Call::To(to), [Some(v)]) => to_type(v, to).map(Some),
        // The number of arguments was checked when the plan was read.
        _ => fail("a wrong number of arguments"),
    }
}

/// The server's alias of a type.
fn alias(kind: u8) -> &'static str {
    match tree::type_name(kind) {
        "document" => "object",
        "binary" => "binData",
        other => other,
    }
}

fn is_true(v: Option<&Item>) -> bool {
    let Some(v) = v else { return false };
    match v.kind {
        NULL | UNDEFINED => false,
        BOOL | INT | LONG => v.bytes.iter().any(|b| *b != 0),
        DOUBLE => <[u8; 8]>::try_from(v.bytes.as_slice()).is_ok_and(|b| f64::from_le_bytes(b) != 0.0),
        DECIMAL => <[u8; 16]>::try_from(v.bytes.as_slice()).is_ok_and(number::is_true),
        _ => true,
    }
}

fn text_of(v: &Item) -> At<&str> {
    match number::text(&v.bytes) {
        Some(t) if v.kind == STRING => Ok(t),
        _ => fail("a text was expected"),
    }
}

fn concat(all: &[Option<Item>]) -> At<Option<Item>> {
    let mut out = String::new();
    let mut null = false;
    for v in all {
        match v {
            Some(v) if !is_nullish(Some(v)) => out.push_str(text_of(v)?),
            _ => null = true,
        }
    }
    Ok(if null { Some(NULL_ITEM) } else { string(&out) })
}

/// Only ASCII letters have a case here, as on the server.
fn case(v: Option<&Item>, change: fn(&mut str)) -> At<Option<Item>> {
    let mut out = match v {
        Some(v) if !is_nullish(Some(v)) => text_of(v)?.to_owned(),
        _ => String::new(),
    };
    change(&mut out);
    Ok(string(&out))
}

/// Equality where every server agrees with the bytes: texts, whole numbers, booleans, dates, ids, null and what is not there.
fn equal(a: Option<&Item>, b: Option<&Item>) -> At<bool> {
    let whole = |v: &Item| match v.kind {
        INT => <[u8; 4]>::try_from(v.bytes.as_slice()).ok().map(|b| i64::from(i32::from_le_bytes(b))),
        LONG => <[u8; 8]>::try_from(v.bytes.as_slice()).ok().map(i64::from_le_bytes),
        _ => None,
    };
    for v in [a, b].into_iter().flatten() {
        if !matches!(v.kind, STRING | BOOL | INT | LONG | NULL | 0x07 | 0x09) {
            return fail("only texts, whole numbers, booleans, dates, ids and null are compared");
        }
    }
    Ok(match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => match (whole(a), whole(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        _ => false,
    })
}

fn to_type(v: &Item, to: ValueType) -> At<Item> {
    let Some(from) = ValueType::ALL.into_iter().find(|t| t.kind() == v.kind) else {
        return fail("there is no such conversion");
    };
    if from == to {
        return Ok(v.clone());
    }
    match (from, to) {
        (ValueType::String, ValueType::Bool) => return Ok(Item { kind: BOOL, bytes: vec![1] }),
        // The server keeps 6 digits in a text and 15 in a decimal.
        (ValueType::Double, ValueType::String | ValueType::Decimal) => return fail("a server rounds this double"),
        _ if from.converts_to(to).is_none() => return fail("there is no such conversion"),
        _ => {}
    }
    match convert::one_way(&v.bytes, from, to) {
        Ok(bytes) => Ok(Item { kind: to.kind(), bytes }),
        Err(why) => fail(why),
    }
}
