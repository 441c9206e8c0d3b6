//! All fields of a document, whatever they are called, moved up beside it under a prefix, and gathered again.
//!
//! They stand where the document stood, in their order; gathered, they stand where the first of them stood. Nothing else may begin
//! with the prefix.

use std::borrow::Cow;

use super::op::{is_document, is_null};
use super::tree::{self, Field, Value};
use super::{At, Path, Why};

pub(super) fn spread(root: &mut Vec<Field<'_>>, path: &Path, prefix: &[u8]) -> At<()> {
    let Some(level) = level(root, path)? else { return Ok(()) };
    if let Some(f) = level.iter().find(|f| f.name.starts_with(prefix)) {
        return Err((path.beside(&f.name), Why::Prefix));
    }
    let Some(i) = tree::position(level, path.last()) else { return Ok(()) };
    let value = &mut level[i].value;
    if is_null(value) {
        return Ok(());
    }
    if !is_document(value) {
        return path.fail(Why::Type { expected: "document", found: tree::type_name(value.kind()) });
    }
    let inner = value.open(&path.text)?.map(std::mem::take).unwrap_or_default();
    if inner.is_empty() {
        return path.fail(Why::EmptyParent);
    }
    let fields = inner.into_iter().map(|f| Field { name: Cow::Owned([prefix, &f.name].concat()), value: f.value });
    level.splice(i..=i, fields);
    Ok(())
}

pub(super) fn gather<'a>(root: &mut Vec<Field<'a>>, path: &'a Path, prefix: &[u8]) -> At<()> {
    let Some(level) = level(root, path)? else { return Ok(()) };
    let Some(first) = level.iter().position(|f| f.name.starts_with(prefix)) else {
        // As it is, T would flatten it: only what T leaves alone may stay.
        return match tree::position(level, path.last()) {
            Some(i) if !is_null(&level[i].value) => path.fail(Why::Occupied),
            _ => Ok(()),
        };
    };
    if tree::position(level, path.last()).is_some() {
        return path.fail(Why::Occupied);
    }
    let mut inner = Vec::new();
    let mut rest = Vec::with_capacity(level.len());
    for (i, f) in std::mem::take(level).into_iter().enumerate() {
        if i == first {
            rest.push(Field { name: Cow::Borrowed(path.last()), value: Value::Doc(Vec::new()) });
        }
        match f.name.strip_prefix(prefix) {
            Some(name) => inner.push(Field { name: Cow::Owned(name.to_vec()), value: f.value }),
            None => rest.push(f),
        }
    }
    rest[first].value = Value::Doc(inner);
    *level = rest;
    Ok(())
}

fn level<'f, 'a>(root: &'f mut Vec<Field<'a>>, path: &Path) -> At<Option<&'f mut Vec<Field<'a>>>> {
    tree::descend(root, path.parents(), &path.text)
}
