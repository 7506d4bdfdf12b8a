//! Objects in a bucket: created only if absent, checked by SHA-256 on the way, uploaded in parts that a later process goes on with.

mod error;
mod multipart;

use std::fmt;
use std::io::Write;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use sprint_artifacts::Remote;
use sprint_artifacts::remote::{Body, Creation, ObjectError, Objects, RemoteSpec, RemoteUrl, Sealer};

use crate::aws::{AccessKeys, Background, Patience, settings};
use crate::seal::AgeSealer;
use error::{Failed, failure, local};

/// How objects are uploaded.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Bytes of one part; objects that are larger go in parts. S3 takes no less than 5 MiB.
    pub part: u64,
    /// Seconds that one try of one call may take.
    pub attempt_s: u64,
    /// Keys, where the SDK should not look for them.
    pub keys: Option<AccessKeys>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self { part: 16 << 20, attempt_s: 120, keys: None }
    }
}

/// Objects below a prefix of a bucket.
pub struct S3Objects {
    client: Client,
    url: RemoteUrl,
    options: S3Options,
    runtime: Background,
}

/// Opens a remote. No object is touched; a wrong bucket or missing credentials show at the first use.
pub fn connect(spec: &RemoteSpec) -> Result<Remote, String> {
    let sealer = AgeSealer::new(&spec.recipients, spec.identity.as_deref()).map_err(|e| sprint_stage_api::with_causes(&e))?;
    let objects = S3Objects::connect(spec, S3Options::default()).map_err(|e| format!("no runtime: {e}"))?;
    Ok(Remote::new(Box::new(objects), sealer.map(|s| Box::new(s) as Box<dyn Sealer>)))
}

impl S3Objects {
    /// A client for the bucket of `spec`.
    pub fn connect(spec: &RemoteSpec, options: S3Options) -> std::io::Result<Self> {
        let runtime = Background::new()?;
        let attempt = std::time::Duration::from_secs(options.attempt_s);
        let patience = Patience { attempt, operation: attempt * 5, ..Patience::default() };
        let config =
            runtime.block_on(settings(spec.endpoint.as_deref(), spec.region.as_deref(), options.keys.as_ref(), patience));
        // Services other than AWS have no host name for each bucket.
        let elsewhere = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"].iter().any(|name| std::env::var_os(name).is_some());
        let path_style = config.endpoint_url().is_some() || elsewhere;
        let mut builder = aws_sdk_s3::config::Builder::from(&config).force_path_style(path_style);
        if config.region().is_none() {
            builder = builder.region(aws_config::Region::from_static("us-east-1"));
        }
        Ok(Self { client: Client::from_conf(builder.build()), url: spec.url.clone(), options, runtime })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.url.prefix())
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<Creation, ObjectError> {
        let checksum = STANDARD.encode(Sha256::digest(&bytes));
        let size = bytes.len() as u64;
        for _ in 0..CONFLICTS {
            let request = self.client.put_object().bucket(self.url.bucket()).key(self.key(name)).if_none_match("*");
            let request = request.checksum_sha256(&checksum).body(ByteStream::from(bytes.clone()));
            match request.send().await.map_err(|e| failure("create", name, e)) {
                Ok(_) => return Ok(Creation::New),
                Err(Failed { status: Some(412), .. }) => return self.compare(name, size, &checksum).await,
                // Another writer of the same key was under way.
                Err(Failed { status: Some(409), .. }) => {}
                Err(failed) => return Err(failed.error),
            }
        }
        self.compare(name, size, &checksum).await
    }

    /// Whether the object that is there is the one that should be.
    async fn compare(&self, name: &str, size: u64, checksum: &str) -> Result<Creation, ObjectError> {
        let request = self.client.head_object().bucket(self.url.bucket()).key(self.key(name));
        let head = match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(head) => head,
            Err(e) => return Err(failure("compare", name, e).error),
        };
        let length = head.content_length().and_then(|n| u64::try_from(n).ok());
        let same = match head.checksum_sha256().filter(|theirs| comparable(theirs, checksum)) {
            _ if length != Some(size) => false,
            Some(theirs) => theirs == checksum,
            // A service that keeps no checksums. What is small decides things, so its bytes are looked at.
            None if size <= SMALL => self.checksum_of(name).await? == checksum,
            // Parts of another size, perhaps: the length has to do, and whoever reads it hashes it anyway.
            None => true,
        };
        Ok(if same { Creation::Same } else { Creation::Other })
    }

    async fn checksum_of(&self, name: &str) -> Result<String, ObjectError> {
        let request = self.client.get_object().bucket(self.url.bucket()).key(self.key(name));
        let body = request.send().await.map_err(|e| failure("compare", name, e).error)?.body;
        let bytes = body.collect().await.map_err(|e| error::interrupted("compare", name, &e))?;
        Ok(STANDARD.encode(Sha256::digest(bytes.into_bytes())))
    }
}

/// Objects up to this length are compared byte by byte where the service keeps no checksums.
const SMALL: u64 = 1 << 20;
/// Tries of a creation that collides with another one under way.
const CONFLICTS: u32 = 4;

/// Two checksums say something about each other if they are of the same number of parts.
fn comparable(a: &str, b: &str) -> bool {
    let parts = |s: &str| s.split_once('-').map(|(_, n)| n.to_owned());
    parts(a) == parts(b)
}

impl fmt::Debug for S3Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Objects").field("url", &self.url.to_string()).finish_non_exhaustive()
    }
}

impl Objects for S3Objects {
    fn create(&self, name: &str, body: Body<'_>) -> Result<Creation, ObjectError> {
        match body {
            Body::Bytes(bytes) => self.runtime.block_on(self.put(name, bytes.to_vec())),
            Body::File { path, size, .. } if size <= self.options.part => {
                let bytes = std::fs::read(path).map_err(|e| local(name, e))?;
                self.runtime.block_on(self.put(name, bytes))
            }
            Body::File { path, size, note } => self.runtime.block_on(self.put_parts(name, path, size, note)),
        }
    }

    fn read(&self, name: &str, into: &mut dyn Write) -> Result<bool, ObjectError> {
        self.runtime.block_on(async {
            let request = self.client.get_object().bucket(self.url.bucket()).key(self.key(name));
            let mut body = match request.send().await.map_err(|e| failure("read", name, e)) {
                Ok(found) => found.body,
                Err(Failed { status: Some(404), missing_bucket: false, .. }) => return Ok(false),
                Err(failed) => return Err(failed.error),
            };
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|e| error::interrupted("read", name, &e))?;
                into.write_all(&chunk).map_err(|e| local(name, e))?;
            }
            Ok(true)
        })
    }

    fn exists(&self, name: &str) -> Result<bool, ObjectError> {
        let request = self.client.head_object().bucket(self.url.bucket()).key(self.key(name));
        match self.runtime.block_on(request.send()).map_err(|e| failure("inspect", name, e)) {
            Ok(_) => Ok(true),
            Err(Failed { status: Some(404), .. }) => Ok(false),
            Err(failed) => Err(failed.error),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.runtime.block_on(async {
            let request = self.client.list_objects_v2().bucket(self.url.bucket()).prefix(self.key(prefix));
            let mut pages = request.into_paginator().send();
            let mut names = Vec::new();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|e| failure("list", prefix, e).error)?;
                let keys = page.contents().iter().filter_map(|o| o.key());
                names.extend(keys.filter_map(|k| k.strip_prefix(self.url.prefix())).map(str::to_owned));
            }
            names.sort_unstable();
            Ok(names)
        })
    }

    fn remove(&self, name: &str) -> Result<(), ObjectError> {
        let request = self.client.delete_object().bucket(self.url.bucket()).key(self.key(name));
        self.runtime.block_on(request.send()).map(drop).map_err(|e| failure("remove", name, e).error)
    }
}
