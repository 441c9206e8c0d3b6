//! Reads a plan: the top level, the cluster, the route, limits and triggers. Every mistake is reported with its place.

use super::diagnostics::{Diagnostics, passwords};
use super::reader::{self, At, Reader, Table};
use super::stages::{self, Ground};
use super::types::{ClusterSpec, Collection, Mode, Plan, Slo};
use super::{
    calendar_parse, canonical, collection, declared, gate_parse, hook_parse, observe, pilot, privacy, slo, switch,
    throttle,
};
use crate::runtime::Micros;

/// The schema this build reads.
const SCHEMA: i64 = 1;

impl Plan {
    /// Reads and checks a plan. `name` is the file's name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with line and column.
    pub fn parse(text: &str, name: &str) -> Result<Plan, Diagnostics> {
        let root = reader::parse(text, name)?;
        let mut r = Reader::default();
        let plan = read(&mut r, text, &Table { table: root.get_ref(), span: 0..0, what: "the plan".into() });
        match plan {
            Some(plan) if r.is_clean() => Ok(plan),
            _ => {
                if r.is_clean() {
                    // Each reader reports before it gives up; this keeps an oversight there from looking like success.
                    r.error(0..0, "the plan cannot be read", "", None);
                }
                Err(r.finish(text, name))
            }
        }
    }
}

fn read(r: &mut Reader, text: &str, t: &Table<'_, '_>) -> Option<Plan> {
    if !schema(r, t) {
        return None;
    }
    r.only(
        t,
        &[
            "schema",
            "plan",
            "cluster",
            "route",
            "cutover",
            "rollback",
            "slo",
            "expects",
            "pilot",
            "collection",
            "query",
            "total",
            "reference",
            "throttle",
            "trigger",
            "stage",
            "hook",
            "hooks",
            "window",
            "freeze",
            "privacy",
        ],
    );
    let head = read_head(r, t);
    let cluster = read_cluster(r, text, t);
    let mode = observe::mode(t);
    let (max_staleness, lease, server_gate) = read_route(r, t);
    let freeze_max = read_cutover(r, t, mode);
    let (strand, baseline_ratio) = slo::read_rollback(r, t);
    let objective = slo::read_slo(r, t);
    let expects = slo::read_expects(r, t);
    let collections = collection::read(r, t);
    let cohort = pilot::read(r, t);
    let declared = declared::read(r, t, &collections);
    let throttle = throttle::read(r, t);
    // An objective that is there but wrong is complained about once, not at every metric that needs it.
    let placeholder = Slo { objective: 0.5, period: Micros::from_secs(3_600), latency: None };
    let said = objective.as_ref().or_else(|| t.table.contains_key("slo").then_some(&placeholder));
    let triggers = r.tables(t, "trigger", "[[trigger]]");
    let triggers = triggers.iter().filter_map(|t| gate_parse::read_trigger(r, t, said)).collect();
    let has_pilot = t.table.contains_key("pilot");
    let observes = mode == Mode::Observe;
    let ground = Ground { collections: &collections, slo: said, expects: &expects, has_pilot, observes };
    let stages = stages::read(r, t, &ground);
    let hooks = hook_parse::read(r, t, &stages);
    let told = switch::read(r, t, mode);
    let calendar = calendar_parse::read(r, t);
    let masked = privacy::read(r, t);
    if observes {
        observe::check(r, t, &stages);
    }
    if mode.is_told() {
        switch::check(r, t, mode);
    }
    check_one_cluster(r, t, &collections);
    pilot::check_company(r, t, server_gate);
    let (id, title, version, owner) = head?;
    Some(Plan {
        id,
        title,
        version,
        owner,
        hash: canonical::hash(t.table),
        cluster,
        mode,
        max_staleness,
        lease,
        server_gate,
        freeze_max,
        strand,
        baseline_ratio,
        slo: objective,
        expects,
        pilot: cohort,
        collections,
        declared,
        throttle,
        triggers,
        stages,
        hooks,
        switch: told,
        calendar,
        masked,
    })
}

/// What changes in place is where it is: there is no second cluster.
fn check_one_cluster(r: &mut Reader, t: &Table<'_, '_>, collections: &[Collection]) {
    let next_uri = t.table.get("cluster").and_then(|c| c.get_ref().as_table()).and_then(|c| c.get("next_uri"));
    if let Some(uri) = next_uri.filter(|_| collections.iter().any(|c| c.in_place() && c.shape.is_some())) {
        let help = "leave it out; or give `next` another name to move to another cluster";
        let message = "`next_uri` names a second cluster, but the documents change where they are";
        r.error(uri.span(), message, "expected no `next_uri`", Some(help.into()));
    }
}

/// Checks `schema`; a file of another schema is not read further.
fn schema(r: &mut Reader, t: &Table<'_, '_>) -> bool {
    if !t.table.contains_key("schema") {
        r.missing(t, "schema", "1");
        return true;
    }
    match r.integer(t, "schema", i64::MIN, i64::MAX) {
        Some(n) if n.value != SCHEMA => {
            let message = format!("schema {} is not known to this version of tidegate", n.value);
            r.error(n.span, message, format!("expected {SCHEMA}"), None);
            false
        }
        _ => true,
    }
}

fn read_head(r: &mut Reader, t: &Table<'_, '_>) -> Option<(String, String, u32, String)> {
    if !t.table.contains_key("plan") {
        r.error(0..0, "the table `[plan]` is missing", "", Some("add `[plan]` with at least `id = \"…\"`".into()));
    }
    let t = r.table(t, "plan", "[plan]")?;
    r.only(&t, &["id", "title", "version", "owner"]);
    let id = r.required(&t, "id", "\"orders-v2\"").and_then(|id| check_id(r, &id))?;
    let title = r.string(&t, "title").map_or_else(|| id.clone(), |s| crate::scrub::line(&s.value));
    let version = r.integer(&t, "version", 0, u32::MAX.into()).and_then(|n| u32::try_from(n.value).ok()).unwrap_or(1);
    let owner = r.string(&t, "owner").map(|s| crate::scrub::line(&s.value)).unwrap_or_default();
    Some((id, title, version, owner))
}

/// An id of a plan or a stage.
pub(super) fn check_id(r: &mut Reader, id: &At<String>) -> Option<String> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=60).contains(&id.value.len()) && id.value.bytes().all(ok) {
        return Some(id.value.clone());
    }
    let message = format!("`{}` is not a usable id", id.value);
    r.error(id.span.clone(), message, "expected 1 to 60 of a-z, 0-9 and -", None);
    None
}

fn read_cluster(r: &mut Reader, text: &str, t: &Table<'_, '_>) -> ClusterSpec {
    let mut spec = ClusterSpec { uri: None, next_uri: None, environment: "production".into() };
    let Some(t) = r.table(t, "cluster", "[cluster]") else { return spec };
    r.only(&t, &["uri", "next_uri", "environment"]);
    spec.uri = r.string(&t, "uri").map(|u| check_uri(r, text, u));
    spec.next_uri = r.string(&t, "next_uri").map(|u| check_uri(r, text, u));
    if let Some(e) = r.string(&t, "environment") {
        if e.value.trim().is_empty() {
            r.error(e.span, "`environment` is empty", "expected `production`, `staging` or another word", None);
        } else {
            spec.environment = crate::scrub::short(&e.value, 30);
        }
    }
    spec
}

fn check_uri(r: &mut Reader, text: &str, uri: At<String>) -> String {
    let At { value, span } = uri;
    let inside = span.start + 1..span.end.saturating_sub(1).max(span.start + 1);
    if !passwords(&value.replace(['\n', '\r'], "")).is_empty() {
        // Escapes or line breaks in the file may hide the password from the mask that goes over the whole text.
        let written = &text[span.clone()];
        if written.contains('\\') || written.contains('\n') || passwords(written).is_empty() {
            r.hide(inside);
        }
        let help = "take it from the environment: \"mongodb://user:${TIDEGATE_PASSWORD}@host/\", or the whole string: \"${TIDEGATE_URI}\"";
        r.error(span, "a plan must not contain a password", "a password is written here", Some(help.into()));
        return String::new();
    }
    match super::resolve_env(&value, |_| Some(String::new())) {
        Err(_) => r.error(span, "a `${` is not followed by a variable's name and `}`", "expected `${NAME}`", None),
        Ok(_) if !["mongodb://", "mongodb+srv://", "${"].iter().any(|p| value.starts_with(p)) => {
            if value.contains('@') {
                // Without its scheme the mask that goes over the whole text does not know it.
                r.hide(inside);
            }
            r.error(
                span,
                "this is not a connection string",
                "expected `mongodb://…`, `mongodb+srv://…` or `${NAME}`",
                None,
            );
        }
        Ok(_) => {}
    }
    value
}

fn read_route(r: &mut Reader, t: &Table<'_, '_>) -> (Micros, Micros, bool) {
    let (staleness, lease) = (Micros::from_secs(2), Micros::from_secs(5));
    let Some(t) = r.table(t, "route", "[route]") else { return (staleness, lease, false) };
    r.only(&t, &["mode", "max_staleness", "lease", "server_gate", "flag_file"]);
    if let Some(mode) = r.string(&t, "mode") {
        r.word(&mode, "mode", &Mode::ALL.map(|m| (m.name(), ())));
    }
    let staleness = r.duration_in(&t, "max_staleness", Micros::from_ms(100), Micros::from_secs(3_600), staleness);
    let lease = r.duration_in(&t, "lease", Micros::from_secs(1), Micros::from_secs(60), lease);
    let server_gate = r.boolean(&t, "server_gate").is_some_and(|b| b.value);
    (staleness, lease, server_gate)
}

fn read_cutover(r: &mut Reader, t: &Table<'_, '_>, mode: Mode) -> Micros {
    let (default, most) = match mode.is_told() {
        true => (switch::FREEZE, switch::FREEZE_MAX),
        false => (Micros::from_secs(3), Micros::from_secs(10)),
    };
    let Some(t) = r.table(t, "cutover", "[cutover]") else { return default };
    r.only(&t, &["freeze_max"]);
    r.duration_in(&t, "freeze_max", Micros::from_ms(100), most, default)
}
