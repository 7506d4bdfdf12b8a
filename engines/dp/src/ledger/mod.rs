//! The privacy ledger: every noisy step is written down durably **before** its noise can be drawn.
//!
//! Invariants. A [`Charge`] is only made by [`Ledger::charge`] after the sink reported the record durable, is consumed by
//! [`crate::mechanism::GridMechanism::finish`], and cannot be cloned: no noise without a durable record, one release per record. What
//! is accounted after a restart is every charge in the ledger, whether or not its step survived. A checkpoint stores the ledger's
//! [`LedgerHead`]; a ledger that does not contain it was rolled back and is refused, while an older checkpoint with a newer ledger resumes
//! and pays for everything.
//!
//! *File format* (version 1): text lines `<64 hex digits> <JSON body>\n`, the digits being BLAKE3("sprint-dp ledger v1" derived)(previous digits'
//! bytes ‖ body bytes), 32 zero bytes before the first. Bodies: `open` (version, data set), `run` (terms of a process's run), `charge` (one
//! attempt of one step), `recovered` (a torn tail that was cut off, counted as one charge on the last run's terms). `run`, `charge` and
//! `recovered` name a banded strategy by its bands; what lacks it is a step with independent noise.

mod book;
mod record;
mod sink;
mod trials;

pub use book::{Charge, Ledger, LedgerError, LedgerHead, Limit, RunTerms};
pub use record::RunId;
pub use sink::{FileSink, LedgerSink, MemorySink};
pub use trials::Trials;
