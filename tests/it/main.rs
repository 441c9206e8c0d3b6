//! Integration tests that need no server.

// All of this is test code, helpers included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// As the program has it: the simulations build and drop documents all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[macro_use]
mod plans;

mod answers;
mod check;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // waits for other processes, in real time
mod cli;
#[path = "../conformance/mod.rs"]
mod conformance;
mod constraints;
mod drill;
mod drill_back;
mod embedded;
mod fixture;
mod hooks;
#[path = "../hostile/mod.rs"]
mod hostile;
mod hostile_documents;
mod in_place;
mod lease;
mod observe;
mod pilot;
mod plan;
mod rehearse;
mod repair;
mod screens;
mod server_gate;
mod sim;
mod strand;
mod stuck;
mod switch;
mod throttle;
mod trace;
mod tui;
mod tui_keys;
mod tui_pilot;
mod tui_pty;
mod tui_rollback;
mod tui_strand;
mod tui_trace;
mod watch;
mod windows;
