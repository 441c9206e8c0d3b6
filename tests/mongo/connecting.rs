//! Whom tidegate refuses to work with, and what it says about it.

use std::future::Future;

use libtest_mimic::Trial;
use mongodb::bson::doc;
use tidegate::cluster::mongo::{Mongo, MongoError};
use tidegate::cluster::survey::Unfit;

use super::replset::{ESCAPED, PASSWORD};
use super::{R, TOKIO, live, mongod, on_its_own, on_shared};

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("connecting::the_set_is_named", |set| async move {
            let db = Mongo::connect(&set.uri(), live()).await.map_err(|e| e.to_string())?;
            if db.set_name() == "rs0" { Ok(()) } else { Err(format!("{db:?}")) }
        }),
        on_its_own("connecting::no_secret_is_told", || TOKIO.block_on(no_secret())),
        on_its_own("connecting::a_standalone_is_refused", || TOKIO.block_on(standalone())),
    ]
}

async fn no_secret() -> R {
    for uri in [
        "mongodb://me:s3cr%40t@127.0.0.1:1/?serverSelectionTimeoutMS=200",
        "mongodb://me:s3cr%40t:x@127.0.0.1:1/",
        "mongodb://me:s3cr/t@127.0.0.1:1/",
        "mongodb://me:s3crt@127.0.0.1:1/?authMechanism=s3crt",
        "mongodb://me:s3crt@127.0.0.1:port/",
        "s3crt",
        "mongodb+srv://me:s3crt@127.0.0.1:1/",
    ] {
        let e = match Mongo::connect(uri, live()).await {
            Ok(_) => return Err(format!("connected to {uri}")),
            Err(e) => e,
        };
        let text = format!("{e} {e:?}");
        if uri.contains('@') && text.contains("s3cr") {
            return Err(format!("{uri}: {text}"));
        }
    }
    Ok(())
}

async fn standalone() -> R {
    with_standalone(|uri| async move {
        match Mongo::connect(&uri, live()).await {
            Err(MongoError::Unfit(Unfit::Standalone)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Runs a test on a server without a replica set, and ends the server.
pub async fn with_standalone<F: Future<Output = R>>(test: impl FnOnce(String) -> F) -> R {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
    // Ends by itself should this process die first.
    let mut child = std::process::Command::new("timeout")
        .arg("60")
        .arg(mongod::find()?)
        .args([
            "--port",
            &port.to_string(),
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "0.25",
        ])
        .arg("--dbpath")
        .arg(dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let direct = format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=20000");
    let uri = direct.replace("127.0", &format!("canary:{ESCAPED}@127.0"));
    let direct = mongodb::Client::with_uri_str(&direct).await.map_err(|e| e.to_string())?;
    let user = doc! { "createUser": "canary", "pwd": PASSWORD, "roles": ["root"] };
    let up = direct.database("admin").run_command(user).await;
    let answer = match up {
        Ok(_) => test(uri).await,
        Err(e) => Err(e.to_string()),
    };
    let _ = direct.database("admin").run_command(doc! { "shutdown": 1, "force": true }).await;
    let _ = child.wait();
    answer
}
