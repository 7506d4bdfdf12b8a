//! Classification and regression tasks: what they measure, and the built-in ones (GLUE, SMS spam).

mod metric;
mod task;

pub(crate) use metric::{Metric, Scores};
pub(crate) use task::{BuiltIn, Columns};
