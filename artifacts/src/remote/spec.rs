//! Which remote, in plain data: what a workflow or the command line says. Holds no secret, only the path of one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    bucket: String,
    prefix: String,
}

/// A text that names no remote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no remote: {reason}")]
pub struct RemoteUrlError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl RemoteUrl {
    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What every object's name begins with: empty, or ending in a slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl FromStr for RemoteUrl {
    type Err = RemoteUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| RemoteUrlError { text: text.to_owned(), reason };
        let rest = text.strip_prefix("s3://").ok_or_else(|| refuse("it must begin with s3://, as in s3://bucket/prefix"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_bucket) {
            return Err(refuse("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens"));
        }
        let prefix = prefix.trim_end_matches('/');
        let is_step = |step: &str| !matches!(step, "" | "." | "..") && step.chars().all(|c| c.is_ascii_graphic() && c != '\\');
        if !prefix.is_empty() && !prefix.split('/').all(is_step) {
            return Err(refuse("the prefix must be plain names separated by single slashes"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/'))
    }
}

impl Serialize for RemoteUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RemoteUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which remote and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSpec {
    /// Where objects lie.
    pub url: RemoteUrl,
    /// The service's address, for services other than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The service's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The public keys of whoever may open secrets (`age1…`); without one, secrets stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// The file with the secret key that opens them, where it is at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
}

impl RemoteSpec {
    /// A remote for public artifacts only, at the service's usual address.
    pub const fn new(url: RemoteUrl) -> Self {
        Self { url, endpoint: None, region: None, recipients: Vec::new(), identity: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_a_bucket_and_a_prefix() {
        for (text, bucket, prefix) in
            [("s3://abc", "abc", ""), ("s3://abc/", "abc", ""), ("s3://a.b-1/x/y", "a.b-1", "x/y/"), ("s3://abc/x/", "abc", "x/")]
        {
            let url: RemoteUrl = text.parse().expect(text);
            assert_eq!((url.bucket(), url.prefix()), (bucket, prefix));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        for text in ["abc", "s3:/abc", "s3://ab", "s3://ABC", "s3://abc//x", "s3://abc/../x", "s3://abc/x y", "https://abc/x"] {
            assert!(text.parse::<RemoteUrl>().is_err(), "{text}");
        }
    }
}
