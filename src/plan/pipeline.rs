//! The aggregation pipelines that a step may hold: the stages and expressions that `transform` computes exactly as a server does.
//!
//! Whatever is not in these lists is refused here, by name, so that a plan that passes can be computed on both sides.

use bson::{Bson, Document};

use super::reader::{list, suggest};
use super::types::ValueType;

const STAGES: [&str; 5] = ["$set", "$addFields", "$unset", "$replaceWith", "$replaceRoot"];
const CALLS: [(&str, Call); 19] = [
    ("$concat", Call::Concat),
    ("$toLower", Call::ToLower),
    ("$toUpper", Call::ToUpper),
    ("$toString", Call::To(ValueType::String)),
    ("$toInt", Call::To(ValueType::Int)),
    ("$toLong", Call::To(ValueType::Long)),
    ("$toDouble", Call::To(ValueType::Double)),
    ("$toDecimal", Call::To(ValueType::Decimal)),
    ("$toDate", Call::To(ValueType::Date)),
    ("$toObjectId", Call::To(ValueType::ObjectId)),
    ("$toBool", Call::To(ValueType::Bool)),
    ("$ifNull", Call::IfNull),
    ("$cond", Call::Cond),
    ("$eq", Call::Eq),
    ("$ne", Call::Ne),
    ("$and", Call::And),
    ("$or", Call::Or),
    ("$not", Call::Not),
    ("$type", Call::Type),
];

/// Stages that can be computed here, and as they were written, for a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    pub(crate) stages: Vec<PipelineStage>,
    pub(crate) source: Vec<Document>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PipelineStage {
    /// `$set`: paths and what they become, computed before any is written.
    Set(Vec<(Vec<Vec<u8>>, Expr)>),
    /// `$unset`.
    Unset(Vec<Vec<Vec<u8>>>),
    /// `$replaceWith`.
    Replace(Expr),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    Literal(Bson),
    Root,
    Remove,
    Path(Vec<Vec<u8>>),
    Array(Vec<Expr>),
    Object(Vec<(Vec<u8>, Expr)>),
    Merge(Vec<Expr>),
    Call(Call, Vec<Expr>),
}

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Concat,
    ToLower,
    ToUpper,
    To(ValueType),
    IfNull,
    Cond,
    Eq,
    Ne,
    And,
    Or,
    Not,
    Type,
}

/// A complaint: what is wrong, what was expected, a way out.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) expected: String,
    pub(super) help: Option<String>,
}

type Parsed<T> = Result<T, Complaint>;

fn complain<T>(message: impl Into<String>, expected: impl Into<String>) -> Parsed<T> {
    Err(Complaint { message: message.into(), expected: expected.into(), help: None })
}

impl Pipeline {
    /// Reads extended JSON: an array of stages, or one stage.
    pub(super) fn parse(text: &str) -> Parsed<Pipeline> {
        let json: serde_json::Value = match serde_json::from_str(text) {
            Ok(v) => v,
            Err(e) => return complain(format!("the pipeline is not JSON: {e}"), "expected `[{ \"$set\": { … } }]`"),
        };
        let source = match Bson::try_from(json) {
            Ok(Bson::Array(stages)) => stages,
            Ok(one @ Bson::Document(_)) => vec![one],
            Ok(_) => return complain("a pipeline is an array of stages", "expected `[{ \"$set\": { … } }]`"),
            Err(e) => return complain(format!("the pipeline is not extended JSON: {e}"), ""),
        };
        let mut pipeline = Pipeline { stages: Vec::new(), source: Vec::new() };
        for s in source {
            let Bson::Document(d) = s else {
                return complain("a stage is a document", "expected `{ \"$set\": { … } }`");
            };
            pipeline.stages.push(stage(&d)?);
            pipeline.source.push(d);
        }
        if pipeline.stages.is_empty() {
            return complain("the pipeline has no stage", "expected `[{ \"$set\": { … } }]`");
        }
        Ok(pipeline)
    }

    /// How many stages it has; never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// The stages as a server takes them.
    #[must_use]
    pub fn stages(&self) -> &[Document] {
        &self.source
    }
}

impl Expr {
    /// Reads an expression on its own.
    pub(super) fn parse(source: &Bson) -> Parsed<Expr> {
        expression(source)
    }
}

/// The one key of a document that has just one.
fn only(d: &Document) -> Option<(&str, &Bson)> {
    let mut all = d.iter();
    let (k, v) = all.next()?;
    all.next().is_none().then_some((k.as_str(), v))
}

fn stage(d: &Document) -> Parsed<PipelineStage> {
    let Some((name, body)) = only(d) else {
        return complain("a stage has exactly one key", "expected `{ \"$set\": { … } }`");
    };
    match (name, body) {
        ("$set" | "$addFields", Bson::Document(fields)) => {
            let mut all = Vec::new();
            assignments(fields, &[], &mut all)?;
            no_conflict(all.iter().map(|(p, _)| p))?;
            Ok(PipelineStage::Set(all))
        }
        ("$unset", body) => {
            let names = match body {
                Bson::Array(a) => a.iter().collect(),
                one => vec![one],
            };
            let paths = names.into_iter().map(|n| match n {
                Bson::String(p) => path(p),
                _ => complain("`$unset` takes field names", "expected `\"a\"` or `[\"a\", \"b.c\"]`"),
            });
            let paths = paths.collect::<Parsed<Vec<_>>>()?;
            no_conflict(paths.iter())?;
            Ok(PipelineStage::Unset(paths))
        }
        ("$replaceWith", e) => Ok(PipelineStage::Replace(expression(e)?)),
        ("$replaceRoot", Bson::Document(r)) => match only(r) {
            Some(("newRoot", e)) => Ok(PipelineStage::Replace(expression(e)?)),
            _ => complain("`$replaceRoot` takes `newRoot` only", "expected `{ \"newRoot\": … }`"),
        },
        (name, _) if STAGES.contains(&name) => complain(format!("`{name}` takes a document"), "expected `{ … }`"),
        (name, _) => Err(Complaint {
            message: format!("the stage `{name}` cannot be computed on both sides"),
            expected: format!("expected {}", list(STAGES.into_iter())),
            help: suggest(name, STAGES.into_iter()),
        }),
    }
}

/// The fields of `$set`, with nested documents spelt out as paths, which is what the server makes of them.
fn assignments(d: &Document, above: &[Vec<u8>], out: &mut Vec<(Vec<Vec<u8>>, Expr)>) -> Parsed<()> {
    if d.is_empty() {
        return complain("`$set` with an empty document sets nothing", "expected fields, or `{ \"$literal\": {} }`");
    }
    for (name, value) in d {
        let parts = path(name)?;
        if !above.is_empty() && parts.len() > 1 {
            return complain(format!("`{name}` has a dot inside a nested document"), "expected one field name");
        }
        let full: Vec<Vec<u8>> = above.iter().cloned().chain(parts).collect();
        match value {
            Bson::Document(inner) if !inner.keys().any(|k| k.starts_with('$')) => assignments(inner, &full, out)?,
            value => out.push((full, expression(value)?)),
        }
    }
    Ok(())
}

fn path(text: &str) -> Parsed<Vec<Vec<u8>>> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 20 || parts.iter().any(|p| p.is_empty() || p.starts_with('$') || p.contains('\0')) {
        return complain(format!("`{text}` is not a path"), "expected field names joined by dots");
    }
    Ok(parts.into_iter().map(|p| p.as_bytes().to_vec()).collect())
}

/// The server refuses a path beside one of its parents.
fn no_conflict<'a>(paths: impl Iterator<Item = &'a Vec<Vec<u8>>>) -> Parsed<()> {
    let all: Vec<&Vec<Vec<u8>>> = paths.collect();
    for (i, a) in all.iter().enumerate() {
        if let Some(b) = all[..i].iter().find(|b| a.starts_with(b) || b.starts_with(a)) {
            let text = |p: &[Vec<u8>]| String::from_utf8_lossy(&p.join(&b'.')).into_owned();
            return complain(format!("one stage writes both `{}` and `{}`", text(b), text(a)), "expected one of them");
        }
    }
    Ok(())
}

fn expression(value: &Bson) -> Parsed<Expr> {
    match value {
        Bson::String(s) => variable(s),
        Bson::Array(items) => items.iter().map(expression).collect::<Parsed<_>>().map(Expr::Array),
        Bson::Document(d) if d.keys().any(|k| k.starts_with('$')) => match only(d) {
            Some((name, body)) => operator(name, body),
            None => complain("an operator stands alone in its document", "expected one key"),
        },
        Bson::Document(d) => {
            let field = |(name, v): (&String, &Bson)| {
                if name.is_empty() || name.contains(['.', '\0']) {
                    return complain(format!("`{name}` is not a field name in an expression"), "expected no dots");
                }
                Ok((name.as_bytes().to_vec(), expression(v)?))
            };
            d.iter().map(field).collect::<Parsed<_>>().map(Expr::Object)
        }
        other => Ok(Expr::Literal(other.clone())),
    }
}

fn variable(text: &str) -> Parsed<Expr> {
    match text {
        "$$ROOT" | "$$CURRENT" => Ok(Expr::Root),
        "$$REMOVE" => Ok(Expr::Remove),
        t if t.starts_with("$$") => {
            complain(format!("the variable `{t}` is not known here"), "expected `$$ROOT` or `$$REMOVE`")
        }
        t => match t.strip_prefix('$') {
            Some(p) => path(p).map(Expr::Path),
            None => Ok(Expr::Literal(Bson::String(t.to_owned()))),
        },
    }
}

fn operator(name: &str, body: &Bson) -> Parsed<Expr> {
    if name == "$literal" {
        return Ok(Expr::Literal(body.clone()));
    }
    if let (Some((_, Call::Cond)), Bson::Document(d)) = (CALLS.iter().find(|(n, _)| *n == name), body) {
        let part = |k: &str| match d.get(k) {
            Some(v) if d.len() == 3 => expression(v),
            _ => complain("`$cond` takes `if`, `then` and `else`", ""),
        };
        return Ok(Expr::Call(Call::Cond, vec![part("if")?, part("then")?, part("else")?]));
    }
    let arguments = match body {
        Bson::Array(items) => items.iter().map(expression).collect::<Parsed<Vec<_>>>()?,
        one => vec![expression(one)?],
    };
    if name == "$mergeObjects" {
        return Ok(Expr::Merge(arguments));
    }
    let names = || ["$literal", "$mergeObjects"].into_iter().chain(CALLS.iter().map(|(n, _)| *n));
    let Some((_, call)) = CALLS.iter().find(|(n, _)| *n == name) else {
        return Err(Complaint {
            message: format!("the operator `{name}` cannot be computed on both sides"),
            expected: format!("expected {}", list(names())),
            help: suggest(name, names()),
        });
    };
    let (least, most) = match call {
        Call::Concat | Call::And | Call::Or => (0, usize::MAX),
        Call::IfNull => (2, usize::MAX),
        Call::Cond => (3, 3),
        Call::Eq | Call::Ne => (2, 2),
        Call::ToLower | Call::ToUpper | Call::To(_) | Call::Not | Call::Type => (1, 1),
    };
    if !(least..=most).contains(&arguments.len()) {
        let n = if most == least { least.to_string() } else { format!("at least {least}") };
        return complain(format!("`{name}` takes {n} arguments and has {}", arguments.len()), "");
    }
    Ok(Expr::Call(*call, arguments))
}
