//! Reads a plan's steps: which kind each is, its paths, and whether two steps touch the same place.
//!
//! Steps that only move fields are in `fields`, steps that change a value in `values`.

mod fields;
mod values;

use super::reader::{At, Reader, Table, list, nearest};
use super::types::Step;
pub(super) use values::to_bson;

const STEPS: [&str; 11] =
    ["rename", "convert", "set", "unset", "nest", "flatten", "split", "join", "wrap", "map", "pipeline"];
const LATER: [&str; 1] = ["lookup"];

/// What the steps read so far touch. Steps whose places do not meet can be undone in any order.
#[derive(Default)]
struct Touched {
    paths: Vec<At<String>>,
    /// Every path that begins with one of these texts.
    prefixes: Vec<At<String>>,
}

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>) -> Vec<Step> {
    let mut touched = Touched::default();
    let mut steps = Vec::new();
    for s in r.tables(t, "steps", "this step") {
        let Some(verb) = verb(r, &s) else { continue };
        let s = Table { what: format!("this `{verb}`"), ..s };
        let touched = &mut touched;
        let step = match verb {
            "rename" => fields::rename(r, &s, touched),
            "nest" => fields::nest(r, &s, touched),
            "flatten" => fields::flatten(r, &s, touched),
            "split" => fields::split(r, &s, touched),
            "join" => fields::join(r, &s, touched),
            "wrap" => fields::wrap(r, &s, touched),
            "convert" => values::convert(r, &s, touched),
            "set" => values::set(r, &s, touched),
            "unset" => values::unset(r, &s, touched),
            "map" => values::map(r, &s, touched),
            _ => values::pipeline(r, &s),
        };
        steps.extend(step);
    }
    steps
}

/// Which kind of step a table is: the kind that its first key names, or else any key.
fn verb(r: &mut Reader, s: &Table<'_, '_>) -> Option<&'static str> {
    let mut keys: Vec<_> = s.table.keys().collect();
    keys.sort_by_key(|k| k.span().start);
    let Some(first) = keys.first() else {
        r.error(s.span.clone(), "this step is empty", format!("expected {}", list(STEPS.into_iter())), None);
        return None;
    };
    let known = |k: &str| STEPS.into_iter().find(|v| *v == k);
    if let Some(verb) = keys.iter().find_map(|k| known(k.get_ref().as_ref())) {
        return Some(verb);
    }
    let name = first.get_ref();
    if LATER.contains(&name.as_ref()) {
        let message = format!("the step `{name}` is not available yet");
        r.error(first.span(), message, format!("available: {}", list(STEPS.into_iter())), None);
    } else {
        r.error(first.span(), format!("unknown step `{name}`"), "", Some(nearest(name, STEPS.into_iter())));
    }
    None
}

/// What stands before the last dot; empty for a top-level field.
fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(p, _)| p)
}

/// True for field names joined by dots, not too deep.
pub(super) fn is_path(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() <= 20 && !parts.iter().any(|s| s.is_empty() || s.starts_with('$') || s.contains('\0'))
}

/// Checks a path and that no other step touches it, its parents or its children.
fn path(r: &mut Reader, p: At<String>, touched: &mut Touched) -> Option<String> {
    let parts: Vec<&str> = p.value.split('.').collect();
    let fail = |r: &mut Reader, message: String, expected: &str| {
        r.error(p.span.clone(), message, expected, None);
        None
    };
    if !is_path(&p.value) {
        return fail(r, format!("`{}` is not a path", p.value), "expected field names joined by dots");
    }
    if parts[0] == "_id" {
        return fail(r, "a step must not touch `_id`".into(), "the key is what both sides are matched by");
    }
    if parts.iter().any(|s| s.bytes().all(|b| b.is_ascii_digit())) {
        return fail(r, format!("`{}` points into an array", p.value), "expected field names only");
    }
    let overlaps = |a: &str, b: &str| {
        a == b
            || a.strip_prefix(b).is_some_and(|x| x.starts_with('.'))
            || b.strip_prefix(a).is_some_and(|x| x.starts_with('.'))
    };
    if let Some(other) = touched.paths.iter().find(|o| overlaps(&o.value, &p.value)) {
        let message = if other.value == p.value {
            format!("two steps touch `{}`", p.value)
        } else {
            format!("two steps touch `{}` and `{}`, one inside the other", other.value, p.value)
        };
        return fail(r, message, "expected each path once");
    }
    if let Some(other) = touched.prefixes.iter().find(|o| p.value.starts_with(&o.value)) {
        let message = format!("two steps touch `{}`: another one owns every `{}…`", p.value, other.value);
        return fail(r, message, "expected another name, or another `prefix` there");
    }
    touched.paths.push(p.clone());
    Some(p.value)
}

/// A list of texts: at least `least`, none empty.
pub(super) fn texts(
    r: &mut Reader,
    s: &Table<'_, '_>,
    key: &str,
    least: usize,
    example: &str,
) -> Option<Vec<At<String>>> {
    let Some(v) = s.table.get(key) else {
        r.missing(s, key, example);
        return None;
    };
    let items = r.items(s, key, "an array of field names");
    let mut all = Vec::new();
    for i in &items {
        match i.get_ref().as_str() {
            Some(t) if !t.is_empty() => all.push(At { value: t.to_owned(), span: i.span() }),
            _ => r.error(i.span(), format!("`{key}` holds something else than field names"), "expected a name", None),
        }
    }
    if v.get_ref().is_array() && items.len() < least {
        let names = if least == 1 { "one name" } else { "two names" };
        r.error(v.span(), format!("`{key}` names too few fields"), format!("expected at least {names}"), None);
        return None;
    }
    (all.len() == items.len() && all.len() >= least).then_some(all)
}
