//! How far next is behind legacy, whether that grows, and how much time is left.

use crate::runtime::Micros;
use crate::snapshot::{LagView, Snapshot};

use super::super::canvas::{Canvas, Titles};
use super::super::format::{self, NOT_KNOWN};
use super::super::theme::Role;
use super::spark;
use ratatui::layout::Rect;

/// Seconds of history the trend is read from.
const TREND_OVER: usize = 10;
/// A change below this a second is called steady.
const STEADY: f64 = 0.02;

/// Where the apply lag is going, in seconds of lag a second; `None` without enough history.
fn slope(lag: &LagView) -> Option<f64> {
    let from = lag.apply_history.len().saturating_sub(TREND_OVER);
    let known: Vec<(usize, f64)> =
        lag.apply_history[from..].iter().enumerate().filter_map(|(i, v)| v.map(|v| (i, v.as_secs_f64()))).collect();
    let ((i, a), (j, b)) = (known.first()?, known.last()?);
    (known.len() >= 3).then(|| (b - a) / (j - i) as f64)
}

fn trend(lag: &LagView) -> (String, Role) {
    let Some(slope) = slope(lag) else { return ("trend not known yet".into(), Role::Dim) };
    if slope > STEADY {
        let left = match (lag.apply, lag.limit) {
            (Some(now), Some(limit)) if now < limit => {
                let left = (limit - now).as_secs_f64() / slope;
                format!(", limit in ~{}", format::span(Micros::from_secs(left.min(1e6) as u64)))
            }
            (Some(_), Some(_)) => ", over the limit".into(),
            _ => String::new(),
        };
        (format!("GROWING{left}"), Role::Warn)
    } else if slope < -STEADY {
        ("draining".into(), Role::Ok)
    } else {
        ("steady".into(), Role::Ok)
    }
}

fn or_not(t: Option<Micros>) -> String {
    t.map_or_else(|| NOT_KNOWN.to_owned(), format::lag)
}

/// Draws the panel.
pub(crate) fn lag(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, focused: bool) {
    let lag = &s.lag;
    let titles = Titles {
        name: "LAG",
        note: lag.limit.map(|l| format!("limit {}", format::lag(l))).unwrap_or_default(),
        right: (format!("oplog {}", or_not(lag.oplog_window)), None),
        focused,
        ..Titles::default()
    };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if h == 0 || w < 20 {
        return;
    }
    let over = lag.apply.zip(lag.limit).is_some_and(|(a, l)| a > l);
    let mut x = c.put(1, 0, "apply ", Role::Dim);
    x = c.put(x, 0, &or_not(lag.apply), if over { Role::Bad } else { Role::Title }) + 1;
    let top = lag.apply_history.iter().flatten().copied().chain(lag.limit).max();
    if let Some(top) = top {
        let line = spark::line(&lag.apply_history, top, w.saturating_sub(x + 1));
        c.put(x, 0, &line, if over { Role::Bad } else { Role::Next });
    }
    let (word, role) = trend(lag);
    x = c.put_fit(1, 1, &word, w - 2, role) + 2;
    let rates = format!("{}/s of {}/s", format::compact(lag.apply_rate), format::compact(lag.source_rate));
    let known = lag.apply.is_some() || lag.source_rate > 0.0;
    if known && x + format::width(&rates) < w {
        c.put_right(w - 1, 1, &rates, Role::Dim);
    }
    let mut x = c.put(1, 2, "reverse ", Role::Dim);
    x = c.put(x, 2, &lag.reverse.map_or_else(|| "off".to_owned(), format::lag), Role::Text) + 2;
    members(&mut c, lag, x, h);
}

/// The members, one a row where there is room, else the worst one.
fn members(c: &mut Canvas<'_>, lag: &LagView, x: usize, h: usize) {
    let w = c.width();
    if lag.members.is_empty() {
        c.put_fit(x, 2, "members not known", w.saturating_sub(x + 1), Role::Dim);
        return;
    }
    if h >= 3 + lag.members.len() {
        for (i, (name, state, behind)) in lag.members.iter().enumerate() {
            let end = c.put_fit(1, 3 + i, name, w.saturating_sub(24), Role::Text);
            c.put_fit(end + 1, 3 + i, state, 12, Role::Dim);
            c.put_right(w - 1, 3 + i, &or_not(*behind), Role::Text);
        }
        return;
    }
    let unknown = lag.members.iter().filter(|m| m.2.is_none()).count();
    let text = match lag.members.iter().filter(|m| m.2.is_some()).max_by_key(|m| m.2) {
        Some((name, _, behind)) if unknown == 0 => format!("worst member {name} {}", or_not(*behind)),
        Some((name, _, behind)) => format!("{name} {}, {unknown} not known", or_not(*behind)),
        None => format!("{unknown} members, lag not known"),
    };
    c.put_fit(x, 2, &text, w.saturating_sub(x + 1), if unknown > 0 { Role::Warn } else { Role::Text });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(history: &[u64]) -> LagView {
        LagView {
            apply: history.last().map(|s| Micros::from_ms(*s)),
            apply_history: history.iter().map(|s| Some(Micros::from_ms(*s))).collect(),
            limit: Some(Micros::from_secs(5)),
            ..LagView::default()
        }
    }

    #[test]
    fn the_trend_says_when_the_limit_is_reached() {
        assert_eq!(trend(&with(&[1_000, 1_500, 2_000, 2_500, 3_000])).0, "GROWING, limit in ~4s");
        assert_eq!(trend(&with(&[3_000, 2_000, 1_000])).0, "draining");
        assert_eq!(trend(&with(&[1_000, 1_000, 1_000])).0, "steady");
        assert_eq!(trend(&with(&[1_000])).0, "trend not known yet");
        assert_eq!(trend(&with(&[5_000, 6_000, 7_000])).0, "GROWING, over the limit");
    }
}
