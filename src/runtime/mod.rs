//! Time, tasks and randomness. Everything the engine knows about the passing of time comes through [`Runtime`].
//!
//! [`live`] runs on tokio, [`sim`] is a deterministic single-threaded executor with a virtual clock. No other room may read a
//! clock, spawn a task or draw a random number.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

pub mod live;
pub mod sim;
mod time;
mod timers;

pub use time::Micros;

/// A boxed future that may cross threads.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A shared handle to the runtime.
pub type Rt = Arc<dyn Runtime>;

/// Tasks belong to a group, so that a whole actor (a runner, the cluster, the application) can be killed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u32);

/// What engine code may ask of its surroundings: time, tasks, randomness and blocking work.
pub trait Runtime: Send + Sync + 'static {
    /// Time since the runtime began; monotonic.
    fn now(&self) -> Micros;
    /// Wall-clock time as milliseconds since the Unix epoch (virtual in a simulation).
    fn wall_ms(&self) -> i64;
    /// Completes at `at`, or at once when that has passed.
    fn sleep_until(&self, at: Micros) -> Fut<'static, ()>;
    /// Runs `f` in the background as part of `group`.
    fn spawn(&self, group: Group, name: &'static str, f: Fut<'static, ()>);
    /// Drops every task of `group` where it stands: a crash.
    fn kill(&self, group: Group);
    /// Runs blocking work (an fsync) off the executor; inline in a simulation.
    fn blocking(&self, f: Box<dyn FnOnce() + Send>) -> Fut<'static, ()>;
    /// A pure keyed draw: the same (stream, entity, n) always gives the same number in the same run.
    fn draw(&self, stream: u32, entity: u64, n: u64) -> u64;
}

/// Sleeps for `span` from now.
pub fn sleep(rt: &Rt, span: Micros) -> Fut<'static, ()> {
    rt.sleep_until(rt.now() + span)
}

/// The first of two futures to finish; the left one wins a tie, so that the order never depends on chance.
pub enum Either<A, B> {
    /// The left future finished.
    Left(A),
    /// The right future finished.
    Right(B),
}

/// Polls `a` then `b` until one is ready. The other is dropped.
pub async fn race<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> Either<A, B> {
    let mut a = std::pin::pin!(a);
    let mut b = std::pin::pin!(b);
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        if let Poll::Ready(v) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(v));
        }
        match b.as_mut().poll(cx) {
            Poll::Ready(v) => Poll::Ready(Either::Right(v)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs `f` for at most `span`; `None` when the time ran out.
pub async fn timeout<T>(rt: &Rt, span: Micros, f: impl Future<Output = T>) -> Option<T> {
    match race(f, sleep(rt, span)).await {
        Either::Left(v) => Some(v),
        Either::Right(()) => None,
    }
}

/// FNV-1a (Fowler, Noll, Vo): 64 bits of a text or other bytes, the same on every machine.
#[must_use]
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

/// Mixes a key into 64 well-spread bits (splitmix64 over each word; Steele, Lea, Flood 2014).
#[must_use]
pub fn keyed_hash(seed: u64, stream: u32, entity: u64, n: u64) -> u64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    mix(mix(mix(mix(seed) ^ u64::from(stream)) ^ entity) ^ n)
}
