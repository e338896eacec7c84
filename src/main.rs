//! The `vos` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vos::cli::run()
}
