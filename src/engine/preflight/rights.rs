//! What a rollout of a plan needs to be allowed, exactly, and what of it the user has not.
//!
//! The list is the one place that knows it: the check, the role that `check --role` prints and docs/check.md are made of it.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};

use super::super::{back, tasks};
use super::{Facts, Finding, View};
use crate::cluster::survey::{Privilege, Resource, Rights};
use crate::cluster::{CONTROL_DB, Ns};
use crate::plan::{PilotLevel, Plan, Work};
use crate::route::Side;

/// What a privilege is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum For {
    /// The rollout: legacy, and where it is kept.
    Legacy,
    /// The rollout: next, and where it is kept.
    Next,
    /// tidegate's own records.
    Control,
    /// Metrics of members, load and oplog: without it they are unknown, and gates on them never pass.
    Observe,
    /// The preflight alone.
    Check,
}

/// One thing that must be allowed.
#[derive(Clone, Debug)]
pub(super) struct Need {
    /// On the cluster of this side.
    pub on: Side,
    /// Where.
    pub resource: Resource,
    /// What.
    pub action: &'static str,
    /// What for.
    pub of: For,
}

/// Where a collection of the plan may be put away, beside its own name.
fn kept(plan: &Plan, side: Side) -> Ns {
    let c = &plan.collections[0];
    match side {
        Side::Legacy => tasks::quarantine_ns(&c.legacy, &plan.id),
        Side::Next => back::isolated_ns(&c.next, &plan.id),
    }
}

/// Everything that the plan's rollout, its way back and its preflight do.
pub(super) fn needs(plan: &Plan, one_cluster: bool) -> Vec<Need> {
    if plan.observes() {
        return to_look_on(plan, one_cluster);
    }
    let c = &plan.collections[0];
    let mut all = Vec::new();
    let mut add = |on, of, db: &str, coll: &str, actions: &[&'static str]| {
        let resource = || Resource::Ns { db: db.to_owned(), coll: coll.to_owned() };
        all.extend(actions.iter().map(|&action| Need { on, resource: resource(), action, of }));
    };
    const DATA: [&str; 7] =
        ["find", "insert", "update", "remove", "changeStream", "bypassDocumentValidation", "listIndexes"];
    add(Side::Legacy, For::Legacy, &c.legacy.db, "", &["listCollections"]);
    add(Side::Legacy, For::Legacy, &c.legacy.db, &c.legacy.coll, &DATA);
    if c.in_place() {
        if !c.indexes.is_empty() {
            add(Side::Legacy, For::Legacy, &c.legacy.db, &c.legacy.coll, &["createIndex"]);
        }
    } else {
        add(Side::Next, For::Next, &c.next.db, "", &["listCollections", "renameCollectionSameDB"]);
        add(Side::Next, For::Next, &c.next.db, &c.next.coll, &DATA);
        add(Side::Next, For::Next, &c.next.db, &c.next.coll, &["createCollection", "createIndex", "collMod"]);
        add(Side::Next, For::Next, &kept(plan, Side::Next).db, &kept(plan, Side::Next).coll, &["find"]);
    }
    for (on, of, db, coll) in referred(plan) {
        add(on, of, db, coll, &["find"]);
    }
    let goes = plan.stages.iter().any(|s| s.work.contains(&Work::QuarantineLegacy));
    if goes {
        add(Side::Legacy, For::Legacy, &c.legacy.db, "", &["renameCollectionSameDB"]);
        add(Side::Legacy, For::Legacy, &c.legacy.db, &c.legacy.coll, &["createCollection"]);
        add(Side::Legacy, For::Legacy, &kept(plan, Side::Legacy).db, &kept(plan, Side::Legacy).coll, &["find"]);
    }
    // Indexes that let documents expire are suspended on both sides while writes are on next.
    let moves = plan.stages.iter().any(|s| s.writes > 0 || s.pilot == PilotLevel::Writes);
    if goes || plan.server_gate || (moves && !c.in_place()) {
        add(Side::Legacy, For::Legacy, &c.legacy.db, &c.legacy.coll, &["collMod"]);
    }
    let sides: &[Side] = if one_cluster { &[Side::Legacy] } else { &Side::BOTH };
    for &on in sides {
        let own =
            ["find", "insert", "update", "remove", "createCollection", "listCollections", "bypassDocumentValidation"];
        add(on, For::Control, CONTROL_DB, "", &own);
        add(on, For::Observe, "local", "oplog.rs", &["find"]);
        add(on, For::Check, "local", "oplog.rs", &["collStats"]);
    }
    for (on, ns) in [(Side::Legacy, &c.legacy), (Side::Next, &c.next)] {
        if on == Side::Legacy || !c.in_place() {
            add(on, For::Check, &ns.db, &ns.coll, &["collStats"]);
            add(on, For::Check, &ns.db, "", &["dbStats"]);
        }
    }
    for &on in sides {
        let cluster = |action, of| Need { on, resource: Resource::Cluster, action, of };
        all.extend(["replSetGetStatus", "serverStatus"].map(|a| cluster(a, For::Observe)));
        all.extend(["replSetGetConfig", "getDefaultRWConcern", "getParameter"].map(|a| cluster(a, For::Check)));
    }
    all
}

/// The other collections that documents refer to, each on its side.
fn referred(plan: &Plan) -> impl Iterator<Item = (Side, For, &str, &str)> {
    let c = &plan.collections[0];
    plan.declared.references.iter().flat_map(move |r| {
        [(Side::Legacy, For::Legacy, &*c.legacy.db, &*r.to[0]), (Side::Next, For::Next, &*c.next.db, &*r.to[1])]
    })
}

/// What an onlooker needs: to read both sides, and to follow their changes. It writes nothing.
fn to_look_on(plan: &Plan, one_cluster: bool) -> Vec<Need> {
    let c = &plan.collections[0];
    let mut all = Vec::new();
    let mut add = |on, of, db: &str, coll: &str, actions: &[&'static str]| {
        let resource = || Resource::Ns { db: db.to_owned(), coll: coll.to_owned() };
        all.extend(actions.iter().map(|&action| Need { on, resource: resource(), action, of }));
    };
    for (on, of, ns) in [(Side::Legacy, For::Legacy, &c.legacy), (Side::Next, For::Next, &c.next)] {
        add(on, of, &ns.db, "", &["listCollections"]);
        add(on, of, &ns.db, &ns.coll, &["find", "changeStream", "listIndexes"]);
        // How long its operations take.
        add(on, For::Observe, &ns.db, &ns.coll, &["collStats"]);
        add(on, For::Check, &ns.db, "", &["dbStats"]);
    }
    for (on, of, db, coll) in referred(plan) {
        add(on, of, db, coll, &["find"]);
    }
    let sides: &[Side] = if one_cluster { &[Side::Legacy] } else { &Side::BOTH };
    for &on in sides {
        add(on, For::Observe, "local", "oplog.rs", &["find"]);
        add(on, For::Check, "local", "oplog.rs", &["collStats"]);
    }
    for &on in sides {
        let cluster = |action, of| Need { on, resource: Resource::Cluster, action, of };
        all.extend(["replSetGetStatus", "serverStatus"].map(|a| cluster(a, For::Observe)));
        all.extend(["replSetGetConfig", "getParameter"].map(|a| cluster(a, For::Check)));
    }
    all
}

/// Whether a privilege allows an action there, as the server judges it for collections that are not its own.
fn allows(p: &Privilege, on: &Resource, action: &str) -> bool {
    let covers = match (&p.on, on) {
        (Resource::Any, _) | (Resource::Cluster, Resource::Cluster) => true,
        (Resource::Ns { db, coll }, Resource::Ns { db: wanted_db, coll: wanted_coll }) => {
            // "Every database" leaves out the server's own ones.
            let every = db.is_empty() && !matches!(wanted_db.as_str(), "local" | "config");
            (every || db == wanted_db) && (coll.is_empty() || coll == wanted_coll)
        }
        _ => false,
    };
    covers && p.actions.iter().any(|a| a == action || a == "anyAction")
}

fn has(rights: &Rights, need: &Need) -> bool {
    rights.privileges.iter().any(|p| allows(p, &need.resource, need.action))
}

fn place_of(resource: &Resource) -> String {
    match resource {
        Resource::Cluster => "the cluster".to_owned(),
        Resource::Any => "everything".to_owned(),
        Resource::Ns { db, coll } if coll.is_empty() => format!("the database {db}"),
        Resource::Ns { db, coll } => format!("{db}.{coll}"),
    }
}

/// `find, insert on shop.orders; listCollections on the database shop`.
fn listed<'n>(needs: impl Iterator<Item = &'n Need>) -> String {
    let mut by_place: Vec<(String, Vec<&str>)> = Vec::new();
    for need in needs {
        let place = place_of(&need.resource);
        match by_place.iter_mut().find(|(p, _)| *p == place) {
            Some((_, actions)) if actions.contains(&need.action) => {}
            Some((_, actions)) => actions.push(need.action),
            None => by_place.push((place, vec![need.action])),
        }
    }
    let all: Vec<String> =
        by_place.iter().map(|(place, actions)| format!("{} on {place}", actions.join(", "))).collect();
    all.join("; ")
}

/// What the user lacks of one kind, on every cluster.
fn lacking(v: &View<'_>, of: For, finding: fn(&str, String, &str) -> Finding, remedy: &str) -> Vec<Finding> {
    let f: &Facts = v.f;
    let needs = needs(&f.plan, f.clusters.len() < 2);
    let sides: &[Side] = if f.clusters.len() < 2 { &[Side::Legacy] } else { &Side::BOTH };
    let mut out = Vec::new();
    for &on in sides {
        let wanted = || needs.iter().filter(|n| n.of == of && (n.on == on || sides.len() == 1));
        if wanted().next().is_none() {
            continue;
        }
        let place = if sides.len() == 1 { "the cluster".to_owned() } else { format!("{}'s cluster", on.name()) };
        out.push(match f.cluster(on).map(|c| &c.rights) {
            None => continue,
            Some(Err(why)) => Finding::skipped(&place, why),
            Some(Ok(r)) if r.users.is_empty() => {
                Finding::pass(&place, "nobody is logged in: nothing is checked by the server")
            }
            Some(Ok(r)) => match listed(wanted().filter(|n| !has(r, n))) {
                missing if missing.is_empty() => {
                    Finding::pass(&place, format!("{} may do what is needed", r.users.join(", ")))
                }
                missing => finding(&place, format!("{} may not {missing}", r.users.join(", ")), remedy),
            },
        });
    }
    out
}

const GRANT: &str = "grant it, or create the role that `tidegate check PLAN --role` prints and give it to the user";

pub(super) fn on_legacy(v: &View<'_>) -> Vec<Finding> {
    lacking(v, For::Legacy, Finding::fail, GRANT)
}

pub(super) fn on_next(v: &View<'_>) -> Vec<Finding> {
    lacking(v, For::Next, Finding::fail, GRANT)
}

pub(super) fn on_control(v: &View<'_>) -> Vec<Finding> {
    lacking(v, For::Control, Finding::fail, GRANT)
}

pub(super) fn to_observe(v: &View<'_>) -> Vec<Finding> {
    let unknown = |p: &str, w: String, r: &str| {
        Finding::warn(
            p,
            format!("{w}: `lag.replication` and `oplog.window` stay unknown, and a gate on them never passes"),
            r,
        )
    };
    let less = |p: &str, w: String, r: &str| {
        Finding::warn(p, format!("{w}: what that would show stays unknown, and a gate on it never passes"), r)
    };
    lacking(v, For::Observe, if v.f.plan.observes() { less } else { unknown }, GRANT)
}

pub(super) fn to_check(v: &View<'_>) -> Vec<Finding> {
    let less = |p: &str, w: String, r: &str| Finding::note(p, format!("{w}: some of these checks are skipped"), r);
    lacking(v, For::Check, less, GRANT)
}

/// Actions that change more than any rollout does.
const TOO_MUCH: [&str; 9] = [
    "anyAction",
    "dropDatabase",
    "createUser",
    "grantRole",
    "createRole",
    "shutdown",
    "replSetConfigure",
    "setParameter",
    "impersonate",
];
/// Actions that write documents.
const WRITES: [&str; 3] = ["insert", "update", "remove"];

pub(super) fn least(v: &View<'_>) -> Vec<Finding> {
    let plan = &v.f.plan.collections[0];
    let known = |db: &str| [&*plan.legacy.db, &*plan.next.db, CONTROL_DB].contains(&db);
    v.each(|place, c| {
        let rights = match &c.rights {
            Ok(r) if !r.users.is_empty() => r,
            Ok(_) => return Finding::pass(place, "nobody is logged in"),
            Err(why) => return Finding::skipped(place, why),
        };
        let mut more = Vec::new();
        for p in &rights.privileges {
            let other = matches!(&p.on, Resource::Ns { db, .. } if !known(db)) || p.on == Resource::Any;
            // Who only looks on writes nowhere.
            let other = other || v.f.plan.observes();
            let wild = p.actions.iter().filter(|a| TOO_MUCH.contains(&a.as_str()));
            let writes = p.actions.iter().filter(|a| other && WRITES.contains(&a.as_str()));
            let named: Vec<&str> = wild.chain(writes).map(String::as_str).collect();
            if !named.is_empty() {
                let on = match &p.on {
                    Resource::Ns { db, .. } if db.is_empty() => "every database".to_owned(),
                    on => place_of(on),
                };
                more.push(format!("{} on {on}", named.join(", ")));
            }
        }
        let rest = more.len().saturating_sub(3);
        more.truncate(3);
        if rest > 0 {
            more.push(format!("{rest} more"));
        }
        match more.is_empty() {
            true => Finding::pass(place, "the user may do little more than is needed"),
            false => Finding::note(
                place,
                format!("{} may do more than any rollout needs: {}", rights.users.join(", "), more.join("; ")),
                "give tidegate a user of its own with the role that `tidegate check PLAN --role` prints",
            ),
        }
    })
}

/// The command that creates a role with exactly what the plan's rollout needs on a side's cluster; run it on `admin`.
#[must_use]
pub fn role(plan: &Plan, side: Side) -> Document {
    let one_cluster = plan.cluster.next_uri.is_none();
    let mut by_resource: BTreeMap<(u8, String, String), Vec<Bson>> = BTreeMap::new();
    for need in needs(plan, one_cluster).into_iter().filter(|n| one_cluster || n.on == side) {
        let key = match need.resource {
            Resource::Ns { db, coll } => (0, db, coll),
            Resource::Cluster | Resource::Any => (1, String::new(), String::new()),
        };
        let actions = by_resource.entry(key).or_default();
        let action = Bson::from(need.action);
        if !actions.contains(&action) {
            actions.push(action);
        }
    }
    let privileges: Vec<Bson> = by_resource
        .into_iter()
        .map(|((kind, db, coll), actions)| {
            let resource = if kind == 1 {
                doc! { "cluster": true }
            } else {
                doc! { "db": db, "collection": coll }
            };
            Bson::Document(doc! { "resource": resource, "actions": actions })
        })
        .collect();
    doc! { "createRole": format!("tidegate-{}", plan.id), "privileges": privileges, "roles": [] }
}
