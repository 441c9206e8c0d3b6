//! What becomes of one document: pure, so that every case can be tried. Nothing in here reads or writes anything.

use std::borrow::Cow;

use bson::{RawDocument, RawDocumentBuf};
use sha2::{Digest, Sha256};

use crate::transform::{Shape, Transform, Why};

/// Which shape every document is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// Next's.
    #[default]
    There,
    /// Legacy's again.
    Back,
}

impl Way {
    pub(super) fn other(self) -> Way {
        match self {
            Way::There => Way::Back,
            Way::Back => Way::There,
        }
    }

    /// Whose shape a document has that is to be changed.
    pub(super) fn from(self) -> &'static str {
        self.other().shape()
    }

    /// Whose shape it is to have.
    pub(crate) fn shape(self) -> &'static str {
        match self {
            Way::There => "next",
            Way::Back => "legacy",
        }
    }
}

/// What a document was, and what was made of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    /// The document before.
    pub was: RawDocumentBuf,
    /// SHA-256 of the bytes that T made of it.
    pub wrote: [u8; 32],
}

/// What is kept of one document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Undo {
    /// Before it was changed for the first time. Never replaced.
    pub first: Image,
    /// When an application has written it in legacy's shape again since: before it was changed for the last time.
    pub later: Option<Image>,
}

impl Undo {
    /// What the document was before the change that is in force.
    pub(crate) fn last(&self) -> &Image {
        self.later.as_ref().unwrap_or(&self.first)
    }
}

/// Which shape a document has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing {
    /// Legacy's: T fits.
    Legacy,
    /// Next's: T⁻¹ fits.
    Next,
    /// Neither fits. Why, without any value of it.
    Mixed(String),
}

/// What to do with a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It is as it is to be.
    Leave,
    /// Write this over it; with a record of what it was, where that is new.
    Write(RawDocumentBuf, Option<Undo>),
    /// Leave it as it is, for a person. Why.
    Mixed(String),
}

/// What documents are judged by.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub transform: &'a Transform,
    pub shape: &'a Shape,
}

/// SHA-256 of a document's bytes.
pub(crate) fn fingerprint(doc: &RawDocument) -> [u8; 32] {
    Sha256::digest(doc.as_bytes()).into()
}

impl Judge<'_> {
    /// Which shape a document has. Having the shape's fields is not enough: the transform must fit too.
    pub(crate) fn standing(self, doc: &RawDocument) -> Standing {
        if self.shape.matches(doc) {
            match self.transform.invert(doc) {
                Ok(l) if self.shape.matches(&l) => Standing::Mixed("its inverse still has next's shape".into()),
                Ok(_) => Standing::Next,
                Err(e) if self.transform.is_lossy() && e.why == Why::NoInverse => Standing::Next,
                Err(e) => Standing::Mixed(format!("it has next's shape, but {e}")),
            }
        } else {
            match self.transform.apply(doc) {
                Ok(n) if self.shape.matches(&n) => Standing::Legacy,
                Ok(_) => Standing::Mixed("what the steps make of it does not have next's shape".into()),
                Err(e) => Standing::Mixed(format!("it has not next's shape, and {e}")),
            }
        }
    }

    /// What to do with a document, given what is kept of it.
    pub(crate) fn verdict(self, way: Way, doc: &RawDocument, undo: Option<&Undo>) -> Verdict {
        match way {
            Way::There => self.there(doc, undo),
            Way::Back => self.back(doc, undo),
        }
    }

    fn there(self, doc: &RawDocument, undo: Option<&Undo>) -> Verdict {
        match self.standing(doc) {
            Standing::Next => Verdict::Leave,
            Standing::Mixed(why) => Verdict::Mixed(why),
            Standing::Legacy => {
                let made = match self.transform.apply(doc) {
                    Ok(made) => made,
                    Err(e) => return Verdict::Mixed(e.to_string()),
                };
                let image = || Image { was: doc.to_owned(), wrote: fingerprint(&made) };
                let record = match undo {
                    None => Some(Undo { first: image(), later: None }),
                    Some(u) if u.last().was.as_bytes() == doc.as_bytes() => None,
                    Some(u) => Some(Undo { first: u.first.clone(), later: Some(image()) }),
                };
                Verdict::Write(made, record)
            }
        }
    }

    /// Bytes as tidegate left them become the pre-image; edited or new ones their inverse; what is neither shape stays.
    fn back(self, doc: &RawDocument, undo: Option<&Undo>) -> Verdict {
        if let Some(image) = undo.map(Undo::last)
            && image.wrote == fingerprint(doc)
        {
            return Verdict::Write(image.was.clone(), None);
        }
        match self.standing(doc) {
            Standing::Legacy => Verdict::Leave,
            // Neither next's shape nor ever changed here: there is nothing to undo.
            Standing::Mixed(_) if undo.is_none() && !self.shape.matches(doc) => Verdict::Leave,
            Standing::Mixed(why) => Verdict::Mixed(why),
            Standing::Next => match self.inverse(doc, undo) {
                Ok(l) if !self.shape.matches(&l) => Verdict::Write(l, None),
                Ok(_) => Verdict::Mixed("its inverse still has next's shape".into()),
                Err(why) => Verdict::Mixed(why),
            },
        }
    }

    fn inverse(self, doc: &RawDocument, undo: Option<&Undo>) -> Result<RawDocumentBuf, String> {
        if !self.transform.is_lossy() {
            return self.transform.invert(doc).map_err(|e| e.to_string());
        }
        let before = undo.map(|u| Cow::Borrowed(&u.last().was));
        match before {
            Some(before) => self.transform.restore(doc, &before).map_err(|e| e.to_string()),
            None => {
                // A document that legacy never had: only what T makes the same of again is its inverse.
                let back = self.transform.invert(doc).map_err(|e| e.to_string())?;
                match self.transform.apply(&back) {
                    Ok(again) if self.transform.same(&again, doc) => Ok(back),
                    _ => Err("it is new, and the steps do not lead back to it from what it would become".into()),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
