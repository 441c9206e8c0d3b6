//! Integration tests that need no server.

mod cli;
#[path = "../conformance/mod.rs"]
mod conformance;
mod drill;
mod embedded;
mod fixture;
mod plan;
mod sim;
mod tui;
mod tui_keys;
mod tui_pty;
