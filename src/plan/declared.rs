//! What a plan declares of its documents, to be asked of both sides' servers: `[[query]]`, `[[total]]`, `[[reference]]`, and the `types`
//! of next's fields. None of it says how documents are changed: it is what an application asks, in words of its own.

use bson::{Bson, Document};

use super::pipeline::Expr;
use super::reader::{At, Reader, Table};
use super::shape::TYPES;
use super::steps;
use super::types::Collection;

/// Things of one kind that a plan may declare.
const MOST: usize = 50;

/// A query whose answers are compared on both shapes, and explained.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// For people; unique among the queries.
    pub name: String,
    /// The filters: legacy's, and next's.
    pub filters: [Document; 2],
    /// It must be answered by an index.
    pub uses_index: bool,
}

/// A control total: a number of each document, which adds up to the same on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// For people; unique among the totals.
    pub name: String,
    /// What makes the number of a document: legacy's, and next's.
    pub values: [Computed; 2],
}

/// An aggregation expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// As a server takes it.
    pub source: Bson,
    /// As it is computed here; `None` where only a server can.
    pub(crate) expr: Option<Expr>,
}

impl Computed {
    /// The type of what stands at a path, as a server names it.
    pub(crate) fn type_of(path: &str) -> Computed {
        let source = Bson::Document(bson::doc! { "$type": format!("${path}") });
        let expr = Expr::parse(&source).ok();
        Computed { source, expr }
    }

    /// Nobody but a server is needed.
    #[must_use]
    pub fn is_computed_here(&self) -> bool {
        self.expr.is_some()
    }
}

/// Values that name documents of another collection, which must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// For people; unique among the references.
    pub name: String,
    /// Where the values stand: in legacy's documents, and in next's.
    pub paths: [String; 2],
    /// The other collections: in legacy's database, and in next's.
    pub to: [String; 2],
    /// The field there that holds the same value.
    pub field: String,
}

/// Everything that a plan declares beside its collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// Queries.
    pub queries: Vec<Query>,
    /// Control totals.
    pub totals: Vec<Total>,
    /// References.
    pub references: Vec<Reference>,
}

impl Declared {
    /// Nothing is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty() && self.totals.is_empty() && self.references.is_empty()
    }
}

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>, collections: &[Collection]) -> Declared {
    let in_place = collections.iter().any(Collection::in_place);
    let dbs: Vec<&str> = collections.iter().flat_map(|c| [&*c.legacy.db, &*c.next.db]).collect();
    let queries = each(r, t, "query", &["name", "legacy", "next", "uses_index"], |r, t, name| {
        let legacy = r.required(t, "legacy", "'{ \"customer.name\": \"Cust 7\" }'").and_then(|q| filter(r, q));
        let next = r.required(t, "next", "'{ \"customer_name\": \"Cust 7\" }'").and_then(|q| filter(r, q));
        let uses_index = r.boolean(t, "uses_index").is_some_and(|b| b.value);
        Some(Query { name, filters: [legacy?, next?], uses_index })
    });
    let totals = each(r, t, "total", &["name", "legacy", "next"], |r, t, name| {
        let legacy = r.required(t, "legacy", "'{ \"$toDecimal\": \"$total\" }'").and_then(|e| computed(r, e));
        let next = r.required(t, "next", "'\"$total\"'").and_then(|e| computed(r, e));
        Some(Total { name, values: [legacy?, next?] })
    });
    let references = each(r, t, "reference", &["name", "legacy", "next", "to", "next_to", "field"], |r, t, name| {
        let legacy = r.required(t, "legacy", "\"customer.id\"").and_then(|p| path(r, p));
        let next = r.required(t, "next", "\"customer_id\"").and_then(|p| path(r, p));
        let to = r.required(t, "to", "\"customers\"").and_then(|c| other(r, c, &dbs));
        let next_to = match r.string(t, "next_to") {
            Some(c) => other(r, c, &dbs),
            None => to.clone(),
        };
        let field = r.string(t, "field").map_or(Some("_id".to_owned()), |p| path(r, p));
        Some(Reference { name, paths: [legacy?, next?], to: [to?, next_to?], field: field? })
    });
    for key in ["total", "reference"] {
        if let Some(v) = t.table.get(key).filter(|_| in_place) {
            let message = format!("`[[{key}]]` compares two collections, and this plan migrates in place");
            r.error(v.span(), message, format!("expected no `[[{key}]]`"), None);
        }
    }
    Declared { queries, totals, references }
}

/// Reads the tables of one kind, each under a name of its own.
fn each<T>(
    r: &mut Reader,
    t: &Table<'_, '_>,
    key: &str,
    known: &[&str],
    mut read: impl FnMut(&mut Reader, &Table<'_, '_>, String) -> Option<T>,
) -> Vec<T> {
    let (mut all, mut names) = (Vec::new(), Vec::new());
    let tables = r.tables(t, key, &format!("[[{key}]]"));
    if let Some(over) = tables.get(MOST) {
        r.error(over.span.clone(), format!("more than {MOST} `[[{key}]]`"), "", None);
    }
    for t in tables.iter().take(MOST) {
        r.only(t, known);
        let name = r.required(t, "name", "\"orders of a customer\"");
        let clean = name.as_ref().map(|n| crate::scrub::line(&n.value)).unwrap_or_default();
        if let Some(name) = name.filter(|_| names.contains(&clean)) {
            r.error(name.span, format!("the {key} `{clean}` stands there twice"), "expected another name", None);
            continue;
        }
        names.push(clean.clone());
        all.extend(read(r, t, clean));
    }
    all
}

fn json(r: &mut Reader, text: &At<String>, what: &str, expected: &str) -> Option<Bson> {
    let complaint = match serde_json::from_str::<serde_json::Value>(&text.value) {
        Ok(v) => match Bson::try_from(v) {
            Ok(v) => return Some(v),
            Err(e) => format!("{what} is not extended JSON: {e}"),
        },
        Err(e) => format!("{what} is not JSON: {e}"),
    };
    r.error(text.span.clone(), complaint, expected, None);
    None
}

fn filter(r: &mut Reader, text: At<String>) -> Option<Document> {
    match json(r, &text, "the query", "expected `{ … }`")? {
        Bson::Document(d) => {
            steady(r, &text, &Bson::Document(d.clone()))?;
            Some(d)
        }
        _ => {
            r.error(text.span, "a query is a JSON object", "expected `{ … }`", None);
            None
        }
    }
}

/// Refuses what is another each time it is asked, and programs: an amendment comes through the database, and a server would run them.
fn steady(r: &mut Reader, text: &At<String>, asked: &Bson) -> Option<()> {
    const NEVER: [&str; 7] = ["$$NOW", "$$CLUSTER_TIME", "$rand", "$sampleRate", "$where", "$function", "$accumulator"];
    let Some(word) = NEVER.into_iter().find(|w| says(asked, w)) else { return Some(()) };
    let message = match word {
        "$where" | "$function" | "$accumulator" => format!("`{word}` is a program, which no question is"),
        _ => format!("`{word}` is another each time it is asked"),
    };
    r.error(text.span.clone(), message, format!("expected no `{word}`"), None);
    None
}

fn says(v: &Bson, word: &str) -> bool {
    match v {
        Bson::Document(d) => d.iter().any(|(k, v)| k == word || says(v, word)),
        Bson::Array(a) => a.iter().any(|v| says(v, word)),
        Bson::String(s) => s
            .strip_prefix(word)
            .is_some_and(|rest| word.starts_with("$$") && (rest.is_empty() || rest.starts_with('.'))),
        _ => false,
    }
}

fn computed(r: &mut Reader, text: At<String>) -> Option<Computed> {
    let expected = "expected `\"$total\"`, or `{ \"$toDecimal\": \"$total\" }`";
    let source = json(r, &text, "the expression", expected)?;
    steady(r, &text, &source)?;
    if !matches!(&source, Bson::Document(_)) && source.as_str().is_none_or(|s| !s.starts_with('$')) {
        let help = "a constant adds nothing up; name a field by `\"$field\"`, in quotes of its own";
        r.error(text.span, "this is no expression over a document's fields", expected, Some(help.into()));
        return None;
    }
    let expr = Expr::parse(&source).ok();
    Some(Computed { source, expr })
}

/// A path that an expression takes: a number names no element of an array there.
fn is_path(path: &str) -> bool {
    steps::is_path(path) && !path.split('.').any(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

fn path(r: &mut Reader, text: At<String>) -> Option<String> {
    if is_path(&text.value) {
        return Some(text.value);
    }
    r.error(text.span, format!("`{}` is not a field's path", text.value), "expected `customer.id`", None);
    None
}

/// A collection of the same database: a server joins no others.
fn other(r: &mut Reader, text: At<String>, dbs: &[&str]) -> Option<String> {
    let name = &text.value;
    let elsewhere = dbs.iter().any(|db| name.strip_prefix(db).is_some_and(|rest| rest.starts_with('.')));
    if !elsewhere && !name.is_empty() && !name.contains(['$', '\0']) && !name.starts_with("system.") {
        return Some(text.value);
    }
    let help = "its documents are looked up in the database of the side's own collection: write the name without it";
    r.error(text.span, format!("`{name}` is not a collection's name"), "expected `customers`", Some(help.into()));
    None
}

/// `types` of a collection: which types next's fields may have.
pub(super) fn read_types(r: &mut Reader, t: &Table<'_, '_>) -> Vec<(String, Vec<String>)> {
    let Some(types) = r.table(t, "types", "`types`") else { return Vec::new() };
    let known: Vec<(&str, &str)> = TYPES.iter().map(|t| (*t, *t)).collect();
    let mut entries: Vec<_> = types.table.iter().collect();
    entries.sort_by_key(|(k, _)| k.span().start);
    if let Some((over, _)) = entries.get(MOST) {
        r.error(over.span(), format!("more than {MOST} `types`"), "", None);
        entries.truncate(MOST);
    }
    let mut all = Vec::new();
    for (k, v) in entries {
        let name = k.get_ref().as_ref();
        if !is_path(name) {
            r.error(
                k.span(),
                format!("`{name}` is not a field's path"),
                "expected `total`, or `\"customer.id\"`",
                None,
            );
            continue;
        }
        let items = match v.get_ref().as_array() {
            Some(items) => items.iter().collect(),
            None => vec![v],
        };
        let mut of = Vec::new();
        for item in items {
            let Some(word) = item.get_ref().as_str() else {
                r.error(item.span(), format!("the type of `{name}` is a word"), "expected `\"decimal\"`", None);
                continue;
            };
            let at = At { value: word.to_owned(), span: item.span() };
            of.extend(r.word(&at, "type", &known).map(str::to_owned));
        }
        if of.is_empty() && v.get_ref().as_array().is_some_and(|a| a.is_empty()) {
            r.error(v.span(), format!("`{name}` may have no type at all"), "expected `\"decimal\"`", None);
        }
        all.push((name.to_owned(), of));
    }
    all
}
