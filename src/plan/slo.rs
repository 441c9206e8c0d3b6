//! Reads `[slo]`, `[expects]` and `[rollback]`.

use super::reader::{Reader, Table, duration_text, parse_duration};
use super::types::{Expects, Slo, Strand};
use crate::runtime::Micros;

pub(super) fn read_slo(r: &mut Reader, t: &Table<'_, '_>) -> Option<Slo> {
    let t = r.table(t, "slo", "[slo]")?;
    r.only(&t, &["objective", "period", "latency"]);
    if !t.table.contains_key("objective") {
        r.missing(&t, "objective", "0.999");
    }
    let objective = r.number(&t, "objective");
    let (hour, month) = (Micros::from_secs(3_600), Micros::from_secs(30 * 86_400));
    let period = r.duration_in(&t, "period", hour, month, month);
    let latency = t
        .table
        .contains_key("latency")
        .then(|| r.duration_in(&t, "latency", Micros::from_ms(1), Micros::from_secs(60), Micros::from_secs(1)));
    let objective = objective?;
    if !(0.5..=0.999_999).contains(&objective.value) {
        let help = "the share of operations that must be good: 0.999 leaves one in a thousand as the error budget";
        r.error(objective.span, "`objective` is out of range", "expected 0.5 to 0.999999", Some(help.into()));
        return None;
    }
    Some(Slo { objective: objective.value, period, latency })
}

pub(super) fn read_expects(r: &mut Reader, t: &Table<'_, '_>) -> Expects {
    let Some(t) = r.table(t, "expects", "[expects]") else { return Expects::default() };
    r.only(&t, &["reads", "writes"]);
    Expects { reads: read_rate(r, &t, "reads"), writes: read_rate(r, &t, "writes") }
}

/// `"400/s"`, `"90/m"`: operations a second.
fn read_rate(r: &mut Reader, t: &Table<'_, '_>, key: &str) -> Option<f64> {
    let text = r.string(t, key)?;
    let rate = text.value.split_once('/').and_then(|(n, unit)| {
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        Some(f64::from(n.parse::<u32>().ok()?) / seconds)
    });
    if rate.is_none() {
        let message = format!("`{}` is not a rate", text.value);
        r.error(text.span, message, "expected a whole number a second, minute or hour", {
            Some("write it like \"400/s\", \"90/m\" or \"20/h\"".into())
        });
    }
    rate
}

/// How much slower than before the first stage legacy may be when a rollback is called recovered.
const BASELINE_RATIO: f64 = 1.5;

/// `[rollback]`: what becomes of stranded writes, and what counts as recovered.
pub(super) fn read_rollback(r: &mut Reader, t: &Table<'_, '_>) -> (Strand, f64) {
    let Some(t) = r.table(t, "rollback", "[rollback]") else { return (Strand::Ask, BASELINE_RATIO) };
    r.only(&t, &["strand", "baseline_ratio"]);
    let ratio = match r.number(&t, "baseline_ratio") {
        Some(n) if !(1.0..=1_000.0).contains(&n.value) => {
            r.error(n.span, "`baseline_ratio` is out of range", "expected 1 to 1000", None);
            BASELINE_RATIO
        }
        Some(n) => n.value,
        None => BASELINE_RATIO,
    };
    (read_strand(r, &t), ratio)
}

fn read_strand(r: &mut Reader, t: &Table<'_, '_>) -> Strand {
    let Some(strand) = r.string(t, "strand") else { return Strand::Ask };
    if strand.value == "ask" {
        return Strand::Ask;
    }
    let (least, most) = (Micros::from_secs(1), Micros::from_secs(86_400));
    match parse_duration(&strand.value) {
        Some(d) if (least..=most).contains(&d) => Strand::After(d),
        Some(_) => {
            let expected = format!("expected {} to {}", duration_text(least), duration_text(most));
            r.error(strand.span, "`strand` is out of range", expected, None);
            Strand::Ask
        }
        None => {
            let help =
                "after that long without an answer from next, it goes back without the writes that are only there";
            let message = format!("`{}` is neither `ask` nor a duration", strand.value);
            r.error(strand.span, message, "expected `ask`, or a duration like \"30s\"", Some(help.into()));
            Strand::Ask
        }
    }
}
