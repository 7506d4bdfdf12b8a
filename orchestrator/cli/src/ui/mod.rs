//! What people see.

pub(crate) mod out;
mod progress;
mod style;
mod summary;
mod table;

pub(crate) use progress::Screen;
pub(crate) use style::{bytes, seconds};
pub(crate) use summary::Account;
pub(crate) use table::{grid, metrics};
