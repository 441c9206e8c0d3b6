//! The undo decision under every order of an application's writes and tidegate's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bson::{RawBson, rawdoc};
use proptest::prelude::*;

use super::*;
use crate::plan::Plan;

/// What happens to one document.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// tidegate looks at it on the way there, or back.
    There,
    Back,
    /// The application writes it anew, in legacy's shape or in next's.
    Legacy(u8),
    Next(u8),
    /// The application edits what it finds, in its shape.
    Edit(u8),
    Delete,
}

struct World {
    transform: Transform,
    shape: Shape,
    doc: Option<RawDocumentBuf>,
    undo: Option<Undo>,
    /// What legacy would hold: as the application wrote it, or T⁻¹ of that.
    wanted: Option<RawDocumentBuf>,
}

fn plan(lossy: bool) -> Plan {
    let drop = if lossy { "{ unset = \"old\", lossy = true }," } else { "" };
    let text = format!(
        r#"schema = 1
        plan = {{ id = "p", title = "t", version = 1, owner = "o" }}
        [[collection]]
        legacy = "a.b"
        next = "a.b"
        shape = '{{ "schema_version": 2 }}'
        steps = [
            {{ rename = "customer.name", to = "customer_name" }},
            {{ convert = "total", from = "string", to = "decimal" }},
            {drop}
            {{ set = "schema_version", value = 2 }},
        ]
        [[stage]]
        id = "change"
        do = ["backfill"]"#
    );
    Plan::parse(&text, "plan.toml").unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn legacy(n: u8) -> RawDocumentBuf {
    let n = i32::from(n);
    rawdoc! { "_id": 1, "customer": { "name": format!("n{n}"), "city": "c" }, "old": n, "total": format!("{n}.10"), "note": n }
}

fn next(n: u8) -> RawDocumentBuf {
    let total: bson::Decimal128 = format!("{n}.20").parse().unwrap();
    rawdoc! { "_id": 1, "total": total, "customer": { "city": "c" }, "customer_name": format!("m{n}"), "schema_version": 2 }
}

/// The document with its field `note` replaced or added at the end.
fn noted(doc: &RawDocument, n: u8) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    for item in doc {
        let (name, v) = item.unwrap();
        if name.as_str() != "note" {
            out.append(name, v);
        }
    }
    out.append(bson::cstr!("note"), i32::from(n) + 1_000);
    out
}

impl World {
    fn new(lossy: bool) -> World {
        let plan = plan(lossy);
        let c = &plan.collections[0];
        let (transform, shape) = (Transform::new(&c.steps), Shape::new(c.shape.as_ref().unwrap()));
        let doc = Some(legacy(0));
        World { transform, shape, wanted: doc.clone(), doc, undo: None }
    }

    fn judge(&self) -> Judge<'_> {
        Judge { transform: &self.transform, shape: &self.shape }
    }

    /// tidegate looks once; true when it wrote.
    fn look(&mut self, way: Way) -> bool {
        let Some(doc) = &self.doc else { return false };
        match self.judge().verdict(way, doc, self.undo.as_ref()) {
            Verdict::Leave => false,
            Verdict::Mixed(why) => panic!("{why}: {doc:?}"),
            Verdict::Write(new, record) => {
                if let Some(record) = record {
                    if let Some(old) = &self.undo {
                        assert_eq!(old.first, record.first, "the first pre-image was replaced");
                    }
                    self.undo = Some(record);
                }
                self.doc = Some(new);
                true
            }
        }
    }

    fn is_next(&self) -> bool {
        self.doc.as_ref().is_some_and(|d| self.shape.matches(d))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::There => drop(self.look(Way::There)),
            Step::Back => drop(self.look(Way::Back)),
            Step::Delete => (self.doc, self.wanted) = (None, None),
            Step::Legacy(n) => {
                self.doc = Some(legacy(n));
                self.wanted = self.doc.clone();
            }
            Step::Next(n) => {
                self.doc = Some(next(n));
                self.wanted = Some(self.transform.invert(&next(n)).unwrap());
            }
            Step::Edit(n) => {
                let Some(doc) = &self.doc else { return };
                let edited = noted(doc, n);
                self.wanted = Some(match (self.is_next(), &self.wanted) {
                    // What was lost stays what it was before the edit.
                    (true, Some(wanted)) if self.transform.is_lossy() => noted(wanted, n),
                    (true, _) => self.transform.invert(&edited).unwrap(),
                    (false, _) => edited.clone(),
                });
                self.doc = Some(edited);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = || 0u8..4;
    let step = prop_oneof![
        4 => Just(Step::There),
        1 => Just(Step::Back),
        2 => n().prop_map(Step::Legacy),
        2 => n().prop_map(Step::Next),
        3 => n().prop_map(Step::Edit),
        1 => Just(Step::Delete),
    ];
    proptest::collection::vec(step, 0..12)
}

/// Fields by name: a lossy plan's edits come back up to their order.
fn fields(doc: Option<&RawDocumentBuf>) -> Option<std::collections::BTreeMap<String, RawBson>> {
    let field = |item: bson::error::Result<(&bson::raw::CStr, RawBsonRef<'_>)>| {
        let (name, v) = item.unwrap();
        let v = match v {
            RawBsonRef::Document(d) => RawBson::String(format!("{:?}", fields(Some(&d.to_owned())))),
            v => v.into(),
        };
        (name.as_str().to_owned(), v)
    };
    doc.map(|d| d.iter().map(field).collect())
}

use bson::RawBsonRef;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_written_comes_back(steps in steps()) {
        let mut w = World::new(false);
        for s in steps {
            w.step(s);
        }
        w.look(Way::Back);
        prop_assert_eq!(w.doc.as_ref().map(|d| d.as_bytes()), w.wanted.as_ref().map(|d| d.as_bytes()));
        prop_assert!(!w.look(Way::Back), "a second look wrote again");
        w.look(Way::There);
        prop_assert!(w.doc.is_none() || w.is_next());
        prop_assert!(!w.look(Way::There), "a second look wrote again");
        w.look(Way::Back);
        prop_assert_eq!(w.doc.map(|d| d.into_bytes()), w.wanted.map(|d| d.into_bytes()));
    }

    #[test]
    fn whatever_a_lossy_step_lost_comes_back(steps in steps()) {
        let mut w = World::new(true);
        for s in steps {
            // A document put there whole in next's shape, over one that had lost something, is taken for an edit of it.
            if matches!(s, Step::Next(_)) {
                w.step(Step::Delete);
                w.undo = None;
            }
            w.step(s);
        }
        w.look(Way::Back);
        prop_assert_eq!(fields(w.doc.as_ref()), fields(w.wanted.as_ref()));
        prop_assert!(!w.look(Way::Back), "a second look wrote again");
    }
}

#[test]
fn what_is_neither_shape_is_left() {
    let w = World::new(false);
    for doc in [
        rawdoc! { "_id": 1, "customer": { "name": "x" }, "customer_name": "y", "schema_version": 2 },
        rawdoc! { "_id": 1, "total": "1.0", "schema_version": 2 },
    ] {
        for way in [Way::There, Way::Back] {
            assert!(matches!(w.judge().verdict(way, &doc, None), Verdict::Mixed(_)), "{way:?} {doc:?}");
        }
    }
    // No step fits it, and it was never changed here: there is nothing to undo.
    let odd = rawdoc! { "_id": 1, "total": 1.0 };
    assert!(matches!(w.judge().verdict(Way::There, &odd, None), Verdict::Mixed(_)));
    assert_eq!(w.judge().verdict(Way::Back, &odd, None), Verdict::Leave);
}
