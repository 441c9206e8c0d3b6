//! Integration tests that need no server.

mod fixture;
mod tui;
mod tui_keys;
mod tui_pty;
