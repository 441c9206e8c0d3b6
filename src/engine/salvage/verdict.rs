//! What is to become of one key that changed on next: the decision, and nothing else.

use bson::{RawDocument, RawDocumentBuf};

use crate::cluster::ChangeKind;

/// What is to become of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Legacy says the same already.
    Equal,
    /// Legacy gets next's version.
    Write(RawDocumentBuf),
    /// Legacy gets rid of it, as next did.
    Delete,
    /// Both sides have moved on: a person decides.
    Conflict,
}

/// Judges one key: `wanted` is next's version in legacy's shape (`Err` when it has none there), `legacy` what legacy holds, and
/// `touched` the first that an application did to it on legacy since the flip.
pub(super) fn judge(
    wanted: Result<Option<RawDocumentBuf>, ()>,
    legacy: Option<&RawDocument>,
    touched: Option<ChangeKind>,
) -> Verdict {
    let Ok(wanted) = wanted else { return Verdict::Conflict };
    match (wanted, legacy) {
        (None, None) => Verdict::Equal,
        (Some(w), Some(l)) if w.as_bytes() == l.as_bytes() => Verdict::Equal,
        // Gone on next, and anew on legacy, where it was not: nothing of next is lost.
        (None, Some(_)) if touched == Some(ChangeKind::Insert) => Verdict::Equal,
        _ if touched.is_some() => Verdict::Conflict,
        (Some(w), _) => Verdict::Write(w),
        (None, Some(_)) => Verdict::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use proptest::prelude::*;

    fn doc(v: Option<u8>) -> Option<RawDocumentBuf> {
        v.map(|v| rawdoc! { "_id": 1, "v": i32::from(v) })
    }

    proptest! {
        /// Both sides begin equal or with legacy one version behind; each may then have moved on, to something else, to the same or
        /// to nothing. Whatever an application wrote on legacy stays, whatever was on next gets there or is a person's to see.
        #[test]
        fn nothing_acknowledged_is_overwritten_or_forgotten(
            before in proptest::option::of(0u8..4),
            next in proptest::option::of(0u8..4),
            on_legacy in proptest::option::of(proptest::option::of(0u8..4)),
            anew in any::<bool>(),
            fits in any::<bool>(),
        ) {
            let (wanted, legacy) = (doc(next), doc(on_legacy.unwrap_or(before)));
            // The first event is an insert only where there was nothing.
            let kind = if anew && before.is_none() { ChangeKind::Insert } else { ChangeKind::Update };
            let touched = on_legacy.map(|_| kind);
            let verdict = judge(if fits { Ok(wanted.clone()) } else { Err(()) }, legacy.as_deref(), touched);
            let after = match &verdict {
                Verdict::Equal | Verdict::Conflict => legacy.clone(),
                Verdict::Write(d) => Some(d.clone()),
                Verdict::Delete => None,
            };
            if verdict != Verdict::Conflict {
                prop_assert!(fits);
                let anew = next.is_none() && touched == Some(ChangeKind::Insert);
                prop_assert!(anew || after == wanted, "next's version is neither there nor a person's");
            }
            if touched.is_some() {
                prop_assert_eq!(&after, &legacy, "an application's write on legacy was overwritten");
            }
            if verdict == Verdict::Conflict {
                prop_assert!(!fits || (touched.is_some() && legacy != wanted), "a person is asked for nothing");
            }
        }
    }

    #[test]
    fn a_deletion_on_next_is_a_change() {
        let there = doc(Some(1));
        assert_eq!(judge(Ok(None), there.as_deref(), None), Verdict::Delete);
        assert_eq!(judge(Ok(None), there.as_deref(), Some(ChangeKind::Update)), Verdict::Conflict);
        assert_eq!(judge(Ok(None), None, Some(ChangeKind::Delete)), Verdict::Equal);
        assert_eq!(judge(Ok(None), there.as_deref(), Some(ChangeKind::Insert)), Verdict::Equal);
    }
}
