//! `artifacts ls|get|verify`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use sprint_artifacts::{ArtifactId, Presence, ResultRecord, Store, StoreError, StoreOptions};

use crate::args::ArtifactsCommand;
use crate::failure::{Code, Failure};
use crate::ui::{bytes, out};

pub(super) fn run(command: ArtifactsCommand) -> Result<Code, Failure> {
    match command {
        ArtifactsCommand::Ls { store, json } => list(&open(&store.store)?, json),
        ArtifactsCommand::Get { digest, out, store, json } => get(&open(&store.store)?, &digest, &out, json),
        ArtifactsCommand::Verify { digest, store, json } => verify(&open(&store.store)?, digest.as_deref(), json),
    }
}

/// Opens a store for reading; it must be there.
pub(crate) fn open(root: &Path) -> Result<Store, Failure> {
    Store::open(root, StoreOptions::read_only()).map_err(|e| store_failure(&e))
}

/// The exit code of a store's error: damage is 6, a full disk 7.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::Corrupt(_) | StoreError::Manifest { .. } => Code::INTEGRITY,
        StoreError::DiskFull { .. } => Code::new(7),
        StoreError::NoStore { .. } => Code::USAGE,
        _ => Code::FAILED,
    };
    Failure::from_error(code, error)
}

/// Every artifact some result names, with the newest result that does.
fn produced(store: &Store) -> Result<BTreeMap<ArtifactId, (ResultRecord, String)>, Failure> {
    let found = store.all_results().map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    let mut all = BTreeMap::new();
    for stored in found.records {
        for (output, id) in &stored.record.outputs {
            all.entry(*id).or_insert_with(|| (stored.record.clone(), output.clone()));
        }
    }
    Ok(all)
}

fn list(store: &Store, as_json: bool) -> Result<Code, Failure> {
    let mut rows: Vec<_> = produced(store)?.into_iter().collect();
    rows.sort_by_key(|(id, (record, _))| (std::cmp::Reverse(record.finished_unix_ms), *id));
    for (id, (record, output)) in rows {
        let manifest = store.read_artifact(&id).ok();
        let size = manifest.as_ref().map(sprint_artifacts::Manifest::total_size);
        let kind = manifest.as_ref().map(|m| m.kind().to_owned());
        let secrecy = manifest.as_ref().map(|m| m.secrecy().to_string());
        if as_json {
            let row = json!({"digest": id, "stage": record.stage, "output": output, "kind": kind, "secrecy": secrecy, "bytes": size,
                "run": record.run, "finished_unix_ms": record.finished_unix_ms, "private": record.private});
            out::line(row)?;
        } else {
            let what = format!("{}.{output}", record.stage);
            let size = size.map_or_else(|| "missing".to_owned(), bytes);
            let (kind, secrecy) = (kind.unwrap_or_default(), secrecy.unwrap_or_default());
            out::line(format_args!("{}  {size:>10}  {secrecy:<9} {kind:<18} {what}", id.short()))?;
        }
    }
    Ok(Code::DONE)
}

/// The one artifact whose digest starts with `text`, with or without `b3:`.
pub(super) fn find(store: &Store, text: &str) -> Result<ArtifactId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let prefix = text.strip_prefix("b3:").unwrap_or(text).to_ascii_lowercase();
    let known = produced(store)?;
    let mut matches = known.keys().filter(|id| !prefix.is_empty() && id.to_hex().starts_with(&prefix));
    match (matches.next(), matches.next()) {
        (Some(id), None) => Ok(*id),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("digest {text}: several artifacts start with it")).help("give more digits"))
        }
        (None, _) => {
            Err(Failure::usage(format!("digest {text}: no artifact starts with it"))
                .help("`sprint-flow artifacts ls` lists them"))
        }
    }
}

fn get(store: &Store, digest: &str, out: &Path, as_json: bool) -> Result<Code, Failure> {
    let id = find(store, digest)?;
    let manifest = store.materialise(&id, out).map_err(|e| store_failure(&e))?;
    let files: Vec<_> = manifest.files().iter().map(|f| out.join(f.name())).collect();
    if as_json {
        out::line(json!({"digest": id, "files": files}))?;
    } else {
        for file in &files {
            out::line(file.display())?;
        }
    }
    Ok(Code::DONE)
}

fn verify(store: &Store, digest: Option<&str>, as_json: bool) -> Result<Code, Failure> {
    let ids = match digest {
        Some(text) => vec![find(store, text)?],
        None => produced(store)?.into_keys().collect(),
    };
    let mut damaged = 0usize;
    for id in &ids {
        let state = store.verify_artifact(id).map_err(|e| store_failure(&e))?;
        let (word, detail) = match &state {
            Presence::Present => ("ok", String::new()),
            Presence::Missing(files) => ("missing", files.join(", ")),
            Presence::Corrupt(found) => {
                damaged += 1;
                ("damaged", found.iter().map(|m| format!("{} is {}", m.expected, m.actual)).collect::<Vec<_>>().join(", "))
            }
        };
        if as_json {
            out::line(json!({"digest": id, "state": word, "detail": detail}))?;
        } else if state.is_present() {
            out::line(format_args!("ok       {id}"))?;
        } else {
            out::line(format_args!("{word:<8} {id}  {detail}"))?;
        }
    }
    if damaged == 0 {
        return Ok(Code::DONE);
    }
    let message = format!("{damaged} of {} artifacts are damaged", ids.len());
    Err(Failure::new(Code::INTEGRITY, message).help("run the workflow again: damaged artifacts are set aside and made anew"))
}
