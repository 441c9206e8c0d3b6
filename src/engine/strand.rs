//! Going back while next does not answer (DESIGN rule 12): how long it has been silent, what is at risk, who decides to leave it
//! behind, and the flip that does. Nothing in here writes on next; what is there is [`super::salvage`]'s.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::Config;
use super::ctx::{Ctx, Halt, lock};
use super::cutover::{Held, silent_process};
use super::live_view::LiveView;
use super::observe::{acks, take_acks};
use super::routing::{Changed, change};
use super::switch;
use super::tail::{self, WORKERS, worker_name};
use crate::cluster::{AdminDone, AdminOp, ClusterTime};
use crate::plan::Strand as Policy;
use crate::rollout::{Event, Sealed, State};
use crate::route::{Frozen, Route, Side};
use crate::runtime::{Micros, timeout};
use crate::snapshot::{Salvaged, StrandView};

/// Next does not answer when it has not for so long: an election is over by then.
pub(super) const SILENT: Micros = Micros::from_secs(5);
/// How long one look may take.
const PATIENCE: Micros = Micros::from_secs(3);
/// How often next is looked at.
const EVERY: Micros = Micros::from_ms(500);

/// Conflicts that the screen names.
const CONFLICTS_SHOWN: usize = 20;

/// What the engine knows of a next that does not answer, or is left behind.
pub(super) struct Strand {
    /// When next last answered, or this process began.
    answered: Mutex<Micros>,
    /// Older runners cannot write on next any more.
    fenced: AtomicBool,
    /// Batches on next whose outcome nobody knows yet.
    pub unsettled: AtomicUsize,
    decided: AtomicBool,
    sealed: Mutex<Option<Sealed>>,
    conflicts: Mutex<BTreeMap<String, Option<String>>>,
    /// Keys looked at by the salvage, of how many.
    pub progress: Mutex<Option<(u64, u64)>>,
    /// What a person chose, by the key's text.
    pub resolve: Vec<(String, Side)>,
    /// Why the operator of this process leaves writes behind, when that was asked for.
    pub reason: Option<String>,
}

impl Strand {
    pub(super) fn new(now: Micros, config: &Config) -> Strand {
        Strand {
            answered: Mutex::new(now),
            fenced: AtomicBool::new(true),
            unsettled: AtomicUsize::new(0),
            decided: AtomicBool::new(false),
            sealed: Mutex::default(),
            conflicts: Mutex::default(),
            progress: Mutex::default(),
            resolve: config.resolve.clone(),
            reason: config.strand_reason.clone(),
        }
    }

    /// Takes over what is durable. The runner's, with every change of its state.
    pub(super) fn follow(&self, state: &State) {
        self.decided.store(state.strand.is_some(), Ordering::SeqCst);
        lock(&self.sealed).clone_from(&state.sealed);
        lock(&self.conflicts).clone_from(&state.conflicts);
    }

    /// Next as it was left behind.
    pub(super) fn sealed(&self) -> Option<Sealed> {
        lock(&self.sealed).clone()
    }

    /// Keys written on both sides, with what a person chose.
    pub(super) fn conflicts(&self) -> BTreeMap<String, Option<String>> {
        lock(&self.conflicts).clone()
    }
}

/// For how long next has not answered; `None` when it does, or when both sides are one cluster.
pub(super) fn silence(ctx: &Ctx) -> Option<Micros> {
    let silent = ctx.rt.now().since(*lock(&ctx.strand.answered));
    (!ctx.one_cluster && silent >= SILENT).then_some(silent)
}

/// Resolves once next does not answer.
pub(super) async fn fallen_silent(ctx: &Ctx) {
    while silence(ctx).is_none() {
        ctx.sleep(EVERY).await;
    }
}

/// Looks whether next answers, twice a second.
pub(super) async fn listen(ctx: Arc<Ctx>) {
    loop {
        if let Some(Ok(_)) = timeout(&ctx.rt, PATIENCE, ctx.db(Side::Next).observe()).await {
            *lock(&ctx.strand.answered) = ctx.rt.now();
        }
        ctx.sleep(EVERY).await;
    }
}

/// Fences older runners out of next as soon as it answers: until then nothing is written there (DESIGN rule 3).
pub(super) fn fence_later(ctx: &Arc<Ctx>) {
    ctx.strand.fenced.store(false, Ordering::SeqCst);
    let later = ctx.clone();
    ctx.spawn("fence next", async move {
        match super::start::fence_out(&later, Side::Next).await {
            Ok(()) => later.strand.fenced.store(true, Ordering::SeqCst),
            Err(halt) => later.report_halt(halt).await,
        }
    });
}

/// Waits until nothing older can write on `side` any more.
pub(super) async fn await_fenced(ctx: &Ctx, side: Side) -> Result<(), Halt> {
    let s = &ctx.strand;
    while side == Side::Next && !(s.fenced.load(Ordering::SeqCst) && s.unsettled.load(Ordering::SeqCst) == 0) {
        if ctx.lets_go() || ctx.is_stopping() {
            return Err(Halt::LetGo);
        }
        ctx.sleep(Micros::from_ms(50)).await;
    }
    Ok(())
}

/// What is at risk while legacy lacks the last writes of next.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AtRisk {
    /// Everything next had up to this time of its own is on legacy.
    pub through: ClusterTime,
    /// How long ago that was, milliseconds: everything written earlier is on legacy.
    pub ms: i64,
    /// Acknowledged writes in that time, by what applications report; `None` when none has.
    pub estimate: Option<u64>,
    pub basis: String,
}

impl AtRisk {
    fn evidence(&self, silent: Option<Micros>) -> Value {
        json!({
            "legacy_has_through": self.through.to_string(),
            "ms_at_risk": self.ms,
            "writes_estimate": self.estimate,
            "estimate_basis": self.basis,
            "next_silent_ms": silent.map(Micros::as_ms),
        })
    }
}

/// What is at risk now. `None` when it is not known up to when legacy has everything.
fn at_risk(ctx: &Ctx, live: &LiveView) -> Option<AtRisk> {
    let through = ctx.tails[Side::Next as usize].through();
    (through > ClusterTime::ZERO).then(|| judge_risk(ctx, live, through))
}

fn judge_risk(ctx: &Ctx, live: &LiveView, through: ClusterTime) -> AtRisk {
    // By this process's own clock where it has seen markers come over; otherwise by next's clock, to the second.
    let ms = match live.lag[Side::Next as usize].as_of() {
        Some(as_of) => ctx.rt.now().since(as_of).as_ms() as i64,
        None => (ctx.rt.wall_ms() - i64::from(through.secs) * 1_000).max(0),
    };
    let window = Micros::from_ms(ms.unsigned_abs());
    let reported = live.metrics.sample("throughput.write", Some(Side::Next), window, ctx.rt.now());
    let estimate = reported.filter(|s| s.samples > 0).map(|s| s.samples);
    let basis = match estimate {
        Some(_) => format!("writes that applications reported as acknowledged by next in the last {window}"),
        None => "no application has reported a write on next since".to_owned(),
    };
    AtRisk { through, ms, estimate, basis }
}

/// `next has not answered for 12s; 14s of writes are not on legacy, about 120 (estimate)`.
pub(super) fn words(ctx: &Ctx) -> String {
    let silent = silence(ctx).map_or_else(|| "for a moment".to_owned(), |t| format!("for {}s", t.0 / 1_000_000));
    let owns = ctx.ownership.route().is_some_and(|r| r.writes_next_below > 0);
    let risk = at_risk(ctx, &lock(&ctx.live));
    match risk.filter(|_| owns) {
        None if owns => format!("next has not answered {silent}; what legacy lacks of it is not known"),
        None => format!("next has not answered {silent}"),
        Some(r) => {
            let count = r.estimate.map_or_else(|| "count not known".to_owned(), |n| format!("about {n}, an estimate"));
            format!(
                "next has not answered {silent}; legacy lacks its last {}s of writes ({count})",
                (r.ms + 999) / 1_000
            )
        }
    }
}

/// How a return of writes goes about next.
pub(super) enum Stand {
    /// It answers: the lossless way.
    Answers,
    /// It does not, and nothing may be left behind yet.
    Waits(String),
    /// What legacy lacks is left behind.
    Leave,
}

/// Looks at next before an attempt to return writes. By the plan's policy only a rollback of everything leaves anything behind.
pub(super) async fn stand(ctx: &Arc<Ctx>, hard: bool, everything: bool) -> Stand {
    if ctx.strand.sealed().is_some() {
        return Stand::Leave;
    }
    let Some(silent) = silence(ctx) else { return Stand::Answers };
    if !hard || !everything {
        return Stand::Waits(format!("{}; only all of it at once can go back without next", words(ctx)));
    }
    if ctx.strand.decided.load(Ordering::SeqCst) {
        return Stand::Leave;
    }
    match ctx.plan.strand {
        Policy::After(limit) if silent >= limit => {
            let why = format!("next has not answered for {silent}, the plan leaves writes behind after {limit}");
            let evidence = at_risk(ctx, &lock(&ctx.live)).unwrap_or_default().evidence(Some(silent));
            ctx.record(Event::StrandDecided { why, evidence }).await;
            Stand::Leave
        }
        Policy::After(limit) => Stand::Waits(format!("{}; left behind after {limit}", words(ctx))),
        Policy::Ask => Stand::Waits(format!("{}; wait, or leave them behind (R)", words(ctx))),
    }
}

/// True when nothing but an operator's word is waited for.
pub(super) fn asks(ctx: &Ctx, state: &State) -> bool {
    let back = state.back.as_ref().is_some_and(|b| b.hard && !b.stranded);
    let owns = ctx.ownership.route().is_some_and(|r| r.writes_next_below > 0);
    back && owns && state.strand.is_none() && ctx.plan.strand == Policy::Ask && silence(ctx).is_some()
}

/// One attempt to give everything back to legacy without next. The inner `Err` says why ownership stays what it was.
pub(super) async fn leave(ctx: &Arc<Ctx>, route: &Route, held: Held<'_>) -> Result<Result<Value, String>, Halt> {
    if let Some(silent) = silent_process(ctx) {
        return Ok(Err(format!("application process {silent} has not renewed its acknowledgement")));
    }
    let began = ctx.rt.now();
    let deadline = began + Micros(ctx.plan.freeze_max.0 * 9 / 10);
    let below = route.writes_next_below;
    let server = ctx.insist("asking for the time", || ctx.db(Side::Legacy).observe()).await?;
    let until_ms = server.server_ms + ctx.plan.freeze_max.as_ms() as i64;
    let frozen = Route { frozen: Some(Frozen { from: 0, to: below, until_ms }), ..route.clone() };
    let frozen = match change(ctx, route, frozen, &format!("buckets 0..{below} frozen")).await? {
        Changed::Won(r) => r,
        Changed::Lost(r) => return Ok(Err(format!("the route moved to epoch {} meanwhile", r.epoch))),
    };
    if let Err(late) = await_following(ctx, frozen.epoch, deadline).await? {
        return Ok(Err(late));
    }
    if ctx.strand.sealed().is_none() {
        if silence(ctx).is_none() {
            return Ok(Err("next answers again: nothing need be left behind".into()));
        }
        seal(ctx, below).await?;
    }
    // Where applications are told, nobody ends the freeze but this runner, and next is sealed by now.
    if ctx.rt.now() >= deadline && !ctx.plan.mode.is_told() {
        return Ok(Err(format!("it took longer than freeze_max {}", ctx.plan.freeze_max)));
    }
    let still = Route { writes_next_below: 0, reads_next_below: 0, shadow: 0, stranded_below: below, ..frozen.clone() };
    let still = match change(ctx, &frozen, still, "everything to legacy without next, still frozen").await? {
        Changed::Won(r) => r,
        Changed::Lost(r) => return Ok(Err(format!("the freeze was undone by epoch {} first", r.epoch))),
    };
    // Next is silent, but not perhaps to everybody: nobody may go on reading there as from the owner.
    while let Err(late) = await_following(ctx, still.epoch, deadline.max(ctx.rt.now() + PATIENCE)).await? {
        if ctx.is_stopping() && ctx.plan.mode.is_told() {
            // Nothing but the freeze keeps some from writing while others still read there.
            return Ok(Err(late));
        }
        if ctx.is_stopping() {
            break;
        }
        held(late);
    }
    let thawed = Route { frozen: None, ..still.clone() };
    let (Changed::Won(now) | Changed::Lost(now)) = change(ctx, &still, thawed, "thawed").await?;
    let took = ctx.rt.now().since(began);
    {
        let mut live = lock(&ctx.live);
        live.longest_freeze = live.longest_freeze.max(Some(took));
    }
    let evidence = ctx.strand.sealed().map_or(Value::Null, |s| s.evidence);
    let text = evidence.get("text").and_then(Value::as_str).unwrap_or("next is sealed").to_owned();
    Ok(Ok(json!({
        "text": format!("every write belongs to legacy; {text}"),
        "epoch": now.epoch,
        "freeze_us": took.0,
        "stranded": evidence,
    })))
}

/// Ends whatever follows either side, finds out up to when legacy has everything, and journals that next is left behind.
async fn seal(ctx: &Arc<Ctx>, below: u16) -> Result<(), Halt> {
    let silent = silence(ctx);
    for side in Side::BOTH {
        ctx.tails[side as usize].cut(ctx).await;
    }
    let through = settled_through(ctx).await?.max(ctx.tails[Side::Next as usize].through());
    let flip = ctx.marker(Side::Legacy).await?;
    let risk = judge_risk(ctx, &lock(&ctx.live), through);
    let count =
        risk.estimate.map_or_else(|| "their number is not known".to_owned(), |n| format!("about {n}, an estimate"));
    let text =
        format!("its last {}s of writes are stranded ({count}) until they are salvaged", (risk.ms + 999) / 1_000);
    let mut evidence = risk.evidence(silent);
    evidence["text"] = json!(text);
    evidence["since_ms"] = json!(ctx.rt.wall_ms() - risk.ms);
    let pair = |t: ClusterTime| (t.secs, t.inc);
    ctx.record(Event::Sealed { through: pair(through), flip: pair(flip), below, evidence }).await;
    Ok(())
}

/// Bumps the reverse tail's slots, which are on legacy: what it had under way has then committed or never will. Returns up to when
/// everything is on legacy by what the slots say.
async fn settled_through(ctx: &Arc<Ctx>) -> Result<ClusterTime, Halt> {
    let mut through: Option<ClusterTime> = None;
    for i in 0..WORKERS {
        let op = AdminOp::OpenSlot { slot: ctx.slot_name(&worker_name(Side::Next, i)), epoch: ctx.epoch };
        let done = ctx.admin(Side::Legacy, "settling the reverse tail", op).await?;
        let AdminDone::Slot(slot) = done else {
            return Err(Halt::Broken("the cluster answered OpenSlot without a slot".into()));
        };
        let at = slot.checkpoint.as_ref().and_then(tail::position).map_or(ClusterTime::ZERO, |p| p.at);
        through = Some(through.map_or(at, |t| t.min(at)));
    }
    Ok(through.unwrap_or(ClusterTime::ZERO))
}

/// Waits until every process follows `epoch`, and so begins no write under an older one. It need not have acknowledged it: what it has
/// under way on next, it cannot know the outcome of; the salvage waits for that. `Err` names those that do not by `deadline`.
async fn await_following(ctx: &Arc<Ctx>, epoch: i64, deadline: Micros) -> Result<Result<(), String>, Halt> {
    loop {
        let list = acks(ctx).await?;
        take_acks(ctx, &list);
        let Some(late) = list.iter().find(|a| a.follows < epoch) else {
            return switch::tell(ctx, deadline.max(ctx.rt.now() + switch::patience(&ctx.plan))).await;
        };
        if ctx.rt.now() >= deadline {
            return Ok(Err(format!("{} does not follow route {epoch} yet", late.process)));
        }
        ctx.sleep(Micros::from_ms(20)).await;
    }
}

/// What was left behind has not been salvaged, and next does not answer.
pub(super) fn is_outstanding(ctx: &Ctx, state: &State) -> bool {
    let salvaging = state.current_task(&ctx.plan) == Some(crate::rollout::Task::Salvage);
    salvaging && state.sealed.is_some() && state.salvaged.is_none() && silence(ctx).is_some()
}

/// For the screen: `None` while next answers and nothing was left behind.
pub(super) fn view(ctx: &Ctx, state: &State, live: &LiveView) -> Option<StrandView> {
    let silent = silence(ctx);
    let owns = ctx.ownership.route().is_some_and(|r| r.writes_next_below > 0);
    if state.sealed.is_none() && silent.is_none() {
        return None;
    }
    let from = |e: &Value, name: &str| e.get(name).and_then(Value::as_u64);
    let (since_ms, at_risk, estimate, basis) = match &state.sealed {
        Some(s) => {
            let basis = s.evidence.get("estimate_basis").and_then(Value::as_str).unwrap_or("").to_owned();
            let risk = from(&s.evidence, "ms_at_risk").map(Micros::from_ms);
            (s.evidence.get("since_ms").and_then(Value::as_i64), risk, from(&s.evidence, "writes_estimate"), basis)
        }
        None => match at_risk(ctx, live).filter(|_| owns) {
            Some(r) => {
                let risk = Micros::from_ms(r.ms.unsigned_abs());
                (Some(ctx.rt.wall_ms() - r.ms), Some(risk), r.estimate, r.basis)
            }
            None => (None, None, None, String::new()),
        },
    };
    let open: Vec<String> = state.conflicts.iter().filter(|(_, c)| c.is_none()).map(|(k, _)| k.clone()).collect();
    let count = open.len() as u64;
    Some(StrandView {
        silent,
        since_ms,
        at_risk,
        estimate,
        basis,
        policy: match ctx.plan.strand {
            Policy::After(limit) => Some(limit),
            Policy::Ask => None,
        },
        decided: state.strand.clone(),
        asks: asks(ctx, state),
        sealed: state.sealed.is_some(),
        progress: *lock(&ctx.strand.progress),
        salvaged: state.salvaged.as_ref().map(|e| {
            let n = |name: &str| from(e, name).unwrap_or(0);
            Salvaged { changed: n("changed"), carried: n("carried"), equal: n("equal"), conflicts: n("conflicts") }
        }),
        conflicts: (open.into_iter().take(CONFLICTS_SHOWN).collect(), count),
    })
}
