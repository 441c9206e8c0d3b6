//! A bad line before each member of a replica set: what a client sends and gets is late, and now and then a connection is cut.
//!
//! A member is known to everybody by the proxy's port, and so the driver and the members themselves come this way. What a member says to
//! another one passes untouched: it names itself in its first message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::TOKIO;
use super::rollout::Draws;

/// A line has this delay on average, each way.
const DELAY_MS: u64 = 3;
/// One in so many pieces that pass is the last one of its connection.
const CUT_EVERY: u64 = 8_000;
/// A member's first message holds this.
const OF_A_MEMBER: &[u8] = b"internalClient";

/// The lines of a set, and what has become of them.
pub struct Lines {
    draws: Mutex<Draws>,
    /// Connections that were cut.
    pub cut: AtomicU64,
    /// Pieces that were late.
    pub late: AtomicU64,
}

impl Lines {
    pub fn new(seed: u64) -> Arc<Lines> {
        Arc::new(Lines { draws: Mutex::new(Draws(seed)), cut: AtomicU64::new(0), late: AtomicU64::new(0) })
    }

    /// Begins to listen before what listens on `port`; answers the port under which that is to be known.
    pub async fn before(self: &Arc<Lines>, port: u16) -> Result<u16, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let known_as = listener.local_addr().map_err(|e| e.to_string())?.port();
        let lines = self.clone();
        TOKIO.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let lines = lines.clone();
                TOKIO.spawn(async move {
                    // A connection that breaks is what this is for.
                    let _ = lines.carry(client, port).await;
                });
            }
        });
        Ok(known_as)
    }

    fn draw(&self, n: u64) -> u64 {
        self.draws.lock().expect("no test panics with it").below(n)
    }

    async fn carry(&self, mut client: TcpStream, port: u16) -> std::io::Result<()> {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut first = vec![0; 65_536];
        let n = client.read(&mut first).await?;
        server.write_all(&first[..n]).await?;
        if first[..n].windows(OF_A_MEMBER.len()).any(|w| w == OF_A_MEMBER) {
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        }
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        // When one way ends or is cut, so is the other.
        let there = std::pin::pin!(self.pass(from_client, to_server));
        let back = std::pin::pin!(self.pass(from_server, to_client));
        futures_util::future::select(there, back).await;
        Ok(())
    }

    async fn pass(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        let mut piece = vec![0; 65_536];
        loop {
            let n = from.read(&mut piece).await?;
            if n == 0 {
                return Ok(());
            }
            if self.draw(CUT_EVERY) == 0 {
                self.cut.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            self.late.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(self.draw(2 * DELAY_MS + 1))).await;
            to.write_all(&piece[..n]).await?;
        }
    }
}
