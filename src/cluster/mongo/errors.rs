//! What a failure means: surely not done, or unknown. When in doubt a write is unknown; a read never is.
//!
//! | seen | reads, statements before the commit | plain writes, admin | commit |
//! |---|---|---|---|
//! | no server selected, invalid argument, authentication | not done | not done | unknown |
//! | I/O error, pool cleared, malformed answer, own timeout | not done | unknown | unknown |
//! | 91 189 11600 11602 13436, 50 64 89 202 262, 6 7 9001, 11601 | not done | unknown | unknown |
//! | 10107 10058 13435 | not done | not done | unknown |
//! | write-concern error | not done | unknown | unknown |
//! | any other code | not done | not done | unknown |
//! | label `TransientTransactionError` | not done | – | not done |
//! | label `NoWritesPerformed` | not done | not done | unknown |

use bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind, NO_WRITES_PERFORMED, SYSTEM_OVERLOADED_ERROR, WriteFailure};

use crate::cluster::survey::Unfit;
use crate::cluster::{Failed, Reason};
use crate::scrub::{before_values, short};

/// Why a cluster cannot be used. Holds no secret of the connection string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MongoError {
    /// The connection string is malformed.
    #[error("the connection string is not usable: {0}")]
    Uri(String),
    /// Nobody answers.
    #[error("no primary answers: {0}. Check the hosts, the credentials and that the replica set has a primary")]
    Unreachable(String),
    /// What answers is nothing that tidegate works with.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A read, or a statement of a transaction whose commit has not been sent: nothing can have been done.
    Harmless,
    /// A write or an admin command: when the answer is lost, so is the outcome.
    Write,
    /// The commit of a transaction.
    Commit,
}

impl Phase {
    /// No answer came.
    pub(super) fn interrupted(self, reason: Reason) -> Failed {
        match self {
            Phase::Harmless => Failed::NotDone(reason),
            Phase::Write | Phase::Commit => Failed::Unknown(reason),
        }
    }

    /// The server answered with an error code.
    fn coded(self, code: i32, reason: Reason) -> Failed {
        match self {
            Phase::Harmless => Failed::NotDone(reason),
            Phase::Write if !is_ambiguous(code) => Failed::NotDone(reason),
            Phase::Write | Phase::Commit => Failed::Unknown(reason),
        }
    }
}

/// Codes after which a write may or may not have been applied: interruptions, shutdowns, time limits, the network behind the server.
fn is_ambiguous(code: i32) -> bool {
    matches!(code, 6 | 7 | 50 | 64 | 89 | 91 | 189 | 202 | 262 | 9001 | 11600..=11602 | 13436)
}

/// The reason behind a server's code.
pub(super) fn reason(code: i32, message: &str) -> Reason {
    let message = if matches!(code, 11000 | 11001) { before_values(message) } else { message };
    let text = short(&format!("{message} (code {code})"), 400);
    match code {
        11000 | 11001 => Reason::DuplicateKey { key: None, message: text },
        136 | 280 | 286 => Reason::HistoryLost(text),
        // WriteConflict, LockTimeout, ConflictingOperationInProgress, TransactionTooOld, NoSuchTransaction, TransactionAborted,
        // SnapshotTooOld, SnapshotUnavailable, PreparedTransactionInProgress, and a killed session.
        112 | 24 | 117 | 225 | 239 | 244 | 246 | 251 | 267 | 11601 => Reason::Conflict(text),
        50 | 64 | 89 | 202 | 262 => Reason::Timeout(text),
        10107 | 10058 | 13435 | 13436 | 11600 | 11602 | 189 | 91 => Reason::NotPrimary(text),
        // CursorNotFound and CursorKilled: the server restarted or gave the cursor up; a new one goes on.
        6 | 7 | 9001 | 43 | 237 => Reason::Network(text),
        _ => Reason::Refused(text),
    }
}

/// The driver's message without the noise around a command error. Secrets are taken out of it before it is cut: half of one is not
/// recognised.
pub(super) fn text(e: &Error) -> String {
    match e.kind.as_ref() {
        ErrorKind::Command(c) => c.message.clone(),
        other => other.to_string(),
    }
}

/// The driver's message as it is told: without secrets, one line, not too long.
pub(super) fn told(e: &Error, hide: impl Fn(&str) -> String) -> String {
    short(&hide(&text(e)), 400)
}

/// Sorts a driver error; `hide` takes secrets out of its text.
pub(super) fn classify(e: &Error, phase: Phase, hide: impl Fn(&str) -> String) -> Failed {
    let message = told(e, &hide);
    let no_writes = phase == Phase::Write && e.contains_label(NO_WRITES_PERFORMED);
    let failed = match e.kind.as_ref() {
        ErrorKind::Command(c) if e.contains_label(SYSTEM_OVERLOADED_ERROR) => {
            phase.coded(c.code, Reason::Timeout(message))
        }
        ErrorKind::Command(c) => phase.coded(c.code, reason(c.code, &message)),
        ErrorKind::Write(WriteFailure::WriteConcernError(w)) => phase.interrupted(reason(w.code, &hide(&w.message))),
        ErrorKind::Write(WriteFailure::WriteError(w)) => phase.coded(w.code, reason(w.code, &hide(&w.message))),
        ErrorKind::ServerSelection { .. } if phase != Phase::Commit => Failed::NotDone(Reason::NotPrimary(message)),
        ErrorKind::ServerSelection { .. } => Failed::Unknown(Reason::NotPrimary(message)),
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::InvalidResponse { .. } => {
            phase.interrupted(Reason::Network(message))
        }
        ErrorKind::InvalidArgument { .. }
        | ErrorKind::Authentication { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::SessionsNotSupported
        | ErrorKind::Shutdown
        | ErrorKind::Transaction { .. }
            if phase != Phase::Commit =>
        {
            Failed::NotDone(Reason::Refused(message))
        }
        _ => phase.interrupted(Reason::Refused(message)),
    };
    match failed {
        Failed::Unknown(r) if no_writes => Failed::NotDone(r),
        other => other,
    }
}

/// Looks for write errors and write-concern errors in an answer that is otherwise good.
pub(super) fn check_reply(answer: &Document, phase: Phase) -> Result<(), Failed> {
    if let Some(Bson::Document(first)) = answer.get_array("writeErrors").ok().and_then(|errors| errors.first()) {
        let code = code_of(first);
        return Err(phase.coded(code, reason(code, first.get_str("errmsg").unwrap_or("write error"))));
    }
    if let Ok(w) = answer.get_document("writeConcernError") {
        let reason = reason(code_of(w), w.get_str("errmsg").unwrap_or("write concern error"));
        return Err(phase.interrupted(reason));
    }
    Ok(())
}

/// The position of the first refused statement in an answer.
pub(super) fn refused_index(answer: &Document) -> Option<usize> {
    let first = answer.get_array("writeErrors").ok()?.first()?.as_document()?;
    usize::try_from(first.get_i32("index").ok()?).ok()
}

fn code_of(d: &Document) -> i32 {
    d.get_i32("code").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::doc;

    #[test]
    fn a_refused_write_is_not_done_and_a_lost_majority_is_unknown() {
        let dup = doc! { "ok": 1, "writeErrors": [{ "index": 3, "code": 11000, "errmsg": "dup" }] };
        assert!(matches!(
            check_reply(&dup, Phase::Write),
            Err(Failed::NotDone(Reason::DuplicateKey { key: None, .. }))
        ));
        assert_eq!(refused_index(&dup), Some(3));
        let late = doc! { "ok": 1, "n": 1, "writeConcernError": { "code": 64, "errmsg": "waiting timed out" } };
        assert!(matches!(check_reply(&late, Phase::Write), Err(Failed::Unknown(Reason::Timeout(_)))));
        assert!(check_reply(&doc! { "ok": 1, "n": 1 }, Phase::Write).is_ok());
    }

    #[test]
    fn an_interrupted_write_is_unknown_but_one_refused_by_a_secondary_is_not_done() {
        for code in [91, 189, 11600, 11602, 50] {
            assert!(matches!(Phase::Write.coded(code, reason(code, "")), Failed::Unknown(_)), "{code}");
            assert!(matches!(Phase::Harmless.coded(code, reason(code, "")), Failed::NotDone(_)), "{code}");
        }
        for code in [10107, 13435, 112, 121, 166, 26] {
            assert!(matches!(Phase::Write.coded(code, reason(code, "")), Failed::NotDone(_)), "{code}");
            assert!(matches!(Phase::Commit.coded(code, reason(code, "")), Failed::Unknown(_)), "{code}");
        }
    }
}
