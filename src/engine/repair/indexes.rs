//! The plan's indexes on next: those that are absent or have other options are built.

use std::sync::Arc;

use super::{RepairFate, RepairItem, Survey, Work};
use crate::cluster::{AdminOp, Failed, IndexSpec};
use crate::engine::ctx::{Ctx, Halt};
use crate::engine::tasks::index_list;
use crate::engine::{server_gate, ttl};
use crate::route::Side;

/// An index that is not as the plan has it.
pub(super) struct Wrong {
    wanted: IndexSpec,
    /// One of its name with other fields or options stands there.
    drop: bool,
}

/// Looks at next's indexes. What the plan does not name is nobody's business here.
pub(super) async fn survey(ctx: &Arc<Ctx>) -> Result<Survey, Halt> {
    let wanted = ctx.plan.collections.first().map_or(&[][..], |c| &c.indexes);
    let there = index_list(ctx, Side::Next).await?;
    let (mut wrong, mut would, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for index in wanted {
        let key = crate::scrub::short(&index.name, 80);
        let item = |what: String, fate| RepairItem { key: key.clone(), side: Some(Side::Next), what, fate };
        let namesake = there.iter().find(|t| t.name == index.name);
        let twin = there.iter().find(|t| t.name != index.name && t.keys == index.keys);
        match (namesake, twin) {
            (Some(t), _) if ttl::is_as_planned(t, index) => {}
            (_, Some(twin)) => {
                let name = crate::scrub::short(&twin.name, 80);
                let what = format!("the index `{name}` has the same fields: drop it, or give it this name in the plan");
                other.push(item(what, RepairFate::Person));
            }
            (Some(t), None) if index.unique && next_takes_writes(ctx) => {
                let what = format!(
                    "it is {} and should be {}; while it is built again next would take what legacy refuses: mend it by hand (collMod), or \
                     when writes are back",
                    words(t),
                    words(index)
                );
                other.push(item(what, RepairFate::Person));
            }
            (Some(t), None) => {
                let what = format!("it is {} and should be {}: dropped and built again", words(t), words(index));
                would.push(item(what, RepairFate::Would));
                wrong.push(Wrong { wanted: index.clone(), drop: true });
            }
            (None, None) => {
                would.push(item(format!("it is not there: built, {}", words(index)), RepairFate::Would));
                wrong.push(Wrong { wanted: index.clone(), drop: false });
            }
        }
    }
    Ok(Survey { work: Work::Indexes(wrong), would, other, beyond: 0, notes: Vec::new() })
}

/// Without a unique index it then takes what legacy could not take back.
fn next_takes_writes(ctx: &Ctx) -> bool {
    ctx.ownership.route().is_some_and(|r| r.writes_to_next())
}

fn words(index: &IndexSpec) -> String {
    let mut text = index.keys.to_string();
    if index.unique {
        text.push_str(" unique");
    }
    if let Some(seconds) = index.expire_after {
        text.push_str(&format!(" expireAfterSeconds: {seconds}"));
    }
    if !index.options.is_empty() {
        text.push_str(&format!(" {}", index.options));
    }
    crate::scrub::short(&text, 160)
}

/// Builds them, one after the other, and looks whether each is there.
pub(super) async fn rebuild(ctx: &Arc<Ctx>, wrong: &[Wrong], would: Vec<RepairItem>) -> Result<Vec<RepairItem>, Halt> {
    let mut items = Vec::new();
    for (wrong, item) in wrong.iter().zip(would) {
        if ctx.is_leaving() {
            items.push(item);
            continue;
        }
        items.push(match build(ctx, wrong).await? {
            Ok(()) => RepairItem { fate: RepairFate::Done, ..item },
            Err(why) => RepairItem { what: crate::scrub::short(&why, 300), fate: RepairFate::Person, ..item },
        });
    }
    Ok(items)
}

/// The inner `Err` says why it is a person's.
async fn build(ctx: &Arc<Ctx>, wrong: &Wrong) -> Result<Result<(), String>, Halt> {
    let (ns, wanted) = (ctx.ns(Side::Next).clone(), &wrong.wanted);
    if wrong.drop {
        server_gate::still_held(ctx).await?;
        let op = AdminOp::DropIndex { ns: ns.clone(), name: wanted.name.clone() };
        if let Err(why) = ask(ctx, "dropping an index", &op).await? {
            return Ok(Err(format!("it cannot be dropped: {why}")));
        }
    }
    server_gate::still_held(ctx).await?;
    let op = AdminOp::CreateIndex { ns, index: ttl::as_built(ctx, wanted).await? };
    if let Err(why) = ask(ctx, "building an index", &op).await? {
        return Ok(Err(format!("it cannot be built: {why}")));
    }
    let there = index_list(ctx, Side::Next).await?;
    Ok(if there.iter().any(|t| ttl::is_as_planned(t, wanted)) {
        Ok(())
    } else {
        Err("it is not there as the plan has it after it was built".into())
    })
}

/// What a server refuses is a person's, not the end of the repair.
async fn ask(ctx: &Arc<Ctx>, what: &str, op: &AdminOp) -> Result<Result<(), String>, Halt> {
    let answer = || async {
        match ctx.db(Side::Next).admin(op).await {
            Err(Failed::NotDone(reason)) if !reason.is_transient() => Ok(Err(reason.to_string())),
            other => other.map(|_| Ok(())),
        }
    };
    ctx.retry(what, answer).await
}
