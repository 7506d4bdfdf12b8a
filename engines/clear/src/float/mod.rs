//! The f32 oracle: what every other engine is compared with.
//!
//! Exact functions, no approximations beyond those that the spec itself asks for. A row's result does not depend, to the last bit, on which
//! rows are batched with it nor on how far the batch is padded.

mod calibrate;
mod engine;
mod gemm;
mod run;
mod tensor;

pub use calibrate::{CalibrateError, Margin, calibrate};
pub use engine::{FloatEngine, FloatError};
pub use run::{PooledRow, embed_only, pooled_rows, run_hidden, run_logits};
pub use tensor::{FloatAct, FloatHeads};
