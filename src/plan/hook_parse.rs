//! Reads `[[hook]]`.

use toml::Spanned;
use toml::de::DeValue;

use super::diagnostics::passwords;
use super::hook::{Hook, HookCall, Occasion};
use super::parse::check_id;
use super::reader::{At, Reader, Table, nearest};
use super::types::Stage;
use crate::runtime::Micros;

/// How long one attempt may take when the plan does not say.
const TIMEOUT: Micros = Micros::from_secs(10);
/// How often a hook is attempted when the plan does not say.
const ATTEMPTS: u32 = 3;

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>, stages: &[Stage]) -> Vec<Hook> {
    let mut all: Vec<Hook> = Vec::new();
    for t in r.tables(t, "hook", "[[hook]]") {
        r.only(&t, &["id", "on", "stages", "command", "env", "url", "headers", "timeout", "attempts", "required"]);
        let id = r.required(&t, "id", "\"page\"").and_then(|id| {
            let value = check_id(r, &id)?;
            if all.iter().any(|h| h.id == value) {
                r.error(id.span, format!("two hooks are named `{value}`"), "expected another id", None);
                return None;
            }
            Some(value)
        });
        let on = read_on(r, &t);
        let within = read_stages(r, &t, stages);
        let call = read_call(r, &t);
        let timeout = timeout(r, &t);
        let attempts = r.integer(&t, "attempts", 1, 10).and_then(|n| u32::try_from(n.value).ok()).unwrap_or(ATTEMPTS);
        let required = r.boolean(&t, "required");
        if let Some(b) = required.as_ref().filter(|b| b.value && !on.is_empty() && !on.contains(&Occasion::StageBegin))
        {
            let help = "only the beginning of a stage waits for a hook: nothing may hold up a pause or a rollback";
            r.error(b.span.clone(), "`required` has nothing to wait for", "expected `stage_begin` among `on`", {
                Some(help.into())
            });
        }
        let required = required.is_some_and(|b| b.value);
        if let (Some(id), Some(call)) = (id, call) {
            all.push(Hook { id, on, stages: within, call, timeout, attempts, required });
        }
    }
    all
}

/// How long one attempt may take.
pub(super) fn timeout(r: &mut Reader, t: &Table<'_, '_>) -> Micros {
    r.duration_in(t, "timeout", Micros::from_ms(100), Micros::from_secs(600), TIMEOUT)
}

/// The texts of an array; what is no text is complained about.
fn texts(r: &mut Reader, t: &Table<'_, '_>, key: &str, expected: &str) -> Vec<At<String>> {
    let mut all = Vec::new();
    for item in r.items(t, key, expected) {
        match item.get_ref().as_str() {
            Some(s) => all.push(At { value: s.to_owned(), span: item.span() }),
            None => {
                let found = item.get_ref().type_str();
                let expected = format!("expected a string, found {found}");
                r.error(item.span(), format!("`{key}` has the wrong type"), expected, None);
            }
        }
    }
    all
}

fn read_on(r: &mut Reader, t: &Table<'_, '_>) -> Vec<Occasion> {
    let Some(at) = t.table.get("on").map(Spanned::span) else {
        r.missing(t, "on", "[\"needs_operator\", \"rollback\"]");
        return Vec::new();
    };
    let words = texts(r, t, "on", "an array of words");
    if words.is_empty() && t.table.get("on").is_some_and(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty())) {
        r.error(at, "`on` is empty: the hook would never be called", "expected at least one word", None);
    }
    let mut on = Vec::new();
    for word in &words {
        if let Some(o) = r.word(word, "occasion", &Occasion::ALL) {
            on.push(o);
        }
    }
    on
}

fn read_stages(r: &mut Reader, t: &Table<'_, '_>, stages: &[Stage]) -> Vec<String> {
    let mut all = Vec::new();
    for id in texts(r, t, "stages", "an array of stages") {
        let known = stages.iter().map(|s| s.id.as_str());
        // Without a stage that could be read there is nothing to compare with.
        if stages.is_empty() || stages.iter().any(|s| s.id == id.value) {
            all.push(id.value);
        } else {
            let message = format!("`{}` is not a stage of the plan", id.value);
            r.error(id.span, message, "expected a stage's id", Some(nearest(&id.value, known)));
        }
    }
    all
}

pub(super) fn read_call(r: &mut Reader, t: &Table<'_, '_>) -> Option<HookCall> {
    let at = |key: &str| t.table.get(key).map(Spanned::span);
    match (at("command"), at("url")) {
        (Some(_), Some(url)) => {
            r.error(url, "a hook is either a command or a webhook", "expected only one of `command` and `url`", None);
            None
        }
        (None, None) => {
            let help = "add `command = [\"./notify.sh\"]` or `url = \"https://hooks.example.com/${TOKEN}\"`";
            r.error(t.span.clone(), "this hook calls nothing", "", Some(help.into()));
            None
        }
        (Some(_), None) => {
            misplaced(r, t, "headers", "a command has no headers", "env");
            read_command(r, t)
        }
        (None, Some(_)) => {
            misplaced(r, t, "env", "a webhook has no environment", "headers");
            read_webhook(r, t)
        }
    }
}

fn misplaced(r: &mut Reader, t: &Table<'_, '_>, key: &str, message: &str, other: &str) {
    if let Some(v) = t.table.get(key) {
        r.error(v.span(), message, format!("expected `{other}`, or nothing"), None);
    }
}

fn read_command(r: &mut Reader, t: &Table<'_, '_>) -> Option<HookCall> {
    let at = t.table.get("command").map_or(t.span.clone(), Spanned::span);
    let argv: Vec<String> =
        texts(r, t, "command", "an array: the program and its arguments").into_iter().map(|a| a.value).collect();
    let env = pairs(r, t, "env");
    match argv.first() {
        Some(program) if !program.trim().is_empty() => Some(HookCall::Command { argv, env }),
        _ => {
            if r.is_clean() || t.table.get("command").is_some_and(|v| v.get_ref().is_array()) {
                let help =
                    "the program and its arguments, without a shell: `command = [\"./notify.sh\", \"payments\"]`";
                r.error(at, "`command` names no program", "expected at least one string", Some(help.into()));
            }
            None
        }
    }
}

fn read_webhook(r: &mut Reader, t: &Table<'_, '_>) -> Option<HookCall> {
    let headers = pairs(r, t, "headers");
    for (name, _) in &headers {
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            let at = t.table.get("headers").map_or(t.span.clone(), Spanned::span);
            let message = format!("`{}` is not the name of a header", crate::scrub::short(name, 40));
            r.error(at, message, "expected letters, digits and -", None);
        }
    }
    let At { value, span } = r.string(t, "url")?;
    if !passwords(&value).is_empty() {
        r.hide(span.start + 1..span.end.saturating_sub(1).max(span.start + 1));
        let help = "take it from the environment: \"https://hooks.example.com/${TOKEN}\", or a header";
        r.error(span, "a plan must not contain a password", "a password is written here", Some(help.into()));
        return None;
    }
    if super::resolve_env(&value, |_| Some(String::new())).is_err() {
        r.error(span, "a `${` is not followed by a variable's name and `}`", "expected `${NAME}`", None);
        return None;
    }
    if !["https://", "http://", "${"].iter().any(|p| value.starts_with(p)) {
        r.error(span, "this is not a URL that can be posted to", "expected `https://…`, `http://…` or `${NAME}`", None);
        return None;
    }
    Some(HookCall::Webhook { url: value, headers })
}

/// Names and texts of a table, in order. What is named like a secret must come from the environment.
fn pairs(r: &mut Reader, t: &Table<'_, '_>, key: &str) -> Vec<(String, String)> {
    let Some(t) = r.table(t, key, key) else { return Vec::new() };
    let mut all = Vec::new();
    for (name, v) in t.table {
        let name = name.get_ref().to_string();
        let Some(text) = text_of(r, &name, v) else { continue };
        let span = v.span();
        if super::resolve_env(&text, |_| Some(String::new())).is_err() {
            r.error(span, "a `${` is not followed by a variable's name and `}`", "expected `${NAME}`", None);
        } else if is_secret(&name) && !text.contains("${") {
            r.hide(span.start + 1..span.end.saturating_sub(1).max(span.start + 1));
            let help = format!("take it from the environment: {name} = \"${{TOKEN}}\"");
            r.error(span, "a plan must not contain a secret", "a secret is written here", Some(help));
        } else {
            all.push((name, text));
        }
    }
    all
}

fn text_of(r: &mut Reader, name: &str, v: &Spanned<DeValue<'_>>) -> Option<String> {
    let text = v.get_ref().as_str().map(str::to_owned);
    if text.is_none() {
        let expected = format!("expected a string, found {}", v.get_ref().type_str());
        r.error(v.span(), format!("`{name}` has the wrong type"), expected, None);
    }
    text
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "token", "secret", "password", "passwd", "key"].iter().any(|w| name.contains(w))
}
