//! Keeps credentials of connection strings out of records, wherever a text may carry one.

use serde_json::{Map, Value};

const MASK: &str = "***";

/// The body with every connection string's credentials masked.
pub(super) fn body(body: Map<String, Value>) -> Map<String, Value> {
    body.into_iter().map(|(k, v)| (text(k), value(v))).collect()
}

pub(super) fn value(v: Value) -> Value {
    match v {
        Value::String(s) => Value::String(text(s)),
        Value::Array(list) => Value::Array(list.into_iter().map(value).collect()),
        Value::Object(map) => Value::Object(body(map)),
        other => other,
    }
}

/// Masks what stands before the last `@` of a `mongodb://` or `mongodb+srv://` URI, and the values of its options: some
/// are secrets.
pub(super) fn text(s: String) -> String {
    let lower = s.to_ascii_lowercase();
    if !lower.contains("mongodb") {
        return s;
    }
    let mut out = String::with_capacity(s.len());
    let mut at = 0;
    while let Some(found) = ["mongodb://", "mongodb+srv://"]
        .iter()
        .filter_map(|scheme| lower[at..].find(scheme).map(|i| (at + i, scheme.len())))
        .min()
    {
        let begin = found.0 + found.1;
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let end = s[begin..].find(ends).map_or(s.len(), |i| begin + i);
        out.push_str(&s[at..begin]);
        let uri = &s[begin..end];
        let uri = match uri.rfind('@') {
            Some(i) => {
                out.push_str(MASK);
                &uri[i..]
            }
            None => uri,
        };
        match uri.find('?') {
            Some(i) => {
                out.push_str(&uri[..=i]);
                out.push_str(MASK);
            }
            None => out.push_str(uri),
        }
        at = end;
    }
    out.push_str(&s[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_connection_strings_are_masked_wherever_they_stand() {
        let cases = [
            ("mongodb://anna:s3cret@h1,h2/db", "mongodb://***@h1,h2/db"),
            ("cannot reach MongoDB+SRV://u:p@ss@h/?authSource=x&tlsCertificateKeyFilePassword=s3cret now", ""),
            ("mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:s3cret", "mongodb://h/?***"),
            ("two: 'mongodb://a:s3cret@x' \"mongodb://b:s3cret@y\"", "two: 'mongodb://***@x' \"mongodb://***@y\""),
            ("nothing to hide in mongodb", "nothing to hide in mongodb"),
        ];
        for (given, wanted) in cases {
            let got = text(given.to_owned());
            assert!(!got.contains("s3cret") && !got.contains("p@ss"), "{got}");
            if !wanted.is_empty() {
                assert_eq!(got, wanted);
            }
        }
        assert_eq!(text("müller mongodb://ä:ö@ü/ß".to_owned()), "müller mongodb://***@ü/ß");
    }
}
