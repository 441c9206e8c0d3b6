//! Change streams.

use bson::rawdoc;

use super::*;

async fn start(env: &Env) -> R<ClusterTime> {
    Ok(env.insert(&env.ns("start"), rawdoc! { "_id": 1 }).await?.at)
}

pub async fn events_come_in_order_with_kinds_and_sessions(env: Env) -> R {
    let ns = env.ns("watched");
    let at = start(&env).await?;
    let mut stream = env.stream_after(&ns, at).await?;
    let mut slot = env.open("w", 1).await?;
    env.insert(&ns, rawdoc! { "_id": 5, "v": 1 }).await?;
    env.replace(&ns, rawdoc! { "_id": 5, "v": 2 }, None, false).await?;
    let ops = [
        TxnOp::Insert { ns: ns.clone(), docs: vec![rawdoc! { "_id": "t", "v": 1 }] },
        TxnOp::Put { ns: ns.clone(), doc: rawdoc! { "_id": 5, "v": 3 } },
        TxnOp::Put { ns: ns.clone(), doc: rawdoc! { "_id": "p", "v": 3 } },
        TxnOp::Insert { ns: env.ns("elsewhere"), docs: vec![rawdoc! { "_id": 1 }] },
    ];
    let done = text(env.txn("w", &mut slot, &ops).await)?;
    text(env.txn("w", &mut slot, &[TxnOp::Delete { ns: ns.clone(), keys: vec![Key::from("t")] }]).await)?;
    env.replace(&ns, rawdoc! { "_id": "u", "v": 1 }, None, true).await?;
    env.delete(&ns, Key::from(5), None).await?;
    env.delete(&ns, Key::from("nobody"), None).await?;
    let (events, _) = env.events(&mut *stream, 8).await?;
    let words: Vec<String> = events
        .iter()
        .map(|e| format!("{} {}", word(e.kind), e.key.as_ref().map_or("?".into(), Key::to_string)))
        .collect();
    let want =
        ["insert 5", "write 5", "insert \"t\"", "write 5", "insert \"p\"", "delete \"t\"", "insert \"u\"", "delete 5"];
    ensure!(words == want, "{words:?}");
    for (i, e) in events.iter().enumerate() {
        let of_txn = (2..=5).contains(&i);
        ensure!(e.session == of_txn.then_some(slot.session), "event {i} carries session {:?}", e.session);
        ensure!(e.at > at, "event {i} at {} is not after {at}", e.at);
    }
    ensure!(events.windows(2).all(|p| p[0].at <= p[1].at), "times go back: {events:?}");
    ensure!(events[2].at == events[3].at && events[2].at <= done.at, "one transaction, one time: {events:?}");
    Ok(())
}

pub async fn a_stream_resumes_exactly_where_it_stopped(env: Env) -> R {
    let ns = env.ns("watched");
    let at = start(&env).await?;
    let mut stream = env.stream_after(&ns, at).await?;
    let mut positions = Vec::new();
    for n in 0..4 {
        env.insert(&ns, rawdoc! { "_id": n }).await?;
        positions.push(env.events(&mut *stream, 1).await?.1);
    }
    drop(stream);
    for (n, pos) in positions.iter().enumerate() {
        let left = 3 - n;
        let mut again = env.stream(&ns, pos).await?;
        let (events, end) = env.events(&mut *again, left).await?;
        let keys: Vec<Option<Key>> = events.into_iter().map(|e| e.key).collect();
        let want: Vec<Option<Key>> = (n as i64 + 1..4).map(|k| Some(Key::from(k))).collect();
        ensure!(keys == want, "resumed after {n}: {keys:?}");
        ensure!(end.at >= pos.at, "the position went back from {} to {}", pos.at, end.at);
    }
    Ok(())
}

pub async fn a_stream_starts_strictly_after_its_time(env: Env) -> R {
    let ns = env.ns("watched");
    env.insert(&ns, rawdoc! { "_id": 1 }).await?;
    let at = env.insert(&ns, rawdoc! { "_id": 2 }).await?.at;
    env.insert(&ns, rawdoc! { "_id": 3 }).await?;
    let mut stream = env.stream_after(&ns, at).await?;
    let (events, _) = env.events(&mut *stream, 1).await?;
    ensure!(events[0].key == Some(Key::from(3)), "{events:?}");
    Ok(())
}

pub async fn a_position_moves_past_unrelated_writes(env: Env) -> R {
    let ns = env.ns("quiet");
    env.insert(&ns, rawdoc! { "_id": 1 }).await?;
    let mut stream = env.stream_after(&ns, start(&env).await?).await?;
    let marker = env.insert(&env.ns("marker"), rawdoc! { "_id": "m" }).await?;
    let (events, pos) = env.until(&mut *stream, marker.at).await?;
    ensure!(events.is_empty(), "{events:?}");
    // And the position reached without events is one to resume from.
    env.insert(&ns, rawdoc! { "_id": 2 }).await?;
    let mut again = env.stream(&ns, &pos).await?;
    let (events, _) = env.events(&mut *again, 1).await?;
    ensure!(events[0].key == Some(Key::from(2)), "{events:?}");
    Ok(())
}

/// The first position of a stream was the time after the one it was opened at: no read could wait for it until somebody wrote.
pub async fn a_position_is_not_ahead_of_the_cluster(env: Env) -> R {
    let ns = env.ns("idle");
    let at = env.insert(&ns, rawdoc! { "_id": 1 }).await?.at;
    let mut stream = env.stream_after(&ns, at).await?;
    let first = text(stream.next(Micros::from_ms(1)).await)?;
    // Others may write meanwhile; of the cluster that is looked at afterwards it is not ahead in any case.
    let seen = text(env.db.observe().await)?.majority;
    ensure!(first.events.is_empty() && first.pos.at >= at, "{first:?}");
    ensure!(first.pos.at <= seen, "{} is ahead of {seen}", first.pos.at);
    text(env.db.read(&ns, &[Key::from(1)], first.pos.at).await)?;
    Ok(())
}

pub async fn a_write_that_changes_nothing_has_no_event(env: Env) -> R {
    let ns = env.ns("watched");
    let at = env.insert(&ns, rawdoc! { "_id": 1, "v": 1 }).await?.at;
    let mut stream = env.stream_after(&ns, at).await?;
    let same = env.replace(&ns, rawdoc! { "_id": 1, "v": 1 }, None, false).await?;
    ensure!(same.matched == 1, "an equal document matched {}", same.matched);
    env.insert(&ns, rawdoc! { "_id": 2 }).await?;
    let (events, _) = env.events(&mut *stream, 1).await?;
    ensure!(events[0].key == Some(Key::from(2)), "{events:?}");
    Ok(())
}

async fn ends(env: &Env, stream: &mut dyn Changes) -> R {
    let (events, _) = env.events(stream, 1).await?;
    ensure!(events[0].kind == ChangeKind::Gone && events[0].key.is_none(), "{events:?}");
    Ok(())
}

pub async fn a_drop_ends_the_stream(env: Env) -> R {
    let ns = env.ns("watched");
    let at = env.insert(&ns, rawdoc! { "_id": 1 }).await?.at;
    let mut stream = env.stream_after(&ns, at).await?;
    env.admin(AdminOp::Drop { ns: ns.clone() }).await?;
    ends(&env, &mut *stream).await
}

pub async fn a_rename_ends_the_stream(env: Env) -> R {
    let ns = env.ns("watched");
    let at = env.insert(&ns, rawdoc! { "_id": 1 }).await?.at;
    let mut stream = env.stream_after(&ns, at).await?;
    env.insert(&ns, rawdoc! { "_id": 2 }).await?;
    env.events(&mut *stream, 1).await?;
    env.admin(AdminOp::Rename { from: ns.clone(), to: env.ns("moved") }).await?;
    ends(&env, &mut *stream).await
}
