//! The way back of a document that was edited after a lossy T had changed it: what T lost is taken from its pre-image.

use super::op::{Op, Segment};
use super::tree::{self, Field, Value};
use super::{At, Transform, TransformError, Why, compute, malformed};
use crate::plan::Pipeline;
use bson::{RawDocument, RawDocumentBuf};

/// One step of the way, in the order of T.
enum Piece<'t> {
    Op(&'t Op),
    Pipeline(&'t Pipeline, Option<&'t Pipeline>),
}

impl Transform {
    /// T⁻¹ of `edited`, which came of an edit of T(`before`).
    ///
    /// Step by step, last first: a step that loses nothing is undone as ever. A lossy step's value that is still the one T made of
    /// `before` becomes what it was there; one that was edited goes back by itself, if T leads from there to the edited value again.
    /// What a step dropped is put back, unless the edit has put something in its place. A pipeline without an inverse is undone only
    /// where nothing was edited. Equal to what it should be up to the order of fields.
    ///
    /// # Errors
    /// When that cannot be said exactly of some value.
    pub fn restore(&self, edited: &RawDocument, before: &RawDocument) -> Result<RawDocumentBuf, TransformError> {
        self.restored(edited.as_bytes(), before.as_bytes()).map_err(|at| super::error_of(edited, at))
    }

    fn restored(&self, edited: &[u8], before: &[u8]) -> At<RawDocumentBuf> {
        let pieces: Vec<Piece<'_>> = self.segments.iter().flat_map(pieces).collect();
        let mut made = vec![before.to_vec()];
        for piece in &pieces {
            let next = piece.run(&made[made.len() - 1], true)?;
            made.push(next);
        }
        let mut now = edited.to_vec();
        for (i, piece) in pieces.iter().enumerate().rev() {
            now = piece.undo(&now, &made[i], &made[i + 1])?;
        }
        if now.len() > super::MAX_BYTES {
            return Err((String::new(), Why::TooLarge));
        }
        RawDocumentBuf::from_bytes(now).map_err(|_| malformed("the result has a wrong length"))
    }
}

fn pieces(segment: &Segment) -> Vec<Piece<'_>> {
    match segment {
        Segment::Ops(ops) => ops.iter().map(Piece::Op).collect(),
        Segment::Pipeline { forward, inverse } => vec![Piece::Pipeline(forward, inverse.as_ref())],
    }
}

impl Piece<'_> {
    fn run(&self, bytes: &[u8], forward: bool) -> At<Vec<u8>> {
        match self {
            Piece::Pipeline(p, inverse) => compute::step(p, *inverse, bytes, forward),
            Piece::Op(op) => {
                let mut fields = tree::parse(bytes, "")?;
                op.run(&mut fields, forward)?;
                Ok(tree::write(&fields, bytes.len() + 64))
            }
        }
    }

    /// Undoes it on `edited`; it made `after` of `before`.
    fn undo(&self, edited: &[u8], before: &[u8], after: &[u8]) -> At<Vec<u8>> {
        match self {
            Piece::Pipeline(_, None) if edited == after => Ok(before.to_vec()),
            Piece::Op(Op::Drop(path)) => {
                let mut fields = tree::parse(edited, "")?;
                let lost = value_at(before, path)?;
                if tree::find(&mut fields, &path.parts, &path.text)?.is_some() {
                    return path.fail(Why::Occupied);
                }
                if let Some(lost) = lost {
                    tree::insert(&mut fields, &path.parts, lost, false, &path.text)?;
                }
                Ok(tree::write(&fields, edited.len() + 64))
            }
            Piece::Op(Op::Convert { path, lossy: true, .. } | Op::Map { path, lossy: true, .. }) => {
                let (was, made) = (value_at(before, path)?, value_at(after, path)?);
                let mut fields = tree::parse(edited, "")?;
                let Some(is) = tree::find(&mut fields, &path.parts, &path.text)? else { return Ok(edited.to_vec()) };
                if let (Some(was), Some(made)) = (was, made)
                    && same(is, &made)
                {
                    *is = was;
                    return Ok(tree::write(&fields, edited.len() + 64));
                }
                let back = self.run(edited, false)?;
                if value_at(&self.run(&back, true)?, path)?.is_some_and(|v| same(is, &v)) {
                    Ok(back)
                } else {
                    path.fail(Why::NoInverse)
                }
            }
            Piece::Op(_) | Piece::Pipeline(..) => self.run(edited, false),
        }
    }
}

fn same(a: &Value<'_>, b: &Value<'_>) -> bool {
    match b {
        Value::Raw(kind, bytes) => a.is(*kind, bytes),
        Value::Owned(kind, bytes) => a.is(*kind, bytes),
        Value::Doc(_) => false,
    }
}

/// The value at a path, as bytes of its own.
fn value_at(bytes: &[u8], path: &super::Path) -> At<Option<Value<'static>>> {
    let mut fields: Vec<Field<'_>> = tree::parse(bytes, "")?;
    let found = tree::find(&mut fields, &path.parts, &path.text)?;
    Ok(found.map(|v| match v {
        Value::Raw(kind, bytes) => Value::Owned(*kind, bytes.to_vec()),
        Value::Owned(kind, bytes) => Value::Owned(*kind, std::mem::take(bytes)),
        // Only the documents on the way are opened.
        Value::Doc(inner) => Value::Owned(tree::DOCUMENT, tree::write(inner, 64)),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::Plan;
    use bson::{RawBson, rawdoc};

    fn transform(steps: &str) -> Transform {
        let text = format!(
            r#"schema = 1
            plan = {{ id = "p", title = "t", version = 1, owner = "o" }}
            [[collection]]
            legacy = "a.b"
            next = "a.c"
            steps = {steps}
            [[stage]]
            id = "copy"
            do = ["create", "backfill"]"#
        );
        let plan = Plan::parse(&text, "plan.toml").unwrap_or_else(|e| panic!("{}", e.render(false)));
        Transform::new(&plan.collections[0].steps)
    }

    #[test]
    fn what_a_lossy_step_lost_comes_back_beside_an_edit() {
        let t = transform(
            "[{ rename = 'a', to = 'b' }, { unset = 'old.secret', lossy = true }, { convert = 'n', from = 'double', to = 'int', lossy = true }, { set = 'v', value = 2 }]",
        );
        let before = rawdoc! { "_id": 1, "a": "x", "old": { "keep": 1, "secret": "s" }, "n": 1.5 };
        let made = t.apply(&before).unwrap();
        assert_eq!(made, rawdoc! { "_id": 1, "b": "x", "old": { "keep": 1 }, "n": 1, "v": 2 });
        // Untouched, it is the pre-image.
        assert_eq!(t.restore(&made, &before).unwrap(), before);
        // An edit elsewhere keeps what was lost; an edited value goes back by itself.
        let edited = rawdoc! { "_id": 1, "b": "y", "old": { "keep": 1 }, "n": 1, "v": 2, "new": true };
        let want = rawdoc! { "_id": 1, "a": "y", "old": { "keep": 1, "secret": "s" }, "n": 1.5, "new": true };
        assert_eq!(t.restore(&edited, &before).unwrap(), want);
        let edited = rawdoc! { "_id": 1, "b": "x", "old": { "keep": 1 }, "n": 7, "v": 2 };
        let back = t.restore(&edited, &before).unwrap();
        assert_eq!(back, rawdoc! { "_id": 1, "a": "x", "old": { "keep": 1, "secret": "s" }, "n": 7.0 });
        // A value put where one was dropped: nobody can say which is meant.
        let edited = rawdoc! { "_id": 1, "b": "x", "old": { "keep": 1, "secret": "new" }, "n": 1, "v": 2 };
        assert_eq!(t.restore(&edited, &before).unwrap_err().why, Why::Occupied);
        // What is neither shape.
        let edited = rawdoc! { "_id": 1, "b": "x", "old": { "keep": 1 }, "n": 1, "v": RawBson::Null };
        assert!(t.restore(&edited, &before).is_err());
    }

    #[test]
    fn a_pipeline_without_an_inverse_is_undone_only_where_nothing_was_edited() {
        let t =
            transform("[{ pipeline = '[{ \"$set\": { \"m\": { \"$concat\": [\"$n\", \"!\"] } } }]', lossy = true }]");
        let before = rawdoc! { "_id": 1, "n": "4" };
        let made = t.apply(&before).unwrap();
        assert_eq!(t.restore(&made, &before).unwrap(), before);
        let edited = rawdoc! { "_id": 1, "n": "5", "m": "5!" };
        assert_eq!(t.restore(&edited, &before).unwrap_err().why, Why::NoInverse);
    }
}
