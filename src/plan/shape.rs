//! Reads `shape`: the filter that tells next's documents from legacy's where both live in one collection.

use bson::{Bson, Document};

use super::reader::{At, Reader};

/// What `$type` may name.
pub(super) const TYPES: [&str; 14] = [
    "double",
    "string",
    "object",
    "array",
    "binData",
    "objectId",
    "bool",
    "date",
    "null",
    "int",
    "timestamp",
    "long",
    "decimal",
    "number",
];

/// A filter of `field: value`, `field: { $exists: … }` and `field: { $type: … }`, in extended JSON. What the embedded cluster cannot
/// judge, or what could mean two things, is refused.
pub(super) fn read(r: &mut Reader, text: At<String>) -> Option<Document> {
    let json = match serde_json::from_str::<serde_json::Value>(&text.value) {
        Ok(json @ serde_json::Value::Object(_)) => json,
        Ok(_) => {
            r.error(text.span, "`shape` is a JSON object", "expected `{ … }`", None);
            return None;
        }
        Err(e) => {
            r.error(text.span, format!("`shape` is not JSON: {e}"), "expected `{ … }`", None);
            return None;
        }
    };
    let filter = match Bson::try_from(json) {
        Ok(Bson::Document(d)) => d,
        Ok(_) => {
            r.error(text.span, "`shape` is one value, not a filter", "expected `{ field: value }`", None);
            return None;
        }
        Err(e) => {
            r.error(text.span, format!("`shape` is not extended JSON: {e}"), "expected `{ … }`", None);
            return None;
        }
    };
    if filter.is_empty() {
        let help = "an empty filter fits both shapes; name a field that only next has: '{ \"schema_version\": 2 }'";
        r.error(text.span, "`shape` is empty", "", Some(help.into()));
        return None;
    }
    for (path, value) in &filter {
        if let Err((message, expected)) = check(path, value) {
            r.error(text.span, message, expected, None);
            return None;
        }
    }
    Some(filter)
}

fn check(path: &str, value: &Bson) -> Result<(), (String, &'static str)> {
    if path.split('.').any(|p| p.is_empty() || p.starts_with('$') || p.contains('\0')) {
        return Err((format!("`{path}` is not a field's path"), "expected `{ field: value }`"));
    }
    let operators = match value {
        Bson::Document(d) if d.keys().any(|k| k.starts_with('$')) => d,
        Bson::RegularExpression(_) => return Err(("`shape` takes no pattern".into(), "expected a value")),
        _ => return Ok(()),
    };
    for (op, value) in operators {
        match (op.as_str(), value) {
            ("$exists", Bson::Boolean(_)) => {}
            ("$exists", _) => return Err(("`$exists` is true or false".into(), "expected true or false")),
            ("$type", Bson::String(t)) if TYPES.contains(&t.as_str()) => {}
            ("$type", _) => return Err(("`$type` names a type of BSON".into(), "expected a word like \"decimal\"")),
            _ => return Err((format!("`{op}` is not available in `shape`"), "expected `$exists` or `$type`")),
        }
    }
    Ok(())
}
