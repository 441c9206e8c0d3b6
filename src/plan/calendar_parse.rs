//! Reads `[[window]]` and `[[freeze]]`.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{ToSpan, civil};
use toml::Spanned;
use toml::de::DeValue;

use super::calendar::{Calendar, DAY, DAYS, Freeze, Window};
use super::reader::{At, Reader, Table, nearest};

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>) -> Calendar {
    let windows = r.tables(t, "window", "[[window]]");
    let freezes = r.tables(t, "freeze", "[[freeze]]");
    Calendar {
        windows: windows.iter().filter_map(|t| read_window(r, t)).collect(),
        freezes: freezes.iter().filter_map(|t| read_freeze(r, t)).collect(),
    }
}

fn read_window(r: &mut Reader, t: &Table<'_, '_>) -> Option<Window> {
    r.only(t, &["days", "from", "to", "tz"]);
    let days = read_days(r, t);
    let from = r.required(t, "from", "\"09:00\"").and_then(|w| time(r, w, DAY - 1));
    let to = r.required(t, "to", "\"17:00\"").and_then(|w| time(r, w, DAY));
    let zone = read_zone(r, t);
    if let (Some(from), Some(to)) = (&from, &to)
        && from.value == to.value
    {
        let help =
            "a whole day is `from = \"00:00\"`, `to = \"24:00\"`; a window over midnight ends earlier than it begins";
        r.error(to.span.clone(), "the window is empty", "expected another time", Some(help.into()));
        return None;
    }
    Some(Window { days: days?, from: from?.value, to: to?.value, zone: zone? })
}

fn read_days(r: &mut Reader, t: &Table<'_, '_>) -> Option<Vec<Weekday>> {
    let at = t.table.get("days").map(Spanned::span);
    let mut days = Vec::new();
    for item in r.items(t, "days", "an array of days") {
        let Some(text) = item.get_ref().as_str() else {
            let expected = format!("expected a day, found {}", item.get_ref().type_str());
            r.error(item.span(), "`days` has the wrong type", expected, None);
            return None;
        };
        let day = r.word(&At { value: text.to_owned(), span: item.span() }, "day", &DAYS)?;
        if !days.contains(&day) {
            days.push(day);
        }
    }
    match (days.is_empty(), at) {
        (false, _) => Some(days),
        (true, Some(at)) => {
            if t.table.get("days").is_some_and(|v| v.get_ref().is_array()) {
                r.error(at, "the window has no days: it would never open", "expected at least one", None);
            }
            None
        }
        (true, None) => {
            r.missing(t, "days", "[\"mon\", \"tue\", \"wed\", \"thu\"]");
            None
        }
    }
}

/// `HH:MM`, in minutes after midnight.
fn time(r: &mut Reader, word: At<String>, most: u16) -> Option<At<u16>> {
    let parsed = word.value.split_once(':').and_then(|(h, m)| {
        let two = |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u16>().ok())?;
        let (h, m) = (two(h)?, two(m)?);
        (m < 60).then_some(h * 60 + m).filter(|n| *n <= most)
    });
    if parsed.is_none() {
        let last = if most == DAY { "24:00" } else { "23:59" };
        let message = format!("`{}` is not a time of day", word.value);
        r.error(word.span.clone(), message, format!("expected 00:00 to {last}"), None);
    }
    parsed.map(|value| At { value, span: word.span })
}

fn read_zone(r: &mut Reader, t: &Table<'_, '_>) -> Option<TimeZone> {
    let name = r.required(t, "tz", "\"Europe/Berlin\"")?;
    match TimeZone::get(&name.value) {
        // A name that depends on the machine would open and close elsewhere at another time.
        Ok(zone) if zone.iana_name().is_some() => Some(zone),
        _ => {
            let known: Vec<String> = jiff::tz::db().available().map(|n| n.to_string()).collect();
            let help = match nearest(&name.value, known.iter().map(String::as_str)) {
                near if near.starts_with("did you mean") => near,
                _ => "take a name of the IANA database, like \"Europe/Berlin\", \"America/New_York\" or \"UTC\"".into(),
            };
            let message = format!("unknown time zone `{}`", name.value);
            r.error(name.span, message, "expected an IANA name", Some(help));
            None
        }
    }
}

fn read_freeze(r: &mut Reader, t: &Table<'_, '_>) -> Option<Freeze> {
    r.only(t, &["from", "to", "tz", "reason"]);
    let from = moment(r, t, "from", false);
    let to = moment(r, t, "to", true);
    let zone = read_zone(r, t);
    let reason = r.required(t, "reason", "\"year-end closing\"");
    if let (Some(from), Some(to)) = (&from, &to)
        && from.value >= to.value
    {
        r.error(to.span.clone(), "the freeze ends before it begins", "expected a later date", None);
        return None;
    }
    if let Some(r0) = reason.as_ref().filter(|s| s.value.trim().is_empty()) {
        r.error(r0.span.clone(), "`reason` is empty", "expected a few words for who is held up", None);
    }
    let reason = crate::scrub::short(reason?.value.trim(), 120);
    Some(Freeze { from: from?.value, to: to?.value, zone: zone?, reason })
}

/// A date, which as an end is the end of that day, or a date with a time; in quotes or as TOML writes them.
fn moment(r: &mut Reader, t: &Table<'_, '_>, key: &str, end: bool) -> Option<At<DateTime>> {
    let Some(v) = t.table.get(key) else {
        r.missing(t, key, "\"2026-12-18\"");
        return None;
    };
    let text = match v.get_ref() {
        DeValue::Datetime(d) => d.to_string(),
        other => other.as_str().map(str::to_owned).unwrap_or_default(),
    };
    let parsed = match text.len() {
        10 => text.parse::<Date>().ok().map(|d| {
            let first = if end { d.saturating_add(1.day()) } else { d };
            first.to_datetime(civil::Time::midnight())
        }),
        16 | 19 => text.parse::<DateTime>().ok(),
        _ => None,
    };
    if parsed.is_none() {
        let help = "write it like \"2026-12-18\", or with a time: \"2026-12-18T18:00\"; the zone stands in `tz`";
        let message = format!("`{key}` is no date");
        r.error(v.span(), message, "expected a date, without an offset", Some(help.into()));
    }
    parsed.map(|value| At { value, span: v.span() })
}
