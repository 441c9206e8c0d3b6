//! Keys written on both sides: what a person chose is carried out, and what nobody chose is asked for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::ctx::{Ctx, Halt};
use super::super::lossy;
use super::super::quarantine::quarantine_ns;
use super::super::writer::{NotCommitted, SlotWriter};
use super::ATTEMPTS;
use super::record::{read, record, records};
use crate::cluster::{Doc, Key, TxnOp};
use crate::rollout::Event;
use crate::route::Side;

/// Conflicts named where there is no room for all of them.
const NAMED: usize = 5;

/// The task that a person's decisions end: carries out those that came with this process, then asks for the others.
pub(in super::super) async fn conflicts(ctx: &Arc<Ctx>) -> Result<Option<Value>, Halt> {
    let all = ctx.strand.conflicts();
    for (key, side) in &ctx.strand.resolve {
        match all.get(key) {
            Some(None) => resolve(ctx, key, *side).await?,
            Some(Some(_)) => {}
            None => {
                let key = crate::scrub::short(key, 100);
                return Err(Halt::Broken(format!(
                    "`{key}` is no conflict of this rollout; keys are written as the journal shows them"
                )));
            }
        }
    }
    let open: Vec<String> = ctx.strand.conflicts().into_iter().filter(|(_, c)| c.is_none()).map(|(k, _)| k).collect();
    if open.is_empty() {
        let text = if all.is_empty() { "no conflict is left" } else { "every conflict is resolved" };
        return Ok(Some(json!({ "text": text, "conflicts": all.len() })));
    }
    let more = open.len().saturating_sub(NAMED);
    let named = open.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Halt::Broken(format!(
        "{} keys were written on both sides, legacy holds its own version: {named}{more}; both versions are in \
         tidegate.quarantine, say which is right with `tidegate repair PLAN --resolve KEY=legacy|next`",
        open.len()
    )))
}

/// Carries out one decision. What legacy holds now is kept in the record before it is replaced.
async fn resolve(ctx: &Arc<Ctx>, text: &str, side: Side) -> Result<(), Halt> {
    let id = format!("{}/salvage/{text}", ctx.plan.id);
    let found = records(ctx, std::slice::from_ref(&id)).await?.into_iter().next().flatten();
    let missing = || Halt::Broken(format!("{id} is not in tidegate.quarantine"));
    let kept = found.ok_or_else(missing)?;
    let key = kept.get("key").ok().flatten().and_then(|v| Key::new(v).ok()).ok_or_else(missing)?;
    let next = kept.get_document("next").ok().map(Doc::from);
    let mut writer = SlotWriter::open(ctx, Side::Legacy, "salvage").await?;
    for _ in 0..ATTEMPTS {
        let legacy = read(ctx, Side::Legacy, std::slice::from_ref(&key)).await?.into_iter().next().flatten();
        let ns = ctx.ns(Side::Legacy);
        let mut ops = Vec::new();
        if side == Side::Next {
            ops.push(TxnOp::Expect { ns: ns.clone(), key: key.clone(), doc: legacy.clone() });
            ops.push(match &next {
                Some(doc) => match lossy::version(ctx, doc, legacy.as_deref()) {
                    Some(doc) => TxnOp::Put { ns: ns.clone(), doc },
                    None => {
                        return Err(Halt::Broken(format!(
                            "next's version of {text} has no form on legacy; mend it by hand"
                        )));
                    }
                },
                None => TxnOp::Delete { ns: ns.clone(), keys: vec![key.clone()] },
            });
        }
        let outcome = format!("resolved: {}", side.name());
        ops.push(TxnOp::Put { ns: quarantine_ns(), doc: record(ctx, &key, &outcome, next.as_ref(), legacy.as_ref()) });
        match writer.commit(&ops, None).await {
            Ok(_) => {
                ctx.record(Event::ConflictResolved { key: text.to_owned(), side: side.name().to_owned() }).await;
                return Ok(());
            }
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Err(Halt::Broken(format!("{text} cannot be resolved: {why}")));
            }
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => {}
        }
    }
    Err(Halt::Broken(format!("{text} is being written all the time: resolve it again in a moment")))
}
