//! One record and its exact bytes.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::scrub;
use crate::snapshot::EventLine;

/// `prev` of the first record.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The kind of the last record of a finished journal.
pub const CLOSED: &str = "closed";

/// Who a record was written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A person, by name when they gave one.
    Operator(Option<String>),
    /// A trigger of the plan.
    Trigger,
    /// tidegate itself.
    Engine,
}

impl By {
    /// The same with an operator's name made safe to show; an empty name is none.
    pub(super) fn clean(self) -> By {
        match self {
            By::Operator(Some(name)) => {
                let name = scrub::short(name.trim(), 80);
                By::Operator((!name.is_empty()).then_some(name))
            }
            other => other,
        }
    }
}

impl fmt::Display for By {
    /// `operator`, `operator:anna`, `trigger` or `engine`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Operator(None) => f.write_str("operator"),
            By::Operator(Some(name)) => write!(f, "operator:{name}"),
            By::Trigger => f.write_str("trigger"),
            By::Engine => f.write_str("engine"),
        }
    }
}

impl FromStr for By {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "operator" => Ok(By::Operator(None)),
            "trigger" => Ok(By::Trigger),
            "engine" => Ok(By::Engine),
            _ => match s.strip_prefix("operator:") {
                Some(name) if !name.is_empty() => Ok(By::Operator(Some(name.to_owned()))),
                _ => Err("its `by` is not operator, trigger or engine".to_owned()),
            },
        }
    }
}

/// One record of the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Position in the journal, from 1.
    pub seq: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The rollout.
    pub rollout: String,
    /// The lease's epoch.
    pub epoch: i64,
    /// Who caused it.
    pub by: By,
    /// What it records.
    pub kind: String,
    /// The details.
    pub body: Map<String, Value>,
    /// Hash of the record before, [`GENESIS`] for the first.
    pub prev: String,
    /// SHA-256 of the line's bytes before the `hash` member, lowercase hex.
    pub hash: String,
}

/// `,"hash":"` + 64 hex digits + `"}`.
const HASH_OPEN: &[u8] = b",\"hash\":\"";
const HASH_CLOSE: &[u8] = b"\"}";
const SUFFIX: usize = HASH_OPEN.len() + 64 + HASH_CLOSE.len();

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    seq: u64,
    at: String,
    rollout: String,
    epoch: i64,
    by: String,
    kind: String,
    body: Map<String, Value>,
    prev: String,
    hash: String,
}

impl Record {
    /// The record with its hash computed from everything else.
    #[must_use]
    pub fn sealed(mut self) -> Record {
        // Only times that RFC 3339 can write; a clock that far off is wrong anyway.
        self.at_ms = timestamp(self.at_ms).as_millisecond();
        self.hash = sha256_hex(self.prefix().as_bytes());
        self
    }

    /// The line as stored, without its line end.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.prefix();
        // Writing to a string cannot fail.
        let _ = write!(line, ",\"hash\":\"{}\"}}", self.hash);
        line
    }

    /// The bytes the hash is taken over.
    fn prefix(&self) -> String {
        let quoted = |s: &str| Value::from(s).to_string();
        // A map of strings to values always has a JSON form.
        let body = serde_json::to_string(&self.body).unwrap_or_default();
        ascii_where_unsafe(format!(
            "{{\"seq\":{},\"at\":\"{:.3}\",\"rollout\":{},\"epoch\":{},\"by\":{},\"kind\":{},\"body\":{body},\"prev\":{}",
            self.seq,
            timestamp(self.at_ms),
            quoted(&self.rollout),
            self.epoch,
            quoted(&self.by.to_string()),
            quoted(&self.kind),
            quoted(&self.prev),
        ))
    }

    /// Reads a line (without its line end) and checks its hash over the raw bytes. The chain is not looked at.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Record, String> {
        let Some(cut) = line.len().checked_sub(SUFFIX) else { return Err("it is too short for a record".to_owned()) };
        let (prefix, suffix) = line.split_at(cut);
        let digits = &suffix[HASH_OPEN.len()..HASH_OPEN.len() + 64];
        if !suffix.starts_with(HASH_OPEN) || !suffix.ends_with(HASH_CLOSE) {
            return Err("it does not end in its hash".to_owned());
        }
        if digits != sha256_hex(prefix).as_bytes() {
            return Err("its bytes do not match its hash".to_owned());
        }
        let wire: Wire = serde_json::from_slice(line).map_err(|e| format!("it is not a record: {e}"))?;
        let at: Timestamp = wire.at.parse().map_err(|_| "its `at` is not an RFC 3339 time".to_owned())?;
        let record = Record {
            seq: wire.seq,
            at_ms: at.as_millisecond(),
            rollout: wire.rollout,
            epoch: wire.epoch,
            by: wire.by.parse()?,
            kind: wire.kind,
            body: wire.body,
            prev: wire.prev,
            hash: wire.hash,
        };
        // So that a record copied to another store keeps its bytes and with them its hash.
        if record.line().as_bytes() != line {
            return Err("it is not written the way tidegate writes records".to_owned());
        }
        Ok(record)
    }

    /// True when the hash belongs to the content.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.hash == sha256_hex(self.prefix().as_bytes())
    }

    /// The record as a line of a screen's event log.
    #[must_use]
    pub fn event_line(&self) -> EventLine {
        EventLine {
            seq: self.seq,
            wall_ms: self.at_ms,
            by: scrub::line(&self.by.to_string()),
            kind: scrub::line(&self.kind),
            text: summary(&self.body),
        }
    }
}

/// One line for people: number, time, who, what, details.
#[must_use]
pub fn show(record: &Record) -> String {
    let head = format!("{:>5}  {:.3}  {:<10} {:<20} ", record.seq, timestamp(record.at_ms), record.by, record.kind);
    let text = format!("{}{}", scrub::line(&head), summary(&record.body));
    text.trim_end().to_owned()
}

/// The body's `text`, or else its members, scrubbed and shortened.
fn summary(body: &Map<String, Value>) -> String {
    if let Some(Value::String(text)) = body.get("text") {
        return scrub::short(text, 400);
    }
    let parts: Vec<String> = body
        .iter()
        .map(|(k, v)| match v {
            Value::String(s) => format!("{k}={s}"),
            other => format!("{k}={other}"),
        })
        .collect();
    scrub::short(&parts.join(" "), 400)
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut out, b| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Writes characters that could steer or mislead a terminal as `\uXXXX`. They occur only inside JSON strings, so
/// nothing is lost.
fn ascii_where_unsafe(json: String) -> String {
    let plain = json.is_ascii() && !json.contains('\u{7f}');
    if plain || scrub::line(&json) == json {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    let mut buf = [0; 4];
    for c in json.chars() {
        let text = &*c.encode_utf8(&mut buf);
        if scrub::line(text) == text {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}
