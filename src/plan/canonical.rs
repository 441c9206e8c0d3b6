//! The canonical form of a plan, whose hash names it: JSON with sorted keys, so that comments and layout do not matter. Only
//! where the order of keys means something (index keys, constant documents, mapped values) is it kept.

use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// SHA-256 of the canonical form, lowercase hex.
pub(super) fn hash(table: &DeTable<'_>) -> String {
    let mut text = String::new();
    write_table(&mut text, table, false);
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn write_table(out: &mut String, table: &DeTable<'_>, ordered: bool) {
    let mut entries: Vec<_> = table.iter().collect();
    if ordered {
        entries.sort_by_key(|(k, _)| k.span().start);
    } else {
        entries.sort_by(|a, b| a.0.get_ref().cmp(b.0.get_ref()));
    }
    // An ordered table is a list of pairs, so that no reader may sort it.
    out.push(if ordered { '[' } else { '{' });
    for (i, (k, v)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let name = k.get_ref().as_ref();
        out.push_str(if ordered { "[" } else { "" });
        write_text(out, name);
        out.push(if ordered { ',' } else { ':' });
        write_value(out, v, ordered || matches!(name, "keys" | "value" | "was" | "values"));
        out.push_str(if ordered { "]" } else { "" });
    }
    out.push(if ordered { ']' } else { '}' });
}

fn write_value(out: &mut String, value: &Spanned<DeValue<'_>>, ordered: bool) {
    match value.get_ref() {
        DeValue::String(s) => write_text(out, s),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => out.push_str(&n.to_string()),
            Err(_) => write_text(out, n.as_str()),
        },
        // Debug keeps the point of a whole number: 1.0 is not 1.
        DeValue::Float(x) => match x.as_str().parse::<f64>() {
            Ok(x) if x.is_finite() => out.push_str(&format!("{x:?}")),
            _ => write_text(out, x.as_str()),
        },
        DeValue::Boolean(b) => out.push_str(if *b { "true" } else { "false" }),
        DeValue::Datetime(d) => {
            out.push_str("{\"$date\":");
            write_text(out, &d.to_string());
            out.push('}');
        }
        DeValue::Array(items) => {
            out.push('[');
            for (i, v) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, v, ordered);
            }
            out.push(']');
        }
        DeValue::Table(t) => write_table(out, t, ordered),
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
