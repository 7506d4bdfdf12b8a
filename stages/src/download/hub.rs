//! A Hugging Face hub: which files a repository has, and all of the wanted ones at one commit.

use std::time::Instant;

use reqwest::Url;
use serde::Deserialize;
use sprint_artifacts::{Manifest, Value};
use sprint_stage_api::{ErrorClass, StageContext, StageError, StageOutputs};

use super::error::FetchError;
use super::fetch::{Fetcher, Retry, Wanted, discard};
use super::source::HubRepo;
use super::{DownloadParams, LABEL, Reporter, bad_answer, block_on, client, part_file};
use crate::errors::store_error;

/// Where the hub is unless `HF_ENDPOINT` says otherwise: the address is the product's, not a mirror's.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The most bytes of a repository's description.
const MAX_DESCRIPTION: u64 = 64 << 20;

/// The part of the API's answer that is used; hubs add fields freely.
#[derive(Debug, Deserialize)]
struct Description {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Fetches the wanted files of a repository at the commit that its revision names now.
pub(super) fn fetch(
    ctx: &StageContext<'_>,
    params: &DownloadParams,
    repo: &HubRepo,
    retry: Retry,
) -> Result<StageOutputs, StageError> {
    let endpoint = ctx.env("HF_ENDPOINT").filter(|e| !e.is_empty()).unwrap_or(DEFAULT_ENDPOINT);
    let endpoint = endpoint.trim_end_matches('/');
    let client = client(ctx)?;
    let token = ctx.env("HF_TOKEN").filter(|t| !t.is_empty()).map(str::to_owned);
    let started = Instant::now();

    let around = Reporter { ctx, before: 0, note: repo.to_string() };
    let fetcher = Fetcher { client: client.clone(), retry, token: token.clone(), around: &around };
    let description = describe(&fetcher, params, repo, endpoint, ctx)?;
    let names: Vec<String> = description.siblings.into_iter().map(|s| s.rfilename).collect();
    let mut wanted = repo.select(&names);
    wanted.sort();
    if wanted.is_empty() {
        return Err(nothing_wanted(repo, &names));
    }
    let commit = description.sha;
    ctx.log(format!("{repo} is at commit {commit}; {} files", wanted.len()));

    let mut builder = Manifest::builder("files@1", LABEL)
        .meta("repository", Value::from(repo.to_string()))
        .meta("commit", Value::from(commit.clone()));
    let (mut total, mut parts) = (0, Vec::new());
    for (remote, local) in wanted {
        let url = file_url(endpoint, repo, &commit, &remote)?;
        let part = part_file(ctx, url.as_str())?;
        let limit = params.max_bytes.saturating_sub(total);
        let request = Wanted { url, checksum: None, hub: true, commit: Some(commit.clone()), limit };
        let around = Reporter { ctx, before: total, note: local.clone() };
        let fetcher = Fetcher { client: client.clone(), retry, token: token.clone(), around: &around };
        let fetched = block_on(fetcher.fetch(&request, &part)).map_err(|e| e.into_stage(&format!("{repo}: {remote}")))?;
        if !fetched.verified {
            ctx.log(format!("{remote}: the hub states no SHA-256 for it ({})", fetched.digests.blake3));
        }
        total += fetched.digests.length;
        builder = builder.path(local, &part);
        parts.push(part);
    }
    let (id, _) = ctx.store().put_artifact(builder).map_err(store_error)?;
    for part in parts {
        // Left behind they would only cost space.
        let _ = discard(&part);
    }
    ctx.log(format!("{total} bytes in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(StageOutputs::new().with("files", id))
}

fn describe(
    fetcher: &Fetcher<'_>,
    params: &DownloadParams,
    repo: &HubRepo,
    endpoint: &str,
    ctx: &StageContext<'_>,
) -> Result<Description, StageError> {
    let revision = params.revision.as_deref().unwrap_or("main");
    let url = format!("{endpoint}/{}/revision/{revision}", repo.api());
    let url: Url = url.parse().map_err(|e| StageError::permanent(format!("HF_ENDPOINT {endpoint:?}: {e}")))?;
    let wanted = Wanted { url, checksum: None, hub: false, commit: None, limit: MAX_DESCRIPTION };
    let bytes = block_on(fetcher.document(&wanted, &ctx.scratch().join("description.json")));
    let bytes = bytes.map_err(|e: FetchError| e.into_stage(&format!("{repo} at {endpoint}")))?;
    let description: Description = serde_json::from_slice(&bytes)
        .map_err(|e| bad_answer(&repo.to_string(), format!("the hub's answer is not understood: {e}")))?;
    let is_commit = description.sha.len() >= 7 && description.sha.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_commit {
        return Err(bad_answer(&repo.to_string(), format!("the hub names no commit but {:?}", description.sha)));
    }
    Ok(description)
}

fn file_url(endpoint: &str, repo: &HubRepo, commit: &str, file: &str) -> Result<Url, StageError> {
    let base = format!("{endpoint}/{}/resolve/{commit}", repo.path());
    let mut url: Url = base.parse().map_err(|e| StageError::permanent(format!("{base}: {e}")))?;
    // Segment by segment, so that names with spaces or question marks stay names.
    let mut segments = url.path_segments_mut().map_err(|()| StageError::permanent(format!("{base} cannot hold files")))?;
    segments.extend(file.split('/'));
    drop(segments);
    Ok(url)
}

fn nothing_wanted(repo: &HubRepo, names: &[String]) -> StageError {
    let mut folders: Vec<&str> = names.iter().filter_map(|n| n.rsplit_once('/').map(|(folder, _)| folder)).collect();
    folders.dedup();
    folders.sort_unstable();
    folders.dedup();
    let error = StageError::new(ErrorClass::Permanent, format!("{repo} has no file of the wanted kind"));
    match folders.len() {
        0 => error.help(format!("it has: {}", names.iter().take(12).cloned().collect::<Vec<_>>().join(", "))),
        _ => error.help(format!("it has the folders {}", folders.iter().take(20).copied().collect::<Vec<_>>().join(", "))),
    }
}
