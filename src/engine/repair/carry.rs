//! What is to become of the strays of one key: the decision, and nothing else.
//!
//! A stray may be carried only where nothing else has happened to the key since: the owner's document and the stray's own are both what
//! they were when it was found. Where the owner's document was written after the stray, the tail has written the copy too, over what
//! the stray wrote: then it is a person's.

use bson::{RawDocument, RawDocumentBuf};

/// What one stray's record in quarantine says.
pub(super) struct Seen<'a> {
    /// The owner's document when it was found.
    pub owner: Option<&'a RawDocument>,
    /// The stray's own document when it was found.
    pub stray: Option<&'a RawDocument>,
    /// It was a deletion.
    pub deleted: bool,
    /// Both documents said the same when it was found.
    pub agreed: bool,
}

/// What is to become of the strays of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Carry {
    /// The owner's document says the same already.
    Already,
    /// The owner's document becomes this one.
    Write(RawDocumentBuf),
    /// The owner's document goes, as the stray's did.
    Delete,
    /// A person decides, and why.
    Person(String),
}

/// Judges the strays of one key, in the order in which they were written: `wanted` is the last one's document in the owner's shape (`Err`
/// when it has none there), the others are what both sides hold now.
pub(super) fn judge(
    seen: &[Seen<'_>],
    wanted: Result<Option<RawDocumentBuf>, String>,
    owner_now: Option<&RawDocument>,
    stray_now: Option<&RawDocument>,
) -> Carry {
    let person = |why: &str| Carry::Person(why.to_owned());
    let Some(last) = seen.last() else { return person("it is not in tidegate.quarantine") };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(why) => return Carry::Person(why),
    };
    let bytes = |d: Option<&RawDocument>| d.map(|d| d.as_bytes().to_vec());
    if seen.iter().any(|s| bytes(s.owner) != bytes(last.owner)) {
        return person("the owner's document was written between two stray writes");
    }
    if last.agreed && !(last.deleted && last.stray.is_none()) {
        return person("both sides said the same when it was found: what it wrote was the same, or has been replaced");
    }
    if bytes(owner_now) == bytes(wanted.as_deref()) {
        return Carry::Already;
    }
    if bytes(owner_now) != bytes(last.owner) {
        return person("the owner's document has changed since it was found");
    }
    if bytes(stray_now) != bytes(last.stray) {
        return person("its own document has changed since it was found");
    }
    match wanted {
        Some(doc) => Carry::Write(doc),
        None => Carry::Delete,
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
        /// Whatever the owner has acknowledged since the stray was found stays, and a stray is carried or a person's.
        #[test]
        fn nothing_is_overwritten_that_was_not_looked_at(
            owner in proptest::option::of(0u8..3),
            stray in proptest::option::of(0u8..3),
            owner_now in proptest::option::of(0u8..3),
            stray_now in proptest::option::of(0u8..3),
            earlier in proptest::option::of(proptest::option::of(0u8..3)),
            fits in any::<bool>(),
        ) {
            let (o, s, on, sn) = (doc(owner), doc(stray), doc(owner_now), doc(stray_now));
            let before = earlier.map(doc);
            let one = |owner| Seen { owner, stray: s.as_deref(), deleted: stray.is_none(), agreed: owner == s.as_deref() };
            let mut seen: Vec<Seen<'_>> = before.iter().map(|b| one(b.as_deref())).collect();
            seen.push(one(o.as_deref()));
            let wanted = if fits { Ok(s.clone()) } else { Err("no shape".to_owned()) };
            let verdict = judge(&seen, wanted, on.as_deref(), sn.as_deref());
            let after = match &verdict {
                Carry::Already | Carry::Person(_) => on.clone(),
                Carry::Write(d) => Some(d.clone()),
                Carry::Delete => None,
            };
            if on != o {
                prop_assert_eq!(&after, &on, "the owner's write was overwritten");
            }
            if !matches!(verdict, Carry::Person(_)) {
                prop_assert!(fits);
                prop_assert_eq!(&after, &s, "what the stray wrote is neither there nor a person's");
                prop_assert!(before.is_none_or(|b| b == o), "two strays over different documents");
            }
            if matches!(verdict, Carry::Write(_) | Carry::Delete) {
                prop_assert_eq!(&sn, &s, "the tail has been at it since");
            }
        }
    }

    #[test]
    fn a_stray_that_was_replaced_before_it_was_read_is_a_persons() {
        let d = doc(Some(1));
        let seen = [Seen { owner: d.as_deref(), stray: d.as_deref(), deleted: false, agreed: true }];
        assert!(matches!(judge(&seen, Ok(d.clone()), d.as_deref(), d.as_deref()), Carry::Person(_)));
        let gone = [Seen { owner: None, stray: None, deleted: true, agreed: true }];
        assert_eq!(judge(&gone, Ok(None), None, None), Carry::Already);
    }
}
