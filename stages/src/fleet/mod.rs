//! Where the roles of an inference run: what `provision` writes down and `infer-mpc` reads.

mod cloud;
mod hosts;
mod netns;
mod ssh;

pub use cloud::{CloudFleet, CloudImage, CloudMachine, CloudRequest};
pub(crate) use hosts::{Host, Hosts, Place, ROLES};
pub(crate) use netns::Namespaces;
pub(crate) use ssh::SshHost;
