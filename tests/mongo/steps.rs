//! Every kind of step, computed by a server and here: the same bytes, there and back.
//!
//! Left out, because a server cannot make these bytes:
//! - documents in which a name stands twice, at whatever depth: a server that rebuilds a document keeps the last one;
//! - doubles of more than 15 digits as text or decimal, and numbers nearer to 0 than the smallest normal double, which it refuses
//!   to convert (the stage then raises an error, so they are left out before they are sent);
//! - values of a nesting that a server does not store.

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tidegate::plan::{Plan, Step, ValueType};
use tidegate::transform::Transform;

use super::replset::ReplSet;
use super::{R, on_shared};

#[path = "../../src/transform/tests/docs.rs"]
mod docs;
use docs::{Case, cases, conversions, documents, plan, shuffle};

/// Documents compared for each case, each way.
const DOCUMENTS: usize = 500;
/// Conversions have many cases; each pair has about as many documents as a kind of step.
const CONVERTED: usize = 250;

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("steps::a_server_computes_every_step_to_the_same_bytes", |set| async move {
            all(&set, "kinds", drawn(cases(), DOCUMENTS)?).await
        }),
        on_shared("steps::a_server_converts_every_type_to_the_same_bytes", |set| async move {
            all(&set, "types", drawn(conversions(), CONVERTED)?).await
        }),
    ]
}

type Pair = (RawDocumentBuf, RawDocumentBuf);

/// A case with its documents, and what they become here.
struct Drawn {
    name: String,
    transform: Transform,
    there: Vec<Pair>,
    back: Vec<Pair>,
}

fn drawn(cases: Vec<Case>, n: usize) -> Result<Vec<Drawn>, String> {
    let mut all = Vec::new();
    for case in cases {
        match Plan::parse(&plan(&case.steps), "plan.toml") {
            Ok(p) => all.push(draw(&case, &p.collections[0].steps, n).map_err(|e| format!("{}: {e}", case.name))?),
            Err(_) if case.name.starts_with("convert") => {}
            Err(e) => return Err(format!("{}: {e}", case.name)),
        }
    }
    Ok(all)
}

fn draw(case: &Case, steps: &[Step], n: usize) -> Result<Drawn, String> {
    let t = Transform::new(steps);
    let strategy = documents(case);
    let mut runner = TestRunner::deterministic();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    // A case that accepts too few is found by the tests beside the generator; this only ends.
    for _ in 0..n * 40 {
        if there.len() == n {
            break;
        }
        let d = strategy.new_tree(&mut runner).map_err(|e| e.to_string())?.current();
        let Ok(next) = t.apply(&d) else { continue };
        if names_twice(&d) || beyond_a_server(steps, &d) || beyond_a_server(steps, &next) {
            continue;
        }
        // On the way back also what an application has written in another order.
        let fields = next.iter().map(|f| f.map(|(k, v)| (k.as_str().to_owned(), v.into())));
        let mut fields: Vec<docs::Field> = fields.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        shuffle(&mut fields, there.len() as u64 * 7_919);
        for n in [next.clone(), docs::document(&fields)] {
            if let Ok(l) = t.invert(&n) {
                back.push((n, l));
            }
        }
        there.push((d, next));
    }
    if there.len() < n {
        return Err(format!("only {} documents are accepted", there.len()));
    }
    Ok(Drawn { name: case.name.clone(), transform: t, there, back })
}

async fn all(set: &ReplSet, db: &str, cases: Vec<Drawn>) -> R {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let db = client.database(&format!("steps_{db}"));
    let mut wrong = Vec::new();
    for case in cases {
        if let Err(e) = both_ways(&db, &case).await {
            wrong.push(format!("{}: {e}", case.name));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

async fn both_ways(db: &mongodb::Database, case: &Drawn) -> R {
    compare(db, &case.transform.pipeline(), &case.there).await.map_err(|e| format!("there: {e}"))?;
    match case.transform.inverse_pipeline() {
        Some(p) if case.back.len() < case.there.len() / 2 => {
            Err(format!("only {} come back by {p:?}", case.back.len()))
        }
        Some(p) => compare(db, &p, &case.back).await.map_err(|e| format!("back: {e}")),
        None if case.back.is_empty() || case.name.contains("objectId to date") => Ok(()),
        None => Err("documents come back without a pipeline".into()),
    }
}

/// Sends the left documents through the pipeline and compares with the right ones. They are stored a level down: at the top a server
/// fills in `Timestamp(0, 0)`, and wants an `_id`.
async fn compare(db: &mongodb::Database, pipeline: &[Document], pairs: &[Pair]) -> R {
    let coll = db.collection::<RawDocumentBuf>("documents");
    coll.drop().await.map_err(|e| e.to_string())?;
    let stored: Vec<RawDocumentBuf> =
        pairs.iter().enumerate().map(|(i, (d, _))| rawdoc! { "_id": i as i64, "d": d.clone() }).collect();
    for chunk in stored.chunks(500) {
        coll.insert_many(chunk).await.map_err(|e| e.to_string())?;
    }
    let mut stages = vec![doc! { "$sort": { "_id": 1 } }, doc! { "$replaceWith": "$d" }];
    stages.extend_from_slice(pipeline);
    let mut cursor = coll.aggregate(stages).await.map_err(|e| e.to_string())?;
    let mut seen = 0;
    while cursor.advance().await.map_err(|e| format!("document {seen}, {:?}: {e}", pairs.get(seen)))? {
        let Some((d, wanted)) = pairs.get(seen) else { return Err("more documents than were sent".into()) };
        if cursor.current().as_bytes() != wanted.as_bytes() {
            return Err(format!("{d:?}\n  here   {wanted:?}\n  server {:?}\n  {pipeline:?}", cursor.current()));
        }
        seen += 1;
    }
    if seen == pairs.len() { Ok(()) } else { Err(format!("{seen} of {} documents", pairs.len())) }
}

fn names_twice(d: &RawDocument) -> bool {
    fn value(v: RawBsonRef<'_>) -> bool {
        match v {
            RawBsonRef::Document(d) => names_twice(d),
            RawBsonRef::Array(a) => a.into_iter().flatten().any(value),
            _ => false,
        }
    }
    let fields: Vec<_> = d.iter().flatten().collect();
    fields.iter().enumerate().any(|(i, (n, v))| fields[..i].iter().any(|(m, _)| m == n) || value(*v))
}

/// True when a converted value of the document is one of those named above.
fn beyond_a_server(steps: &[Step], d: &RawDocument) -> bool {
    let Ok(d) = Document::try_from(d) else { return true };
    steps.iter().any(|s| match s {
        Step::Convert { path, from: a, to: b, .. } if [a, b].into_iter().any(|t| *t == ValueType::Double) => {
            match value_at(&d, path) {
                Some(Bson::Double(x)) => {
                    let mantissa = format!("{x:e}");
                    let digits = mantissa.split('e').next().map_or(0, |m| m.bytes().filter(u8::is_ascii_digit).count());
                    let written = [a, b].into_iter().any(|t| matches!(t, ValueType::String | ValueType::Decimal));
                    x.is_subnormal() || (written && x.is_finite() && digits > 15 && !whole(*x))
                }
                _ => false,
            }
        }
        _ => false,
    })
}

/// True for a double that is also a long.
fn whole(x: f64) -> bool {
    x.fract() == 0.0 && x.abs() < 2f64.powi(63)
}

fn value_at<'d>(d: &'d Document, path: &str) -> Option<&'d Bson> {
    match path.split_once('.') {
        Some((first, rest)) => value_at(d.get_document(first).ok()?, rest),
        None => d.get(path),
    }
}
