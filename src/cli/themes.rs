//! `tidegate themes`.

use serde_json::json;

use super::{DONE, Json, Outcome, out};
use crate::tui::theme::Theme;

pub(super) fn run(json: Json) -> Outcome {
    let mut names: Vec<String> = Theme::built_in().iter().map(|t| t.name().to_owned()).collect();
    let mono = Theme::mono().name().to_owned();
    if Theme::named(&mono).is_some() && !names.contains(&mono) {
        names.push(mono);
    }
    for (i, name) in names.iter().enumerate() {
        match (json.json, i) {
            (true, _) => out::json(&json!({ "kind": "theme", "name": name, "default": i == 0 })),
            (false, 0) => out::line(&format!("{name} (default)")),
            (false, _) => out::line(name),
        }
    }
    Ok(DONE)
}
