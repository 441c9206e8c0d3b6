//! The `tidegate` program: a thin shell around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The panic report first, so that it is there whatever fails next. It can only fail when one is installed already.
    let _ = color_eyre::install();
    tidegate::cli::main()
}
