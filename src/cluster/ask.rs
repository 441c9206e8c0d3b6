//! Questions to a side about its documents, which its server answers by itself.

use std::fmt;
use std::sync::Arc;

use bson::{Bson, Document, RawBson, RawDocument};

use super::Doc;

/// What is asked of each document.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Does it satisfy this filter?
    Matches(Document),
    /// What does this aggregation expression make of it?
    Value(Bson),
    /// Does it hold a value that no document of another collection of the database has? Null and nothing are none.
    Orphan {
        /// Where its values stand; of an array each.
        path: String,
        /// The other collection's name.
        from: String,
        /// The field there.
        field: String,
    },
}

/// The same, computed here from a document: `None` is no, or no value; an error says why nothing can be computed.
pub type Here = Arc<dyn Fn(&RawDocument) -> Result<Option<RawBson>, String> + Send + Sync>;

/// A question as it is sent.
#[derive(Clone)]
pub struct Question {
    /// What a server is asked.
    pub ask: Ask,
    /// For the model of a replica set, which knows no query language; a real server never sees it. `None` where nobody else can answer.
    pub here: Option<Here>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("ask", &self.ask).finish_non_exhaustive()
    }
}

/// What a question gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// For each key, in order: a value, `true` for a document that is found, or nothing.
    Of(Vec<Option<RawBson>>),
    /// The server refuses it, and why. No value of a document is in it.
    Refused(String),
    /// The server does not answer it for so many documents in the time that it is given.
    Slow,
    /// The model cannot answer it.
    Unable,
}

/// Documents, and what was asked of them.
#[derive(Clone, Debug)]
pub struct Replies {
    /// One entry a key, in the order asked for; `None` where no document has that `_id`.
    pub docs: Vec<Option<Doc>>,
    /// One entry a question.
    pub told: Vec<Told>,
    /// The cluster time that all of it reflects.
    pub at: super::ClusterTime,
}
