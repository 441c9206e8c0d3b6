//! Time, space and the oplog: estimates with what they rest on, and what they must fit into.

use super::study::Study;
use super::{Facts, Finding, View};
use crate::cluster::survey::{Oplog, Unanswered};
use crate::route::Side;
use crate::runtime::Micros;

/// Assumed where the plan has no `max_docs_per_second`: below the 12 140 documents a second of docs/performance.md.
const DOCUMENTS_A_SECOND: f64 = 10_000.0;
/// Assumed for documents so large that their number is not what counts.
const BYTES_A_SECOND: f64 = 20.0 * 1024.0 * 1024.0;
/// Bytes of an oplog entry beside the document.
const ENTRY: u64 = 150;
/// An oplog that covers less time says little about how fast it fills.
const YOUNG: Micros = Micros::from_secs(300);
/// A runner that is away for longer than the oplog reaches back has lost its place.
const SHORT_WINDOW: Micros = Micros::from_secs(3_600);

/// What a copy would take.
pub(super) struct Estimates {
    /// Documents.
    pub documents: Option<u64>,
    /// Bytes that are written for each, on average, as BSON.
    pub average: Option<f64>,
    /// The basis of that.
    pub average_of: String,
    /// Bytes on disk, indexes included.
    pub disk: Option<u64>,
    /// The basis of that.
    pub disk_of: &'static str,
    /// How long the copy takes.
    pub time: Option<Micros>,
    /// At how many documents a second.
    pub rate: f64,
    /// The basis of that.
    pub rate_of: &'static str,
    /// Bytes that it adds to the oplog.
    pub oplog: Option<u64>,
}

impl Estimates {
    pub(super) fn of(f: &Facts, study: Option<&Study>) -> Estimates {
        let size = f.legacy.size.as_ref().ok().filter(|s| s.documents > 0);
        let documents = f.legacy.count.as_ref().ok().copied().or(size.map(|s| s.documents));
        let sampled = study.filter(|s| s.documents > s.refused.len() + s.mixed.len());
        let (average, average_of) = match (sampled, size) {
            (Some(s), _) => {
                let carried = s.documents - s.refused.len() - s.mixed.len();
                (Some(s.bytes_next as f64 / carried as f64), format!("{carried} sampled documents after T"))
            }
            (None, Some(s)) => (Some(s.bytes as f64 / s.documents as f64), "legacy's average, before T".to_owned()),
            (None, None) => (None, "nothing".to_owned()),
        };
        let rate = match (f.plan.throttle.max_docs_per_second, average) {
            (Some(max), _) => f64::from(max),
            (None, Some(a)) => DOCUMENTS_A_SECOND.min(BYTES_A_SECOND / a.max(1.0)),
            (None, None) => DOCUMENTS_A_SECOND,
        };
        let rate_of =
            if f.plan.throttle.max_docs_per_second.is_some() { "`[throttle] max_docs_per_second`" } else { "assumed" };
        let bytes = documents.zip(average).map(|(n, a)| (n as f64 * a) as u64);
        // As legacy is compressed, so will next be; an index is as large as legacy's are on average.
        let packed = size.filter(|s| s.bytes > 0 && s.stored > 0).map(|s| s.stored as f64 / s.bytes as f64);
        let indexes = size.and_then(|s| {
            let there = f.legacy.indexes.as_ref().ok()?.len().max(1) as u64;
            Some(s.indexes / there * (1 + f.collection().indexes.len() as u64))
        });
        // In place every document is also kept as it was.
        let copies = if f.in_place() { 2 } else { 1 };
        Estimates {
            disk: bytes.map(|b| (b as f64 * packed.unwrap_or(1.0).min(1.0)) as u64 + indexes.unwrap_or(0)),
            disk_of: if packed.is_some() {
                "compressed as legacy is, with its indexes"
            } else {
                "uncompressed, without indexes"
            },
            time: documents.map(|n| Micros((n as f64 / rate * 1e6) as u64)),
            oplog: bytes.zip(documents).map(|(b, n)| (b + n * ENTRY) * copies),
            documents,
            average,
            average_of,
            rate,
            rate_of,
        }
    }

    /// Bytes a second that the copy adds to the oplog.
    fn oplog_rate(&self) -> Option<f64> {
        let time = self.time?.as_secs_f64().max(1.0);
        Some(self.oplog? as f64 / time)
    }
}

/// `1.4 GiB`.
pub(super) fn bytes(n: u64) -> String {
    let mut x = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if x < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{x:.1} {unit}") };
        }
        x /= 1024.0;
    }
    format!("{x:.1} TiB")
}

/// `1 234 567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let apart = |(i, c): (usize, char)| {
        let gap = i > 0 && (digits.len() - i).is_multiple_of(3);
        gap.then_some(' ').into_iter().chain(std::iter::once(c))
    };
    digits.chars().enumerate().flat_map(apart).collect()
}

pub(super) fn copy_time(v: &View<'_>) -> Vec<Finding> {
    let e = &v.estimates;
    let (Some(n), Some(time)) = (e.documents, e.time) else {
        return vec![Finding::skipped(&v.legacy(), &why_not(v))];
    };
    let average = e.average.map_or_else(|| "unknown".into(), |a| bytes(a as u64));
    let rate = count(e.rate as u64);
    vec![Finding::pass(
        &v.legacy(),
        format!(
            "{} documents of {average} ({}): about {time} at {rate} documents/s ({})",
            count(n),
            e.average_of,
            e.rate_of
        ),
    )]
}

fn why_not(v: &View<'_>) -> Unanswered {
    v.f.legacy
        .count
        .as_ref()
        .err()
        .cloned()
        .unwrap_or(Unanswered::NotAsked("it is not known how many documents there are"))
}

pub(super) fn free_space(v: &View<'_>) -> Vec<Finding> {
    let (facts, _) = v.f.side(Side::Next);
    let place = if v.f.clusters.len() < 2 { "the cluster" } else { "next's cluster" };
    let disk = match &facts.disk {
        Ok(disk) => disk,
        Err(why) => return vec![Finding::skipped(place, why)],
    };
    let Some(needed) = v.estimates.disk else { return vec![Finding::skipped(place, &why_not(v))] };
    let free = disk.total.saturating_sub(disk.used);
    let what = if v.f.in_place() { "the originals in tidegate.undo" } else { "next" };
    let text = format!(
        "{what} would take about {} ({}); the primary's disk has {} free",
        bytes(needed),
        v.estimates.disk_of,
        bytes(free)
    );
    let remedy =
        "make room on every member (the others are not looked at), or put next on a cluster of its own with `next_uri`";
    vec![match () {
        () if needed > free => Finding::fail(place, text, remedy),
        () if needed > free / 2 => Finding::warn(place, text, remedy),
        () => Finding::pass(place, text),
    }]
}

/// How long the oplog will reach back when it is full, at the rate at which it has filled so far; and whether that can be told.
fn steady_window(o: &Oplog) -> Option<Micros> {
    let (now, max) = (o.bytes?, o.max_bytes?);
    if now >= max / 10 * 9 {
        return Some(o.window);
    }
    (o.window >= YOUNG).then(|| Micros((o.window.0 as f64 * max as f64 / now.max(1) as f64) as u64))
}

pub(super) fn oplog_window(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| {
        let o = match &c.oplog {
            Ok(o) => o,
            Err(why) => return Finding::skipped(place, why),
        };
        let remedy = "enlarge the oplog (`replSetResizeOplog`), or keep it longer (`storage.oplogMinRetentionHours`)";
        let loses = "a runner or a member that is away for longer has lost its place";
        match steady_window(o) {
            Some(w) if w < SHORT_WINDOW => {
                Finding::warn(place, format!("the oplog reaches back {w} only: {loses}"), remedy)
            }
            Some(w) if w > o.window => {
                Finding::pass(place, format!("the oplog reaches back {}, and will {w} once it is full", o.window))
            }
            Some(w) => Finding::pass(place, format!("the oplog reaches back {w}")),
            None if o.window >= SHORT_WINDOW => Finding::pass(place, format!("the oplog reaches back {}", o.window)),
            None => Finding::note(
                place,
                format!("the oplog reaches back {} so far, too short to say how far it will: {loses}", o.window),
                "look again when it has filled for a while",
            ),
        }
    })
}

pub(super) fn oplog_for_copy(v: &View<'_>) -> Vec<Finding> {
    let (Some(time), Some(rate), Some(total)) = (v.estimates.time, v.estimates.oplog_rate(), v.estimates.oplog) else {
        return vec![Finding::skipped("the copy", &why_not(v))];
    };
    let place = if v.f.clusters.len() < 2 { "the cluster" } else { "next's cluster" };
    let o = match v.f.cluster(Side::Next).map(|c| &c.oplog) {
        Some(Ok(o)) => o,
        Some(Err(why)) => return vec![Finding::skipped(place, why)],
        None => return Vec::new(),
    };
    let Some(max) = o.max_bytes else {
        return vec![Finding::skipped(place, &Unanswered::Right("`collStats` on local.oplog.rs"))];
    };
    let now = o.bytes.filter(|_| o.window >= YOUNG).map_or(0.0, |b| b as f64 / o.window.as_secs_f64());
    let window = Micros((max as f64 / (now + rate).max(1.0) * 1e6) as u64);
    let text = format!(
        "the copy adds about {} to the oplog ({} may have): while it lasts ({time}) the oplog reaches back about {window}",
        bytes(total),
        bytes(max)
    );
    let remedy =
        "lower `[throttle] max_docs_per_second`, or enlarge the oplog (`replSetResizeOplog`) until the copy is done";
    vec![if window < time { Finding::warn(place, text, remedy) } else { Finding::pass(place, text) }]
}
