//! Logs: to the file that `TIDEGATE_LOG` names, never to a screen. `RUST_LOG` chooses how much.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use super::{Failure, shown};

/// Opens the log, when one is asked for.
pub(super) fn begin() -> Result<(), Failure> {
    let Some(path) = std::env::var_os("TIDEGATE_LOG").filter(|p| !p.is_empty()).map(PathBuf::from) else {
        return Ok(());
    };
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path).map_err(|e| {
        Failure::usage(format!("the log {} cannot be opened: {e}; set TIDEGATE_LOG to another file", shown(&path)))
    })?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file)).init();
    Ok(())
}
