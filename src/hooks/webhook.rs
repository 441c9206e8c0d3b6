//! A webhook: JSON in a POST, the status as the answer. Redirects are not followed: what was meant for one host stays there.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::mask::{Secrets, Tail};
use super::outside::{failed, try_again};
use super::{Attempt, Call};
use crate::runtime::{Micros, Rt, timeout};

/// Bytes read of an answer.
const ANSWER_MAX: u64 = 4_096;
/// The client ends a call by itself; this is for when it does not.
const GRACE: Micros = Micros::from_secs(1);

pub(super) async fn post(rt: &Rt, call: &Call, url: &str, headers: &[(String, String)]) -> Attempt {
    let mut secrets = Secrets::default();
    let (url, headers) = match filled_in(&mut secrets, url, headers) {
        Ok(filled) => filled,
        Err(why) => return failed(why),
    };
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return failed("what the variables make up is no `http://` or `https://` URL");
    }
    let span = call.hook.timeout;
    let request = Request { url, headers, event_id: call.event_id.clone(), body: call.body.clone(), span };
    let answer = Arc::new(Mutex::new(None));
    let slot = answer.clone();
    let work = rt.blocking(Box::new(move || {
        let attempt = send(&request, &secrets);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(attempt);
    }));
    // The thread is left to itself then, and ends with the client's own time-out.
    let _ = timeout(rt, span + GRACE, work).await;
    let attempt = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    attempt.unwrap_or_else(|| timed_out(span))
}

struct Request {
    url: String,
    headers: Vec<(String, String)>,
    event_id: String,
    body: String,
    span: Micros,
}

type Filled = (String, Vec<(String, String)>);

fn filled_in(secrets: &mut Secrets, url: &str, headers: &[(String, String)]) -> Result<Filled, String> {
    let url = secrets.fill_in(url)?;
    let mut all = Vec::new();
    for (name, text) in headers {
        all.push((name.clone(), secrets.fill_in(text)?));
    }
    Ok((url, all))
}

fn timed_out(span: Micros) -> Attempt {
    try_again(format!("no answer within {span}"))
}

fn send(r: &Request, secrets: &Secrets) -> Attempt {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_micros(r.span.0)))
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut request =
        agent.post(&r.url).header("Content-Type", "application/json").header("Idempotency-Key", &r.event_id);
    for (name, value) in &r.headers {
        request = request.header(name, value);
    }
    match request.send(r.body.as_bytes()) {
        Ok(mut answer) => {
            let status = answer.status().as_u16();
            let mut tail = Tail::default();
            let mut text = Vec::new();
            // What cannot be read of an answer does not change its status.
            let _ = answer.body_mut().as_reader().take(ANSWER_MAX).read_to_end(&mut text);
            tail.push(&text);
            judge(status, secrets.clean_tail(&tail))
        }
        Err(ureq::Error::Timeout(_)) => timed_out(r.span),
        Err(e @ (ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound)) => {
            try_again(secrets.clean(&format!("no connection: {e}")))
        }
        Err(e) => failed(secrets.clean(&format!("it cannot be posted: {e}"))),
    }
}

/// Only what may pass by itself is tried again.
fn judge(status: u16, output: String) -> Attempt {
    let again = status >= 500 || matches!(status, 408 | 425 | 429);
    let what = match status {
        200..300 => "",
        300..400 => ", a redirect, which is not followed",
        _ => "",
    };
    let outcome = format!("status {status}{what}");
    Attempt { ok: (200..300).contains(&status), again, outcome, status: Some(status), output, ..Attempt::default() }
}
