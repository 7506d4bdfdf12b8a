//! Where a download comes from, as the user writes it.

use std::fmt;

/// A parsed `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A file or folder of this machine, relative to the workflow's folder.
    Local(String),
    /// One file by HTTP or HTTPS.
    Url(String),
    /// A repository of a Hugging Face hub.
    Hub(HubRepo),
}

/// What a hub repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HubKind {
    /// `config.json`, `model.safetensors`, `tokenizer.json`, …
    Model,
    /// Parquet, CSV, TSV or JSONL files.
    Dataset,
}

/// `hf://[datasets/]ORG/NAME[/SUBSET]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubRepo {
    pub(super) kind: HubKind,
    /// `ORG/NAME`.
    pub(super) name: String,
    /// A folder inside the repository; empty for all of it.
    pub(super) subset: String,
}

/// Why a text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SourceError {
    #[error("the source is empty")]
    Empty,
    #[error("\"{0}://\" is not a kind of source; there are file:, http://, https:// and hf://")]
    Scheme(String),
    #[error("\"{0}\" does not name a repository; it should look like hf://ORG/NAME or hf://datasets/ORG/NAME/SUBSET")]
    Repo(String),
    #[error("\"{0}\" names no host")]
    Host(String),
}

impl Source {
    /// Reads a source; texts without a scheme are paths.
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        if text.trim().is_empty() {
            return Err(SourceError::Empty);
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(SourceError::Empty) } else { Ok(Self::Local(path.to_owned())) };
        }
        if let Some(rest) = text.strip_prefix("hf://") {
            return HubRepo::parse(rest).map(Self::Hub).ok_or_else(|| SourceError::Repo(text.to_owned()));
        }
        match text.split_once("://") {
            Some(("http" | "https", rest)) if rest.starts_with('/') || rest.is_empty() => Err(SourceError::Host(text.to_owned())),
            Some(("http" | "https", _)) => Ok(Self::Url(text.to_owned())),
            Some((scheme, _)) => Err(SourceError::Scheme(scheme.to_owned())),
            None => Ok(Self::Local(text.to_owned())),
        }
    }
}

impl HubRepo {
    fn parse(rest: &str) -> Option<Self> {
        let (kind, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (HubKind::Dataset, rest),
            None => (HubKind::Model, rest.strip_prefix("models/").unwrap_or(rest)),
        };
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        let plain = |p: &&str| {
            !p.is_empty() && !p.starts_with('.') && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if parts.len() < 2 || !parts.iter().all(plain) {
            return None;
        }
        Some(Self { kind, name: parts[..2].join("/"), subset: parts[2..].join("/") })
    }

    /// The folder of an endpoint's API that describes repositories of this kind.
    pub(super) fn api(&self) -> String {
        let kind = if self.kind == HubKind::Dataset { "datasets" } else { "models" };
        format!("api/{kind}/{}", self.name)
    }

    /// The path of the repository below an endpoint.
    pub(super) fn path(&self) -> String {
        let prefix = if self.kind == HubKind::Dataset { "datasets/" } else { "" };
        format!("{prefix}{}", self.name)
    }

    /// Which of the repository's files are wanted, and their names in the artifact: `(in the repository, in the artifact)`.
    pub(super) fn select(&self, names: &[String]) -> Vec<(String, String)> {
        let folder = if self.subset.is_empty() { String::new() } else { format!("{}/", self.subset) };
        let inside = names.iter().filter_map(|n| n.strip_prefix(&folder).map(|short| (n.clone(), short.to_owned())));
        match self.kind {
            HubKind::Model => inside.filter(|(_, short)| is_model_file(short)).collect(),
            HubKind::Dataset => inside.filter(|(_, short)| is_data_file(short)).collect(),
        }
    }
}

fn is_model_file(name: &str) -> bool {
    const WANTED: [&str; 8] = [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
    ];
    let shard = name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/');
    WANTED.contains(&name) || name == "merges.txt" || shard
}

fn is_data_file(name: &str) -> bool {
    [".parquet", ".csv", ".tsv", ".jsonl", ".json"].iter().any(|end| name.ends_with(end))
        && !["dataset_infos.json", "dataset_info.json", "state.json"].contains(&name)
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.path())?;
        if self.subset.is_empty() { Ok(()) } else { write!(f, "/{}", self.subset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_scheme() {
        assert_eq!(Source::parse("file:a/b.tsv"), Ok(Source::Local("a/b.tsv".into())));
        assert_eq!(Source::parse("file:///a/b.tsv"), Ok(Source::Local("/a/b.tsv".into())));
        assert_eq!(Source::parse("a/b"), Ok(Source::Local("a/b".into())));
        assert_eq!(Source::parse("https://h/x"), Ok(Source::Url("https://h/x".into())));
        let Ok(Source::Hub(glue)) = Source::parse("hf://datasets/nyu-mll/glue/rte") else { panic!("a hub repository") };
        assert_eq!((glue.kind, glue.name.as_str(), glue.subset.as_str()), (HubKind::Dataset, "nyu-mll/glue", "rte"));
        assert_eq!(glue.to_string(), "hf://datasets/nyu-mll/glue/rte");
        for bad in ["", "file:", "ftp://x/y", "hf://onlyone", "hf://a/../b", "hf://datasets/x", "http:///x", "hf://a/b c"] {
            assert!(Source::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_subset_selects_its_folder_and_loses_the_prefix() {
        let names: Vec<String> = ["rte/train.parquet", "rte2/train.parquet", "README.md", "rte/x.md"].map(String::from).to_vec();
        let Ok(Source::Hub(repo)) = Source::parse("hf://datasets/nyu-mll/glue/rte") else { panic!("a hub repository") };
        assert_eq!(repo.select(&names), [("rte/train.parquet".to_owned(), "train.parquet".to_owned())]);
    }

    #[test]
    fn a_model_is_its_configuration_weights_and_tokenizer() {
        let names: Vec<String> = [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.safetensors",
            "model-00001-of-00002.safetensors",
        ]
        .map(String::from)
        .to_vec();
        let Ok(Source::Hub(repo)) = Source::parse("hf://FacebookAI/roberta-base") else { panic!("a hub repository") };
        let chosen: Vec<_> = repo.select(&names).into_iter().map(|(_, short)| short).collect();
        assert_eq!(chosen, ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"]);
    }
}
