//! A service to test against: moto, and a proxy in front of it that adds what moto lacks and everything that goes wrong in a network.

pub(crate) mod moto;
pub(crate) mod proxy;
