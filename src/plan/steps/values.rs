//! Steps that change a value, and constants: convert, set, unset, map and pipeline.

use std::ops::Range;

use bson::{Bson, Document};
use toml::Spanned;
use toml::de::DeValue;

use super::super::pipeline::{Complaint, Pipeline};
use super::super::types::{Keeps, ValueType};
use super::{Reader, Step, Table, Touched, list, path};

pub(super) fn convert(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["convert", "from", "to", "lossy"]);
    let types = ValueType::ALL.map(|t| (t.name(), t));
    let p = r.string(s, "convert").and_then(|p| path(r, p, touched));
    let from = r.required(s, "from", "\"string\"").and_then(|w| r.word(&w, "type", &types));
    let to = r.required(s, "to", "\"decimal\"");
    let to = to.and_then(|w| r.word(&w, "type", &types).map(|v| (v, w.span)));
    let lossy = r.boolean(s, "lossy");
    let (from, (to, span)) = (from?, to?);
    let keeps = if from == to {
        r.error(span, "this converts a type to itself", "expected another type", None);
        return None;
    } else if let Some(keeps) = from.converts_to(to) {
        keeps
    } else {
        let message = format!("there is no conversion from {} to {}", from.name(), to.name());
        let targets = ValueType::ALL.into_iter().filter(|t| from.converts_to(*t).is_some());
        r.error(span, message, format!("expected {}", list(targets.map(ValueType::name))), None);
        return None;
    };
    let said = lossy.as_ref().is_some_and(|l| l.value);
    match (keeps, said) {
        (Keeps::All, true) => {
            let at = lossy.map_or(span, |l| l.span);
            let message = format!("{} to {} loses nothing that it accepts", from.name(), to.name());
            r.error(at, message, "", Some("leave `lossy` out".into()));
            return None;
        }
        (Keeps::None(what), false) => {
            let message = format!("{} to {} always loses {what}", from.name(), to.name());
            let help = "say `lossy = true`: originals are kept in `tidegate.undo`";
            r.error(span, message, "", Some(help.into()));
            return None;
        }
        _ => {}
    }
    Some(Step::Convert { path: p?, from, to, lossy: said })
}

pub(super) fn set(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["set", "value"]);
    let p = r.string(s, "set").and_then(|p| path(r, p, touched));
    if !s.table.contains_key("value") {
        r.missing(s, "value", "1");
    }
    let value = s.table.get("value").and_then(|v| to_bson(r, v));
    Some(Step::Set { path: p?, value: value? })
}

pub(super) fn unset(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["unset", "was", "lossy"]);
    let p = r.string(s, "unset").and_then(|p| path(r, p, touched));
    let lossy = r.boolean(s, "lossy").filter(|l| l.value);
    match (s.table.get("was"), lossy) {
        (Some(_), Some(lossy)) => {
            let help = "leave `lossy` out, or `was` if documents hold other values";
            r.error(lossy.span, "`was` says how it comes back, so nothing is lost", "", Some(help.into()));
            None
        }
        (Some(was), None) => {
            let was = to_bson(r, was);
            Some(Step::Unset { path: p?, was: Some(was?) })
        }
        (None, Some(_)) => Some(Step::Unset { path: p?, was: None }),
        (None, None) => {
            let help = "say the value that every legacy document has there, so that the way back can put it back: `was = …`; or drop \
                        whatever is there with `lossy = true`";
            r.error(s.span.clone(), "`was` is missing: without it this step cannot be undone", "", Some(help.into()));
            None
        }
    }
}

pub(super) fn map(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["map", "values", "otherwise", "lossy"]);
    let p = r.string(s, "map").and_then(|p| path(r, p, touched));
    let keep = match r.string(s, "otherwise") {
        Some(w) => r.word(&w, "choice", &[("refuse", false), ("keep", true)]),
        None => Some(false),
    };
    let lossy = r.boolean(s, "lossy").filter(|l| l.value);
    let pairs = pairs(r, s)?;
    let mut injective = true;
    for (i, (from, to, span)) in pairs.iter().enumerate() {
        if pairs[..i].iter().any(|(f, _, _)| f == from) {
            r.error(span.clone(), "this value is mapped twice", "expected each value once on the left", None);
            return None;
        }
        let Some((other, _, _)) = pairs[..i].iter().find(|(_, t, _)| t == to) else { continue };
        injective = false;
        if lossy.is_none() {
            let message = format!("`{}` and `{}` become the same value", text(other), text(from));
            let help = "give each its own value, or say `lossy = true`: originals are kept in `tidegate.undo`";
            r.error(span.clone(), message, "the way back cannot tell them apart", Some(help.into()));
            return None;
        }
    }
    let keep = keep?;
    if let Some(l) = lossy.as_ref().filter(|_| injective && !keep) {
        let help = "leave `lossy` out";
        r.error(l.span.clone(), "every value of this `map` comes back, so nothing is lost", "", Some(help.into()));
        return None;
    }
    let values = pairs.into_iter().map(|(a, b, _)| (a, b)).collect();
    Some(Step::Map { path: p?, values, keep, lossy: lossy.is_some() })
}

fn text(value: &Bson) -> String {
    match value {
        Bson::String(s) => crate::scrub::short(s, 30),
        other => crate::scrub::short(&other.to_string(), 30),
    }
}

type Pair = (Bson, Bson, Range<usize>);

/// `{ A = "active" }`, or `[[1, "active"]]` for values that are not texts.
fn pairs(r: &mut Reader, s: &Table<'_, '_>) -> Option<Vec<Pair>> {
    const EXPECTED: &str = "expected `{ A = \"active\" }` or `[[1, \"active\"]]`";
    let Some(v) = s.table.get("values") else {
        r.missing(s, "values", "{ A = \"active\", I = \"inactive\" }");
        return None;
    };
    let mut all = Vec::new();
    match v.get_ref() {
        DeValue::Table(t) => {
            let mut entries: Vec<_> = t.iter().collect();
            entries.sort_by_key(|(k, _)| k.span().start);
            for (k, v) in entries {
                all.push((Bson::String(k.get_ref().to_string()), mapped(r, v)?, k.span()));
            }
        }
        DeValue::Array(items) => {
            for i in items.iter() {
                let Some([from, to]) = i.get_ref().as_array().map(|a| &a[..]).and_then(|a| <&[_; 2]>::try_from(a).ok())
                else {
                    r.error(i.span(), "this is not a pair of values", EXPECTED, None);
                    return None;
                };
                all.push((mapped(r, from)?, mapped(r, to)?, i.span()));
            }
        }
        _ => {}
    }
    if all.is_empty() {
        r.error(v.span(), "`values` maps nothing", EXPECTED, None);
        return None;
    }
    Some(all)
}

/// A value that servers and bytes agree on when it is compared: 1.0, 1.00 and 1 would not do.
fn mapped(r: &mut Reader, v: &Spanned<DeValue<'_>>) -> Option<Bson> {
    match to_bson(r, v)? {
        b @ (Bson::String(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Boolean(_) | Bson::DateTime(_)) => Some(b),
        _ => {
            let expected = "expected a text, a whole number, true, false or a date";
            r.error(v.span(), "this value cannot be mapped", expected, None);
            None
        }
    }
}

pub(super) fn pipeline(r: &mut Reader, s: &Table<'_, '_>) -> Option<Step> {
    r.only(s, &["pipeline", "inverse", "lossy"]);
    let forward = stages(r, s, "pipeline");
    let lossy = r.boolean(s, "lossy").filter(|l| l.value);
    match (s.table.contains_key("inverse"), lossy) {
        (true, Some(l)) => {
            let help = "leave `lossy` out: a document that the inverse does not bring back is refused";
            r.error(l.span, "a pipeline with an inverse loses nothing", "", Some(help.into()));
            None
        }
        (true, None) => {
            let inverse = stages(r, s, "inverse");
            Some(Step::Pipeline { forward: forward?, inverse: Some(inverse?) })
        }
        (false, Some(_)) => Some(Step::Pipeline { forward: forward?, inverse: None }),
        (false, None) => {
            let help = "add `inverse = '[…]'`; or say `lossy = true`: originals are kept in `tidegate.undo`";
            r.error(
                s.span.clone(),
                "`inverse` is missing: without it this step cannot be undone",
                "",
                Some(help.into()),
            );
            None
        }
    }
}

fn stages(r: &mut Reader, s: &Table<'_, '_>, key: &str) -> Option<Pipeline> {
    let text = r.string(s, key)?;
    match Pipeline::parse(&text.value) {
        Ok(p) => Some(p),
        Err(Complaint { message, expected, help }) => {
            r.error(text.span, message, expected, help);
            None
        }
    }
}

/// A TOML value as BSON: integers become int when they fit, else long.
pub(in super::super) fn to_bson(r: &mut Reader, v: &Spanned<DeValue<'_>>) -> Option<Bson> {
    let unusable = |r: &mut Reader, span: Range<usize>, expected: &str| {
        r.error(span, "this value cannot be stored", expected, None);
        None
    };
    match v.get_ref() {
        DeValue::String(s) => Some(Bson::String(s.to_string())),
        DeValue::Boolean(b) => Some(Bson::Boolean(*b)),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Some(i32::try_from(n).map_or(Bson::Int64(n), Bson::Int32)),
            Err(_) => unusable(r, v.span(), "expected a 64-bit integer"),
        },
        DeValue::Float(x) => match x.as_str().parse::<f64>() {
            Ok(x) => Some(Bson::Double(x)),
            Err(_) => unusable(r, v.span(), "expected a number"),
        },
        DeValue::Datetime(d) => match d.to_string().parse::<jiff::Timestamp>() {
            Ok(at) => Some(Bson::DateTime(bson::DateTime::from_millis(at.as_millisecond()))),
            Err(_) => unusable(r, v.span(), "expected a date and time with an offset, like 2027-01-01T00:00:00Z"),
        },
        DeValue::Array(items) => items.iter().map(|i| to_bson(r, i)).collect::<Option<Vec<_>>>().map(Bson::Array),
        DeValue::Table(t) => {
            let mut entries: Vec<_> = t.iter().collect();
            entries.sort_by_key(|(k, _)| k.span().start);
            let mut d = Document::new();
            for (k, v) in entries {
                let name = k.get_ref().as_ref();
                if name.contains('\0') {
                    return unusable(r, k.span(), "expected a field name without NUL");
                }
                d.insert(name, to_bson(r, v)?);
            }
            Some(Bson::Document(d))
        }
    }
}
