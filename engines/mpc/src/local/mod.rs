//! The three roles as child processes on this machine, and the client in this one.

mod child;
mod fleet;

pub use fleet::{ClientSide, FleetError, FleetMeter, FleetOptions, LocalFleet, RolePlace};
