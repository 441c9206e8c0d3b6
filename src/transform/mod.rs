//! T and T⁻¹: the plan's steps applied to raw BSON, and undone again.
//!
//! Each step says how well it comes back ([`Step::class`]); unless the plan calls it lossy, a document whose round trip would not
//! be right is refused, never carried approximately. Untouched fields are copied as bytes, whatever they hold. No I/O, no clock,
//! no decoded documents. `server` has the same steps as aggregation stages.

mod carried;
mod cast;
mod class;
mod compute;
mod convert;
mod lineage;
mod merge;
mod number;
mod op;
mod parts;
mod same;
mod server;
mod shape;
mod shift;
mod spread;
mod tree;
mod wrap;

use std::borrow::Cow;

use bson::{Document, RawBson, RawDocument, RawDocumentBuf};

pub use class::Class;
pub use lineage::Hidden;
pub use shape::Shape;
pub(crate) use shape::comparable;

use crate::cluster::Key;
use crate::plan::{Computed, Step};
use cast::Casts;
use op::{Op, Segment};
use same::Order;

/// What an expression of the plan makes of a document, as a server computes it: `None` is a field that is not there.
///
/// # Errors
/// Where the two could differ, and where the document has what the expression cannot take; no value is named.
pub fn computed(c: &Computed, doc: &RawDocument) -> Result<Option<RawBson>, String> {
    let Some(expr) = &c.expr else { return Err("only a server computes this expression".into()) };
    compute::value(expr, doc.as_bytes()).map_err(|(path, why)| format!("{}{why}", subject(&path)))
}

/// The server's limit on a document, bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

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

impl TransformError {
    /// What is wrong and where, without the document's name.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("{}{}", subject(&self.path), self.why)
    }
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
    /// A text does not have as many parts as the plan says.
    #[error("has {found} parts at the plan's separator, expected {expected}")]
    Parts {
        /// What the plan says.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// A part is missing beside others that are there.
    #[error("is not there, but others that it is joined with are")]
    Part,
    /// A part would be cut elsewhere when the text is split again.
    #[error("holds the separator (or makes one with its neighbour), so it would be split differently")]
    Separator,
    /// A field would be taken for one of a flattened document.
    #[error("begins with the prefix of a flattened document, so the way back would move it")]
    Prefix,
    /// The plan does not say what a value becomes.
    #[error("is of type {found} and not a value that the plan maps")]
    Unmapped {
        /// Its type.
        found: &'static str,
    },
    /// A value that is kept is one that another value is mapped to.
    #[error("is of type {found} and a value that another one is mapped to, so it would not come back")]
    Target {
        /// Its type.
        found: &'static str,
    },
    /// A wrapped value has company.
    #[error("does not hold exactly one {0}")]
    NotOne(&'static str),
    /// A lossy step has nothing to make the document of.
    #[error("cannot be made of what next holds; only the pre-image brings it back")]
    NoInverse,
    /// A pipeline cannot be computed on this document.
    #[error("cannot be computed as a server would: {0}")]
    Compute(&'static str),
    /// The declared inverse does not bring the document back.
    #[error("does not come back from the inverse that the plan declares")]
    NotDeclared,
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

    fn last(&self) -> &[u8] {
        self.parts.last().map_or(&[], Vec::as_slice)
    }

    fn parents(&self) -> &[Vec<u8>] {
        self.parts.split_last().map_or(&[], |(_, parents)| parents)
    }

    /// The path of a field beside it.
    fn beside(&self, name: &[u8]) -> String {
        let name = String::from_utf8_lossy(name);
        let above = parent(&self.text);
        if above.is_empty() { name.into_owned() } else { format!("{above}.{name}") }
    }
}

/// T and its inverse.
#[derive(Clone, Debug)]
pub struct Transform {
    segments: Vec<Segment>,
    class: Class,
    order: Order,
    casts: Casts,
}

impl Transform {
    /// Makes the steps ready to run. Steps that touch `_id` (refused by the plan's checks) refuse every document.
    #[must_use]
    pub fn new(steps: &[Step]) -> Transform {
        let mut order = Order::default();
        if steps.iter().any(|s| s.class() == Class::Declared) {
            order.loosen_top();
        }
        for step in steps.iter().filter(|s| s.class() == Class::Reordered) {
            for segment in &op::prepare(std::slice::from_ref(step)) {
                let Segment::Ops(ops) = segment else { continue };
                ops.iter().flat_map(Op::paths).for_each(|p| order.loosen(&p.parts));
            }
        }
        let class = steps.iter().map(Step::class).max().unwrap_or(Class::Exact);
        if class == Class::Lossy {
            // A copy is held to T alone then, which puts a constant behind what an application has put behind it.
            for step in steps {
                if let Step::Set { path, .. } = step {
                    order.loosen(&Path::new(path).parts);
                }
            }
        }
        Transform { segments: op::prepare(steps), class, order, casts: Casts::default() }
    }

    /// The weakest class of its steps.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// True when a step loses something, so that the way back needs the pre-images of documents.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.class == Class::Lossy
    }

    /// T: a document of legacy as next holds it.
    ///
    /// # Errors
    /// When the document cannot be carried as its steps' classes promise.
    pub fn apply(&self, doc: &RawDocument) -> Result<RawDocumentBuf, TransformError> {
        self.run(doc, true)
    }

    /// T⁻¹: a document of next as legacy holds it. T makes of it what next holds, up to the order of fields; of a document that a
    /// lossy step has changed it is a likeness, not the original.
    ///
    /// # Errors
    /// As [`Transform::apply`]; also when a lossy step has nothing to make the document of.
    pub fn invert(&self, doc: &RawDocument) -> Result<RawDocumentBuf, TransformError> {
        self.run(doc, false)
    }

    /// T as aggregation stages. A server makes the same bytes of every document that [`Transform::apply`] accepts, with the exceptions
    /// listed in `docs/steps.md`; of others it makes anything.
    #[must_use]
    pub fn pipeline(&self) -> Vec<Document> {
        server::forward(&self.segments)
    }

    /// T⁻¹ as aggregation stages; `None` when a lossy step has no inverse.
    #[must_use]
    pub fn inverse_pipeline(&self) -> Option<Vec<Document>> {
        server::inverse(&self.segments)
    }

    /// True when two documents of the same side hold the same: equal bytes, or, only where a step does not keep it, equal up to
    /// the order of fields. Only the parents that such a step touches are compared loosely.
    #[must_use]
    pub fn same(&self, a: &RawDocument, b: &RawDocument) -> bool {
        a.as_bytes() == b.as_bytes()
            || (!self.order.is_strict() && same::equal(&self.order, a.as_bytes(), b.as_bytes()))
    }

    /// True when a legacy and a next document hold the same, whichever of the two the other was made from.
    #[must_use]
    pub fn agree(&self, legacy: &RawDocument, next: &RawDocument) -> bool {
        self.makes(legacy, next) || self.is_made(next, legacy, false)
    }

    /// True when T makes of a legacy document what next holds.
    #[must_use]
    pub fn makes(&self, legacy: &RawDocument, next: &RawDocument) -> bool {
        self.is_made(legacy, next, true)
    }

    /// True when `from` can be carried and gives the same as `to`. Nothing is written for it when the bytes are equal.
    fn is_made(&self, from: &RawDocument, to: &RawDocument, forward: bool) -> bool {
        let to_bytes = to.as_bytes();
        let [Segment::Ops(ops)] = &self.segments[..] else {
            return self.run_at(from.as_bytes(), forward).is_ok_and(|made| self.same(&made, to));
        };
        if forward && self.casts.makes(from.as_bytes(), to_bytes) == Some(true) {
            return to_bytes.len() <= MAX_BYTES;
        }
        let Ok(fields) = run_ops(ops, from.as_bytes(), forward) else { return false };
        if tree::writes(&fields, to_bytes) {
            if forward {
                self.casts.learn(ops, from.as_bytes());
            }
            return to_bytes.len() <= MAX_BYTES;
        }
        let loosely = |made: &[u8]| made.len() <= MAX_BYTES && same::equal(&self.order, made, to_bytes);
        !self.order.is_strict() && loosely(&tree::write(&fields, to_bytes.len()))
    }

    fn run(&self, doc: &RawDocument, forward: bool) -> Result<RawDocumentBuf, TransformError> {
        let [Segment::Ops(ops)] = &self.segments[..] else {
            return self.run_at(doc.as_bytes(), forward).map_err(|at| error_of(doc, at));
        };
        if forward
            && let Some(made) = self.casts.write(doc.as_bytes()).filter(|made| made.len() <= MAX_BYTES)
            && let Ok(made) = RawDocumentBuf::from_bytes(made)
        {
            return Ok(made);
        }
        let made = self.run_at(doc.as_bytes(), forward).map_err(|at| error_of(doc, at))?;
        if forward {
            self.casts.learn(ops, doc.as_bytes());
        }
        Ok(made)
    }

    fn run_at(&self, bytes: &[u8], forward: bool) -> At<RawDocumentBuf> {
        let mut now = Cow::Borrowed(bytes);
        if forward {
            for s in &self.segments {
                now = Cow::Owned(s.run(&now, true)?);
            }
        } else {
            for s in self.segments.iter().rev() {
                now = Cow::Owned(s.run(&now, false)?);
            }
        }
        if self.segments.is_empty() {
            tree::parse(bytes, "")?;
        }
        if now.len() > MAX_BYTES {
            return Err((String::new(), Why::TooLarge));
        }
        RawDocumentBuf::from_bytes(now.into_owned()).map_err(|_| malformed("the result has a wrong length"))
    }
}

/// The failure at a path as one of a document.
fn error_of(doc: &RawDocument, (path, why): (String, Why)) -> TransformError {
    TransformError {
        id: Key::of(doc).map_or_else(|_| "?".into(), |k| crate::scrub::short(&k.to_string(), 80)),
        path: crate::scrub::short(&path, 120),
        why,
    }
}

fn malformed(why: &'static str) -> (String, Why) {
    (String::new(), Why::Malformed(why))
}

impl Segment {
    fn run(&self, bytes: &[u8], forward: bool) -> At<Vec<u8>> {
        let ops = match self {
            Segment::Ops(ops) => ops,
            Segment::Pipeline { forward: p, inverse } => return compute::step(p, inverse.as_ref(), bytes, forward),
        };
        run_ops(ops, bytes, forward).map(|fields| tree::write(&fields, bytes.len() + 64))
    }
}

fn run_ops<'a>(ops: &'a [Op], bytes: &'a [u8], forward: bool) -> At<Vec<tree::Field<'a>>> {
    let mut fields = tree::parse(bytes, "")?;
    if forward {
        for op in ops {
            op.run(&mut fields, true)?;
        }
    } else {
        for op in ops.iter().rev() {
            op.run(&mut fields, false)?;
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests;
