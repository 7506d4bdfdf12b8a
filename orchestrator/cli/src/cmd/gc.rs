//! `gc`.

use std::time::SystemTime;

use sprint_artifacts::gc::{GcError, GcOptions, collect};

use super::artifacts::store_failure;
use crate::args::GcArgs;
use crate::failure::{Code, Failure};
use crate::ui::{bytes, out};

pub(super) fn run(args: &GcArgs) -> Result<Code, Failure> {
    let mut options = GcOptions::dry_run(SystemTime::now());
    options.apply = args.apply;
    let report = collect(&args.store.store, &options).map_err(|e| refused(&e))?;
    if args.json {
        out::line(serde_json::to_string(&report).expect("a report of paths and numbers is JSON"))?;
        return Ok(Code::DONE);
    }
    let total = |list: &[sprint_artifacts::gc::Swept]| bytes(list.iter().map(|s| s.size).sum());
    let verb = if report.applied { "" } else { "would be " };
    out::line(format_args!("{} roots reach {} blobs", report.roots, report.live))?;
    out::line(format_args!("{} files ({}) {verb}set aside", report.set_aside.len(), total(&report.set_aside)))?;
    out::line(format_args!("{} files ({}) {verb}deleted", report.deleted.len(), total(&report.deleted)))?;
    if !report.applied {
        out::line("a dry run; --apply does it")?;
    }
    Ok(Code::DONE)
}

fn refused(error: &GcError) -> Failure {
    match error {
        GcError::InUse { .. } => Failure::from_error(Code::LOCKED, error).help("collect when no run is under way"),
        GcError::Store(e) => store_failure(e),
        other => Failure::from_error(Code::FAILED, other),
    }
}
