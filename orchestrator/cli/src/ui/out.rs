//! Standard output: results. Standard error: everything for people. A reader that goes away is no error and never a panic.

use std::fmt::Display;
use std::io::{self, Write};

use crate::failure::{Code, Failure};

/// Prints a line of the result.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints a piece of the result.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        io::ErrorKind::StorageFull => Failure::new(Code::REFUSED, format!("cannot write the result: {e}")),
        _ => Failure::new(Code::FAILED, format!("cannot write the result: {e}")),
    })
}

/// Tells people something.
pub(crate) fn note(text: impl Display) {
    // Nowhere else to tell it.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
