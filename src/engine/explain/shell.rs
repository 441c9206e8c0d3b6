//! BSON as text that a person pastes into mongosh: every value keeps its type, nothing in it can steer a terminal.

use bson::spec::BinarySubtype;
use bson::{Bson, Document};

/// Longer than this on a line of its own, a document or an array is laid out over several lines.
const WIDTH: usize = 110;

/// A value in mongosh's notation.
pub(super) fn value(v: &Bson) -> String {
    let mut out = String::new();
    write(&mut out, v, 0);
    out
}

/// A command sent to a database; `on` is the connection's name, or `None` for the shell's own.
pub(super) fn run(on: Option<&str>, db: &str, command: &Document) -> String {
    let db = match on {
        None => format!("db.getSiblingDB({})", text(db)),
        Some(name) => format!("{name}.getDB({})", text(db)),
    };
    format!("{db}.runCommand({})", value(&Bson::Document(command.clone())))
}

/// A string literal in ASCII.
pub(super) fn text(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}"))),
        }
    }
    out.push('"');
    out
}

fn name(s: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    let is_identifier = s.chars().all(plain) && s.starts_with(|c: char| !c.is_ascii_digit());
    match s {
        // As a plain name it would set the object's prototype.
        "__proto__" => "[\"__proto__\"]".into(),
        _ if is_identifier => s.into(),
        _ => text(s),
    }
}

fn write(out: &mut String, v: &Bson, indent: usize) {
    let flat = flat(v);
    let parts: Vec<(String, &Bson)> = match v {
        Bson::Document(d) => d.iter().map(|(k, v)| (format!("{}: ", name(k)), v)).collect(),
        Bson::Array(a) => a.iter().map(|v| (String::new(), v)).collect(),
        _ => Vec::new(),
    };
    if parts.is_empty() || indent * 2 + flat.len() <= WIDTH {
        out.push_str(&flat);
        return;
    }
    let (open, close) = if matches!(v, Bson::Array(_)) { ('[', ']') } else { ('{', '}') };
    out.push(open);
    for (label, part) in parts {
        out.push('\n');
        out.push_str(&"  ".repeat(indent + 1));
        out.push_str(&label);
        write(out, part, indent + 1);
        out.push(',');
    }
    out.push('\n');
    out.push_str(&"  ".repeat(indent));
    out.push(close);
}

fn flat(v: &Bson) -> String {
    match v {
        Bson::Document(d) if d.is_empty() => "{}".into(),
        Bson::Document(d) => {
            let parts: Vec<String> = d.iter().map(|(k, v)| format!("{}: {}", name(k), flat(v))).collect();
            format!("{{ {} }}", parts.join(", "))
        }
        Bson::Array(a) => format!("[{}]", a.iter().map(flat).collect::<Vec<_>>().join(", ")),
        Bson::String(s) => text(s),
        Bson::Symbol(s) => text(s),
        Bson::Boolean(b) => b.to_string(),
        Bson::Null => "null".into(),
        Bson::Undefined => "undefined".into(),
        Bson::Int32(n) => format!("NumberInt({n})"),
        Bson::Int64(n) => format!("NumberLong(\"{n}\")"),
        Bson::Double(n) if n.is_nan() => "Double(NaN)".into(),
        Bson::Double(n) if n.is_infinite() => format!("Double({}Infinity)", if *n < 0.0 { "-" } else { "" }),
        Bson::Double(n) => format!("Double({n:?})"),
        Bson::Decimal128(n) => format!("NumberDecimal(\"{n}\")"),
        // Out of JavaScript's range it is written as a number of milliseconds all the same: mongosh refuses it then.
        Bson::DateTime(d) => format!("new Date({})", d.timestamp_millis()),
        Bson::Timestamp(t) => format!("Timestamp({{ t: {}, i: {} }})", t.time, t.increment),
        Bson::ObjectId(id) => format!("ObjectId(\"{id}\")"),
        Bson::Binary(b) if b.subtype == BinarySubtype::Uuid && b.bytes.len() == 16 => {
            let hex: String = b.bytes.iter().map(|b| format!("{b:02x}")).collect();
            format!("UUID(\"{}-{}-{}-{}-{}\")", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
        }
        Bson::MinKey => "MinKey()".into(),
        Bson::MaxKey => "MaxKey()".into(),
        // What is left is read by the shell from its extended JSON.
        other => format!("EJSON.parse({})", text(&other.clone().into_canonical_extjson().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn values_keep_their_types_and_long_documents_are_laid_out() {
        let d = doc! { "n": 1, "l": 2_i64, "x": 5.0, "t": bson::Timestamp { time: 1, increment: 2 }, "__proto__": Bson::Null };
        let wanted = r#"next.getDB("shop").runCommand({ n: NumberInt(1), l: NumberLong("2"), x: Double(5.0), t: Timestamp({ t: 1, i: 2 }), ["__proto__"]: null })"#;
        assert_eq!(run(Some("next"), "shop", &d), wanted);
        assert_eq!(
            value(&Bson::Document(doc! { "a b": [1_i64, "é\u{202e}\""] })),
            "{ \"a b\": [NumberLong(\"1\"), \"\\u00e9\\u202e\\\"\"] }"
        );
        let long = value(&Bson::Array(vec![Bson::String("x".repeat(80)), Bson::String("y".repeat(80))]));
        assert_eq!(long.lines().count(), 4, "{long}");
    }
}
