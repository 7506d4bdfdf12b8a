//! The typed form of a workflow file, read from nodes; every mismatch is collected, none ends the reading.

use std::time::Duration;

use sprint_artifacts::remote::{RemoteSpec, RemoteUrl};
use sprint_stage_api::{CachePolicy, LeaseTerms};

use super::fields;
use super::placement::PlacementDecl;
use super::reader::{Reader, Spanned};
use super::template::{SpannedTemplate, Template};
use super::units;
use super::yaml::{Entry, Node, Value};
use crate::diagnostic::Span;
use crate::exec::RetryOn;

/// A whole workflow file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) name: String,
    /// A mapping, or nothing.
    pub(crate) params: Option<Node>,
    pub(crate) matrix: Vec<AxisDecl>,
    pub(crate) limits: Limits,
    pub(crate) remote: Option<RemoteSpec>,
    pub(crate) executor: Option<PlacementDecl>,
    pub(crate) stages: Vec<StageDecl>,
}

/// An axis whose values may still be a reference.
#[derive(Debug)]
pub(crate) struct AxisDecl {
    pub(crate) name: Spanned<String>,
    pub(crate) values: Node,
}

/// What all stages running at once may use together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Processor threads.
    pub cpu: Option<u32>,
    /// Bytes of memory.
    pub mem: Option<u64>,
    /// Dollars.
    pub max_usd: Option<f64>,
}

/// What one stage uses while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Processor threads.
    pub cpu: u32,
    /// Bytes of memory.
    pub mem: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu: 1, mem: 0 }
    }
}

/// When and how often a failed attempt is followed by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first.
    pub max: u32,
    /// The first wait; each further one doubles.
    pub backoff_min: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// The failures that are worth another attempt.
    pub on: Vec<RetryOn>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max: 2,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            on: vec![RetryOn::Transient, RetryOn::Preempted],
        }
    }
}

/// How often a stage saves its progress, and how many bundles are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The wish; the stage decides at its own steps.
    pub every: Option<Duration>,
    /// Bundles kept.
    pub keep: u32,
}

/// How long a lease may be held, and what it may cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lease {
    /// Given up after this long in any case.
    pub ttl: Option<Duration>,
    /// Given up after this long without use.
    pub idle: Option<Duration>,
    /// Held this long after a failure, for a look.
    pub keep_on_failure: Option<Duration>,
    /// Dollars.
    pub max_usd: Option<f64>,
}

impl Lease {
    /// What the stage that takes the lease has to know.
    pub(crate) fn terms(&self) -> LeaseTerms {
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs());
        LeaseTerms { ttl_s: seconds(self.ttl), idle_s: seconds(self.idle), max_usd: self.max_usd }
    }
}

/// `kind@version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KindRef {
    pub(crate) name: String,
    pub(crate) version: Option<u32>,
}

/// One entry of `inputs`.
#[derive(Debug, Clone)]
pub(crate) struct InputDecl {
    pub(crate) port: Spanned<String>,
    pub(crate) stage: String,
    pub(crate) output: String,
    pub(crate) from: Span,
    pub(crate) gather: bool,
}

/// One stage as written.
#[derive(Debug)]
pub(crate) struct StageDecl {
    pub(crate) name: Spanned<String>,
    pub(crate) kind: Option<Spanned<KindRef>>,
    pub(crate) over: Vec<Spanned<String>>,
    pub(crate) inputs: Vec<InputDecl>,
    /// Ports whose value could not be read; they count as given.
    pub(crate) broken_inputs: Vec<String>,
    pub(crate) params: Option<Node>,
    pub(crate) needs: Vec<Spanned<String>>,
    pub(crate) cache: Option<Spanned<CachePolicy>>,
    pub(crate) resources: Option<Spanned<Resources>>,
    pub(crate) retry: Retry,
    pub(crate) timeout: Option<Duration>,
    pub(crate) mutex: Vec<SpannedTemplate>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) lease: Option<Spanned<Lease>>,
    pub(crate) secrets: Vec<Spanned<String>>,
    pub(crate) executor: Option<PlacementDecl>,
}

impl Reader {
    /// Reads the whole document.
    pub(crate) fn document(&mut self, root: &Node) -> Document {
        let mut doc = Document {
            name: String::new(),
            params: None,
            matrix: Vec::new(),
            limits: Limits::default(),
            remote: None,
            executor: None,
            stages: Vec::new(),
        };
        if matches!(root.value, Value::Null) {
            self.problem("workflow::empty", root.span, "the file is empty").help = Some("start with `sprint-flow: 1`".to_owned());
            return doc;
        }
        for e in self.record(root, "a workflow", fields::WORKFLOW) {
            match e.key.as_str() {
                "sprint-flow" => self.format_version(&e.value),
                "name" => {
                    if let Some(name) = self.name(&e.value, "the workflow's name") {
                        doc.name = name.value;
                    }
                }
                "params" => {
                    for p in self.map(&e.value, "params") {
                        self.key_name(p, "a parameter");
                    }
                    doc.params = Some(e.value.clone());
                }
                "matrix" => doc.matrix = self.matrix(&e.value),
                "limits" => doc.limits = self.limits(&e.value),
                "remote" => doc.remote = self.remote(&e.value),
                "executor" => doc.executor = self.placement(&e.value),
                "stages" => {
                    doc.stages = self.map(&e.value, "stages").iter().map(|s| self.stage(s)).collect();
                }
                _ => {}
            }
        }
        for required in ["sprint-flow", "stages"] {
            if matches!(root.value, Value::Map(_)) && root.entry(required).is_none() {
                let at = Span::new(root.span.source, root.span.start..root.span.start);
                let problem = self.problem("workflow::missing_key", at, format!("the workflow has no `{required}`"));
                problem.help = (required == "sprint-flow").then(|| "start with `sprint-flow: 1`".to_owned());
            }
        }
        doc
    }

    fn format_version(&mut self, node: &Node) {
        if node.value != Value::Number(1.into()) {
            self.problem("workflow::version", node.span, "this program reads version 1 of the workflow format").help =
                Some("write `sprint-flow: 1`".to_owned());
        }
    }

    fn matrix(&mut self, node: &Node) -> Vec<AxisDecl> {
        let entries = self.map(node, "matrix");
        entries.iter().map(|e| AxisDecl { name: self.key_name(e, "an axis"), values: e.value.clone() }).collect()
    }

    fn limits(&mut self, node: &Node) -> Limits {
        let mut limits = Limits::default();
        for e in self.record(node, "limits", fields::LIMITS) {
            match e.key.as_str() {
                "cpu" => limits.cpu = self.whole(&e.value, "limits.cpu", 1),
                "mem" => limits.mem = self.size(&e.value, "limits.mem"),
                "max_usd" => limits.max_usd = self.dollars(&e.value, "limits.max_usd"),
                _ => {}
            }
        }
        limits
    }

    /// `s3://bucket/prefix`, or a mapping with that as its `url`.
    fn remote(&mut self, node: &Node) -> Option<RemoteSpec> {
        if !matches!(node.value, Value::Map(_)) {
            return self.remote_url(node).map(RemoteSpec::new);
        }
        let entries = self.record(node, "remote", fields::REMOTE);
        let Some(url) = entries.iter().find(|e| e.key == "url") else {
            self.problem("workflow::missing_key", node.span, "the remote has no `url`").help =
                Some("write `url: s3://bucket/prefix`".to_owned());
            return None;
        };
        let mut spec = RemoteSpec::new(self.remote_url(&url.value)?);
        for e in entries {
            match e.key.as_str() {
                "endpoint" => spec.endpoint = self.string(&e.value, "remote.endpoint").map(str::to_owned),
                "region" => spec.region = self.string(&e.value, "remote.region").map(str::to_owned),
                "recipients" => {
                    spec.recipients = self.names(&e.value, "remote.recipients").into_iter().map(|n| n.value).collect();
                }
                "identity" => spec.identity = self.string(&e.value, "remote.identity").map(Into::into),
                _ => {}
            }
        }
        Some(spec)
    }

    fn remote_url(&mut self, node: &Node) -> Option<RemoteUrl> {
        let text = self.string(node, "the remote's address")?;
        match text.parse::<RemoteUrl>() {
            Ok(url) => Some(url),
            Err(error) => {
                self.problem("workflow::remote", node.span, error.to_string());
                None
            }
        }
    }

    fn stage(&mut self, entry: &Entry) -> StageDecl {
        let name = self.key_name(entry, "a stage");
        let what = format!("stage `{}`", name.value);
        let mut stage = StageDecl {
            name,
            kind: None,
            over: Vec::new(),
            inputs: Vec::new(),
            broken_inputs: Vec::new(),
            params: None,
            needs: Vec::new(),
            cache: None,
            resources: None,
            retry: Retry::default(),
            timeout: None,
            mutex: Vec::new(),
            checkpoint: Checkpoint { every: None, keep: 2 },
            lease: None,
            secrets: Vec::new(),
            executor: None,
        };
        let entries = self.record(&entry.value, &what, fields::STAGE);
        for e in entries {
            self.stage_field(&mut stage, e);
        }
        if !entries.iter().any(|e| e.key == "kind") && matches!(entry.value.value, Value::Map(_) | Value::Null) {
            self.problem("workflow::missing_key", entry.key_span, format!("{what} has no `kind`")).help =
                Some("name what it runs, such as `kind: download@1`".to_owned());
        }
        stage
    }

    fn stage_field(&mut self, stage: &mut StageDecl, e: &Entry) {
        match e.key.as_str() {
            "kind" => stage.kind = self.kind(&e.value),
            "over" => stage.over = self.names(&e.value, "over"),
            "inputs" => self.inputs(stage, &e.value),
            "params" => {
                self.map(&e.value, "params");
                stage.params = Some(e.value.clone());
            }
            "needs" => stage.needs = self.names(&e.value, "needs"),
            "cache" => {
                let choices = [("always", CachePolicy::Always), ("measure", CachePolicy::Measure), ("never", CachePolicy::Never)];
                stage.cache = self.choice(&e.value, "cache", &choices).map(|value| Spanned { value, span: e.value.span });
            }
            "resources" => stage.resources = Some(Spanned { value: self.resources(&e.value), span: e.value.span }),
            "retry" => stage.retry = self.retry(&e.value),
            "timeout" => stage.timeout = self.duration(&e.value, "timeout"),
            "mutex" => stage.mutex = self.templates(&e.value, "mutex"),
            "checkpoint" => stage.checkpoint = self.checkpoint(&e.value),
            "lease" => stage.lease = Some(Spanned { value: self.lease(&e.value), span: e.key_span }),
            "secrets" => stage.secrets = self.names(&e.value, "secrets"),
            "executor" => stage.executor = self.placement(&e.value),
            _ => {}
        }
    }

    fn kind(&mut self, node: &Node) -> Option<Spanned<KindRef>> {
        let text = self.string(node, "kind")?;
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => {
                let Ok(number) = version.parse::<u32>() else {
                    self.problem("workflow::kind", node.span, format!("`{version}` is not a version")).help =
                        Some(format!("write `{name}@1`, or `{name}` for its newest version"));
                    return None;
                };
                (name, Some(number))
            }
        };
        Some(Spanned { value: KindRef { name: name.to_owned(), version }, span: node.span })
    }

    fn inputs(&mut self, stage: &mut StageDecl, node: &Node) {
        for e in self.map(node, "inputs") {
            let port = Spanned { value: e.key.clone(), span: e.key_span };
            let what = format!("inputs.{}", e.key);
            let (from, gather) = if matches!(e.value.value, Value::Map(_)) {
                let inner = self.record(&e.value, &what, fields::GATHER).iter().find(|g| g.key == "gather");
                let Some(inner) = inner else {
                    let message = format!("{what} must be `stage.output` or `{{gather: stage.output}}`");
                    self.problem("workflow::missing_key", e.value.span, message);
                    stage.broken_inputs.push(e.key.clone());
                    continue;
                };
                (&inner.value, true)
            } else {
                (&e.value, false)
            };
            match self.output_ref(from, &what) {
                Some((producer, output)) => {
                    stage.inputs.push(InputDecl { port, stage: producer, output, from: from.span, gather });
                }
                None => stage.broken_inputs.push(e.key.clone()),
            }
        }
    }

    fn output_ref(&mut self, node: &Node, what: &str) -> Option<(String, String)> {
        let text = self.string(node, what)?;
        match text.split_once('.') {
            Some((stage, output)) if !stage.is_empty() && !output.is_empty() => Some((stage.to_owned(), output.to_owned())),
            _ => {
                self.problem("workflow::input", node.span, format!("{what}: `{text}` is not of the form `stage.output`"));
                None
            }
        }
    }

    fn resources(&mut self, node: &Node) -> Resources {
        let mut r = Resources::default();
        for e in self.record(node, "resources", fields::RESOURCES) {
            match e.key.as_str() {
                "cpu" => r.cpu = self.whole(&e.value, "resources.cpu", 1).unwrap_or(r.cpu),
                "mem" => r.mem = self.size(&e.value, "resources.mem").unwrap_or(r.mem),
                _ => {}
            }
        }
        r
    }

    fn retry(&mut self, node: &Node) -> Retry {
        let mut retry = Retry::default();
        for e in self.record(node, "retry", fields::RETRY) {
            match e.key.as_str() {
                "max" => retry.max = self.whole(&e.value, "retry.max", 0).unwrap_or(retry.max),
                "backoff" => {
                    let wanted = "a range of durations such as `30s..10m`";
                    if let Some((low, high)) = self.notation(&e.value, "retry.backoff", wanted, units::duration_range) {
                        (retry.backoff_min, retry.backoff_max) = (low, high);
                    }
                }
                "on" => retry.on = self.retry_on(&e.value),
                _ => {}
            }
        }
        retry
    }

    fn retry_on(&mut self, node: &Node) -> Vec<RetryOn> {
        let Value::List(items) = &node.value else {
            self.mismatch(node, "retry.on", "a list of error classes");
            return Vec::new();
        };
        items.iter().filter_map(|n| self.choice(n, "retry.on", RetryOn::NAMES)).collect()
    }

    fn templates(&mut self, node: &Node, what: &str) -> Vec<SpannedTemplate> {
        let items: Vec<&Node> = match &node.value {
            Value::List(items) => items.iter().collect(),
            Value::Null => Vec::new(),
            _ => vec![node],
        };
        let mut all = Vec::new();
        for n in items {
            match &n.value {
                Value::String(text) => match Template::parse(text) {
                    Ok(template) => all.push(SpannedTemplate { template, span: n.span }),
                    Err(message) => {
                        self.problem("workflow::reference", n.span, message);
                    }
                },
                _ => self.mismatch(n, what, "a list of strings"),
            }
        }
        all
    }

    fn checkpoint(&mut self, node: &Node) -> Checkpoint {
        let mut c = Checkpoint { every: None, keep: 2 };
        for e in self.record(node, "checkpoint", fields::CHECKPOINT) {
            match e.key.as_str() {
                "every" => c.every = self.duration(&e.value, "checkpoint.every"),
                "keep" => c.keep = self.whole(&e.value, "checkpoint.keep", 1).unwrap_or(c.keep),
                _ => {}
            }
        }
        c
    }

    fn lease(&mut self, node: &Node) -> Lease {
        let mut lease = Lease::default();
        for e in self.record(node, "lease", fields::LEASE) {
            match e.key.as_str() {
                "ttl" => lease.ttl = self.duration(&e.value, "lease.ttl"),
                "idle" => lease.idle = self.duration(&e.value, "lease.idle"),
                "keep_on_failure" => lease.keep_on_failure = self.duration(&e.value, "lease.keep_on_failure"),
                "max_usd" => lease.max_usd = self.dollars(&e.value, "lease.max_usd"),
                _ => {}
            }
        }
        lease
    }
}
