//! The `tidegate` program: a thin shell around the library.

use std::process::ExitCode;

/// Documents are built and dropped all the time; this allocator is faster at that than the system's (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The panic report first, so that it is there whatever fails next. It can only fail when one is installed already.
    let _ = color_eyre::install();
    tidegate::cli::main()
}
