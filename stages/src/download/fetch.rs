//! One file by HTTP into one local file: resumed, retried, bounded and checked.
//!
//! **Invariant.** [`Fetcher::fetch`] returns `Ok` only if the file holds one version of the resource from its first to its
//! last byte, and its digest is the expected one where one is known. Bytes of two versions are never joined: a resumed
//! request carries `If-Range` with the validator of the bytes at hand, and the answer's own validator is compared as well.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::checksum::{Checksum, FileDigests};
use super::error::FetchError;

/// How failures that may pass are met.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    /// Attempts in a row that bring no byte before giving up.
    pub(super) attempts: u32,
    /// Downloads from the first byte whose contents were not accepted before giving up.
    pub(super) restarts: u32,
    /// The first pause; it doubles.
    pub(super) pause: Duration,
    /// The longest pause, also where the server asks for more.
    pub(super) longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, restarts: 3, pause: Duration::from_millis(500), longest: Duration::from_secs(60) }
    }
}

/// What to fetch, and what is known about it beforehand.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) url: Url,
    /// A digest given by the user.
    pub(super) checksum: Option<Checksum>,
    /// Whether the answer comes from a hub, whose headers describe the file.
    pub(super) hub: bool,
    /// The commit a hub must serve.
    pub(super) commit: Option<String>,
    /// The most bytes to accept.
    pub(super) limit: u64,
}

/// A file that arrived whole.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) digests: FileDigests,
    /// Whether its digest was known beforehand.
    pub(super) verified: bool,
}

/// What the fetcher asks of its surroundings.
pub(super) trait Surroundings {
    fn cancelled(&self) -> bool;
    fn progress(&self, done: u64, total: Option<u64>);
    fn log(&self, line: String);
}

/// Fetches files over one client.
pub(super) struct Fetcher<'a> {
    pub(super) client: Client,
    pub(super) retry: Retry,
    /// Sent to the first host alone; never logged.
    pub(super) token: Option<String>,
    pub(super) around: &'a dyn Surroundings,
}

/// Which version of a resource a part file holds the beginning of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PartOf {
    url: String,
    validator: String,
    /// The digest that the hub stated with the first byte.
    linked: Option<String>,
}

/// The part file and its description beside it.
struct Part {
    path: PathBuf,
    about: PathBuf,
}

/// How an attempt ended when it did not fail for good.
enum Outcome {
    Whole { expected: Option<Checksum> },
    Again { why: FetchError, pause: Option<Duration>, restart: bool },
}

impl Part {
    fn at(path: &Path) -> Self {
        let mut about = path.as_os_str().to_owned();
        about.push(".part-of");
        Self { path: path.to_owned(), about: about.into() }
    }

    /// The bytes at hand and the version they are of.
    fn state(&self, url: &Url) -> Option<(u64, PartOf)> {
        let about: PartOf = serde_json::from_slice(&fs::read(&self.about).ok()?).ok()?;
        let length = fs::metadata(&self.path).ok()?.len();
        (length > 0 && about.url == url.as_str()).then_some((length, about))
    }

    fn begin(&self, url: &Url, validator: Option<String>, linked: Option<Checksum>) -> io::Result<()> {
        self.discard()?;
        fs::write(&self.path, b"")?;
        if let Some(validator) = validator {
            let about = PartOf { url: url.to_string(), validator, linked: linked.map(|c| c.to_string()) };
            fs::write(&self.about, serde_json::to_vec(&about)?)?;
        }
        Ok(())
    }

    fn discard(&self) -> io::Result<()> {
        for path in [&self.about, &self.path] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Forgets a fetched file and what is known about it.
pub(super) fn discard(path: &Path) -> io::Result<()> {
    Part::at(path).discard()
}

impl Fetcher<'_> {
    /// Fetches `wanted` into `into`, going on from what an earlier call left there.
    pub(super) async fn fetch(&self, wanted: &Wanted, into: &Path) -> Result<Fetched, FetchError> {
        let part = Part::at(into);
        let (mut tries, mut restarts, mut rejected) = (0, 0, None);
        loop {
            if self.around.cancelled() {
                return Err(FetchError::Cancelled);
            }
            let before = fs::metadata(into).map_or(0, |m| m.len());
            let (why, pause, restart) = match self.attempt(wanted, &part).await? {
                Outcome::Whole { expected } => match self.accept(wanted, expected, &part, &mut rejected)? {
                    Ok(fetched) => return Ok(fetched),
                    Err(why) => (why, None, true),
                },
                Outcome::Again { why, pause, restart } => (why, pause, restart),
            };
            let after = fs::metadata(into).map_or(0, |m| m.len());
            if restart {
                part.discard().map_err(|e| FetchError::file(into, e))?;
                restarts += 1;
            }
            tries = if after > before && !restart { 1 } else { tries + 1 };
            if tries >= self.retry.attempts || restarts > self.retry.restarts {
                return Err(why);
            }
            let pause = pause.unwrap_or(self.retry.pause * 2_u32.saturating_pow(tries - 1)).min(self.retry.longest);
            self.around.log(format!("{}: {why}; trying again in {:.1} s", wanted.url, pause.as_secs_f64()));
            self.sleep(pause).await?;
        }
    }

    async fn sleep(&self, pause: Duration) -> Result<(), FetchError> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if self.around.cancelled() {
                return Err(FetchError::Cancelled);
            }
            tokio::time::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(100))).await;
        }
        Ok(())
    }

    /// Checks the whole file; the inner error asks for another download. The same wrong bytes twice are what the source has.
    fn accept(
        &self,
        wanted: &Wanted,
        hub: Option<Checksum>,
        part: &Part,
        rejected: &mut Option<FileDigests>,
    ) -> Result<Result<Fetched, FetchError>, FetchError> {
        let digests = FileDigests::of(&part.path).map_err(|e| FetchError::file(&part.path, e))?;
        let wrong = [wanted.checksum, hub].into_iter().flatten().find(|c| !c.accepts(&digests));
        let Some(want) = wrong else {
            return Ok(Ok(Fetched { digests, verified: wanted.checksum.is_some() || hub.is_some() }));
        };
        let why = FetchError::Digest { want: want.to_string(), found: want.counterpart(&digests).to_string() };
        if rejected.replace(digests) == Some(digests) {
            part.discard().map_err(|e| FetchError::file(&part.path, e))?;
            return Err(why);
        }
        Ok(Err(why))
    }

    /// One request, and the body as far as it comes.
    async fn attempt(&self, wanted: &Wanted, part: &Part) -> Result<Outcome, FetchError> {
        let have = part.state(&wanted.url);
        let (first, response) = match self.request(wanted, have.as_ref()).await {
            Ok(answer) => answer,
            Err(FetchError::Network(e)) => {
                return Ok(Outcome::Again { why: FetchError::Network(e), pause: None, restart: false });
            }
            Err(other) => return Err(other),
        };
        let status = response.status();
        let headers = response.headers().clone();
        let validator = validator(&headers);
        if let (true, Some(want), Some(got)) = (wanted.hub, &wanted.commit, text(&first, "x-repo-commit"))
            && want != got
        {
            return Err(FetchError::Moved { want: want.clone(), found: got.to_owned() });
        }
        let again = |why, restart| Ok(Outcome::Again { why, pause: None, restart });
        let resumed = match status {
            StatusCode::OK => None,
            // What was at hand may simply be whole.
            StatusCode::RANGE_NOT_SATISFIABLE => match have {
                Some((length, of)) if total_of(&headers) == Some(length) && validator.is_none_or(|v| v == of.validator) => {
                    let stated = of.linked.and_then(|c| c.parse().ok());
                    return Ok(Outcome::Whole { expected: linked(wanted, &first).or(stated) });
                }
                _ => return again(FetchError::Changed, true),
            },
            StatusCode::PARTIAL_CONTENT => match (have.as_ref(), content_range(&headers)) {
                (Some((length, of)), Some((start, total))) if start == *length => {
                    if validator.as_ref().is_some_and(|v| *v != of.validator) {
                        return again(FetchError::Changed, true);
                    }
                    Some(total)
                }
                _ => return again(FetchError::Range, true),
            },
            _ => return refused(status, &headers),
        };
        if is_html(&headers) && !is_html_name(wanted.url.path()) {
            return again(FetchError::Html, false);
        }
        let linked = linked(wanted, &first);
        let total = if let Some(total) = resumed {
            total
        } else {
            if let Some((length, _)) = have {
                self.around.log(format!("{}: the server sends the whole file again; {length} bytes are dropped", wanted.url));
            }
            part.begin(&wanted.url, validator, linked).map_err(|e| FetchError::file(&part.path, e))?;
            response.content_length()
        };
        if total.is_some_and(|n| n > wanted.limit) {
            return Err(FetchError::TooLarge { limit: wanted.limit });
        }
        self.body(wanted, part, response, total, linked).await
    }

    /// Appends the body to the part file.
    async fn body(
        &self,
        wanted: &Wanted,
        part: &Part,
        mut response: reqwest::Response,
        total: Option<u64>,
        expected: Option<Checksum>,
    ) -> Result<Outcome, FetchError> {
        let failed = |e| FetchError::file(&part.path, e);
        let mut file = fs::OpenOptions::new().append(true).open(&part.path).map_err(failed)?;
        let mut done = file.metadata().map_err(failed)?.len();
        let mut shown = Instant::now();
        let end = loop {
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    file.write_all(&bytes).map_err(failed)?;
                    done += bytes.len() as u64;
                    if done > wanted.limit {
                        return Err(FetchError::TooLarge { limit: wanted.limit });
                    }
                    if shown.elapsed() > Duration::from_millis(200) {
                        self.around.progress(done, total);
                        shown = Instant::now();
                    }
                }
                Ok(None) => break None,
                Err(e) => break Some(FetchError::network(&e)),
            }
            if self.around.cancelled() {
                return Err(FetchError::Cancelled);
            }
        };
        file.flush().map_err(failed)?;
        self.around.progress(done, total);
        if let Some(total) = total.filter(|total| done > *total) {
            return Ok(Outcome::Again { why: FetchError::Length { want: total, found: done }, pause: None, restart: true });
        }
        let short = total.filter(|total| done < *total).map(|want| FetchError::Length { want, found: done });
        match end.or(short) {
            None => Ok(Outcome::Whole { expected }),
            // Without a validator the rest could be of another version.
            Some(why) => Ok(Outcome::Again { why, pause: None, restart: part.state(&wanted.url).is_none() && done > 0 }),
        }
    }

    /// Sends the request and follows redirects; gives the first answer's headers (a hub describes the file there, then
    /// redirects to its storage) and the last answer.
    async fn request(&self, wanted: &Wanted, have: Option<&(u64, PartOf)>) -> Result<(HeaderMap, reqwest::Response), FetchError> {
        let mut url = wanted.url.clone();
        let mut first = None;
        for _ in 0..10 {
            let mut request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            if let Some((length, of)) = have {
                request = request.header(header::RANGE, format!("bytes={length}-")).header(header::IF_RANGE, &of.validator);
            }
            if let Some(token) = self.token.as_deref().filter(|_| same_origin(&url, &wanted.url)) {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|e| FetchError::network(&e))?;
            let headers = first.get_or_insert_with(|| response.headers().clone()).clone();
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok((headers, response));
            }
            let to = text(response.headers(), "location").ok_or(FetchError::Redirect)?;
            url = url.join(to).map_err(|_| FetchError::Redirect)?;
            if !matches!(url.scheme(), "http" | "https") || (wanted.url.scheme() == "https" && url.scheme() == "http") {
                return Err(FetchError::Redirect);
            }
        }
        Err(FetchError::Redirect)
    }

    /// A small document, such as a hub's description of a repository.
    pub(super) async fn document(&self, wanted: &Wanted, into: &Path) -> Result<Vec<u8>, FetchError> {
        discard(into).map_err(|e| FetchError::file(into, e))?;
        self.fetch(wanted, into).await?;
        fs::read(into).map_err(|e| FetchError::file(into, e))
    }
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

fn refused(status: StatusCode, headers: &HeaderMap) -> Result<Outcome, FetchError> {
    let why = FetchError::Status { status: status.as_u16(), code: text(headers, "x-error-code").map(str::to_owned) };
    let passing = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
    if !passing {
        return Err(why);
    }
    let pause = text(headers, "retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
    Ok(Outcome::Again { why, pause, restart: false })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A strong entity tag, else the date of the last change: what `If-Range` may carry (RFC 9110 §13.1.5).
fn validator(headers: &HeaderMap) -> Option<String> {
    let etag = text(headers, "etag").filter(|e| e.starts_with('"'));
    etag.or_else(|| text(headers, "last-modified")).map(str::to_owned)
}

fn linked(wanted: &Wanted, headers: &HeaderMap) -> Option<Checksum> {
    text(headers, "x-linked-etag").filter(|_| wanted.hub).and_then(Checksum::of_linked_etag)
}

fn is_html(headers: &HeaderMap) -> bool {
    text(headers, "content-type").is_some_and(|t| t.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

fn is_html_name(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    [".html", ".htm"].iter().any(|end| path.ends_with(end))
}

/// The length in the `bytes */length` of a 416 answer.
fn total_of(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range")?.strip_prefix("bytes */")?.parse().ok()
}

/// `bytes a-b/total` as `(a, total)`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}
