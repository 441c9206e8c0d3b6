//! Reads `[[stage.gate]]`, `[[trigger]]` and `[[stage.trigger]]`, and refuses those that could never say anything.

use super::gates::{Action, Bound, Clear, Gate, RollbackMode, Trigger};
use super::metrics_names::{DISTRIBUTIONS, METRICS, MetricName, UnitKind, metric};
use super::reader::{Reader, Table, duration_text, suggest};
use super::types::Slo;
use crate::route::Side;
use crate::runtime::Micros;

const SIDES: [(&str, Side); 2] = [("legacy", Side::Legacy), ("next", Side::Next)];
/// Histograms and gauges are kept for so long.
const LONGEST: Micros = Micros::from_secs(300);
/// Good and failed operations are.
const LONGEST_SLO: Micros = Micros::from_secs(6 * 3_600);

/// The metric and side of a gate or trigger.
fn read_metric(r: &mut Reader, t: &Table<'_, '_>, slo: Option<&Slo>) -> Option<(&'static MetricName, Option<Side>)> {
    let name = r.required(t, "metric", "\"latency.read.p99\"")?;
    let compared = t.table.contains_key("compare");
    let known = if compared { DISTRIBUTIONS } else { METRICS };
    let Some(m) = known.iter().find(|m| m.name == name.value) else {
        let (message, help) = if compared && metric(&name.value).is_some() {
            let message = format!("`{}` is one figure, not a distribution", name.value);
            (message, Some("write `latency.read` or `latency.write`".to_owned()))
        } else if DISTRIBUTIONS.iter().any(|m| m.name == name.value) {
            let help = format!("write `{}.p99`, or add `compare = \"distribution\"`", name.value);
            (format!("`{}` is a distribution, not one figure", name.value), Some(help))
        } else {
            let help = suggest(&name.value, known.iter().map(|m| m.name)).or_else(|| {
                Some("metrics are named like `latency.read.p99`, `errors.write.rate` or `lag.apply`".into())
            });
            (format!("unknown metric `{}`", name.value), help)
        };
        r.error(name.span, message, "", help);
        return None;
    };
    if m.name.starts_with("slo.") && slo.is_none() {
        let help = "add `[slo]` with `objective = 0.999` and `period = \"30d\"`";
        r.error(name.span, format!("`{}` needs an objective", m.name), "", Some(help.into()));
        return None;
    }
    let side = r.string(t, "side");
    match (m.has_side, &side) {
        (true, None) if !t.table.contains_key("side") => {
            let message = format!("`{}` is measured on each side, and `side` is missing", m.name);
            r.error(name.span, message, "", Some("add `side = \"next\"` or `side = \"legacy\"`".into()));
            return None;
        }
        (false, Some(s)) if compared && s.value == "next" => return Some((m, Some(Side::Next))),
        (false, Some(s)) if compared => {
            r.error(s.span.clone(), "it is next's latencies that are compared", "expected `next`, or no `side`", None);
            return None;
        }
        (false, Some(s)) => {
            r.error(s.span.clone(), format!("`{}` has no side", m.name), "expected no `side` here", None);
            return None;
        }
        _ => {}
    }
    if compared {
        return Some((m, Some(Side::Next)));
    }
    let side = side.and_then(|s| r.word(&s, "side", &SIDES));
    (side.is_some() == m.has_side).then_some((m, side))
}

/// A limit in the metric's unit: durations as microseconds, ratios as 0 to 1.
fn read_limit(r: &mut Reader, t: &Table<'_, '_>, key: &str, m: &MetricName) -> Option<f64> {
    let v = t.table.get(key)?;
    if m.unit.is_time() {
        if !v.get_ref().is_str() {
            let expected = format!("expected a duration like \"25ms\", found {}", v.get_ref().type_str());
            r.error(v.span(), format!("`{}` is a time", m.name), expected, None);
            return None;
        }
        return r.duration(t, key).map(|d| d.value.0 as f64);
    }
    if v.get_ref().is_str() {
        r.error(v.span(), format!("`{}` is not a time", m.name), "expected a number", None);
        return None;
    }
    let n = r.number(t, key)?;
    let range = match m.unit {
        UnitKind::Ratio => 0.0..=1.0,
        _ => 0.0..=1e15,
    };
    if !range.contains(&n.value) {
        let expected = if m.unit == UnitKind::Ratio { "expected 0 to 1 (1 is 100 %)" } else { "expected 0 or more" };
        r.error(n.span, format!("`{key}` is out of range"), expected, None);
        return None;
    }
    Some(n.value)
}

/// `window` and `long_window`.
fn read_windows(r: &mut Reader, t: &Table<'_, '_>, m: Option<&MetricName>) -> Option<(Micros, Option<Micros>)> {
    let name = m.map_or("", |m| m.name);
    if name.ends_with(".budget_left") {
        for v in ["window", "long_window"].iter().filter_map(|k| t.table.get(*k)) {
            let message = format!("`{name}` is computed over the period of `[slo]`");
            r.error(v.span(), message, "expected no window", None);
        }
        // What the figure is computed over does not matter here; this only says how old it may be.
        return Some((Micros::from_secs(60), None));
    }
    let slo = name.starts_with("slo.");
    let (least, most) = (Micros::from_secs(1), if slo { LONGEST_SLO } else { LONGEST });
    let window = match r.duration(t, "window") {
        None if !t.table.contains_key("window") => {
            r.missing(t, "window", "\"60s\"");
            None
        }
        Some(w) if w.value < least || (m.is_some() && w.value > most) => {
            let expected = format!("expected {} to {}", duration_text(least), duration_text(most));
            r.error(w.span, "`window` is out of range", expected, None);
            None
        }
        w => w.map(|w| w.value),
    };
    let long = r.duration(t, "long_window");
    if let (Some(long), Some(m)) = (&long, m) {
        if !slo {
            let expected = "expected no `long_window` here";
            r.error(long.span.clone(), format!("`{}` takes one window", m.name), expected, None);
            return None;
        }
        if long.value > most || window.is_some_and(|w| long.value <= w) {
            let least = window.map_or_else(String::new, |w| format!("more than {}, ", duration_text(w)));
            let expected = format!("expected {least}at most {}", duration_text(most));
            r.error(long.span.clone(), "`long_window` is out of range", expected, None);
            return None;
        }
    }
    Some((window?, long.map(|l| l.value)))
}

/// `min_samples`, at least `least`; `default` when it is not given.
fn read_samples(r: &mut Reader, t: &Table<'_, '_>, m: &MetricName, least: u64, default: u64, why: &str) -> Option<u64> {
    match r.integer(t, "min_samples", 1, 1_000_000_000) {
        Some(n) if (n.value as u64) < least => {
            let message = format!("{} samples say nothing about `{}`", n.value, m.name);
            r.error(n.span, message, format!("expected at least {least}"), Some(why.into()));
            None
        }
        Some(n) => Some(n.value as u64),
        None => Some(default),
    }
}

pub(super) fn read_gate(r: &mut Reader, t: &Table<'_, '_>, slo: Option<&Slo>) -> Option<Gate> {
    r.only(
        t,
        &[
            "metric",
            "side",
            "max",
            "min",
            "versus",
            "max_ratio",
            "compare",
            "false_alarm",
            "window",
            "long_window",
            "for",
            "min_samples",
        ],
    );
    let metric = read_metric(r, t, slo);
    let windows = read_windows(r, t, metric.map(|(m, _)| m));
    let hold_for = r.duration(t, "for").map_or(Micros::ZERO, |d| d.value);
    let (m, side) = metric?;
    let bound = read_bound(r, t, m, side);
    let why = "a percentile needs ten samples beyond it: n(1-q) >= 10";
    let min_samples = read_samples(r, t, m, m.least_samples(), m.default_samples, why)?;
    let (window, long_window) = windows?;
    Some(Gate { metric: m.name.to_owned(), side, bound: bound?, window, long_window, hold_for, min_samples })
}

fn read_bound(r: &mut Reader, t: &Table<'_, '_>, m: &MetricName, side: Option<Side>) -> Option<Bound> {
    let has = |k: &str| t.table.contains_key(k);
    let (compared, ratio) = (has("compare"), has("versus") || has("max_ratio"));
    if let Some(v) = t.table.get("false_alarm").filter(|_| !compared) {
        let help = "add `compare = \"distribution\"`, or leave it out";
        r.error(v.span(), "`false_alarm` belongs to `compare`", "", Some(help.into()));
    }
    let given = usize::from(has("max")) + usize::from(has("min")) + usize::from(ratio || compared);
    if given != 1 {
        let message = if given == 0 { "this gate has no limit" } else { "this gate has more than one limit" };
        let help =
            "exactly one of `max`, `min`, `versus = \"legacy\"` with `max_ratio`, or `compare = \"distribution\"`";
        r.error(t.span.clone(), message, "", Some(help.into()));
        return None;
    }
    if compared {
        return read_compare(r, t);
    }
    if has("max") {
        return read_limit(r, t, "max", m).map(Bound::Max);
    }
    if has("min") {
        return read_limit(r, t, "min", m).map(Bound::Min);
    }
    let versus = r.required(t, "versus", "\"legacy\"");
    if !has("max_ratio") {
        r.missing(t, "max_ratio", "1.5");
    }
    let max_ratio = read_ratio(r, t, 0.0);
    let versus = versus?;
    let baseline = r.word(&versus, "thing to compare with", &[("legacy", false), ("baseline", true)])?;
    if !baseline && side != Some(Side::Next) {
        let expected = "expected a metric of `side = \"next\"`";
        r.error(versus.span, "only a metric of next can be compared with legacy", expected, None);
        return None;
    }
    if baseline && m.name.starts_with("slo.") {
        let help = "a burn rate has its limit in itself: 1 uses the budget up in just the period";
        r.error(versus.span, format!("`{}` has no baseline", m.name), "expected `max` or `min`", Some(help.into()));
        return None;
    }
    let max_ratio = max_ratio?;
    Some(if baseline { Bound::MaxRatioToBaseline(max_ratio) } else { Bound::MaxRatioToLegacy(max_ratio) })
}

fn read_ratio(r: &mut Reader, t: &Table<'_, '_>, least: f64) -> Option<f64> {
    let ratio = r.number(t, "max_ratio")?;
    if ratio.value < least || ratio.value <= 0.0 || ratio.value > 1_000.0 {
        let from = if least > 0.0 { format!("{least}") } else { "more than 0".into() };
        r.error(ratio.span, "`max_ratio` is out of range", format!("expected {from}, at most 1000"), None);
        return None;
    }
    Some(ratio.value)
}

fn read_compare(r: &mut Reader, t: &Table<'_, '_>) -> Option<Bound> {
    let how = r.string(t, "compare")?;
    r.word(&how, "comparison", &[("distribution", ())])?;
    if let Some(versus) = r.string(t, "versus")
        && versus.value != "legacy"
    {
        let help = "a baseline keeps figures, not distributions";
        r.error(versus.span, "distributions are compared with legacy's", "expected `legacy`", Some(help.into()));
        return None;
    }
    let max_ratio = if t.table.contains_key("max_ratio") { read_ratio(r, t, 1.0)? } else { 1.0 };
    let false_alarm = match r.number(t, "false_alarm") {
        Some(a) if !(0.000_1..=0.2).contains(&a.value) => {
            r.error(a.span, "`false_alarm` is out of range", "expected 0.0001 to 0.2", None);
            return None;
        }
        a => a.map_or(0.01, |a| a.value),
    };
    Some(Bound::LikeLegacy { false_alarm, max_ratio })
}

pub(super) fn read_trigger(r: &mut Reader, t: &Table<'_, '_>, slo: Option<&Slo>) -> Option<Trigger> {
    r.only(
        t,
        &[
            "metric",
            "side",
            "above",
            "window",
            "long_window",
            "for",
            "min_samples",
            "clear_below",
            "clear_for",
            "action",
            "mode",
        ],
    );
    let action = read_action(r, t);
    let metric = read_metric(r, t, slo);
    let windows = read_windows(r, t, metric.map(|(m, _)| m));
    let hold_for = r.duration(t, "for").map_or(Micros::ZERO, |d| d.value);
    let clear_for = r.duration(t, "clear_for").map_or(Micros::ZERO, |d| d.value);
    if !t.table.contains_key("above") {
        r.missing(t, "above", "0.01");
    }
    let (m, side) = metric?;
    let above = read_limit(r, t, "above", m);
    let below = read_limit(r, t, "clear_below", m);
    if let (Some(above), Some(below), Some(v)) = (above, below, t.table.get("clear_below"))
        && below > above
    {
        r.error(v.span(), "`clear_below` is above `above`", "expected a smaller value", None);
    }
    if m.name.ends_with(".budget_left") {
        let help = "make it a gate with `min`, or a trigger on the burn rate";
        r.error(t.span.clone(), "a budget is spent when it is small, not above something", "", Some(help.into()));
        return None;
    }
    let action = action?;
    if let (Action::Rollback(_), Some(Side::Legacy), Some(v)) = (action, side, t.table.get("action")) {
        let help = "going back would not help users; use `action = \"pause\"`";
        r.error(v.span(), "this trigger breaches when legacy does", "expected `pause`", Some(help.into()));
    }
    // A pause is cheap and should be quick: one sample beyond the percentile will do. Going back is neither.
    let counted = m.name.starts_with("errors.") || m.name.starts_with("slo.");
    let quick = m.permille.map_or(if counted { 20 } else { 1 }, |_| m.least_samples().div_ceil(10));
    let (least, default, why) = match action {
        Action::Pause => (m.least_samples().div_ceil(10), quick, "a percentile needs a sample beyond it: n(1-q) >= 1"),
        Action::Rollback(_) => (
            m.least_samples(),
            m.default_samples,
            "going back needs ten samples beyond the percentile: n(1-q) >= 10; a pause one",
        ),
    };
    let min_samples = read_samples(r, t, m, least, default, why)?;
    let (above, (window, long_window)) = (above?, windows?);
    let clear = Clear { below: below.unwrap_or(above), hold_for: clear_for };
    Some(Trigger { metric: m.name.to_owned(), side, above, window, long_window, hold_for, min_samples, clear, action })
}

fn read_action(r: &mut Reader, t: &Table<'_, '_>) -> Option<Action> {
    let action = r.string(t, "action");
    let mode = r.string(t, "mode");
    let rollback = match &action {
        Some(a) => r.word(a, "action", &[("pause", false), ("rollback", true)])?,
        None => false,
    };
    match mode {
        Some(m) if !rollback => {
            let help = "a pause has no mode; did you mean `action = \"rollback\"`?";
            r.error(m.span, "`mode` belongs to `action = \"rollback\"`", "expected no `mode`", Some(help.into()));
            None
        }
        Some(m) => {
            let modes = [("soft", RollbackMode::Soft), ("hard", RollbackMode::Hard)];
            r.word(&m, "mode", &modes).map(Action::Rollback)
        }
        None if rollback => Some(Action::Rollback(RollbackMode::Soft)),
        None => Some(Action::Pause),
    }
}
