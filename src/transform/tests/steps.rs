//! What every kind of step promises, on random documents.

use proptest::test_runner::{Config, TestRunner};

use super::docs::{Case, Field, cases, conversions, document, documents, plan, shuffle};
use super::*;
use crate::plan::Plan;

/// Documents for a case; there are many conversions.
fn count(case: &Case) -> u32 {
    if case.name.starts_with("convert") { 16 } else { 100 }
}

/// The cases whose plan passes the checks, ready to run.
fn all() -> Vec<(Case, Transform)> {
    let ready = |c: Case| match Plan::parse(&plan(&c.steps), "plan.toml") {
        Ok(p) => Some((Transform::new(&p.collections[0].steps), c)),
        // Pairs without a conversion, and `lossy` where nothing is lost.
        Err(e) => {
            assert!(c.name.starts_with("convert"), "{}: {e}", c.name);
            None
        }
    };
    cases().into_iter().chain(conversions()).filter_map(ready).map(|(t, c)| (c, t)).collect()
}

fn each(test: impl Fn(&Transform, RawDocumentBuf) -> Result<(), TestCaseError>) {
    for (case, t) in all() {
        let config = Config { cases: count(&case), failure_persistence: None, ..Config::default() };
        let done = TestRunner::new(config).run(&documents(&case), |d| test(&t, d));
        done.unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

fn id(d: &RawDocument) -> Option<Vec<u8>> {
    d.get("_id").ok().flatten().map(|v| format!("{v:?}").into_bytes())
}

#[test]
fn what_a_step_accepts_comes_back_as_its_class_says() {
    each(|t, d| {
        let n = match t.apply(&d) {
            Ok(n) => n,
            Err(e) => {
                prop_assert_eq!(t.apply(&d).unwrap_err(), e, "refused twice for the same reason");
                return Ok(());
            }
        };
        prop_assert_eq!(id(&n), id(&d));
        prop_assert!(n.iter().all(|f| f.is_ok()));
        match (t.class(), t.invert(&n)) {
            (Class::Lossy, Err(_)) => {}
            (_, Err(e)) => prop_assert!(false, "{:?} -> {:?}: {}", d, n, e),
            (Class::Exact, Ok(back)) => prop_assert_eq!(back.as_bytes(), d.as_bytes()),
            (Class::Reordered | Class::Declared, Ok(back)) => {
                prop_assert!(t.same(&back, &d), "{:?} -> {:?} -> {:?}", d, n, back)
            }
            (Class::Lossy, Ok(back)) => {
                let again = t.apply(&back);
                prop_assert!(
                    again.as_ref().is_ok_and(|a| t.same(a, &n)),
                    "{:?} -> {:?} -> {:?} -> {:?}",
                    d,
                    n,
                    back,
                    again
                );
            }
        }
        Ok(())
    });
}

/// An application on next writes its fields in another order, and without some.
#[test]
fn what_next_holds_is_what_t_makes_of_its_copy() {
    each(|t, d| {
        let mut written = vec![d.clone()];
        if let Ok(n) = t.apply(&d) {
            let mut fields: Vec<Field> =
                n.iter().map(|f| f.map(|(k, v)| (k.as_str().to_owned(), v.into())).unwrap()).collect();
            let first = usize::from(fields.first().is_some_and(|f| f.0 == "_id"));
            shuffle(&mut fields[first..], d.as_bytes().len() as u64);
            written.push(document(&fields));
            if fields.len() > first {
                fields.truncate(fields.len() - 1);
                written.push(document(&fields));
            }
        }
        for n in written {
            if let Ok(l) = t.invert(&n) {
                let again = t.apply(&l);
                prop_assert!(again.is_ok(), "{:?} <- {:?}: {:?}", l, n, again);
                prop_assert!(t.agree(&l, &n), "{:?} <- {:?}, {:?}", l, n, again);
            }
        }
        Ok(())
    });
}

#[test]
fn most_documents_are_accepted_by_their_case() {
    for (case, t) in all() {
        let mut runner = TestRunner::deterministic();
        let strategy = documents(&case);
        let made = |_| strategy.new_tree(&mut runner).unwrap().current();
        let accepted = (0..100).map(made).filter(|d| t.apply(d).is_ok()).count();
        assert!(accepted >= 25, "{}: {accepted} of 100", case.name);
    }
}

#[test]
fn damaged_bytes_never_panic_in_any_step() {
    for (case, t) in all() {
        let config = Config { cases: count(&case), failure_persistence: None, ..Config::default() };
        let damaged = (documents(&case), any::<prop::sample::Index>(), any::<u8>());
        let done = TestRunner::new(config).run(&damaged, |(d, at, to)| {
            let mut bytes = d.into_bytes();
            let i = at.index(bytes.len() - 4) + 4;
            bytes[i] = to;
            let Ok(d) = RawDocumentBuf::from_bytes(bytes) else { return Ok(()) };
            for e in [t.apply(&d), t.invert(&d)].into_iter().filter_map(Result::err) {
                prop_assert!(!e.to_string().is_empty());
            }
            Ok(())
        });
        done.unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}
