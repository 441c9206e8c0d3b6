//! Steps that move fields and keep what is in them: rename, nest, flatten, split, join and wrap.

use super::{At, Reader, Step, Table, Touched, parent, path, texts};

pub(super) fn rename(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["rename", "to"]);
    let from = r.string(s, "rename").and_then(|p| path(r, p, touched));
    let to = r.required(s, "to", "\"new_name\"").and_then(|p| path(r, p, touched));
    Some(Step::Rename { from: from?, to: to? })
}

/// The last segment of a path.
fn name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

pub(super) fn nest(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["nest", "into"]);
    let paths = texts(r, s, "nest", 1, "[\"street\", \"zip\"]");
    let into = r.required(s, "into", "\"address\"");
    let (paths, into) = (paths?, into?);
    let mut all = Vec::new();
    for p in paths {
        let target = At { value: format!("{}.{}", into.value, name(&p.value)), span: p.span.clone() };
        let source = path(r, p, touched)?;
        path(r, target, touched)?;
        all.push(source);
    }
    Some(Step::Nest { paths: all, into: into.value })
}

pub(super) fn flatten(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["flatten", "prefix", "fields"]);
    let doc = r.string(s, "flatten");
    let prefix = r.string(s, "prefix");
    if let Some(p) = &prefix
        && (p.value.contains(['.', '\0']) || p.value.starts_with('$'))
    {
        r.error(
            p.span.clone(),
            format!("`{}` cannot begin a field name", p.value),
            "expected a name's beginning",
            None,
        );
        return None;
    }
    if s.table.contains_key("fields") {
        let fields = texts(r, s, "fields", 1, "[\"street\", \"zip\"]");
        return flatten_some(r, &doc?, prefix.map(|p| p.value).unwrap_or_default(), fields?, touched);
    }
    if prefix.is_none() && !s.table.contains_key("prefix") {
        let help = "add `prefix = \"address_\"` for every field, or `fields = [\"street\", \"zip\"]` for these";
        r.error(s.span.clone(), "this `flatten` does not say which fields", "", Some(help.into()));
    }
    flatten_all(r, doc?, prefix?, touched)
}

fn flatten_some(
    r: &mut Reader,
    doc: &At<String>,
    prefix: String,
    fields: Vec<At<String>>,
    touched: &mut Touched,
) -> Option<Step> {
    let above = parent(&doc.value);
    let mut all = Vec::new();
    for f in fields {
        if f.value.contains('.') {
            r.error(f.span, format!("`{}` is not a field of `{}`", f.value, doc.value), "expected names only", None);
            return None;
        }
        let to = if above.is_empty() { String::new() } else { format!("{above}.") } + &prefix + &f.value;
        path(r, At { value: format!("{}.{}", doc.value, f.value), span: f.span.clone() }, touched)?;
        path(r, At { value: to, span: f.span }, touched)?;
        all.push(f.value);
    }
    Some(Step::Flatten { path: doc.value.clone(), prefix, fields: Some(all) })
}

/// Every field: the way back takes all that begins with the prefix, so nothing else may.
fn flatten_all(r: &mut Reader, doc: At<String>, prefix: At<String>, touched: &mut Touched) -> Option<Step> {
    let above = parent(&doc.value).to_owned();
    let own = name(&doc.value).starts_with(&prefix.value);
    if own || (above.is_empty() && "_id".starts_with(&prefix.value)) {
        let what = if own { name(&doc.value) } else { "_id" };
        let message = format!("`prefix` also begins `{what}`: the way back could not tell them apart");
        r.error(prefix.span, message, "expected one that begins no other field", None);
        return None;
    }
    let full = if above.is_empty() { prefix.value.clone() } else { format!("{above}.{}", prefix.value) };
    let clash = touched.paths.iter().find(|p| p.value.starts_with(&full)).map(|p| p.value.clone());
    let other = touched.prefixes.iter().find(|p| p.value.starts_with(&full) || full.starts_with(&p.value));
    if let Some(other) = clash.or_else(|| other.map(|p| format!("{}…", p.value))) {
        let message = format!("two steps touch `{other}`: this one owns every `{full}…`");
        r.error(prefix.span, message, "expected another `prefix`", None);
        return None;
    }
    let path = path(r, doc, touched)?;
    touched.prefixes.push(At { value: full, span: prefix.span });
    Some(Step::Flatten { path, prefix: prefix.value, fields: None })
}

pub(super) fn split(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["split", "at", "into"]);
    let whole = r.string(s, "split");
    let at = separator(r, s, "at");
    let into = texts(r, s, "into", 2, "[\"first\", \"last\"]");
    let (path, into) = beside(r, whole?, into?, touched)?;
    Some(Step::Split { path, at: at?, into })
}

pub(super) fn join(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["join", "with", "to"]);
    let paths = texts(r, s, "join", 2, "[\"first\", \"last\"]");
    let with = separator(r, s, "with");
    let to = r.required(s, "to", "\"name\"");
    let (to, paths) = beside(r, to?, paths?, touched)?;
    Some(Step::Join { paths, with: with?, to })
}

fn separator(r: &mut Reader, s: &Table<'_, '_>, key: &str) -> Option<String> {
    let at = r.required(s, key, "\" \"")?;
    if at.value.is_empty() {
        let message = format!("`{key}` is empty: the parts could not be told apart");
        r.error(at.span, message, "expected at least one character", None);
        return None;
    }
    Some(at.value)
}

/// A text and its parts, which must stand in the same document.
fn beside(
    r: &mut Reader,
    whole: At<String>,
    parts: Vec<At<String>>,
    touched: &mut Touched,
) -> Option<(String, Vec<String>)> {
    if let Some(p) = parts.iter().find(|p| parent(&p.value) != parent(&whole.value)) {
        let message = format!("`{}` and `{}` do not stand in the same document", whole.value, p.value);
        r.error(p.span.clone(), message, "expected fields beside each other", None);
        return None;
    }
    let whole = path(r, whole, touched);
    let parts: Option<Vec<String>> = parts.into_iter().map(|p| path(r, p, touched)).collect();
    Some((whole?, parts?))
}

pub(super) fn wrap(r: &mut Reader, s: &Table<'_, '_>, touched: &mut Touched) -> Option<Step> {
    r.only(s, &["wrap", "as", "field"]);
    let path = r.string(s, "wrap").and_then(|p| path(r, p, touched));
    let kind = r.required(s, "as", "\"array\"");
    let document = kind.and_then(|w| r.word(&w, "shape", &[("array", false), ("document", true)]))?;
    let field = r.string(s, "field");
    match (document, field) {
        (true, None) => {
            r.missing(s, "field", "\"value\"");
            None
        }
        (true, Some(f)) if f.value.is_empty() || f.value.starts_with('$') || f.value.contains(['.', '\0']) => {
            r.error(f.span, format!("`{}` is not a field name", f.value), "expected one name", None);
            None
        }
        (false, Some(f)) => {
            r.error(f.span, "an array has no `field`", "expected `as = \"document\"` with it", None);
            None
        }
        (_, field) => Some(Step::Wrap { path: path?, field: field.map(|f| f.value) }),
    }
}
