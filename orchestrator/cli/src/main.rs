//! The composition root: the only place that reads the terminal, the environment and the clock for the libraries.

use std::process::ExitCode;

fn main() -> ExitCode {
    sprint_flow::run()
}
