//! A role as an operating-system process: configured by one line on standard input, watched through it, heard through standard output.

mod config;
mod event;
mod main;

pub use config::Limits;
pub(crate) use config::{CONFIG_VERSION, PeerConfig, Settings};
pub use event::Event;
pub use main::{WorkloadFactory, role_main};
