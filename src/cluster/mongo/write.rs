//! Plain writes, and the statements that transactions share with them.

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::errors::Phase;
use super::{Mongo, majority, operation_time};
use crate::cluster::{Doc, Expect, Failed, Key, Ns, Reason, TxnOp, WriteOp, Written};

/// A command holds about so many bytes of documents; the server takes 48 MB messages, but 16 MB documents, and a command is one.
const COMMAND_BYTES: usize = 8 << 20;
/// And so many statements.
const COMMAND_DOCS: usize = 1_000;

/// A write command and the keys of its statements, in order.
pub(super) struct Statement {
    /// The database it runs on.
    pub(super) db: String,
    /// Without concerns.
    pub(super) command: RawDocumentBuf,
    /// One key a statement, where a statement writes a document.
    pub(super) keys: Vec<Option<Key>>,
    /// It is a `find` of these keys, and this is what it must find.
    pub(super) expect: Option<Vec<(Key, Option<Doc>)>>,
}

impl Mongo {
    pub(super) async fn write_one(&self, op: &WriteOp) -> Result<Written, Failed> {
        let (ns, mut command, key) = match op {
            WriteOp::Insert { ns, doc } => {
                let key = key_of(doc)?;
                (ns, insert_one(ns, doc, &key), key)
            }
            WriteOp::Replace { ns, key, only_if, doc, upsert } => {
                let filter = filter(key, only_if.as_ref())?;
                (ns, update(ns, [replacement(filter, doc, *upsert)]), key.clone())
            }
            WriteOp::Delete { ns, key, only_if } => {
                let statement = rawdoc! { "q": filter(key, only_if.as_ref())?, "limit": 1 };
                let mut deletes = RawArrayBuf::new();
                deletes.push(statement);
                (ns, rawdoc! { "delete": &*ns.coll, "deletes": deletes }, key.clone())
            }
        };
        command.append(bson::cstr!("writeConcern"), majority());
        let answer = self.run(&ns.db, command, Phase::Write).await.map_err(|f| with_key(f, Some(key)))?;
        let n = answer.get_i32("n").unwrap_or(0);
        Ok(Written { matched: u64::try_from(n).unwrap_or(0), at: operation_time(&answer) })
    }
}

/// Names the document that a duplicate-key error is about.
pub(super) fn with_key(f: Failed, key: Option<Key>) -> Failed {
    match f {
        Failed::NotDone(Reason::DuplicateKey { message, .. }) => Failed::NotDone(Reason::DuplicateKey { key, message }),
        other => other,
    }
}

fn key_of(doc: &RawDocument) -> Result<Key, Failed> {
    Key::of(doc).map_err(|e| Failed::NotDone(Reason::Refused(e.to_string())))
}

fn filter(key: &Key, only_if: Option<&Expect>) -> Result<RawDocumentBuf, Failed> {
    let mut q = by_id(key);
    if let Some(e) = only_if {
        let refused = |e: &dyn std::fmt::Display| Failed::NotDone(Reason::Refused(e.to_string()));
        let name = bson::raw::CString::try_from(e.field).map_err(|e| refused(&e))?;
        let value = bson::RawBson::try_from(e.value.clone()).map_err(|e| refused(&e))?;
        q.append(&name, rawdoc! { "$eq": value });
    }
    Ok(q)
}

fn by_id(key: &Key) -> RawDocumentBuf {
    rawdoc! { "_id": { "$eq": bson::RawBson::from(key.value()) } }
}

/// True for documents that insert and replace do not store as given: the server fills in a top-level `Timestamp(0, 0)` and takes a
/// leading `$` for an operator. A field that cannot be read (names and texts need not be UTF-8) hides those behind it.
fn needs_literal(doc: &RawDocument) -> bool {
    doc.iter().any(|field| match field {
        Ok((name, v)) => {
            name.as_str().starts_with('$')
                || (name.as_str() != "_id" && v == RawBsonRef::Timestamp(Timestamp { time: 0, increment: 0 }))
        }
        Err(_) => true,
    })
}

fn literal(doc: &RawDocument) -> RawArrayBuf {
    let mut pipeline = RawArrayBuf::new();
    pipeline.push(rawdoc! { "$replaceWith": { "$literal": doc.to_owned() } });
    pipeline
}

/// An update statement that puts `doc` where `q` matches.
fn replacement(q: RawDocumentBuf, doc: &RawDocument, upsert: bool) -> RawDocumentBuf {
    if needs_literal(doc) {
        rawdoc! { "q": q, "u": literal(doc), "upsert": upsert }
    } else {
        rawdoc! { "q": q, "u": doc.to_owned(), "upsert": upsert }
    }
}

/// An update statement that inserts `doc` and is refused as a duplicate when its `_id` is taken: nothing matches, so it upserts.
fn inserting(doc: &RawDocument, key: &Key) -> RawDocumentBuf {
    let mut never = RawArrayBuf::new();
    never.push(RawDocumentBuf::new());
    let mut q = by_id(key);
    q.append(bson::cstr!("$nor"), never);
    rawdoc! { "q": q, "u": literal(doc), "upsert": true }
}

fn insert_one(ns: &Ns, doc: &RawDocument, key: &Key) -> RawDocumentBuf {
    if needs_literal(doc) { update(ns, [inserting(doc, key)]) } else { insert(ns, [doc]) }
}

fn insert<'a>(ns: &Ns, docs: impl IntoIterator<Item = &'a RawDocument>) -> RawDocumentBuf {
    let mut all = RawArrayBuf::new();
    for d in docs {
        all.push(d);
    }
    rawdoc! { "insert": &*ns.coll, "ordered": true, "documents": all }
}

fn update(ns: &Ns, statements: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    let mut all = RawArrayBuf::new();
    for s in statements {
        all.push(s);
    }
    rawdoc! { "update": &*ns.coll, "ordered": true, "updates": all }
}

/// Statements of one kind on one collection, growing until a command is full.
enum Open<'a> {
    Inserts(Vec<&'a RawDocument>),
    Updates(Vec<RawDocumentBuf>),
    /// What must be there; each key once.
    Expects(RawArrayBuf, Vec<(Key, Option<Doc>)>),
    Deletes(RawArrayBuf),
}

/// The commands that carry out `ops` in order, as few as fit.
pub(super) fn statements(ops: &[TxnOp]) -> Result<Vec<Statement>, Failed> {
    let mut out = Batcher::default();
    for op in ops {
        match op {
            TxnOp::Insert { ns, docs } => {
                for doc in docs {
                    let key = key_of(doc)?;
                    if needs_literal(doc) {
                        out.update(ns, inserting(doc, &key), key);
                    } else {
                        out.insert(ns, doc, key);
                    }
                }
            }
            TxnOp::Put { ns, doc } => {
                let key = key_of(doc)?;
                out.update(ns, replacement(by_id(&key), doc, true), key);
            }
            TxnOp::Delete { ns, keys } => {
                for key in keys {
                    out.delete(ns, key);
                }
            }
            TxnOp::Expect { ns, key, doc } => out.expect(ns, key, doc.clone()),
        }
    }
    out.close();
    Ok(out.done)
}

#[derive(Default)]
struct Batcher<'a> {
    done: Vec<Statement>,
    open: Option<(&'a Ns, Open<'a>)>,
    keys: Vec<Option<Key>>,
    bytes: usize,
}

impl<'a> Batcher<'a> {
    /// Makes room for `size` more bytes in an open command that `fits`.
    fn room(&mut self, size: usize, fits: impl Fn(&Ns, &Open<'a>) -> bool) {
        let goes_on = self.open.as_ref().is_some_and(|(ns, o)| fits(ns, o));
        if !goes_on || self.bytes + size > COMMAND_BYTES || self.keys.len() >= COMMAND_DOCS {
            self.close();
        }
        self.bytes += size;
    }

    fn insert(&mut self, ns: &'a Ns, doc: &'a RawDocument, key: Key) {
        self.room(doc.as_bytes().len(), |n, o| n == ns && matches!(o, Open::Inserts(_)));
        self.keys.push(Some(key));
        match &mut self.open {
            Some((_, Open::Inserts(docs))) => docs.push(doc),
            open => *open = Some((ns, Open::Inserts(vec![doc]))),
        }
    }

    fn update(&mut self, ns: &'a Ns, statement: RawDocumentBuf, key: Key) {
        self.room(statement.as_bytes().len(), |n, o| n == ns && matches!(o, Open::Updates(_)));
        self.keys.push(Some(key));
        match &mut self.open {
            Some((_, Open::Updates(all))) => all.push(statement),
            open => *open = Some((ns, Open::Updates(vec![statement]))),
        }
    }

    fn delete(&mut self, ns: &'a Ns, key: &Key) {
        self.room(key.order_bytes().len(), |n, o| n == ns && matches!(o, Open::Deletes(_)));
        self.keys.push(None);
        match &mut self.open {
            Some((_, Open::Deletes(ids))) => ids.push(key.value()),
            open => {
                let mut ids = RawArrayBuf::new();
                ids.push(key.value());
                *open = Some((ns, Open::Deletes(ids)));
            }
        }
    }

    fn expect(&mut self, ns: &'a Ns, key: &Key, doc: Option<Doc>) {
        let again = matches!(&self.open, Some((_, Open::Expects(_, all))) if all.iter().any(|(k, _)| k == key));
        self.room(key.order_bytes().len(), |n, o| n == ns && !again && matches!(o, Open::Expects(..)));
        self.keys.push(None);
        if !matches!(self.open, Some((_, Open::Expects(..)))) {
            self.open = Some((ns, Open::Expects(RawArrayBuf::new(), Vec::new())));
        }
        if let Some((_, Open::Expects(ids, all))) = &mut self.open {
            ids.push(key.value());
            all.push((key.clone(), doc));
        }
    }

    fn close(&mut self) {
        self.bytes = 0;
        let keys = std::mem::take(&mut self.keys);
        let Some((ns, open)) = self.open.take() else { return };
        let mut expect = None;
        let mut command = match open {
            Open::Inserts(docs) => insert(ns, docs),
            Open::Updates(all) => update(ns, all),
            Open::Expects(ids, all) => {
                expect = Some(all);
                rawdoc! { "find": &*ns.coll, "filter": { "_id": { "$in": ids } } }
            }
            Open::Deletes(ids) => {
                let mut deletes = RawArrayBuf::new();
                deletes.push(rawdoc! { "q": { "_id": { "$in": ids } }, "limit": 0 });
                rawdoc! { "delete": &*ns.coll, "deletes": deletes }
            }
        };
        let writes = |name: &str| matches!(name, "insert" | "update");
        if command.iter().next().is_some_and(|f| f.is_ok_and(|(name, _)| writes(name.as_str()))) {
            // The validators are there to stop the others: tidegate keeps to the route by itself.
            command.append(bson::cstr!("bypassDocumentValidation"), true);
        }
        self.done.push(Statement { db: ns.db.to_string(), command, keys, expect });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn statements_keep_their_order_and_share_commands() {
        let (a, b) = (Ns::new("d", "a"), Ns::new("d", "b"));
        let ops = [
            TxnOp::Put { ns: a.clone(), doc: rawdoc! { "_id": 1 } },
            TxnOp::Put { ns: a.clone(), doc: rawdoc! { "_id": 2, "t": Timestamp { time: 0, increment: 0 } } },
            TxnOp::Delete { ns: a.clone(), keys: vec![Key::from(1)] },
            TxnOp::Insert { ns: a.clone(), docs: vec![rawdoc! { "_id": 1 }] },
            TxnOp::Insert { ns: b, docs: vec![rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }] },
            TxnOp::Delete { ns: a, keys: vec![] },
        ];
        let all = statements(&ops).unwrap();
        let shape: Vec<_> = all
            .iter()
            .map(|s| (s.command.iter().next().unwrap().unwrap().0.as_str().to_owned(), s.keys.len()))
            .collect();
        let want = [("update", 2), ("delete", 1), ("insert", 1), ("insert", 2)];
        assert_eq!(shape, want.map(|(n, k)| (n.to_owned(), k)));
    }

    #[test]
    fn large_inserts_are_split() {
        let ns = Ns::new("d", "a");
        let docs = (0..5).map(|n| rawdoc! { "_id": n, "x": "x".repeat(3 << 20) }).collect();
        assert_eq!(statements(&[TxnOp::Insert { ns, docs }]).unwrap().len(), 3);
    }
}
