//! Reads `[hooks]`, and checks what a plan may say where applications are told which side is theirs (`[route] mode = "copy"` or
//! `"flags"`): nothing moves by bucket, nothing is shadowed, and no gate stands on what only a route's client would report.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::hook::{Hook, Switch};
use super::hook_parse::{read_call, timeout};
use super::observe::{NOT_REPORTED, all};
use super::reader::{Reader, Table};
use super::types::Mode;
use crate::runtime::Micros;

/// How long writes may be held when the plan does not say: a switch takes its time to reach everybody.
pub(super) const FREEZE: Micros = Micros::from_secs(30);
/// The longest that can be said.
pub(super) const FREEZE_MAX: Micros = Micros::from_secs(600);
/// Keys of a stage that need an application that follows the route.
const NEEDS_ROUTE: [&str; 2] = ["shadow", "pilot"];

/// How applications are told; `None` where the mode does not tell them, or it could not be read.
pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>, mode: Mode) -> Option<Switch> {
    if !mode.is_told() {
        if let Some(v) = t.table.get("hooks") {
            let help = "say `[route] mode = \"copy\"` where a switch of your own moves the traffic; what is only told to others is a `[[hook]]`";
            r.error(v.span(), "`[hooks]` has nothing to switch here", "expected no `[hooks]`", Some(help.into()));
        }
        if let Some(v) = route(t, "flag_file") {
            let help = "say `[route] mode = \"flags\"` where applications read their share from a flag file";
            r.error(v.span(), "nobody reads a flag file here", "expected no `flag_file`", Some(help.into()));
        }
        return None;
    }
    let flag_file = read_flag_file(r, t, mode);
    if !t.table.contains_key("hooks") {
        let help = "add `[hooks]` with `switch = { command = [\"./switch.sh\"] }` and `confirm = { command = [\"./confirm.sh\"] }`; docs/adopting.md has both";
        r.error(0..0, "the table `[hooks]` is missing", "", Some(help.into()));
        return None;
    }
    let t = r.table(t, "hooks", "[hooks]")?;
    r.only(&t, &["switch", "confirm"]);
    let switch = match (t.table.contains_key("switch"), mode) {
        (false, Mode::Flags) => None,
        _ => Some(read_hook(r, &t, "switch")?),
    };
    let confirm = read_hook(r, &t, "confirm")?;
    Some(Switch { switch, confirm, flag_file })
}

fn route<'a, 'i>(t: &Table<'a, 'i>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    t.table.get("route").and_then(|r| r.get_ref().as_table()).and_then(|r| r.get(key))
}

fn read_flag_file(r: &mut Reader, t: &Table<'_, '_>, mode: Mode) -> Option<String> {
    match (route(t, "flag_file"), mode) {
        (Some(v), Mode::Copy) => {
            let help = "say `[route] mode = \"flags\"` to have reads move by percentage through it";
            r.error(v.span(), "nobody reads a flag file here", "expected no `flag_file`", Some(help.into()));
            None
        }
        (Some(v), _) => match v.get_ref().as_str() {
            Some(path) if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
                Some(path.to_owned())
            }
            _ => {
                let help = "whoever takes the rollout over writes the same file, from wherever it was started";
                let expected = "expected a whole path, such as \"/srv/orders-flags/flags.json\"";
                r.error(v.span(), "`flag_file` does not say where it is", expected, Some(help.into()));
                None
            }
        },
        (None, Mode::Flags) => {
            let at = route(t, "mode").map_or(0..0, Spanned::span);
            let help = "add `flag_file = \"/srv/orders-flags/flags.json\"` to `[route]`: the file that applications read their share from";
            r.error(at, "mode `flags` needs a flag file", "", Some(help.into()));
            None
        }
        (None, _) => None,
    }
}

fn read_hook(r: &mut Reader, t: &Table<'_, '_>, name: &str) -> Option<Hook> {
    if !t.table.contains_key(name) {
        r.missing(t, name, &format!("{{ command = [\"./{name}.sh\"] }}"));
        return None;
    }
    let t = r.table(t, name, if name == "switch" { "[hooks] switch" } else { "[hooks] confirm" })?;
    r.only(&t, &["command", "env", "url", "headers", "timeout"]);
    let timeout = timeout(r, &t);
    let call = read_call(r, &t)?;
    // How often it is called is the cutover's affair.
    Some(Hook { id: name.to_owned(), on: Vec::new(), stages: Vec::new(), call, timeout, attempts: 1, required: true })
}

/// What makes no sense where applications are told.
pub(super) fn check(r: &mut Reader, t: &Table<'_, '_>, mode: Mode) {
    let word = mode.name();
    if let Some(v) = t.table.get("pilot") {
        let help = "a cohort needs applications that follow the route: `[route] mode = \"route\"`";
        r.error(
            v.span(),
            format!("no cohort can go ahead in mode `{word}`"),
            "expected no `[pilot]`",
            Some(help.into()),
        );
    }
    if let Some(v) = route(t, "lease") {
        r.error(v.span(), format!("nobody holds a lease in mode `{word}`"), "expected no `lease`", None);
    }
    if let Some(v) = t.table.get("slo") {
        let help = "it is kept from what applications report that follow the route";
        r.error(
            v.span(),
            format!("an objective is never measured in mode `{word}`"),
            "expected no `[slo]`",
            Some(help.into()),
        );
    }
    for c in all(t.table, "collection") {
        let name = |key: &str| c.get(key).and_then(|v| v.get_ref().as_str());
        if let (Some(v), true) = (c.get("next"), name("legacy").is_some() && name("legacy") == name("next")) {
            let message = "documents that change where they are leave nothing to switch to";
            let help = "give `next` another name; or say `[route] mode = \"route\"`";
            r.error(v.span(), message, "expected another collection", Some(help.into()));
        }
    }
    for trigger in all(t.table, "trigger") {
        check_metric(r, trigger, word);
    }
    let mut share = Share { reads: 0, writes: 0 };
    for stage in all(t.table, "stage") {
        share = check_stage(r, stage, mode, share);
    }
}

#[derive(Clone, Copy)]
struct Share {
    reads: i64,
    writes: i64,
}

fn check_stage(r: &mut Reader, stage: &DeTable<'_>, mode: Mode, before: Share) -> Share {
    let word = mode.name();
    for key in NEEDS_ROUTE {
        if let Some(v) = stage.get(key) {
            let message = format!("`{key}` needs applications that follow the route, and mode `{word}` has none");
            r.error(v.span(), message, format!("expected no `{key}`"), None);
        }
    }
    for table in ["gate", "trigger"].iter().flat_map(|k| all(stage, k)) {
        check_metric(r, table, word);
    }
    let percent = |key: &str, was: i64| stage.get(key).map_or(Some(was), |v| whole(v.get_ref()));
    // What is no number is complained about where it is read.
    let (Some(reads), Some(writes)) = (percent("reads", before.reads), percent("writes", before.writes)) else {
        return before;
    };
    if !matches!(writes, 0 | 100) {
        // Complained about once, where it is said.
        let Some(v) = stage.get("writes") else { return Share { reads, writes } };
        let help = "writes move by bucket only where applications follow the route: `[route] mode = \"route\"`";
        r.error(v.span(), format!("{writes} % of writes cannot be switched"), "expected 0 or 100", Some(help.into()));
    } else if let Some(v) = stage.get("reads").or(stage.get("writes")).filter(|_| mode == Mode::Copy && reads != writes)
    {
        let message = format!("{reads} % of reads and {writes} % of writes: one switch moves both");
        let help = "give both the same figure, 0 or 100; reads go gradually with `[route] mode = \"flags\"`";
        r.error(v.span(), message, "expected the same figure for both", Some(help.into()));
    }
    Share { reads, writes }
}

fn whole(v: &DeValue<'_>) -> Option<i64> {
    v.as_integer().and_then(|i| i64::from_str_radix(i.as_str(), i.radix()).ok())
}

fn check_metric(r: &mut Reader, t: &DeTable<'_>, word: &str) {
    let Some(v) = t.get("metric") else { return };
    let Some(name) = v.get_ref().as_str().filter(|m| NOT_REPORTED.iter().any(|n| m.starts_with(n))) else { return };
    let help = "it is reported by applications that follow the route; docs/adopting.md lists what is known without";
    r.error(
        v.span(),
        format!("`{name}` is never known in mode `{word}`"),
        "expected another metric",
        Some(help.into()),
    );
}
