//! Reads `[privacy]`: what nobody needs to see in order to try a plan out, or to follow a document.

use super::reader::{At, Reader, Table};
use super::steps;

/// Paths that a plan may mask.
const MOST: usize = 200;

/// The paths whose values are masked wherever documents are tried out or shown.
pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>) -> Vec<String> {
    let Some(t) = r.table(t, "privacy", "[privacy]") else { return Vec::new() };
    r.only(&t, &["mask"]);
    let paths = steps::texts(r, &t, "mask", 1, "[\"customer.name\"]").unwrap_or_default();
    if let Some(one_more) = paths.get(MOST) {
        r.error(one_more.span.clone(), "`mask` names too many paths", format!("expected at most {MOST}"), None);
    }
    paths.into_iter().filter_map(|p| check(r, p)).collect()
}

fn check(r: &mut Reader, p: At<String>) -> Option<String> {
    if !steps::is_path(&p.value) {
        r.error(p.span, format!("`{}` is not a path", p.value), "expected field names joined by dots", None);
        return None;
    }
    if p.value == "_id" || p.value.starts_with("_id.") {
        let help = "a document is named by it wherever something is said about it";
        r.error(p.span, "`_id` cannot be masked", "expected other fields", Some(help.into()));
        return None;
    }
    Some(p.value)
}
