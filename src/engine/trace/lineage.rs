//! The plan's steps, and which of them touch a document that is there.

use bson::{RawBsonRef, RawDocument};

use crate::plan::Step;
use crate::snapshot::TraceStep;
use crate::transform::Transform;

/// Every step. Whether it touches the document is told by the document as it comes to the step: from legacy's side, or from next's.
pub(super) fn lineage(steps: &[Step], legacy: Option<&RawDocument>, next: Option<&RawDocument>) -> Vec<TraceStep> {
    steps.iter().enumerate().map(|(i, step)| told(i, step, touches(steps, i, legacy, next))).collect()
}

fn told(i: usize, step: &Step, touches: Option<bool>) -> TraceStep {
    let (from, to) = step.from_to();
    let clean = |all: Vec<String>| all.iter().map(|p| crate::scrub::short(p, 120)).collect();
    TraceStep {
        number: i + 1,
        text: crate::scrub::short(&step.to_string(), 200),
        from: clean(from),
        to: clean(to),
        class: step.class().to_string(),
        reason: step.reason(),
        touches,
    }
}

fn touches(steps: &[Step], i: usize, legacy: Option<&RawDocument>, next: Option<&RawDocument>) -> Option<bool> {
    let (from, to) = steps[i].from_to();
    // It adds its field to every document; and nobody knows what a pipeline looks at.
    if from.is_empty() {
        return (legacy.is_some() || next.is_some()).then_some(true);
    }
    let any = |doc: &RawDocument, paths: &[String]| paths.iter().any(|p| has(doc, p));
    if let Some(before) = legacy.and_then(|d| Transform::new(&steps[..i]).apply(d).ok()) {
        return Some(any(&before, &from));
    }
    let after = next.and_then(|d| Transform::new(&steps[i + 1..]).invert(d).ok())?;
    // What is dropped has left nothing to tell by.
    (!to.is_empty()).then(|| any(&after, &to))
}

/// True when a document has something at a path; one that ends in `*` is of every name that begins so.
fn has(doc: &RawDocument, path: &str) -> bool {
    let (above, last) = path.rsplit_once('.').map_or((None, path), |(above, last)| (Some(above), last));
    let mut at = doc;
    for name in above.into_iter().flat_map(|a| a.split('.')) {
        match at.get(name) {
            Ok(Some(RawBsonRef::Document(d))) => at = d,
            _ => return false,
        }
    }
    match last.strip_suffix('*') {
        Some(begin) => at.iter().flatten().any(|(name, _)| name.as_str().starts_with(begin)),
        None => matches!(at.get(last), Ok(Some(_))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn steps() -> Vec<Step> {
        vec![
            Step::Rename { from: "customer.name".into(), to: "name".into() },
            Step::Rename { from: "name".into(), to: "who".into() },
            Step::Unset { path: "note".into(), was: None },
            Step::Set { path: "v".into(), value: bson::Bson::Int32(2) },
        ]
    }

    fn touched(legacy: Option<&RawDocument>, next: Option<&RawDocument>) -> Vec<Option<bool>> {
        lineage(&steps(), legacy, next).iter().map(|s| s.touches).collect()
    }

    #[test]
    fn a_step_is_told_by_the_document_as_it_comes_to_it() {
        let legacy = rawdoc! { "_id": 1, "customer": { "name": "x" } };
        assert_eq!(touched(Some(&legacy), None), [Some(true), Some(true), Some(false), Some(true)]);
        let next = rawdoc! { "_id": 1, "who": "x", "v": 2 };
        assert_eq!(touched(None, Some(&next)), [Some(true), Some(true), None, Some(true)]);
        assert_eq!(touched(None, None), [None; 4]);
        assert_eq!(touched(Some(&rawdoc! { "_id": 1, "note": 1 }), None)[..3], [Some(false), Some(false), Some(true)]);
    }

    #[test]
    fn each_step_says_what_kind_of_inverse_it_has() {
        let told = lineage(&steps(), None, None);
        let classes: Vec<&str> = told.iter().map(|s| s.class.as_str()).collect();
        assert_eq!(classes, ["reordered", "exact", "lossy", "exact"]);
        assert_eq!((told[0].from.join(","), told[0].to.join(",")), ("customer.name".into(), "name".into()));
    }
}
