//! T and T⁻¹: the plan's steps applied to raw BSON, and undone again.
//!
//! Each step says how well it comes back ([`Step::fidelity`]); a document whose round trip would not be exact is refused, never
//! carried approximately. Untouched fields are copied as bytes, whatever they hold. No I/O, no clock, no decoded documents.
//!
//! Placement: a rename within one parent stays in place. Moving up, the field is put where its old parent stands; moving down, it
//! comes first in its new parent (or last when T itself moves down). A parent left empty by a move is dropped, and made again
//! by the move back; so a parent that is already empty is refused as a target, since the way back would drop it.

mod convert;
mod same;
mod tree;

use bson::{Bson, RawDocument, RawDocumentBuf, doc};

use crate::cluster::Key;
use crate::plan::{Step, ValueType};
use same::Order;
use tree::{Field, Value};

/// The server's limit on a document, bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// How well a step comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fidelity {
    /// `invert(apply(d)) == d`, byte for byte.
    Exact,
    /// Equal up to the order of fields in the parents the step touches.
    FieldOrder,
    /// Something is lost. No step available today is.
    Lossy,
}

impl Step {
    /// How well the step comes back.
    #[must_use]
    pub fn fidelity(&self) -> Fidelity {
        match self {
            Step::Rename { from, to } if parent(from) != parent(to) => Fidelity::FieldOrder,
            Step::Unset { .. } => Fidelity::FieldOrder,
            Step::Rename { .. } | Step::Convert { .. } | Step::Set { .. } => Fidelity::Exact,
        }
    }
}

/// What stands before the last dot; empty for a top-level field.
fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(p, _)| p)
}

/// Why a document cannot be carried. Names types and paths, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document with _id {id} cannot be carried: {}{why}", subject(.path))]
pub struct TransformError {
    /// The document's `_id`, short and safe to print; `?` when it cannot be read.
    pub id: String,
    /// The path; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub why: Why,
}

fn subject(path: &str) -> String {
    if path.is_empty() { "it ".into() } else { format!("`{path}` ") }
}

/// What is wrong with a document (or a step).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The bytes are not BSON.
    #[error("is not valid BSON: {0}")]
    Malformed(&'static str),
    /// A field name stands there twice.
    #[error("stands there twice; a document with duplicate field names has no one meaning")]
    Duplicate,
    /// Another type than the plan says.
    #[error("is of type {found}, expected {expected}")]
    Type {
        /// What the plan says.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The value would not come back as it was.
    #[error("of type {from} does not come back exactly from {to}: {why}")]
    NotExact {
        /// Its type.
        from: &'static str,
        /// The type it would get.
        to: &'static str,
        /// What would be lost.
        why: &'static str,
    },
    /// The field must not be there.
    #[error("is there already; the step would overwrite it")]
    Occupied,
    /// The field must be there.
    #[error("is not there, so the way back would invent it")]
    Absent,
    /// The value is not the plan's.
    #[error("is of type {found} and not the value that the plan names")]
    Differs {
        /// Its type.
        found: &'static str,
    },
    /// The parent of a moved field is an empty document.
    #[error("is an empty document; the way back would drop it")]
    EmptyParent,
    /// A step of the plan touches `_id`.
    #[error("is touched by a step; an _id never changes")]
    Id,
    /// The result would be larger than the server accepts.
    #[error("would grow beyond 16 MiB")]
    TooLarge,
}

/// A failure at a path; the document's `_id` is added at the surface.
pub(crate) type At<T> = Result<T, (String, Why)>;

/// A dotted path, split.
#[derive(Clone, Debug)]
struct Path {
    text: String,
    parts: Vec<Vec<u8>>,
}

impl Path {
    fn new(text: &str) -> Self {
        Path { text: text.to_owned(), parts: text.split('.').map(|p| p.as_bytes().to_vec()).collect() }
    }

    fn fail<T>(&self, why: Why) -> At<T> {
        Err((self.text.clone(), why))
    }
}

/// A constant of the plan as BSON bytes.
#[derive(Clone, Debug)]
struct Constant {
    kind: u8,
    bytes: Vec<u8>,
}

impl Constant {
    fn new(value: &Bson) -> Option<Self> {
        let d = RawDocumentBuf::try_from(&doc! { "": value.clone() }).ok()?;
        let b = d.as_bytes();
        // int32 length, type byte, empty name, value, closing NUL.
        Some(Constant { kind: *b.get(4)?, bytes: b.get(6..b.len().checked_sub(1)?)?.to_vec() })
    }
}

/// A step made ready to run.
#[derive(Clone, Debug)]
enum Op {
    /// `shared` leading path segments; `early` puts the field before its old parent, or first in its new one.
    Move {
        from: Path,
        to: Path,
        shared: usize,
        early: bool,
    },
    Convert {
        path: Path,
        from: ValueType,
        to: ValueType,
    },
    /// Adds the constant going forward (`add`), or takes it away.
    Constant {
        path: Path,
        value: Option<Constant>,
        add: bool,
    },
    /// Touches `_id`: refuses every document.
    Refused(Path),
}

/// T and its inverse.
#[derive(Clone, Debug)]
pub struct Transform {
    ops: Vec<Op>,
    fidelity: Fidelity,
    order: Order,
}

impl Transform {
    /// Makes the steps ready to run. Steps that touch `_id` (refused by the plan's checks) refuse every document.
    #[must_use]
    pub fn new(steps: &[Step]) -> Transform {
        let mut order = Order::default();
        let ops = steps
            .iter()
            .map(|step| {
                let op = prepare(step);
                if step.fidelity() == Fidelity::FieldOrder {
                    match &op {
                        Op::Move { from, to, .. } => [from, to].iter().for_each(|p| order.loosen(&p.parts)),
                        Op::Constant { path, .. } => order.loosen(&path.parts),
                        Op::Convert { .. } | Op::Refused(_) => {}
                    }
                }
                op
            })
            .collect();
        let fidelity = steps.iter().map(Step::fidelity).max().unwrap_or(Fidelity::Exact);
        Transform { ops, fidelity, order }
    }

    /// The weakest fidelity of its steps.
    #[must_use]
    pub fn fidelity(&self) -> Fidelity {
        self.fidelity
    }

    /// T: a document of legacy as next holds it.
    ///
    /// # Errors
    /// When the document cannot be carried there and back; nothing is ever carried approximately.
    pub fn apply(&self, doc: &RawDocument) -> Result<RawDocumentBuf, TransformError> {
        self.run(doc, true)
    }

    /// T⁻¹: a document of next as legacy holds it.
    ///
    /// # Errors
    /// As [`Transform::apply`].
    pub fn invert(&self, doc: &RawDocument) -> Result<RawDocumentBuf, TransformError> {
        self.run(doc, false)
    }

    /// True when two documents of the same side hold the same: equal bytes, or, only where a step does not keep it, equal up to
    /// the order of fields. Only the parents that such a step touches are compared loosely.
    #[must_use]
    pub fn same(&self, a: &RawDocument, b: &RawDocument) -> bool {
        a.as_bytes() == b.as_bytes()
            || (self.fidelity == Fidelity::FieldOrder && same::equal(&self.order, a.as_bytes(), b.as_bytes()))
    }

    /// True when a legacy and a next document hold the same, whichever of the two the other was made from.
    #[must_use]
    pub fn agree(&self, legacy: &RawDocument, next: &RawDocument) -> bool {
        self.apply(legacy).is_ok_and(|d| self.same(&d, next)) || self.invert(next).is_ok_and(|d| self.same(&d, legacy))
    }

    fn run(&self, doc: &RawDocument, forward: bool) -> Result<RawDocumentBuf, TransformError> {
        self.run_at(doc.as_bytes(), forward).map_err(|(path, why)| TransformError {
            id: Key::of(doc).map_or_else(|_| "?".into(), |k| crate::scrub::short(&k.to_string(), 80)),
            path: crate::scrub::short(&path, 120),
            why,
        })
    }

    fn run_at(&self, bytes: &[u8], forward: bool) -> At<RawDocumentBuf> {
        let mut fields = tree::parse(bytes, "")?;
        if forward {
            for op in &self.ops {
                op.run(&mut fields, true)?;
            }
        } else {
            for op in self.ops.iter().rev() {
                op.run(&mut fields, false)?;
            }
        }
        let out = tree::write(&fields, bytes.len() + 64);
        if out.len() > MAX_BYTES {
            return Err((String::new(), Why::TooLarge));
        }
        RawDocumentBuf::from_bytes(out).map_err(|_| (String::new(), Why::Malformed("the result has a wrong length")))
    }
}

fn prepare(step: &Step) -> Op {
    let paths: Vec<Path> = match step {
        Step::Rename { from, to } => vec![Path::new(from), Path::new(to)],
        Step::Convert { path, .. } | Step::Set { path, .. } | Step::Unset { path, .. } => vec![Path::new(path)],
    };
    if let Some(p) = paths.iter().find(|p| p.parts[0] == b"_id") {
        return Op::Refused(p.clone());
    }
    match step {
        Step::Rename { from, to } => {
            let (from, to) = (Path::new(from), Path::new(to));
            let most = from.parts.len().min(to.parts.len()) - 1;
            let shared = (0..most).take_while(|&i| from.parts[i] == to.parts[i]).count();
            let early = to.parts.len() == shared + 1;
            Op::Move { from, to, shared, early }
        }
        Step::Convert { path, from, to } => Op::Convert { path: Path::new(path), from: *from, to: *to },
        Step::Set { path, value } => Op::Constant { path: Path::new(path), value: Constant::new(value), add: true },
        Step::Unset { path, was } => Op::Constant { path: Path::new(path), value: Constant::new(was), add: false },
    }
}

impl Op {
    fn run<'a>(&'a self, root: &mut Vec<Field<'a>>, forward: bool) -> At<()> {
        match self {
            Op::Move { from, to, shared, early } if forward => shift(root, from, to, *shared, *early),
            Op::Move { from, to, shared, early } => shift(root, to, from, *shared, *early),
            Op::Convert { path, from, to } => {
                let (from, to) = if forward { (*from, *to) } else { (*to, *from) };
                let Some(value) = tree::find(root, &path.parts, &path.text)? else { return Ok(()) };
                if let Some(new) = convert::convert(value, from, to).map_err(|why| (path.text.clone(), why))? {
                    *value = new;
                }
                Ok(())
            }
            Op::Constant { path, value: None, .. } => path.fail(Why::Malformed("the plan's value is not valid BSON")),
            Op::Constant { path, value: Some(c), add } if *add == forward => {
                if tree::find(root, &path.parts, &path.text)?.is_some() {
                    return path.fail(Why::Occupied);
                }
                tree::insert(root, &path.parts, Value::Raw(c.kind, &c.bytes), false, &path.text)
            }
            Op::Constant { path, value: Some(c), .. } => match tree::take(root, &path.parts, &path.text)? {
                None => path.fail(Why::Absent),
                Some(v) if v.is(c.kind, &c.bytes) => Ok(()),
                Some(v) => path.fail(Why::Differs { found: tree::type_name(v.kind()) }),
            },
            Op::Refused(path) => path.fail(Why::Id),
        }
    }
}

/// Moves a field; see the placement rules at the top.
fn shift<'a>(root: &mut Vec<Field<'a>>, from: &'a Path, to: &'a Path, shared: usize, early: bool) -> At<()> {
    let Some(level) = tree::descend(root, &from.parts[..shared], &from.text)? else { return Ok(()) };
    let (source, target) = (&from.parts[shared..], &to.parts[shared..]);
    if tree::find(level, target, &to.text)?.is_some() {
        return to.fail(Why::Occupied);
    }
    let Some(at) = level.iter().position(|f| f.name == source[0].as_slice()) else { return Ok(()) };
    let before = level.len();
    let Some(value) = tree::take(level, source, &from.text)? else { return Ok(()) };
    let pruned = level.len() < before;
    match (source.len(), target.len()) {
        (_, 1) => {
            let place = if pruned || early { at } else { at + 1 };
            level.insert(place, Field { name: &target[0], value });
            Ok(())
        }
        (1, _) if !level.iter().any(|f| f.name == target[0].as_slice()) => {
            level.insert(at, Field { name: &target[0], value: tree::nest(&target[1..], value) });
            Ok(())
        }
        (1, _) => tree::insert(level, target, value, early, &to.text),
        _ => tree::insert(level, target, value, false, &to.text),
    }
}

#[cfg(test)]
mod tests;
