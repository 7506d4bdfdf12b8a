//! The orchestrator with toy stages, from YAML to artifacts.

mod crash;
mod local;
mod plan;
mod remote;
mod run;
mod slurm;
mod toy;
mod workflow;
mod world;
