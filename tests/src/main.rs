//! `sprint-flow` as the integration tests start it: the same `main`, but a binary of this package, because cargo builds a package's
//! own binaries for its tests and no other's. What is tested is therefore always what the sources say now.

use std::process::ExitCode;

fn main() -> ExitCode {
    sprint_flow::run()
}
