//! `download@1`: files of this machine, of the web, or of a Hugging Face hub, as an artifact.
//!
//! A local source is digested when the workflow is planned (`content_digest` joins the parameters), so one changed byte
//! changes the action key. A remote source without a digest or revision is fetched once and then reused.

mod checksum;
mod error;
mod fetch;
mod hub;
mod local;
mod source;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sprint_artifacts::{Digest, Manifest, Secrecy};
use sprint_stage_api::{
    CachePolicy, Effect, ErrorClass, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs, StageSpec,
};

use crate::errors::store_error;
use crate::params::{self, Params};
use checksum::Checksum;
use fetch::{Fetcher, Retry, Surroundings, Wanted};
use source::Source;

/// Downloads never leave this machine: a local file may be somebody's mail, and what is public can be fetched again.
const LABEL: Secrecy = Secrecy::Secret;

/// Parameters of `download@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DownloadParams {
    /// `file:PATH` (relative to the workflow's folder; a file or a folder), `https://…`, `hf://ORG/MODEL` or
    /// `hf://datasets/ORG/NAME/SUBSET`.
    source: String,
    /// `sha256:…` or `b3:…` of the file, where the source is one file. Anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Branch, tag or commit of a hub repository; `main` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// The most bytes to accept, all files together.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1))]
    max_bytes: u64,
    /// Digest of a local source, filled in when the workflow is planned; do not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_digest: Option<String>,
}

const fn default_max_bytes() -> u64 {
    8 << 30
}

impl Params for DownloadParams {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        let source = Source::parse(&self.source);
        if let Err(e) = &source {
            problems.push(ParamProblem::new(&["source"], e.to_string()));
        }
        if let Some(Err(message)) = self.digest.as_ref().map(|d| d.parse::<Checksum>()) {
            problems.push(ParamProblem::new(&["digest"], message));
        }
        if let (Some(_), Ok(Source::Hub(repo))) = (&self.digest, &source) {
            let message = format!("{repo} is many files and has no digest of its own");
            problems.push(ParamProblem::new(&["digest"], message).help("pin it with revision: COMMIT"));
        }
        if let Some(revision) = &self.revision {
            if matches!(source, Ok(Source::Local(_) | Source::Url(_))) {
                problems.push(ParamProblem::new(&["revision"], "only hf:// sources have revisions"));
            }
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            if revision.is_empty() || !revision.bytes().all(plain) || revision.starts_with('.') {
                problems.push(ParamProblem::new(&["revision"], format!("{revision:?} is not a branch, tag or commit")));
            }
        }
    }
}

/// The stage.
pub(crate) struct Download {
    spec: StageSpec,
    retry: Retry,
}

impl Download {
    pub(crate) fn new() -> Self {
        let outputs = vec![OutputPort { name: "files", artifact: "files", secrecy: LABEL }];
        let spec = StageSpec {
            kind: "download",
            version: 1,
            about: "Fetches files from this machine, the web or a Hugging Face hub.",
            inputs: Vec::new(),
            outputs,
            effect: Effect::ReadsWorld,
            cache: CachePolicy::Always,
            code_digest: crate::code::DOWNLOAD,
            params_schema: params::schema::<DownloadParams>(),
        };
        Self { spec, retry: Retry::default() }
    }
}

impl Stage for Download {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<DownloadParams>(params)
    }

    fn pin(&self, params: &Value, base: &Path) -> Result<Value, Vec<ParamProblem>> {
        let problem = |e: String| vec![ParamProblem::new(&["source"], e)];
        let mut params: DownloadParams = serde_json::from_value(params.clone()).map_err(|e| problem(e.to_string()))?;
        if let Ok(Source::Local(path)) = Source::parse(&params.source) {
            let digest = local::files(&base.join(&path)).map(|files| local::content_digest(&files));
            let help = format!("relative paths are resolved against the workflow's folder, {}", base.display());
            let digest = digest.map_err(|e| vec![ParamProblem::new(&["source"], format!("{path}: {e}")).help(help)])?;
            params.content_digest = Some(digest.to_string());
        }
        serde_json::to_value(&params).map_err(|e| problem(e.to_string()))
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: DownloadParams = ctx.params_as()?;
        match Source::parse(&params.source).map_err(|e| StageError::permanent(e.to_string()))? {
            Source::Local(path) => copy_local(ctx, &params, &path),
            Source::Url(url) => self.fetch_url(ctx, &params, &url),
            Source::Hub(repo) => hub::fetch(ctx, &params, &repo, self.retry),
        }
    }
}

impl DownloadParams {
    fn checksum(&self) -> Option<Checksum> {
        self.digest.as_ref().and_then(|d| d.parse().ok())
    }
}

fn copy_local(ctx: &StageContext<'_>, params: &DownloadParams, path: &str) -> Result<StageOutputs, StageError> {
    let files = local::files(&ctx.base().join(path)).map_err(|e| StageError::permanent(format!("{path}: {e}")))?;
    let total: u64 = files.iter().map(|f| f.digests.length).sum();
    if total > params.max_bytes {
        return Err(error::FetchError::TooLarge { limit: params.max_bytes }.into_stage(path));
    }
    if let Some(want) = params.checksum() {
        let [file] = files.as_slice() else {
            return Err(StageError::permanent(format!("{path} is a folder; digest: is for one file")));
        };
        if !want.accepts(&file.digests) {
            let found = want.counterpart(&file.digests).to_string();
            return Err(error::FetchError::Digest { want: want.to_string(), found }.into_stage(path));
        }
    }
    if let Some(planned) = &params.content_digest
        && *planned != local::content_digest(&files).to_string()
    {
        let message = format!("{path} changed between planning and running");
        return Err(StageError::permanent(message).help("run again: the new contents get a plan of their own"));
    }
    let mut builder = Manifest::builder("files@1", LABEL);
    for file in &files {
        builder = builder.path(file.name.clone(), &file.path);
    }
    let (id, manifest) = ctx.store().put_artifact(builder).map_err(store_error)?;
    for file in &files {
        // What was stored must be what was digested: the file could have changed in between.
        if manifest.file(&file.name).map(|f| *f.digest()) != Some(file.digests.blake3) {
            return Err(StageError::transient(format!("{path}: {} changed while it was read", file.name)));
        }
    }
    ctx.progress(total, Some(total), "bytes", None);
    Ok(StageOutputs::new().with("files", id))
}

impl Download {
    fn fetch_url(&self, ctx: &StageContext<'_>, params: &DownloadParams, text: &str) -> Result<StageOutputs, StageError> {
        let url: reqwest::Url = text.parse().map_err(|e| StageError::permanent(format!("{text}: {e}")))?;
        let segment = url.path_segments().and_then(|mut all| all.next_back().map(str::to_owned));
        let name = segment.filter(|s| !s.is_empty()).unwrap_or_else(|| "file".to_owned());
        let part = part_file(ctx, text)?;
        let wanted = Wanted { url, checksum: params.checksum(), hub: false, commit: None, limit: params.max_bytes };
        let around = Reporter { ctx, before: 0, note: name.clone() };
        let fetcher = Fetcher { client: client(ctx)?, retry: self.retry, token: None, around: &around };
        let fetched = block_on(fetcher.fetch(&wanted, &part)).map_err(|e| e.into_stage(text))?;
        if !fetched.verified {
            ctx.log(format!("{text}: no digest to check it by; this copy is kept and reused ({})", fetched.digests.blake3));
        }
        let builder = Manifest::builder("files@1", LABEL).path(name, &part);
        let (id, _) = ctx.store().put_artifact(builder).map_err(store_error)?;
        // Left behind it would only cost space.
        let _ = fetch::discard(&part);
        Ok(StageOutputs::new().with("files", id))
    }
}

/// Where the beginning of a file waits for the next attempt: an append-only file beside the ledgers of this action, removed once
/// the artifact is stored.
fn part_file(ctx: &StageContext<'_>, url: &str) -> Result<PathBuf, StageError> {
    let dir = ctx.checkpoints().ledger_dir().join("partial");
    std::fs::create_dir_all(&dir).map_err(|e| StageError::transient(format!("{}: {e}", dir.display())))?;
    Ok(dir.join(Digest::of(url.as_bytes()).short()))
}

/// A client that reads the declared environment alone: proxies are those of the context.
fn client(ctx: &StageContext<'_>) -> Result<reqwest::Client, StageError> {
    let failed = |e: reqwest::Error| StageError::permanent(format!("cannot set up the HTTP client: {e}"));
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(Duration::from_secs(60))
        .user_agent(concat!("sprint-flow/", env!("CARGO_PKG_VERSION")));
    let env = |upper: &str, lower: &str| ctx.env(upper).or_else(|| ctx.env(lower)).filter(|v| !v.is_empty());
    let bypass = env("NO_PROXY", "no_proxy").and_then(reqwest::NoProxy::from_string);
    for (upper, lower, https) in [("HTTPS_PROXY", "https_proxy", true), ("HTTP_PROXY", "http_proxy", false)] {
        if let Some(url) = env(upper, lower) {
            let proxy = if https { reqwest::Proxy::https(url) } else { reqwest::Proxy::http(url) };
            builder = builder.proxy(proxy.map_err(failed)?.no_proxy(bypass.clone()));
        }
    }
    builder.build().map_err(failed)
}

/// Runs a download to its end on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime needs no more than a thread").block_on(future)
}

/// Passes a fetch's progress on to the stage.
struct Reporter<'a, 'c> {
    ctx: &'a StageContext<'c>,
    /// Bytes of the files before this one.
    before: u64,
    note: String,
}

impl Surroundings for Reporter<'_, '_> {
    fn cancelled(&self) -> bool {
        self.ctx.is_cancelled()
    }

    fn progress(&self, done: u64, total: Option<u64>) {
        let total = total.map(|t| t + self.before);
        self.ctx.progress(self.before + done, total, "bytes", Some(self.note.clone()));
    }

    fn log(&self, line: String) {
        self.ctx.log(line);
    }
}

/// A stage error for data that is not what it should be.
fn bad_answer(what: &str, message: impl std::fmt::Display) -> StageError {
    StageError::new(ErrorClass::RemoteUnavailable, format!("{what}: {message}"))
}
