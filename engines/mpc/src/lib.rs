//! sprint-mpc.
