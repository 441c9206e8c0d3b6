//! Whether every document is what it must be at the end of a pass.

use bson::{RawDocument, RawDocumentBuf};

use super::Proof;
use super::editor::State;
use crate::cluster::Key;
use crate::route::Side;
use crate::transform::Transform;

/// Documents that are named when they are not as they should be.
const SHOWN: usize = 3;

/// How a document was found.
pub(super) enum How {
    Exact,
    Reordered,
    Lossy,
}

/// Holds what is there against what the editor knows.
///
/// # Errors
/// Names the documents that are missing, too many or different.
pub(super) fn judge(
    transform: &Transform,
    state: &State,
    found: &[(Key, RawDocumentBuf)],
    side: Side,
) -> Result<Proof, String> {
    let mut wrong = Vec::new();
    let mut proof = Proof::default();
    for (key, doc) in found {
        let how = match state.expected.get(key) {
            None => Err("is there and should not be".to_owned()),
            Some(expected) => how(transform, expected, doc, side, state.may_have_lost(transform, key)),
        };
        match how {
            Ok(How::Exact) => proof.exact += 1,
            Ok(How::Reordered) => proof.reordered += 1,
            Ok(How::Lossy) => proof.lossy += 1,
            Err(why) => wrong.push(format!("_id {key} {why}")),
        }
    }
    let there: std::collections::BTreeSet<&Key> = found.iter().map(|(k, _)| k).collect();
    wrong.extend(state.expected.keys().filter(|k| !there.contains(k)).map(|k| format!("_id {k} is missing")));
    if wrong.is_empty() {
        return Ok(proof);
    }
    let more = if wrong.len() > SHOWN { format!("; {} more", wrong.len() - SHOWN) } else { String::new() };
    wrong.truncate(SHOWN);
    Err(format!("{}{more}", wrong.join("; ")))
}

/// How a side's document stands to the one that legacy is to have.
///
/// # Errors
/// Says in which field it differs.
pub(super) fn how(
    transform: &Transform,
    expected: &RawDocument,
    found: &RawDocument,
    side: Side,
    may_have_lost: bool,
) -> Result<How, String> {
    let wanted = match side {
        Side::Next => transform.apply(expected).map_err(|e| e.to_string())?,
        Side::Legacy => expected.to_owned(),
    };
    if wanted.as_bytes() == found.as_bytes() {
        return Ok(How::Exact);
    }
    let alike = match side {
        Side::Next => transform.agree(expected, found),
        Side::Legacy => transform.same(expected, found),
    };
    if alike {
        return Ok(How::Reordered);
    }
    // What is left of it must make the same of next's document.
    let left = || transform.apply(expected).is_ok_and(|next| transform.makes(found, &next));
    if may_have_lost && side == Side::Legacy && left() {
        return Ok(How::Lossy);
    }
    Err(match differing(&wanted, found) {
        Some(field) => format!("differs in `{}`", crate::scrub::short(&field, 80)),
        None => "has its fields in another order".into(),
    })
}

/// The first top-level field that is not the same.
fn differing(wanted: &RawDocument, found: &RawDocument) -> Option<String> {
    let missing = |a: &RawDocument, b: &RawDocument| {
        a.into_iter()
            .flatten()
            .find(|(name, v)| b.get(name.as_str()).ok().flatten() != Some(*v))
            .map(|(n, _)| n.to_string())
    };
    missing(wanted, found).or_else(|| missing(found, wanted))
}
