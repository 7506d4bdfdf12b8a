//! Where a stage's attempts run: `executor: local`, `executor: slurm`, or `executor: {slurm: {…}}`, for the workflow or one stage.
//!
//! Where something runs is no part of its key: a result made on a cluster stands in for one made here.

use std::sync::Arc;
use std::time::Duration;

use sprint_stage_api::Effect;

use super::fields;
use super::reader::{Reader, Spanned};
use super::schema::Document;
use super::validate::Linked;
use super::yaml::{Node, Value};
use crate::diagnostic::{Problem, Span};

/// Where attempts run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// In child processes on the orchestrator's machine.
    #[default]
    Local,
    /// As jobs of a Slurm cluster.
    Slurm(Arc<SlurmOptions>),
}

/// What a Slurm job is asked for beyond the stage's resources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlurmOptions {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--time`.
    pub time: Option<Duration>,
    /// Further options, passed as they are.
    pub options: Vec<String>,
}

/// The names of executors without options.
pub(crate) const NAMES: &[(&str, Name)] = &[("local", Name::Local), ("slurm", Name::Slurm)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Local,
    Slurm,
}

/// `executor` as written.
#[derive(Debug)]
pub(crate) struct PlacementDecl {
    name: Spanned<Name>,
    slurm: SlurmOptions,
}

/// Options that the executor sets itself, or that would make several jobs of one attempt.
const OWN: &[&str] = &[
    "array",
    "chdir",
    "clusters",
    "comment",
    "cpus-per-task",
    "dependency",
    "error",
    "export",
    "export-file",
    "get-user-env",
    "hold",
    "input",
    "job-name",
    "mem",
    "nodes",
    "no-requeue",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "partition",
    "account",
    "qos",
    "constraint",
    "requeue",
    "signal",
    "test-only",
    "time",
    "wait",
    "wrap",
    "help",
    "usage",
    "version",
];

impl Placement {
    /// What a stage says, else what the workflow says; options of both are joined if both mean the same executor.
    pub(crate) fn of(stage: Option<&PlacementDecl>, workflow: Option<&PlacementDecl>) -> Self {
        let Some(decl) = stage.or(workflow) else { return Self::Local };
        if decl.name.value == Name::Local {
            return Self::Local;
        }
        let general = workflow.filter(|w| w.name.value == Name::Slurm).map(|w| w.slurm.clone()).unwrap_or_default();
        let own = decl.slurm.clone();
        Self::Slurm(Arc::new(SlurmOptions {
            partition: own.partition.or(general.partition),
            account: own.account.or(general.account),
            qos: own.qos.or(general.qos),
            constraint: own.constraint.or(general.constraint),
            time: own.time.or(general.time),
            options: if own.options.is_empty() { general.options } else { own.options },
        }))
    }

    /// The executor's name in a workflow file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Slurm(_) => "slurm",
        }
    }
}

/// A lease is taken and given back by the orchestrator's machine, which alone knows of it after a crash.
pub(crate) fn check(doc: &Document, linked: &Linked, problems: &mut Vec<Problem>) {
    for (decl, kind) in doc.stages.iter().zip(&linked.kinds) {
        let lease = kind.as_ref().is_some_and(|k| k.spec().effect == Effect::Lease);
        if let Some(placed) = decl.executor.as_ref().filter(|p| lease && p.name.value != Name::Local) {
            let message = format!("stage `{}` takes a lease, which the orchestrator's machine holds", decl.name.value);
            problems
                .push(Problem::new("workflow::executor", placed.name.span, message).help("write `executor: local`, or nothing"));
        }
    }
}

impl Reader {
    /// Reads `executor`.
    pub(super) fn placement(&mut self, node: &Node) -> Option<PlacementDecl> {
        if !matches!(node.value, Value::Map(_)) {
            let name = self.choice(node, "executor", NAMES)?;
            return Some(PlacementDecl { name: Spanned { value: name, span: node.span }, slurm: SlurmOptions::default() });
        }
        let entry = self.record(node, "executor", fields::EXECUTOR).iter().find(|e| e.key == "slurm");
        let Some(entry) = entry else {
            let problem = self.problem("workflow::missing_key", node.span, "the executor has no name");
            problem.help = Some("write `executor: slurm`, or `executor: {slurm: {partition: …}}`".to_owned());
            return None;
        };
        let slurm = self.slurm(&entry.value);
        Some(PlacementDecl { name: Spanned { value: Name::Slurm, span: entry.key_span }, slurm })
    }

    fn slurm(&mut self, node: &Node) -> SlurmOptions {
        let mut options = SlurmOptions::default();
        for e in self.record(node, "executor.slurm", fields::SLURM) {
            match e.key.as_str() {
                "partition" => options.partition = self.slurm_word(&e.value, "executor.slurm.partition"),
                "account" => options.account = self.slurm_word(&e.value, "executor.slurm.account"),
                "qos" => options.qos = self.slurm_word(&e.value, "executor.slurm.qos"),
                "constraint" => options.constraint = self.slurm_word(&e.value, "executor.slurm.constraint"),
                "time" => options.time = self.slurm_time(&e.value),
                "options" => {
                    let words = self.names(&e.value, "executor.slurm.options");
                    options.options = words.into_iter().filter_map(|w| self.slurm_option(w)).collect();
                }
                _ => {}
            }
        }
        options
    }

    fn slurm_word(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.string(node, what)?.to_owned();
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.problem("workflow::executor", node.span, format!("{what} must be one word, not {text:?}"));
            return None;
        }
        Some(text)
    }

    /// Slurm counts minutes, and takes none for "no limit".
    fn slurm_time(&mut self, node: &Node) -> Option<Duration> {
        let time = self.duration(node, "executor.slurm.time")?;
        if time < Duration::from_secs(60) {
            self.problem("workflow::range", node.span, "executor.slurm.time must be at least one minute (`1m`)");
            return None;
        }
        Some(time)
    }

    fn slurm_option(&mut self, word: Spanned<String>) -> Option<String> {
        let Spanned { value, span } = word;
        let refuse = |reader: &mut Self, span: Span, message: String, help: &str| {
            reader.problem("workflow::executor", span, message).help = Some(help.to_owned());
            None
        };
        let name = value.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or(rest));
        match name {
            None | Some("") => refuse(
                self,
                span,
                format!("`{value}` is not an option of sbatch in its long form"),
                "write for example `--gres=gpu:1`, one option an entry",
            ),
            _ if value.chars().any(char::is_control) => {
                refuse(self, span, "an option of sbatch cannot contain control characters".to_owned(), "write it in one line")
            }
            // sbatch takes any prefix of an option's name that is unambiguous.
            Some(name) if OWN.iter().any(|own| *own == name || own.starts_with(name)) => refuse(
                self,
                span,
                format!("`--{name}` is set by the executor"),
                "cpu and mem are the stage's `resources`, the rest are keys of `executor.slurm`",
            ),
            Some(_) => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Sources;

    fn decl(name: Name, partition: Option<&str>, account: Option<&str>) -> PlacementDecl {
        let slurm = SlurmOptions {
            partition: partition.map(str::to_owned),
            account: account.map(str::to_owned),
            ..SlurmOptions::default()
        };
        PlacementDecl { name: Spanned { value: name, span: Span::new(Sources::default().add("w.yaml", ""), 0..0) }, slurm }
    }

    #[test]
    fn a_stage_s_options_go_before_the_workflow_s() {
        let workflow = decl(Name::Slurm, Some("short"), Some("lab"));
        let Placement::Slurm(options) = Placement::of(Some(&decl(Name::Slurm, Some("long"), None)), Some(&workflow)) else {
            panic!("not placed on Slurm")
        };
        assert_eq!((options.partition.as_deref(), options.account.as_deref()), (Some("long"), Some("lab")));
        assert_eq!(Placement::of(Some(&decl(Name::Local, None, None)), Some(&workflow)), Placement::Local);
        assert_eq!(Placement::of(None, Some(&workflow)).name(), "slurm");
        assert_eq!(Placement::of(None, None), Placement::Local);
    }
}
