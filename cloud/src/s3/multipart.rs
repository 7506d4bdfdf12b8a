//! Uploads in parts: noted before the first part, continued after a crash, completed only if the object is absent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sprint_artifacts::remote::{Creation, ObjectError};
use tokio::task::JoinSet;

use super::error::{Failed, failure, local};
use super::{CONFLICTS, S3Objects};

/// Parts under way at once.
const AT_ONCE: usize = 4;
/// The most parts of one object.
const MOST_PARTS: u64 = 10_000;

/// An upload under way, on this machine's disk before its first part is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    bucket: String,
    key: String,
    upload: String,
    size: u64,
    part: u64,
}

/// A part that the service has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Sent {
    checksum: String,
    /// The service's own word for it, wanted back at completion.
    tag: Option<String>,
}

/// One part: its number from 1, and where it lies.
#[derive(Debug, Clone)]
struct Part {
    number: i32,
    offset: u64,
    length: u64,
}

impl S3Objects {
    /// Creates an object from a file in parts.
    pub(super) async fn put_parts(
        &self,
        name: &str,
        path: &Path,
        size: u64,
        note: Option<&Path>,
    ) -> Result<Creation, ObjectError> {
        let file = Arc::new(File::open(path).map_err(|e| local(name, e))?);
        let part = self.options.part.max(size.div_ceil(MOST_PARTS));
        for _ in 0..CONFLICTS {
            let upload = self.begin(name, size, part, note).await?;
            let sent = match self.send_parts(name, &file, &upload).await {
                Ok(sent) => sent,
                // The service has forgotten the upload, by its lifecycle rule or because another process ended it.
                Err(Failed { missing_upload: true, .. }) => {
                    forget(note);
                    continue;
                }
                Err(failed) => return Err(failed.error),
            };
            match self.complete(name, &upload, &sent).await {
                Ok(()) => {
                    forget(note);
                    return Ok(Creation::New);
                }
                // Somebody was first, or this very call was and its answer got lost. The parts are still there and cost money.
                Err(Failed { status: Some(412), .. }) => {
                    self.abort(name, &upload).await?;
                    forget(note);
                    return self.compare(name, size, &composite(&sent)).await;
                }
                // 409: another writer of the same key was under way; the upload has to be begun anew.
                Err(Failed { status: Some(409), .. }) => {
                    self.abort(name, &upload).await?;
                    forget(note);
                }
                // 404 after an answer that got lost: the upload is gone because it was completed.
                Err(Failed { missing_upload: true, error, .. }) => {
                    forget(note);
                    return self.compare(name, size, &composite(&sent)).await.map_err(|_| error);
                }
                // Success in words that cannot be read: the object itself says whether it is there.
                Err(Failed { status: Some(200..=299), error, .. }) => {
                    self.compare(name, size, &composite(&sent)).await.map_err(|_| error)?;
                    forget(note);
                    return Ok(Creation::New);
                }
                Err(failed) => return Err(failed.error),
            }
        }
        let reason = "other writers of the same object keep colliding with this one".to_owned();
        Err(ObjectError::Unavailable { operation: "create", name: name.to_owned(), reason })
    }

    /// The upload that was noted for this object, or a new one.
    async fn begin(&self, name: &str, size: u64, part: u64, note: Option<&Path>) -> Result<Note, ObjectError> {
        let (bucket, key) = (self.url.bucket().to_owned(), self.key(name));
        if let Some(noted) = note.and_then(|p| fs::read(p).ok()).and_then(|b| serde_json::from_slice::<Note>(&b).ok())
            && (&noted.bucket, &noted.key, noted.size, noted.part) == (&bucket, &key, size, part)
        {
            return Ok(noted);
        }
        let request = self.client.create_multipart_upload().bucket(&bucket).key(&key);
        let begun = request.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await;
        let begun = begun.map_err(|e| failure("begin the upload of", name, e).error)?;
        let upload = begun.upload_id().unwrap_or_default().to_owned();
        let noted = Note { bucket, key, upload, size, part };
        if let Some(path) = note {
            write_note(path, &noted).map_err(|e| local(name, e))?;
        }
        Ok(noted)
    }

    /// Sends the parts that the service does not have yet; all of them.
    async fn send_parts(&self, name: &str, file: &Arc<File>, upload: &Note) -> Result<Vec<Sent>, Failed> {
        let there = self.parts_there(name, upload).await?;
        let count = upload.size.div_ceil(upload.part);
        let mut rest = (0..count).map(|i| {
            let offset = i * upload.part;
            Part { number: i as i32 + 1, offset, length: upload.part.min(upload.size - offset) }
        });
        let mut sent = vec![Sent::default(); count as usize];
        let mut under_way: JoinSet<Result<(i32, Sent), Failed>> = JoinSet::new();
        let mut failed = None;
        loop {
            // After a failure nothing new is begun, but what is under way arrives: the next attempt need not send it again.
            while failed.is_none()
                && under_way.len() < AT_ONCE
                && let Some(part) = rest.next()
            {
                let known = there.get(&part.number).cloned();
                under_way.spawn(self.part(name, file, upload, part, known));
            }
            let Some(done) = under_way.join_next().await else { break };
            match done.expect("a part's task neither panics nor is aborted") {
                Ok((number, part)) => sent[number as usize - 1] = part,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        Ok(sent)
    }

    /// The parts that the service has, with their lengths.
    async fn parts_there(&self, name: &str, upload: &Note) -> Result<BTreeMap<i32, (Sent, u64)>, Failed> {
        let request = self.client.list_parts().bucket(&upload.bucket).key(&upload.key).upload_id(&upload.upload);
        let mut pages = request.into_paginator().send();
        let mut there = BTreeMap::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failure("list the parts of", name, e))?;
            for part in page.parts() {
                if let (Some(number), Some(sum), Some(size)) = (part.part_number(), part.checksum_sha256(), part.size()) {
                    let sent = Sent { checksum: sum.to_owned(), tag: part.e_tag().map(str::to_owned) };
                    there.insert(number, (sent, size as u64));
                }
            }
        }
        Ok(there)
    }

    /// Sends one part unless the service has these very bytes.
    fn part(
        &self,
        name: &str,
        file: &Arc<File>,
        upload: &Note,
        part: Part,
        known: Option<(Sent, u64)>,
    ) -> impl Future<Output = Result<(i32, Sent), Failed>> + Send + 'static {
        let request = self.client.upload_part().bucket(&upload.bucket).key(&upload.key).upload_id(&upload.upload);
        let (file, name) = (file.clone(), name.to_owned());
        async move {
            let mut bytes = vec![0; part.length as usize];
            let unreadable = |e| Failed { status: None, missing_bucket: false, missing_upload: false, error: local(&name, e) };
            file.read_exact_at(&mut bytes, part.offset).map_err(unreadable)?;
            let checksum = STANDARD.encode(Sha256::digest(&bytes));
            if let Some((sent, length)) = known
                && sent.checksum == checksum
                && length == part.length
            {
                return Ok((part.number, sent));
            }
            let request = request.part_number(part.number).checksum_sha256(&checksum).body(bytes.into());
            let answer = request.send().await.map_err(|e| failure("send a part of", &name, e))?;
            Ok((part.number, Sent { checksum, tag: answer.e_tag().map(str::to_owned) }))
        }
    }

    async fn complete(&self, name: &str, upload: &Note, sent: &[Sent]) -> Result<(), Failed> {
        let parts = sent.iter().zip(1..).map(|(part, number)| {
            let builder = CompletedPart::builder().part_number(number).checksum_sha256(&part.checksum);
            builder.set_e_tag(part.tag.clone()).build()
        });
        let parts = parts.collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(&upload.bucket).key(&upload.key);
        let request = request.upload_id(&upload.upload).if_none_match("*").multipart_upload(parts);
        request.send().await.map(drop).map_err(|e| failure("complete", name, e))
    }

    async fn abort(&self, name: &str, upload: &Note) -> Result<(), ObjectError> {
        let request = self.client.abort_multipart_upload().bucket(&upload.bucket).key(&upload.key);
        match request.upload_id(&upload.upload).send().await.map_err(|e| failure("abort the upload of", name, e)) {
            Ok(_) | Err(Failed { missing_upload: true, .. }) => Ok(()),
            Err(failed) => Err(failed.error),
        }
    }
}

/// The checksum that the service keeps of an object in parts: SHA-256 over the parts' checksums, and their number.
fn composite(sent: &[Sent]) -> String {
    let mut hasher = Sha256::new();
    for part in sent {
        // Ours, or equal to ours.
        hasher.update(STANDARD.decode(&part.checksum).expect("encoded when the part was sent"));
    }
    format!("{}-{}", STANDARD.encode(hasher.finalize()), sent.len())
}

fn write_note(path: &Path, note: &Note) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// A note of an upload that is over. One that stays behind names an upload that the service does not know, and is replaced.
fn forget(note: Option<&Path>) {
    if let Some(path) = note {
        let _ = fs::remove_file(path);
    }
}
