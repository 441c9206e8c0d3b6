//! Reading a journal file without changing it: `journal verify`, `journal show`, reports.

use std::fs;
use std::path::Path;

use super::chain::{Head, scan};
use super::file::{head_path, io_error, read_head};
use super::{JournalError, Record};

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Complete records.
    pub records: u64,
    /// Sequence number of the last one, 0 without any.
    pub head_seq: u64,
    /// Its hash.
    pub head_hash: String,
    /// The journal ends in a `closed` record: its rollout is over.
    pub closed: bool,
    /// An unterminated record, never acknowledged, follows the last complete one.
    pub torn_tail: bool,
    /// What a person should know though nothing is damaged.
    pub warnings: Vec<String>,
}

/// Verifies the journal at `path` against `FILE.head` and, when given, against a head hash kept elsewhere.
///
/// # Errors
/// [`JournalError::Damaged`] with the line number, [`JournalError::Head`], or a file that cannot be read.
pub fn verify_file(path: &Path, expected_head: Option<&str>) -> Result<VerifyReport, JournalError> {
    read_file(path, expected_head).map(|(_, report)| report)
}

/// As [`verify_file`], with the records.
///
/// # Errors
/// As [`verify_file`].
pub fn read_file(path: &Path, expected_head: Option<&str>) -> Result<(Vec<Record>, VerifyReport), JournalError> {
    let bytes = fs::read(path).map_err(|e| io_error("read", path, &e))?;
    let head: Option<Head> = read_head(&head_path(path))?;
    let scan = scan(&bytes, head.as_ref())?;
    let end = scan.head();
    let mut warnings = Vec::new();
    if let Some(wanted) = expected_head.map(str::trim) {
        match scan.records.iter().position(|r| r.hash.eq_ignore_ascii_case(wanted)) {
            None => {
                let what = "the journal ends before the expected head, or does not contain it".to_owned();
                return Err(JournalError::Damaged { line: end.seq + 1, what });
            }
            Some(i) if i + 1 < scan.records.len() => {
                warnings.push(format!("{} records follow the expected head", scan.records.len() - i - 1));
            }
            Some(_) => {}
        }
    }
    match &head {
        None if expected_head.is_none() && !scan.closed => warnings.push(
            "there is no FILE.head and no expected head was given: records missing at the end would not show"
                .to_owned(),
        ),
        Some(h) if h.seq < end.seq => {
            warnings.push(format!("the head names record {}; later ones were not acknowledged", h.seq));
        }
        _ => {}
    }
    if scan.torn {
        let cut = bytes.len() - scan.whole;
        warnings.push(format!("the last {cut} bytes are a record that was never finished; resuming cuts them off"));
    }
    let report = VerifyReport {
        records: end.seq,
        head_seq: end.seq,
        head_hash: end.hash,
        closed: scan.closed,
        torn_tail: scan.torn,
        warnings,
    };
    Ok((scan.records, report))
}
