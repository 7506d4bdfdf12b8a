//! The command line of sprint-flow: arguments, progress, diagnostics and exit codes over the libraries.

mod args;
#[cfg(feature = "aws")]
mod cloud;
mod cmd;
mod context;
mod diagnostic;
mod failure;
mod registry;
mod ui;

use std::process::ExitCode;

use clap::Parser;

/// Parses the command line, runs the command, prints what went wrong, and returns the documented exit code.
pub fn run() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { 2 } else { 0 };
            // A closed pipe while printing help is nobody's error.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    context::start_logging(cli.verbose);
    match cmd::dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            diagnostic::print(&failure);
            ExitCode::from(failure.code().get())
        }
    }
}
