//! The lease holder's part: it publishes its picture, and takes what other terminals ask.
//!
//! Both are tasks of their own that the runner never waits for. What is asked is carried out by the runner, in its turn and in its
//! journal; the documents only say what the journal knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::asked::{self, Answer, Asked, Found, PLAN_MAX, VALID};
use super::view::Put;
use crate::engine::ctx::{Ctx, Message, lock};
use crate::engine::publish::Publisher;
use crate::engine::runner::End;
use crate::gate::Baseline;
use crate::plan::{Plan, amendment};
use crate::rollout::State;
use crate::route::Side;
use crate::runtime::{Micros, timeout};
use crate::snapshot::Reply;

/// A picture is published so often, and at once when the state changes.
const EVERY: Micros = Micros::from_secs(1);
/// But not more often than this.
const AT_MOST: Micros = Micros::from_ms(200);
/// Without a picture for so long, this terminal says that the others see an older one.
const LATE: Micros = Micros::from_secs(5);
/// A runner that ends waits so long for its last picture.
const LAST_WITHIN: Micros = Micros::from_secs(3);
/// How often it is looked whether somebody asks for something.
const LOOK_EVERY: Micros = Micros::from_ms(500);
/// An answered command stays for so long.
const KEPT_MS: i64 = 600_000;

/// How publishing goes, for the snapshot.
#[derive(Default)]
pub(in crate::engine) struct Published {
    /// When a picture was last written; `None` before there is anything to publish.
    last: Option<Micros>,
    /// Why the last attempt failed.
    why: Option<String>,
    /// The server's time, and the runtime's of the same moment.
    server: Option<(i64, Micros)>,
}

impl Published {
    /// What is wrong with it, once it is late.
    pub(in crate::engine) fn problem(&self, now: Micros) -> Option<String> {
        let late = now.since(self.last?);
        let why = self.why.as_deref().unwrap_or("the cluster does not answer");
        (late > LATE).then(|| format!("other terminals see what was {late} ago: {why}"))
    }
}

/// The server's time now, as far as it is known.
async fn server_ms(ctx: &Ctx) -> Option<i64> {
    let now = ctx.rt.now();
    let known = lock(&ctx.live).observed[Side::Legacy as usize].as_ref().map(|(at, o)| (o.server_ms, *at));
    let known = known.or_else(|| lock(&ctx.published).server);
    let (server, at) = match known {
        Some(known) => known,
        None => (ctx.db(Side::Legacy).observe().await.ok()?.server_ms, ctx.rt.now()),
    };
    lock(&ctx.published).server = Some((server, at));
    Some(server + now.since(at).as_ms() as i64)
}

/// Publishes the picture until a newer runner does.
pub(in crate::engine) async fn publish(ctx: Arc<Ctx>, publisher: Arc<Publisher>) {
    lock(&ctx.published).last = Some(ctx.rt.now());
    loop {
        let began = ctx.rt.now();
        match put(&ctx, &publisher, None).await {
            Ok(Put::Done) => {
                let mut published = lock(&ctx.published);
                (published.last, published.why) = (Some(ctx.rt.now()), None);
            }
            Ok(Put::Superseded) => return,
            Err(why) => {
                tracing::debug!(why, "the picture could not be published");
                lock(&ctx.published).why = Some(why);
            }
        }
        ctx.rt.sleep_until(began + AT_MOST).await;
        ctx.wait(publisher.changed(), EVERY.since(AT_MOST)).await;
    }
}

/// One picture after the other: what is on its way arrives before the last one.
async fn put(ctx: &Ctx, publisher: &Publisher, end: Option<&End>) -> Result<Put, String> {
    let mut pen = ctx.pen.lock().await;
    let at_ms = server_ms(ctx).await.ok_or("the server's time is not known")?;
    let snapshot = match end {
        None => publisher.snapshot(),
        Some(end) => Arc::new(publisher.last_snapshot(end)),
    };
    pen.put(ctx.db(Side::Legacy), &snapshot, at_ms, end.map(End::word)).await
}

/// The last picture of a runner that ends: it says how. Best effort, and not for long.
pub(in crate::engine) async fn publish_end(ctx: &Ctx, publisher: &Publisher, end: &End) {
    let last = async {
        while put(ctx, publisher, Some(end)).await.is_err() {
            ctx.sleep(AT_MOST).await;
        }
    };
    let _ = timeout(&ctx.rt, LAST_WITHIN, last).await;
}

/// A command on its way to the runner.
pub(in crate::engine) struct Order {
    pub asked: Asked,
    /// It is refused before anything else is looked at.
    pub refusal: Option<String>,
    /// Told once it is in the journal.
    pub accepted: oneshot::Sender<()>,
    /// Told once its outcome is in the journal.
    pub answered: oneshot::Sender<Reply>,
}

/// Takes commands until the runner ends.
pub(in crate::engine) async fn take_commands(ctx: Arc<Ctx>, publisher: Arc<Publisher>) {
    // Those that this runner is still at: what the journal has of them is that they were taken.
    let mut under_way = BTreeSet::new();
    loop {
        ctx.sleep(LOOK_EVERY).await;
        // What cannot be read or written now is looked at again.
        let Ok(found) = asked::list(ctx.db(Side::Legacy), &ctx.plan.id).await else { continue };
        let Some(now_ms) = server_ms(&ctx).await else { continue };
        for one in found {
            take(&ctx, &publisher, one, now_ms, &mut under_way).await;
        }
    }
}

async fn take(ctx: &Arc<Ctx>, publisher: &Publisher, found: Found, now_ms: i64, under_way: &mut BTreeSet<String>) {
    let db = ctx.db(Side::Legacy);
    let Some(was) = found.answer else {
        // Best effort, like all of these: it is tried again in the next round.
        let _ = asked::remove(db, &found.key).await;
        return;
    };
    if was.is_final() {
        if found.answered_ms.is_none_or(|at| now_ms - at > KEPT_MS) {
            let _ = asked::remove(db, &found.key).await;
        }
        return;
    }
    let asked = match found.asked {
        Ok(asked) => asked,
        Err(why) => return drop(asked::refuse_torn(db, &found.key, &why, now_ms).await),
    };
    // A newer runner than this one was on somebody's screen: this one is about to learn of it.
    if asked.epoch > ctx.epoch {
        return;
    }
    if under_way.contains(&asked.id) {
        return;
    }
    match known(&publisher.state(), &asked.id) {
        Some(answer) => drop(asked::write_answer(db, &ctx.plan.id, (&asked, &was), &answer, (ctx.epoch, now_ms)).await),
        None => {
            let id = asked.id.clone();
            if carry_out(ctx, asked, was, now_ms).await == Some(Reply::Accepted) {
                under_way.insert(id);
            }
        }
    }
}

/// What the journal says of a command that it has; it is never carried out again.
fn known(state: &State, id: &str) -> Option<Answer> {
    Some(match state.asked.get(id)? {
        Some(None) => Answer::Reply(Reply::Applied),
        Some(Some(why)) => Answer::Reply(Reply::Refused(why.clone())),
        None => Answer::Unknown(
            "the runner that carried it out was cut off: what follows `command_asked` in the journal shows how far it came".into(),
        ),
    })
}

/// Has the runner carry it out; answers what it said, if it did.
async fn carry_out(ctx: &Arc<Ctx>, asked: Asked, was: Answer, now_ms: i64) -> Option<Reply> {
    let (accepted, on_accepted) = oneshot::channel();
    let (answered, on_answered) = oneshot::channel();
    let refusal = refusal(ctx, &asked, &was, now_ms);
    let order = Order { asked: asked.clone(), refusal, accepted, answered };
    ctx.to_runner.send(Message::Asked(Box::new(order))).ok()?;
    let mut was = was;
    let plan = &ctx.plan.id;
    let write = |was: Answer, answer: Answer| {
        let (ctx, asked) = (ctx.clone(), asked.clone());
        async move {
            // A lost answer is written again in the next round, from the journal.
            let at = (ctx.epoch, now_ms);
            let _ = asked::write_answer(ctx.db(Side::Legacy), plan, (&asked, &was), &answer, at).await;
        }
    };
    if on_accepted.await.is_ok() {
        let accepted = Answer::Reply(Reply::Accepted);
        write(was, accepted.clone()).await;
        was = accepted;
    }
    let reply = on_answered.await.ok()?;
    let final_answer = Answer::Reply(reply.clone());
    if final_answer != was {
        write(was, final_answer).await;
    }
    Some(reply)
}

/// A plan that may take the place of the one that runs, with what changes.
pub(in crate::engine) struct Amendment {
    pub plan: Plan,
    pub changes: Vec<String>,
}

/// Reads an amended plan; the error says why it is none.
pub(in crate::engine) fn amended(text: &str, old: &Plan, state: &State) -> Result<Amendment, String> {
    if text.len() > PLAN_MAX {
        return Err(format!("the plan has {} bytes, and may have {PLAN_MAX}", text.len()));
    }
    let plan = Plan::parse(text, "plan").map_err(|d| {
        let first = d.render(false);
        format!("the plan is not valid: {}", first.lines().next().unwrap_or("it cannot be read"))
    })?;
    if plan.hash == old.hash {
        return Err("it is the plan that runs: nothing is amended".into());
    }
    let passed = state.stage + usize::from(state.passed);
    let changes = amendment(old, &plan, passed).map_err(|differs| {
        format!(
            "only gates, triggers and soak of stages to come, throttle, windows, freezes and what both sides are asked may change; what differs: {}",
            differs.join("; ")
        )
    })?;
    // A baseline is taken once, before the first stage.
    let measured = Baseline::wanted(old);
    let missing =
        |(metric, window, _): &(String, Micros, u64)| !measured.iter().any(|(m, w, _)| (m, w) == (metric, window));
    if let Some((metric, window, _)) = Baseline::wanted(&plan).into_iter().find(missing) {
        return Err(format!("a gate compares {metric} over {window} with a baseline that was not taken of it"));
    }
    Ok(Amendment { plan, changes })
}

/// Why a command is not carried out, whatever it asks.
fn refusal(ctx: &Ctx, asked: &Asked, was: &Answer, now_ms: i64) -> Option<String> {
    if asked.epoch < ctx.epoch {
        let by = match was {
            Answer::Waiting => "it was not taken before",
            _ => "the runner that took it ended before it carried it out, and",
        };
        return Some(format!("it was asked of epoch {}: {by} epoch {} took the rollout up", asked.epoch, ctx.epoch));
    }
    if asked.plan_hash != ctx.plan.hash {
        let short = |h: &str| h.chars().take(7).collect::<String>();
        return Some(format!(
            "it was asked with plan {} on screen; this is {}",
            short(&asked.plan_hash),
            short(&ctx.plan.hash)
        ));
    }
    let age_ms = now_ms - asked.at_ms;
    if age_ms > VALID.as_ms() as i64 {
        return Some(format!("it was asked {}s ago and not taken in time: ask again", age_ms / 1_000));
    }
    None
}
