//! A pilot cohort by the real program on a replica set of three nodes, under an application that writes all the time: ahead of
//! everybody, back alone, and then forward again to the end or back with the others.

use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};

use super::back::{came_back, goes_back, is_at_rest, soaks};
use super::program::{Place, Program};
use super::replset::ReplSet;
use super::rollout::{PLAN, journals_agree};
use super::{R, TOKIO, on_one_and_three, on_three};

const LONG: Duration = Duration::from_secs(200);

pub fn trials() -> Vec<Trial> {
    let mut all = vec![on_three("pilot::a_cohort_back_alone_comes_back_with_everybody", with_everybody)];
    all.extend(on_one_and_three("pilot::a_cohort_back_alone_goes_forward_again_to_the_end", forward_again));
    all
}

/// The plan with a cohort that goes first, and a stage `half` that soaks so long.
fn piloted(soak: &'static str) -> impl Fn(String) -> String {
    move |plan| {
        let cohort = "[pilot]\nfield = \"_id.region\"\nin = [\"eu\", \"sa\"]\n\n[throttle]";
        let stage = "[[stage]]\nid = \"pilot\"\npilot = \"writes\"\nsoak = \"2s\"\n\n[[stage]]\nid = \"canary\"";
        let plan = plan.replace("[throttle]", cohort).replace("[[stage]]\nid = \"canary\"", stage);
        let (head, tail) = plan.split_at(plan.find("id = \"half\"").unwrap_or(plan.len()));
        format!("{head}{}", tail.replacen("soak = \"2s\"", &format!("soak = \"{soak}\""), 1))
    }
}

/// Where the cohort's reads and writes go, and the share of everybody else's writes.
fn route(set: &ReplSet, id: &str) -> Result<(String, String, i32), String> {
    TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let routes = client.database("tidegate").collection::<Document>("routes");
        let route = routes.find_one(doc! { "_id": id }).await.map_err(|e| e.to_string())?.ok_or("no route")?;
        let pilot = route.get_document("pilot").map_err(|e| e.to_string())?;
        let word = |name: &str| pilot.get_str(name).unwrap_or("?").to_owned();
        Ok((word("reads"), word("writes"), route.get_i32("writes_next_below").unwrap_or(-1)))
    })
}

fn is(set: &ReplSet, id: &str, wanted: (&str, &str, i32)) -> R {
    let found = route(set, id)?;
    match (found.0.as_str(), found.1.as_str(), found.2) == wanted {
        true => Ok(()),
        false => Err(format!("the route is {found:?}, not {wanted:?}")),
    }
}

/// Every document is on both sides, and those of the cohort were written on the side that owns them: half of the rollout is done.
fn half_way(set: &ReplSet, place: &Place) -> Result<Program, String> {
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    is(set, &place.id, ("next", "next", 512))?;
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    Ok(run)
}

/// The cohort alone goes back; the rollout rests, and the process that brought it there ends because only an operator can go on.
fn back_alone(set: &ReplSet, place: &Place, name: &str, more: &[&str]) -> R {
    let mut args = vec!["--cohort", "--exit-when-needed"];
    args.extend(more);
    let mut back = goes_back(place, name, &args)?;
    back.ends_with(4, LONG)?;
    is(set, &place.id, ("legacy", "legacy", 512))?;
    let found = |kind: &str| back.lines().into_iter().find(|l| l["kind"] == kind);
    let began = found("rollback_began").ok_or("no rollback_began")?;
    let is_alone = began["body"]["cohort"] == true && began["body"]["evidence"]["pilot"]["writes"] == "next";
    let compared = back.lines().iter().any(|l| l["kind"] == "task_done" && l["body"]["evidence"]["compared"].is_u64());
    match found("cohort_returned") {
        Some(_) if is_alone && compared => Ok(()),
        _ => Err(format!("{began}; {}", back.tail())),
    }
}

fn forward_again(set: &ReplSet) -> R {
    let place = Place::new(set, "pilotfwd", PLAN, piloted("20s"))?;
    let mut app = place.application(3_000, &["--ids", "region"])?;
    half_way(set, &place)?;
    back_alone(set, &place, "alone", &[])?;
    let mut run = place.resume("forward", "alone.jsonl", &["--cohort"])?;
    run.ends_with(0, LONG)?;
    is(set, &place.id, ("next", "next", 1024))?;
    let sum = run.summary()?;
    let zero = |part: &str, n: &str| sum[part][n] == 0;
    let clean = ["lost", "stale", "stray"].iter().all(|n| zero("writes", n))
        && ["missing", "extra", "differing"].iter().all(|n| zero("documents", n));
    if sum["outcome"] != "completed" || !clean || sum["documents"]["matched"].as_u64().unwrap_or(0) == 0 {
        return Err(format!("{sum}"));
    }
    app.ends_with(0, Duration::from_secs(60))?;
    let app = app.summary()?;
    if app["lost"] != 0 || app["stale"] != 0 || app["acknowledged"].as_u64().unwrap_or(0) < 100 {
        return Err(format!("the application: {app}"));
    }
    eprintln!("{app}");
    journals_agree(&place, "alone.jsonl")
}

fn with_everybody(set: &ReplSet) -> R {
    let place = Place::new(set, "pilotback", PLAN, piloted("10m"))?;
    let mut app = place.application(3_000, &["--ids", "region"])?;
    half_way(set, &place)?;
    back_alone(set, &place, "alone", &["--hard"])?;
    // Nothing of it is left to go back.
    let mut again = goes_back(&place, "again", &["--cohort"])?;
    again.ends_with(1, Duration::from_secs(30))?;
    if !again.stderr().contains("held on legacy already") {
        return Err(again.tail());
    }
    let mut back = goes_back(&place, "back", &["--hard"])?;
    back.ends_with(3, LONG)?;
    came_back(&back, &mut app)?;
    is(set, &place.id, ("legacy", "legacy", 0))?;
    is_at_rest(set, &place.id)?;
    journals_agree(&place, "back.jsonl")
}
