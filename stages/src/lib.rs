//! The stages: what each kind of step in a workflow does.
//!
//! Every kind has a module of its own with its parameters, ports and effect; [`registry`] is the only thing a binary needs.

mod download;
mod errors;
#[allow(dead_code, unused_imports)]
mod glue;
mod params;
#[cfg(test)]
mod testing;

/// Digests over each kind's source closure and locked dependencies, made by `build.rs`.
mod code {
    include!(concat!(env!("OUT_DIR"), "/code.rs"));
}
