//! The orchestrator with toy stages, from YAML to artifacts.

mod crash;
mod local;
mod plan;
mod run;
mod toy;
mod workflow;
mod world;
