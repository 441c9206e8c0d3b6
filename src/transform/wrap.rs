//! A value put into an array of one element or a document of one field, and taken out again. Null is wrapped like any value.

use std::borrow::Cow;

use super::op::single;
use super::tree::{self, ARRAY, DOCUMENT, Field, Value};
use super::{At, Why};

pub(super) fn wrap<'a>(value: Value<'a>, field: Option<&'a [u8]>) -> Value<'a> {
    match field {
        Some(name) => single(name, value),
        None => {
            let element = Field { name: Cow::Borrowed(b"0"), value };
            Value::Owned(ARRAY, tree::write(&[element], 64))
        }
    }
}

pub(super) fn unwrap<'a>(mut value: Value<'a>, field: Option<&[u8]>, path: &str) -> At<Value<'a>> {
    let (kind, expected) = if field.is_some() { (DOCUMENT, "document") } else { (ARRAY, "array") };
    if value.kind() != kind {
        return Err((path.into(), Why::Type { expected, found: tree::type_name(value.kind()) }));
    }
    let mut inner = match (&mut value, field) {
        (Value::Raw(_, bytes), _) => tree::parse(bytes, path)?,
        (Value::Doc(fields), Some(_)) => std::mem::take(fields),
        // Only another step on the same path makes an array anew, which the plan's checks refuse.
        _ => return Err((path.into(), Why::Malformed("two steps wrap it"))),
    };
    match (inner.pop(), inner.len()) {
        (Some(f), 0) if *f.name == *field.unwrap_or(b"0") => Ok(f.value),
        _ if field.is_some() => Err((path.into(), Why::NotOne("field, named as the plan says"))),
        _ => Err((path.into(), Why::NotOne("element"))),
    }
}
