//! Whether next's indexes are as planned, and serve the queries that the plan says they serve. Looks, and builds nothing.

use std::sync::Arc;

use bson::{Bson, Document};

use super::ctx::{Ctx, Halt};
use super::tasks::{index_list, kind};
use super::ttl;
use crate::cluster::{AdminDone, AdminOp, CollKind, Failed, IndexSpec, Ns, Reason};
use crate::plan::Plan;
use crate::route::Side;
use crate::scrub::short;

fn wanted(plan: &Plan) -> &[IndexSpec] {
    plan.collections.first().map_or(&[][..], |c| &c.indexes)
}

/// What was found where nothing is lacking.
pub(super) fn planned(plan: &Plan) -> String {
    let served = plan.declared.queries.iter().filter(|q| q.uses_index).count();
    match (wanted(plan).len(), served) {
        (n, 0) => format!("{n} indexes as planned"),
        (n, served) => format!("{n} indexes as planned, {served} queries use one"),
    }
}

/// The first thing that next's indexes lack.
pub(super) async fn lacking(ctx: &Arc<Ctx>) -> Result<Option<String>, Halt> {
    if let Some(why) = index_lacking(ctx).await? {
        return Ok(Some(why));
    }
    for q in ctx.plan.declared.queries.iter().filter(|q| q.uses_index) {
        let op = AdminOp::Explain { ns: ctx.ns(Side::Next).clone(), filter: q.filters[1].clone() };
        let ask = || async {
            match ctx.db(Side::Next).admin(&op).await {
                Err(Failed::NotDone(Reason::Refused(why))) => Ok(Err(why)),
                other => other.map(Ok),
            }
        };
        let name = short(&q.name, 60);
        match ctx.retry("explaining a query", ask).await? {
            Ok(AdminDone::Explained(e)) if e.scans => {
                return Ok(Some(format!(
                    "query `{name}` looks at every document of next, and the plan says that it uses an index"
                )));
            }
            Ok(_) => {}
            Err(why) => return Ok(Some(format!("query `{name}` cannot be explained on next: {}", short(&why, 200)))),
        }
    }
    Ok(None)
}

/// The first collection that documents refer to and that is not there: every reference would lead nowhere, on both sides alike.
pub(super) async fn reference_lacking(ctx: &Arc<Ctx>) -> Result<Option<String>, Halt> {
    for r in &ctx.plan.declared.references {
        for side in Side::BOTH {
            let to = Ns::new(&ctx.ns(side).db, &r.to[side as usize]);
            if kind(ctx, side, &to).await? == CollKind::Absent {
                let (name, to) = (short(&r.name, 60), short(&to.to_string(), 120));
                return Ok(Some(format!(
                    "reference `{name}`: there is no collection {to} for {} to refer to",
                    side.name()
                )));
            }
        }
    }
    Ok(None)
}

/// The first index of the plan that next does not have, or has otherwise, or not yet.
pub(super) async fn index_lacking(ctx: &Arc<Ctx>) -> Result<Option<String>, Halt> {
    let (there, building) = match kind(ctx, Side::Next, ctx.ns(Side::Next)).await? {
        // The list has those that are being built too.
        CollKind::Collection => (index_list(ctx, Side::Next).await?, building(ctx).await?),
        _ => (Vec::new(), Vec::new()),
    };
    // Another tool has names of its own.
    let is = |t: &IndexSpec, w: &IndexSpec| match ctx.observing {
        Some(_) => serves(t, w),
        // Whoever builds one by hand may write directions as other numbers.
        None if same_keys(&t.keys, &w.keys) => ttl::is_as_planned(&IndexSpec { keys: w.keys.clone(), ..t.clone() }, w),
        None => false,
    };
    let ready = |t: &IndexSpec| !building.contains(&t.name);
    let lacks = |w: &&IndexSpec| !there.iter().any(|t| is(t, w) && ready(t));
    Ok(wanted(&ctx.plan).iter().find(lacks).map(|lacking| {
        let keys = short(&lacking.keys.to_string(), 100);
        let name = short(&lacking.name, 60);
        let hidden = |t: &&IndexSpec| t.options.get_bool("hidden").unwrap_or(false);
        match there.iter().find(|t| t.name == lacking.name || same_keys(&t.keys, &lacking.keys)) {
            _ if there.iter().any(|t| is(t, lacking)) => format!("next's index over {keys} is still being built"),
            Some(t) if hidden(&t) => format!("next's index `{name}` over {keys} is hidden: no query uses it"),
            Some(_) => format!("the index `{name}` over {keys} is another on next than the plan has it"),
            None => format!("next has no index over {keys} yet (`{name}` in the plan)"),
        }
    }))
}

/// The indexes of next that are being built, as far as the server tells.
async fn building(ctx: &Arc<Ctx>) -> Result<Vec<String>, Halt> {
    let op = AdminOp::Building { ns: ctx.ns(Side::Next).clone() };
    match ctx.admin(Side::Next, "looking for indexes that are being built", op).await? {
        AdminDone::Names(names) => Ok(names),
        _ => Err(Halt::Broken("the cluster answered Building with something else".into())),
    }
}

/// Does what the planned one is for. Another tool has names of its own, and may write directions as other numbers.
fn serves(there: &IndexSpec, planned: &IndexSpec) -> bool {
    let hidden = there.options.get_bool("hidden").unwrap_or(false);
    let as_planned = there.unique == planned.unique && there.expire_after == planned.expire_after;
    as_planned && !hidden && !there.is_narrow() && same_keys(&there.keys, &planned.keys)
}

fn same_keys(a: &Document, b: &Document) -> bool {
    let number = |v: &Bson| match v {
        Bson::Int32(n) => Some(f64::from(*n)),
        Bson::Int64(n) => Some(*n as f64),
        Bson::Double(x) => Some(*x),
        _ => None,
    };
    let same = |(x, v): (&String, &Bson), (y, w): (&String, &Bson)| {
        x == y && (v == w || (number(v).is_some() && number(v) == number(w)))
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn an_index_of_another_name_serves_and_one_that_covers_less_does_not() {
        let planned = IndexSpec { name: "by_n".into(), keys: doc! { "n": 1_i64, "m": -1 }, ..IndexSpec::default() };
        let there = IndexSpec { name: "n_1_m_-1".into(), keys: doc! { "n": 1.0, "m": -1 }, ..IndexSpec::default() };
        assert!(serves(&there, &planned));
        let with = |options| IndexSpec { options, ..there.clone() };
        assert!(!serves(&with(doc! { "hidden": true }), &planned));
        assert!(!serves(&with(doc! { "sparse": true }), &planned));
        assert!(!serves(&IndexSpec { unique: true, ..there.clone() }, &planned));
        assert!(!serves(&IndexSpec { keys: doc! { "m": -1, "n": 1 }, ..there.clone() }, &planned));
        assert!(!serves(&IndexSpec { keys: doc! { "n": 1 }, ..there }, &planned));
    }
}
