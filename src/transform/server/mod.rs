//! The steps as aggregation stages (MongoDB 5.0 and newer). A server makes the same bytes of every document that T accepts.
//!
//! Each step is one `$replaceWith` of the whole document, so that the order of fields is what T makes it. Names and constants are
//! `$literal`s: a field called `$x` or `a.b` is a field like any other. Comparisons need the simple collation.

mod expr;
mod fields;
mod values;

use bson::{Bson, Document, doc};

use super::op::{Op, Segment};
use expr::Build;

/// T.
pub(super) fn forward(segments: &[Segment]) -> Vec<Document> {
    let mut out = Vec::new();
    for s in segments {
        match s {
            Segment::Ops(ops) => out.extend(ops.iter().map(|op| stage(op, true))),
            Segment::Pipeline { forward, .. } => out.extend_from_slice(forward.stages()),
        }
    }
    out
}

/// T⁻¹; `None` when a pipeline has no inverse, or no value has one.
pub(super) fn inverse(segments: &[Segment]) -> Option<Vec<Document>> {
    let mut out = Vec::new();
    for s in segments.iter().rev() {
        match s {
            Segment::Ops(ops) => {
                let one_way = |op: &Op| matches!(op, Op::Convert { from, to, .. } if to.converts_to(*from).is_none());
                if ops.iter().any(one_way) {
                    return None;
                }
                out.extend(ops.iter().rev().map(|op| stage(op, false)));
            }
            Segment::Pipeline { inverse, .. } => out.extend_from_slice(inverse.as_ref()?.stages()),
        }
    }
    Some(out)
}

fn stage(op: &Op, forward: bool) -> Document {
    let root = Bson::String("$$ROOT".into());
    let b = &mut Build::default();
    let new = match op {
        Op::Move { from, to, shared, early } if forward => fields::shift(b, root, from, to, *shared, *early),
        Op::Move { from, to, shared, early } => fields::shift(b, root, to, from, *shared, *early),
        Op::Parts { whole, parts, at, split } => {
            let parts: Vec<&[u8]> = parts.iter().map(super::Path::last).collect();
            b.edit_parent(root, whole, |b, level| {
                if *split == forward {
                    fields::split(b, level, whole.last(), &parts, at)
                } else {
                    fields::join(b, level, whole.last(), &parts, at)
                }
            })
        }
        Op::Spread { path, prefix } => b.edit_parent(root, path, |b, level| {
            if forward {
                fields::spread(b, level, path.last(), prefix)
            } else {
                fields::gather(b, level, path.last(), prefix)
            }
        }),
        Op::Wrap { path, field } => b.edit_value(root, path, |_, v| match (forward, field) {
            (true, None) => Bson::Array(vec![v]),
            (true, Some(name)) => expr::set(expr::empty(), name, v),
            (false, None) => expr::call("$arrayElemAt", [v, Bson::Int32(0)]),
            (false, Some(name)) => expr::get(v, name),
        }),
        Op::Constant { path, value: Some(c), add } if *add == forward => {
            b.put(root, &path.parts, expr::literal(c.value.clone()), false)
        }
        Op::Constant { path, .. } => b.take(root, &path.parts),
        Op::Drop(path) if forward => b.drop_if_there(root, path),
        Op::Drop(_) | Op::Refused(..) => root,
        Op::Convert { path, from, to, .. } => {
            let (from, to) = if forward { (*from, *to) } else { (*to, *from) };
            b.edit_value(root, path, |b, v| {
                let new = values::convert(b, v.clone(), from, to);
                expr::cond(expr::has_type(v.clone(), from.name()), new, v)
            })
        }
        Op::Map { path, values, .. } => b.edit_value(root, path, |_, v| values::map(v, values, forward)),
    };
    doc! { "$replaceWith": new }
}
