//! The commands.

mod artifacts;
mod audit;
mod bench;
mod calibrate;
#[cfg(feature = "aws")]
mod cloud;
mod dealer;
mod embed;
mod gc;
mod graph;
mod infer;
mod logs;
mod model;
mod plan;
mod privacy;
mod remote;
mod run;
mod served;
mod status;
mod worker;
mod workflow;

use std::process::ExitCode;

use clap::CommandFactory;

#[cfg(feature = "aws")]
use crate::args::RemoteCommand;
use crate::args::{Cli, Command};
use crate::failure::{Code, Failure};
use crate::ui::out;

/// Runs a command.
pub(crate) fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    let code = match command {
        Command::Run(args) => run::run(args),
        Command::Plan(args) => plan::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Validate(args) => workflow::validate(&args),
        Command::Status(args) => status::run(&args),
        Command::Resume(args) => run::resume(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Artifacts(command) => artifacts::run(command),
        Command::Gc(args) => gc::run(&args),
        Command::Schema => workflow::schema(),
        Command::Completions { shell } => completions(shell),
        Command::Privacy(command) => privacy::run(command),
        Command::Infer(args) => infer::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Dealer(command) => dealer::run(&command),
        Command::Embed(args) => embed::run(&args),
        Command::Bench(command) => bench::run(&command),
        #[cfg(feature = "aws")]
        Command::Remote(RemoteCommand::Keygen { out }) => remote::keygen(&out),
        #[cfg(feature = "aws")]
        Command::Cloud(command) => cloud::run(&command),
        #[cfg(feature = "aws")]
        Command::Doctor(args) => cloud::doctor(&args),
        Command::StageWorker => Ok(worker::stage()),
        Command::StageJob { folder, job } => worker::job(folder, job),
        Command::MpcRole { role } => return worker::mpc_role(&role),
    };
    code.map(|code| ExitCode::from(code.get()))
}

fn completions(shell: clap_complete::Shell) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sprint-flow", &mut script);
    out::bytes(&script)?;
    Ok(Code::DONE)
}
