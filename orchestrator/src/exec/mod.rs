//! Running a plan: one dispatcher decides, executors act.

mod retry;

pub use retry::{Failure, RetryOn};
