//! docs/check.md, as far as it is made of the list of checks.

use std::fmt::Write as _;

use super::rights::role;
use super::{CHECKS, Topic};
use crate::plan::Plan;
use crate::route::Side;

/// The table of every check, and the role for an example plan: the part of docs/check.md between its two marks.
#[must_use]
pub fn page(example: &Plan) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    for topic in Topic::ALL {
        let _ = writeln!(out, "### {}\n\n| check | is for |\n|---|---|", title(topic));
        for c in CHECKS.iter().filter(|c| c.topic == topic) {
            let _ = writeln!(out, "| `{}` | {} |", c.name, c.purpose);
        }
        out.push('\n');
    }
    let role = bson::Bson::Document(role(example, Side::Legacy)).into_relaxed_extjson();
    let _ = write!(
        out,
        "### The role\n\nFor the plan `{}`:\n\n```js\ndb.getSiblingDB(\"admin\").runCommand({})\n```\n",
        example.id,
        pretty_role(&role)
    );
    out
}

fn title(topic: Topic) -> String {
    let name = topic.name();
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The command as JSON, a privilege a line.
#[must_use]
pub fn pretty_role(role: &serde_json::Value) -> String {
    let mut out = format!("{{\n  \"createRole\": {},\n  \"privileges\": [\n", role["createRole"]);
    let all = role["privileges"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (i, p) in all.iter().enumerate() {
        let comma = if i + 1 < all.len() { "," } else { "" };
        let _ = writeln!(out, "    {{ \"resource\": {}, \"actions\": {} }}{comma}", p["resource"], p["actions"]);
    }
    out.push_str("  ],\n  \"roles\": []\n}");
    out
}
