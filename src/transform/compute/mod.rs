//! The pipelines of a plan, computed on raw BSON as a server computes them. Where the two could differ (a path through an array,
//! a comparison across numeric types, a double as text) the document is refused.

mod expr;

use std::borrow::Cow;

use bson::{RawBson, RawDocument, RawDocumentBuf};

use super::same::{self, Order};
use super::tree::{self, ARRAY, DOCUMENT, Field, Value};
use super::{At, Why};
use crate::plan::{Pipeline, PipelineStage};
use expr::{Item, eval};

/// A pipeline step, there or back, with the round trip that its declared inverse promises: up to the order of top-level fields, since
/// what a pipeline puts back comes last.
pub(super) fn step(forward: &Pipeline, inverse: Option<&Pipeline>, bytes: &[u8], there: bool) -> At<Vec<u8>> {
    let Some(inverse) = inverse else {
        return if there { run(forward, bytes) } else { Err((String::new(), Why::NoInverse)) };
    };
    let (first, second) = if there { (forward, inverse) } else { (inverse, forward) };
    let out = run(first, bytes)?;
    let back = run(second, &out)?;
    if same::equal(&Order::top(), &back, bytes) { Ok(out) } else { Err((String::new(), Why::NotDeclared)) }
}

/// What one expression makes of a document.
pub(super) fn value(e: &crate::plan::Expr, bytes: &[u8]) -> At<Option<RawBson>> {
    let Some(item) = eval(e, bytes)? else { return Ok(None) };
    let field = Field { name: b"v".into(), value: Value::Owned(item.kind, item.bytes) };
    let doc = RawDocumentBuf::from_bytes(tree::write(&[field], 32));
    let value = doc.as_ref().ok().and_then(|d| d.get("v").ok().flatten()).map(RawBson::from);
    value.map(Some).ok_or_else(|| super::malformed("the result is not valid BSON"))
}

fn run(pipeline: &Pipeline, bytes: &[u8]) -> At<Vec<u8>> {
    let mut now = bytes.to_vec();
    for s in &pipeline.stages {
        now = stage(s, &now)?;
    }
    if id(bytes)? != id(&now)? {
        return Err(("_id".into(), Why::Id));
    }
    Ok(now)
}

/// The `_id` with whether it comes first: a server would move it there when it stores the document.
fn id(bytes: &[u8]) -> At<Option<(bool, u8, &[u8])>> {
    let fields = tree::parse(bytes, "")?;
    let Some(i) = tree::position(&fields, b"_id") else { return Ok(None) };
    Ok(match fields[i].value {
        Value::Raw(kind, v) => Some((i == 0, kind, v)),
        // Freshly parsed fields are all raw.
        Value::Owned(..) | Value::Doc(_) => None,
    })
}

fn stage(stage: &PipelineStage, root: &[u8]) -> At<Vec<u8>> {
    match stage {
        PipelineStage::Replace(e) => match eval(e, root)? {
            Some(Item { kind: DOCUMENT, bytes }) => Ok(bytes),
            _ => Err((String::new(), Why::Compute("the new root is not a document"))),
        },
        PipelineStage::Unset(paths) => {
            let mut fields = tree::parse(root, "")?;
            for p in paths {
                remove(&mut fields, p)?;
            }
            Ok(tree::write(&fields, root.len()))
        }
        PipelineStage::Set(all) => {
            let values: Vec<Option<Item>> = all.iter().map(|(_, e)| eval(e, root)).collect::<At<_>>()?;
            let mut fields = tree::parse(root, "")?;
            for ((path, _), value) in all.iter().zip(values) {
                assign(&mut fields, path, value)?;
            }
            let out = tree::write(&fields, root.len() + 64);
            // The bytes of a constant or of the document itself: a nesting too deep shows as a length that is wrong.
            RawDocument::from_bytes(&out).map_err(|_| super::malformed("the result has a wrong length"))?;
            Ok(out)
        }
    }
}

fn text(path: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&path.join(&b'.')).into_owned()
}

const THROUGH_ARRAY: Why = Why::Compute("a path goes through an array");

fn remove(fields: &mut Vec<Field<'_>>, path: &[Vec<u8>]) -> At<()> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    let Some(i) = tree::position(fields, name) else { return Ok(()) };
    if rest.is_empty() {
        fields.remove(i);
        return Ok(());
    }
    match fields[i].value.kind() {
        DOCUMENT => fields[i].value.open(&text(path))?.map_or(Ok(()), |inner| remove(inner, rest)),
        ARRAY => Err((text(path), THROUGH_ARRAY)),
        _ => Ok(()),
    }
}

/// Writes a value in place or at the end, or removes it when there is none; what stands in a path's way becomes a document.
fn assign<'a>(fields: &mut Vec<Field<'a>>, path: &'a [Vec<u8>], value: Option<Item>) -> At<()> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    let at = tree::position(fields, name);
    if rest.is_empty() {
        match (at, value) {
            (Some(i), Some(v)) => fields[i].value = Value::Owned(v.kind, v.bytes),
            (Some(i), None) => drop(fields.remove(i)),
            (None, Some(v)) => {
                fields.push(Field { name: Cow::Borrowed(name), value: Value::Owned(v.kind, v.bytes) });
            }
            (None, None) => {}
        }
        return Ok(());
    }
    let i = at.unwrap_or_else(|| {
        fields.push(Field { name: Cow::Borrowed(name), value: Value::Doc(Vec::new()) });
        fields.len() - 1
    });
    match fields[i].value.kind() {
        DOCUMENT => {}
        ARRAY => return Err((text(path), THROUGH_ARRAY)),
        _ => fields[i].value = Value::Doc(Vec::new()),
    }
    fields[i].value.open(&text(path))?.map_or(Ok(()), |inner| assign(inner, rest, value))
}
