//! Steps made ready to run: paths split, constants encoded, steps that are the same as several renames spelt out.

use std::borrow::Cow;

use bson::{Bson, RawDocumentBuf, doc};

use super::tree::{self, DOCUMENT, Field, NULL, Value};
use super::{At, Path, Why, convert, parts, shift, spread, wrap};
use crate::plan::{Pipeline, Step, ValueType};

/// A constant of the plan as BSON bytes.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    pub(super) kind: u8,
    pub(super) bytes: Vec<u8>,
    /// As the plan has it, for a server.
    pub(super) value: Bson,
}

impl Constant {
    pub(super) fn new(value: &Bson) -> Option<Self> {
        let d = RawDocumentBuf::try_from(&doc! { "": value.clone() }).ok()?;
        let b = d.as_bytes();
        // int32 length, type byte, empty name, value, closing NUL.
        let bytes = b.get(6..b.len().checked_sub(1)?)?.to_vec();
        Some(Constant { kind: *b.get(4)?, bytes, value: value.clone() })
    }
}

/// A piece of a step.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// `shared` leading path segments; `early` puts the field before its old parent, or first in its new one.
    Move { from: Path, to: Path, shared: usize, early: bool },
    /// Another type; `lossy` accepts what would not come back.
    Convert { path: Path, from: ValueType, to: ValueType, lossy: bool },
    /// Adds the constant going forward (`add`), or takes it away.
    Constant { path: Path, value: Option<Constant>, add: bool },
    /// Takes away whatever is there; nothing comes back.
    Drop(Path),
    /// A text and its parts in the same document; `split` cuts going forward.
    Parts { whole: Path, parts: Vec<Path>, at: String, split: bool },
    /// All fields of a document, moved up beside it with a prefix.
    Spread { path: Path, prefix: Vec<u8> },
    /// Into an array, or into a document's `field`.
    Wrap { path: Path, field: Option<Vec<u8>> },
    /// Values for others.
    Map { path: Path, values: Vec<(Constant, Constant)>, keep: bool, lossy: bool },
    /// Touches `_id` or holds a value that is no BSON: refuses every document.
    Refused(Path, Why),
}

/// What runs over the fields of a document in one go, or a pipeline over its bytes.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    Ops(Vec<Op>),
    Pipeline { forward: Pipeline, inverse: Option<Pipeline> },
}

pub(super) fn prepare(steps: &[Step]) -> Vec<Segment> {
    let mut all = Vec::new();
    for step in steps {
        if let Step::Pipeline { forward, inverse } = step {
            all.push(Segment::Pipeline { forward: forward.clone(), inverse: inverse.clone() });
            continue;
        }
        let mut new: Vec<Op> = ops(step).into_iter().map(refuse_id).collect();
        match all.last_mut() {
            Some(Segment::Ops(ops)) => ops.append(&mut new),
            _ => all.push(Segment::Ops(new)),
        }
    }
    all
}

fn refuse_id(op: Op) -> Op {
    match op.paths().into_iter().find(|p| p.parts.first().is_some_and(|n| n == b"_id")) {
        Some(p) => Op::Refused(p.clone(), Why::Id),
        None => op,
    }
}

fn rename(from: &str, to: &str) -> Op {
    let (from, to) = (Path::new(from), Path::new(to));
    let most = from.parts.len().min(to.parts.len()) - 1;
    let shared = (0..most).take_while(|&i| from.parts[i] == to.parts[i]).count();
    let early = to.parts.len() == shared + 1;
    Op::Move { from, to, shared, early }
}

fn ops(step: &Step) -> Vec<Op> {
    let constant = |path: &str, value: &Bson, add| {
        let path = Path::new(path);
        Op::Constant { path, value: Constant::new(value), add }
    };
    let last = |p: &str| p.rsplit('.').next().unwrap_or(p).to_owned();
    match step {
        Step::Rename { from, to } => vec![rename(from, to)],
        Step::Nest { paths, into } => paths.iter().map(|p| rename(p, &format!("{into}.{}", last(p)))).collect(),
        Step::Flatten { path, prefix, fields: Some(fields) } => {
            let above = path.rsplit_once('.').map_or(String::new(), |(p, _)| format!("{p}."));
            fields.iter().map(|f| rename(&format!("{path}.{f}"), &format!("{above}{prefix}{f}"))).collect()
        }
        Step::Flatten { path, prefix, fields: None } => {
            vec![Op::Spread { path: Path::new(path), prefix: prefix.as_bytes().to_vec() }]
        }
        Step::Convert { path, from, to, lossy } => {
            vec![Op::Convert { path: Path::new(path), from: *from, to: *to, lossy: *lossy }]
        }
        Step::Set { path, value } => vec![constant(path, value, true)],
        Step::Unset { path, was: Some(was) } => vec![constant(path, was, false)],
        Step::Unset { path, was: None } => vec![Op::Drop(Path::new(path))],
        Step::Split { path, at, into } => vec![pieces(path, into, at, true)],
        Step::Join { paths, with, to } => vec![pieces(to, paths, with, false)],
        Step::Wrap { path, field } => {
            vec![Op::Wrap { path: Path::new(path), field: field.as_ref().map(|f| f.as_bytes().to_vec()) }]
        }
        Step::Map { path, values, keep, lossy } => {
            let path = Path::new(path);
            let values: Option<Vec<_>> =
                values.iter().map(|(a, b)| Some((Constant::new(a)?, Constant::new(b)?))).collect();
            match values {
                Some(values) => vec![Op::Map { path, values, keep: *keep, lossy: *lossy }],
                None => vec![Op::Refused(path, Why::Malformed("the plan's value is not valid BSON"))],
            }
        }
        Step::Pipeline { .. } => Vec::new(),
    }
}

fn pieces(whole: &str, parts: &[String], at: &str, split: bool) -> Op {
    let parts = parts.iter().map(|p| Path::new(p)).collect();
    Op::Parts { whole: Path::new(whole), parts, at: at.to_owned(), split }
}

impl Op {
    /// Every path that it reads or writes.
    pub(super) fn paths(&self) -> Vec<&Path> {
        match self {
            Op::Move { from, to, .. } => vec![from, to],
            Op::Parts { whole, parts, .. } => std::iter::once(whole).chain(parts).collect(),
            Op::Convert { path, .. } | Op::Constant { path, .. } | Op::Drop(path) | Op::Refused(path, _) => vec![path],
            Op::Spread { path, .. } | Op::Wrap { path, .. } | Op::Map { path, .. } => vec![path],
        }
    }

    pub(super) fn run<'a>(&'a self, root: &mut Vec<Field<'a>>, forward: bool) -> At<()> {
        match self {
            Op::Move { from, to, shared, early } if forward => shift::shift(root, from, to, *shared, *early),
            Op::Move { from, to, shared, early } => shift::shift(root, to, from, *shared, *early),
            Op::Convert { path, from, to, lossy } => {
                let (from, to) = if forward { (*from, *to) } else { (*to, *from) };
                let Some(value) = tree::find(root, &path.parts, &path.text)? else { return Ok(()) };
                let new = convert::convert(value, from, to, *lossy, forward);
                if let Some(new) = new.map_err(|why| (path.text.clone(), why))? {
                    *value = new;
                }
                Ok(())
            }
            Op::Constant { path, value, add } => constant(root, path, value.as_ref(), *add == forward),
            Op::Drop(path) if forward => tree::take(root, &path.parts, &path.text).map(drop),
            Op::Drop(path) => match tree::find(root, &path.parts, &path.text)? {
                // T would drop it again, and the copy would never agree.
                Some(_) => path.fail(Why::Occupied),
                None => Ok(()),
            },
            Op::Parts { whole, parts, at, split } if *split == forward => parts::split(root, whole, parts, at),
            Op::Parts { whole, parts, at, .. } => parts::join(root, whole, parts, at),
            Op::Spread { path, prefix } if forward => spread::spread(root, path, prefix),
            Op::Spread { path, prefix } => spread::gather(root, path, prefix),
            Op::Wrap { path, field } => {
                let Some(value) = tree::find(root, &path.parts, &path.text)? else { return Ok(()) };
                let taken = std::mem::replace(value, Value::Raw(NULL, &[]));
                *value = if forward {
                    wrap::wrap(taken, field.as_deref())
                } else {
                    wrap::unwrap(taken, field.as_deref(), &path.text)?
                };
                Ok(())
            }
            Op::Map { path, values, keep, lossy } => {
                let Some(value) = tree::find(root, &path.parts, &path.text)? else { return Ok(()) };
                let new = map(value, values, (*keep, *lossy), forward).map_err(|why| (path.text.clone(), why))?;
                if let Some(new) = new {
                    *value = Value::Raw(new.kind, &new.bytes);
                }
                Ok(())
            }
            Op::Refused(path, why) => path.fail(why.clone()),
        }
    }
}

fn constant<'a>(root: &mut Vec<Field<'a>>, path: &'a Path, value: Option<&'a Constant>, add: bool) -> At<()> {
    let Some(c) = value else { return path.fail(Why::Malformed("the plan's value is not valid BSON")) };
    if add {
        if tree::find(root, &path.parts, &path.text)?.is_some() {
            return path.fail(Why::Occupied);
        }
        return tree::insert(root, &path.parts, Value::Raw(c.kind, &c.bytes), false, &path.text);
    }
    match tree::take(root, &path.parts, &path.text)? {
        None => path.fail(Why::Absent),
        Some(v) if v.is(c.kind, &c.bytes) => Ok(()),
        Some(v) => path.fail(Why::Differs { found: tree::type_name(v.kind()) }),
    }
}

/// What a value becomes; `None` when it stays.
fn map<'a>(
    value: &Value<'_>,
    values: &'a [(Constant, Constant)],
    (keep, lossy): (bool, bool),
    forward: bool,
) -> Result<Option<&'a Constant>, Why> {
    let found = tree::type_name(value.kind());
    let (from, to): (Vec<&Constant>, Vec<&Constant>) =
        values.iter().map(|(a, b)| if forward { (a, b) } else { (b, a) }).unzip();
    if let Some(i) = from.iter().position(|c| value.is(c.kind, &c.bytes)) {
        return Ok(Some(to[i]));
    }
    let target = to.iter().any(|c| value.is(c.kind, &c.bytes));
    match value.kind() {
        NULL => Ok(None),
        // Going back, such a value would be mapped going forward again: it can never be what T made.
        _ if target && keep && !(lossy && forward) => Err(Why::Target { found }),
        _ if keep => Ok(None),
        _ => Err(Why::Unmapped { found }),
    }
}

/// A document of one field, or an empty one.
pub(super) fn single<'a>(name: &'a [u8], value: Value<'a>) -> Value<'a> {
    Value::Doc(vec![Field { name: Cow::Borrowed(name), value }])
}

/// True for null, which steps leave as it is, like a field that is not there.
pub(super) fn is_null(value: &Value<'_>) -> bool {
    value.kind() == NULL
}

/// True for a document.
pub(super) fn is_document(value: &Value<'_>) -> bool {
    value.kind() == DOCUMENT
}
