//! Commands from other terminals: one document each in the control database, asked by a watcher, answered by the holder of the lease.

use bson::{Bson, RawDocument, RawDocumentBuf, cstr, doc};
use serde::{Deserialize, Serialize};

use crate::cluster::{CONTROL_DB, ClusterTime, Db, Doc, Expect, Failed, Key, Ns, PageLimit, Reason, WriteOp};
use crate::plan::Plan;
use crate::rollout::State;
use crate::runtime::{Micros, Rt, sleep};
use crate::scrub;
use crate::snapshot::{Command, Reply};

/// A command that nobody took for so long is refused: whoever asked has gone on.
pub(super) const VALID: Micros = Micros::from_secs(60);
/// Commands looked at in one round.
const ROUND: PageLimit = PageLimit { docs: 200, bytes: 4 << 20 };
/// More commands than this wait for a later round.
const AT_A_TIME: usize = 1_000;
/// No plan is larger than this as text.
pub(super) const PLAN_MAX: usize = 256 << 10;

/// The namespace of commands.
#[must_use]
pub fn commands_ns() -> Ns {
    Ns::new(CONTROL_DB, "commands")
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// What a key of the dashboard asks.
    Command(Command),
    /// Other gates, triggers, throttle, soak, windows and freezes from here on.
    Amend {
        /// The plan's text.
        plan: String,
        /// Why.
        reason: String,
    },
    /// Somebody is about to see masked values of a document: it is to be in the journal.
    Reveal {
        /// The key, as it was typed.
        key: String,
    },
}

impl Wish {
    /// What is asked, in words.
    #[must_use]
    pub fn words(&self, plan: &Plan) -> String {
        let command = match self {
            Wish::Command(command) => command,
            Wish::Amend { reason, .. } => return format!("amend the plan: {}", scrub::short(reason, 300)),
            Wish::Reveal { key } => return format!("show masked values of {}", scrub::short(key, 200)),
        };
        let stage = |i: usize| plan.stages.get(i).map_or("?", |s| s.id.as_str());
        let way = |hard: bool| if hard { "hard" } else { "soft" };
        match *command {
            Command::Pause => "pause".into(),
            Command::Continue => "continue".into(),
            Command::Advance { stage: at } => format!("leave stage {}", stage(at)),
            Command::Rollback { hard, to: None } => format!("roll back ({})", way(hard)),
            Command::Rollback { hard, to: Some(to) } => format!("roll back to stage {} ({})", stage(to), way(hard)),
            Command::RollbackRange { hard, from } => format!("roll back the buckets from {from} on ({})", way(hard)),
            Command::LeaveBehind => "roll back and leave writes behind".into(),
            Command::RollbackCohort { hard } => format!("roll back the pilot cohort ({})", way(hard)),
            Command::CohortForward => "take the pilot cohort forward again".into(),
            Command::Stop => "stop at a safe point".into(),
        }
    }

    /// It goes on from what was on the screen, and so means that stage and no other. Pausing and going back mean the same everywhere.
    fn is_of_a_stage(&self) -> bool {
        matches!(self, Wish::Command(Command::Advance { .. } | Command::Continue | Command::CohortForward))
    }
}

/// Why a command means another stage than the one it is now.
pub(in crate::engine) fn elsewhere(asked: &Asked, state: &State, plan: &Plan) -> Option<String> {
    let seen = asked.stage.filter(|seen| asked.wish.is_of_a_stage() && *seen != state.stage)?;
    let name = |i: usize| plan.stages.get(i).map_or("?", |s| s.id.as_str());
    Some(format!("it was asked in stage {}; the stage is {} now", name(seen), name(state.stage)))
}

/// A command from another terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Names it among those of its plan; never used twice.
    pub id: String,
    /// Who asks.
    pub by: String,
    /// Server time when it was asked, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The hash of the plan that was on the asker's screen.
    pub plan_hash: String,
    /// The lease epoch that was on the asker's screen.
    pub epoch: i64,
    /// Index of the stage that was on the asker's screen.
    pub stage: Option<usize>,
    /// What.
    pub wish: Wish,
}

/// What became of a command, as its document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody has taken it yet.
    Waiting,
    /// As the engine answered it.
    Reply(Reply),
    /// The runner that carried it out was cut off: the journal says how far it came.
    Unknown(String),
}

impl Answer {
    /// The word that its document has.
    fn state(&self) -> &'static str {
        match self {
            Answer::Waiting => "requested",
            Answer::Reply(Reply::Accepted) => "accepted",
            Answer::Reply(Reply::Applied) => "applied",
            Answer::Reply(Reply::Refused(_)) => "refused",
            Answer::Unknown(_) => "unknown",
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Answer::Reply(Reply::Refused(why)) | Answer::Unknown(why) => Some(why),
            _ => None,
        }
    }

    fn parse(d: &RawDocument) -> Option<Answer> {
        let why = || scrub::short(d.get_str("why").unwrap_or("it does not say why"), 400);
        Some(match d.get_str("state").ok()? {
            "requested" => Answer::Waiting,
            "accepted" => Answer::Reply(Reply::Accepted),
            "applied" => Answer::Reply(Reply::Applied),
            "refused" => Answer::Reply(Reply::Refused(why())),
            "unknown" => Answer::Unknown(why()),
            _ => return None,
        })
    }

    /// Nothing more will be said.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Answer::Waiting | Answer::Reply(Reply::Accepted))
    }
}

/// `<plan>/<id>`.
fn name(plan: &str, id: &str) -> String {
    format!("{plan}/{id}")
}

/// A command's document with its answer.
fn document(
    plan: &str,
    asked: &Asked,
    answer: &Answer,
    answered: Option<(i64, i64)>,
) -> Result<RawDocumentBuf, String> {
    let wish = serde_json::to_string(&asked.wish).map_err(|e| e.to_string())?;
    let mut d = doc! {
        "_id": name(plan, &asked.id), "by": &asked.by, "at_ms": asked.at_ms, "plan_hash": &asked.plan_hash, "epoch": asked.epoch,
        "stage": asked.stage.map(|s| s as i64), "command": wish, "state": answer.state(),
    };
    if let Some(why) = answer.why() {
        d.insert("why", crate::journal::masked(why));
    }
    if let Some((epoch, at_ms)) = answered {
        d.insert("answered_epoch", epoch);
        d.insert("answered_ms", at_ms);
    }
    RawDocumentBuf::try_from(&d).map_err(|e| e.to_string())
}

/// A document of the collection as it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub key: Key,
    /// What it asks; the error says why it cannot be read.
    pub asked: Result<Asked, String>,
    pub answer: Option<Answer>,
    /// Server time of the answer.
    pub answered_ms: Option<i64>,
}

impl Found {
    fn parse(key: &Key, id: &str, d: &Doc) -> Found {
        Found {
            key: key.clone(),
            asked: asked(id, d),
            answer: Answer::parse(d),
            answered_ms: d.get_i64("answered_ms").ok(),
        }
    }
}

fn asked(id: &str, d: &RawDocument) -> Result<Asked, String> {
    let broken = |e: String| format!("the command cannot be read: {}", scrub::short(&e, 200));
    let number = |field: &str| d.get_i64(field).map_err(|e| broken(e.to_string()));
    let text = |field: &str| d.get_str(field).map_err(|e| broken(e.to_string()));
    Ok(Asked {
        id: scrub::short(id, 80),
        by: Some(scrub::short(text("by")?.trim(), 60)).filter(|b| !b.is_empty()).unwrap_or_else(|| "somebody".into()),
        at_ms: number("at_ms")?,
        plan_hash: scrub::short(text("plan_hash")?, 80),
        epoch: number("epoch")?,
        stage: d.get_i64("stage").ok().and_then(|s| usize::try_from(s).ok()),
        wish: serde_json::from_str(text("command")?).map_err(|e| broken(e.to_string()))?,
    })
}

/// The commands of a plan, oldest first; of very many the first ones.
pub(super) async fn list(db: &Db, plan: &str) -> Result<Vec<Found>, Failed> {
    let prefix = name(plan, "");
    let mut from = Key::from(prefix.as_str());
    let mut out = Vec::new();
    loop {
        let page = db.scan(&commands_ns(), Some(&from), ROUND, ClusterTime::ZERO).await?;
        for (key, d) in &page.docs {
            match key.value() {
                bson::RawBsonRef::String(s) if s.starts_with(&prefix) => {
                    out.push(Found::parse(key, &s[prefix.len()..], d))
                }
                _ => return Ok(out),
            }
        }
        match page.docs.last() {
            Some((key, _)) if !page.end && out.len() < AT_A_TIME => from = key.clone(),
            _ => return Ok(out),
        }
    }
}

/// Asks; answers [`Answer::Waiting`] when the command is there for the holder of the lease, otherwise why it is not, or that after
/// `give_up` nobody knows.
pub async fn ask(rt: &Rt, db: &Db, plan: &str, asked: &Asked, give_up: Micros) -> Answer {
    let refused = |why: String| Answer::Reply(Reply::Refused(why));
    let doc = match document(plan, asked, &Answer::Waiting, None) {
        Ok(doc) => doc,
        Err(why) => return refused(why),
    };
    let op = WriteOp::Insert { ns: commands_ns(), doc };
    let until = rt.now() + give_up;
    loop {
        match db.write(&op).await {
            // The same document again, after an answer that was lost.
            Ok(_) | Err(Failed::NotDone(Reason::DuplicateKey { .. })) => return Answer::Waiting,
            Err(f) if f.is_transient() && rt.now() < until => sleep(rt, Micros::from_ms(200)).await,
            Err(f) if is_forbidden(&f) => {
                let ns = commands_ns();
                return refused(format!(
                    "this user may look on, but not ask: it has no right to insert into {ns} ({f})"
                ));
            }
            // It may be there, or come yet, for as long as it is valid.
            Err(f @ Failed::Unknown(_)) => return Answer::Unknown(format!("the command may have been written: {f}")),
            Err(f) => return refused(format!("the command could not be written: {f}")),
        }
    }
}

/// The server does not let this user do it.
fn is_forbidden(f: &Failed) -> bool {
    matches!(f.reason(), Some(Reason::Refused(m)) if m.contains("(code 13)") || m.contains("not authorized"))
}

/// What became of a command; `None` when its document is gone.
///
/// # Errors
/// When the cluster does not answer.
pub async fn answer(db: &Db, plan: &str, id: &str) -> Result<Option<Answer>, Failed> {
    let keys = [Key::from(name(plan, id).as_str())];
    let found = db.read(&commands_ns(), &keys, ClusterTime::ZERO).await?;
    Ok(found.docs.first().and_then(|d| d.as_deref()).and_then(Answer::parse))
}

/// Writes an answer into the document of a command that is still answered by `was`; one that has another answer by now keeps it.
pub(super) async fn write_answer(
    db: &Db,
    plan: &str,
    (asked, was): (&Asked, &Answer),
    answer: &Answer,
    (epoch, at_ms): (i64, i64),
) -> Result<(), Failed> {
    let doc = document(plan, asked, answer, Some((epoch, at_ms))).map_err(|e| Failed::NotDone(Reason::Refused(e)))?;
    replace(db, Key::from(name(plan, &asked.id).as_str()), was, doc).await
}

/// The same for a document that is no command.
pub(super) async fn refuse_torn(db: &Db, key: &Key, why: &str, at_ms: i64) -> Result<(), Failed> {
    let mut doc = RawDocumentBuf::new();
    doc.append(cstr!("_id"), key.value());
    doc.append(cstr!("state"), "refused");
    doc.append(cstr!("why"), why);
    doc.append(cstr!("answered_ms"), at_ms);
    replace(db, key.clone(), &Answer::Waiting, doc).await
}

async fn replace(db: &Db, key: Key, was: &Answer, doc: RawDocumentBuf) -> Result<(), Failed> {
    let only_if = Some(Expect { field: "state", value: Bson::String(was.state().into()) });
    db.write(&WriteOp::Replace { ns: commands_ns(), key, only_if, doc, upsert: false }).await.map(drop)
}

/// Takes a document away; one that is answered, or was never a command.
pub(super) async fn remove(db: &Db, key: &Key) -> Result<(), Failed> {
    db.write(&WriteOp::Delete { ns: commands_ns(), key: key.clone(), only_if: None }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_as_it_was_asked() {
        let wanted = Asked {
            id: "1-a".into(),
            by: "anna".into(),
            at_ms: 5,
            plan_hash: "88".into(),
            epoch: 3,
            stage: Some(2),
            wish: Wish::Command(Command::Rollback { hard: true, to: Some(1) }),
        };
        let refused = Answer::Reply(Reply::Refused("it is not paused".into()));
        let d: Doc = document("p", &wanted, &refused, Some((4, 9))).unwrap().into();
        let found = Found::parse(&Key::from("p/1-a"), "1-a", &d);
        assert_eq!((found.asked, found.answer, found.answered_ms), (Ok(wanted), Some(refused), Some(9)));
        let torn: Doc = bson::rawdoc! { "_id": "p/1", "by": "anna", "state": "requested" }.into();
        assert!(Found::parse(&Key::from("p/1"), "1", &torn).asked.unwrap_err().contains("cannot be read"));
    }
}
