//! Moves a field within a document.
//!
//! Placement: a move within one parent stays in place. Moving up, the field is put where its old parent stands; moving down, it
//! comes first in its new parent (or last when T itself moves down). A parent left empty by a move is dropped, and made again
//! by the move back; so a parent that is already empty is refused as a target, since the way back would drop it.

use std::borrow::Cow;

use super::tree::{self, Field};
use super::{At, Path, Why};

/// `shared` is how many leading segments both paths have; see the placement rules at the top for `early`.
pub(super) fn shift<'a>(root: &mut Vec<Field<'a>>, from: &'a Path, to: &'a Path, shared: usize, early: bool) -> At<()> {
    let Some(level) = tree::descend(root, &from.parts[..shared], &from.text)? else { return Ok(()) };
    let (source, target) = (&from.parts[shared..], &to.parts[shared..]);
    if tree::find(level, target, &to.text)?.is_some() {
        return to.fail(Why::Occupied);
    }
    let Some(at) = tree::position(level, &source[0]) else { return Ok(()) };
    let before = level.len();
    let Some(value) = tree::take(level, source, &from.text)? else { return Ok(()) };
    let pruned = level.len() < before;
    match (source.len(), target.len()) {
        (_, 1) => {
            let place = if pruned || early { at } else { at + 1 };
            level.insert(place, Field { name: Cow::Borrowed(&target[0]), value });
            Ok(())
        }
        (1, _) if tree::position(level, &target[0]).is_none() => {
            level.insert(at, Field { name: Cow::Borrowed(&target[0]), value: tree::nest(&target[1..], value) });
            Ok(())
        }
        (1, _) => tree::insert(level, target, value, early, &to.text),
        _ => tree::insert(level, target, value, false, &to.text),
    }
}
