//! `graph`: the stages of a workflow and what flows between them, for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;
use sprint_orchestrator::Workflow;

use super::workflow::load;
use crate::args::{GraphArgs, GraphFormat};
use crate::failure::{Code, Failure};
use crate::registry::registry;
use crate::ui::out;

pub(super) fn run(args: &GraphArgs) -> Result<Code, Failure> {
    let graph = Graph::of(&load(&args.workflow, &registry())?);
    if args.workflow.json {
        out::line(graph.json())?;
        return Ok(Code::DONE);
    }
    let text = match args.format {
        GraphFormat::Mermaid => graph.mermaid(),
        GraphFormat::Dot => graph.dot(),
    };
    out::line(text.trim_end())?;
    Ok(Code::DONE)
}

/// Stages, not instances: a matrix of 2,000 is drawn as its shape.
struct Graph {
    /// Name, kind and number of instances.
    stages: Vec<(String, String, usize)>,
    /// From stage to stage, with what flows.
    edges: BTreeMap<(usize, usize), Vec<String>>,
}

impl Graph {
    fn of(workflow: &Workflow) -> Self {
        let names: Vec<&str> = workflow.stages().iter().map(sprint_orchestrator::StageDef::name).collect();
        let of = |stage: &str| names.iter().position(|n| *n == stage).expect("an instance is of a stage");
        let mut counts = vec![0; names.len()];
        let mut edges: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
        for instance in workflow.instances() {
            let to = of(instance.id().stage());
            counts[to] += 1;
            for (port, flows) in instance.inputs() {
                for flow in flows {
                    let from = of(workflow.instances()[flow.instance].id().stage());
                    let label = if *port == flow.output { port.clone() } else { format!("{} as {port}", flow.output) };
                    let labels = edges.entry((from, to)).or_default();
                    if !labels.contains(&label) {
                        labels.push(label);
                    }
                }
            }
            for before in instance.before() {
                edges.entry((of(workflow.instances()[before].id().stage()), to)).or_default();
            }
        }
        let kind = |i: usize| workflow.stages()[i].kind().spec().kind.to_owned();
        let stages = names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), kind(i), counts[i])).collect();
        Self { stages, edges }
    }

    /// What a stage's box says, line by line.
    fn lines(&self, stage: usize) -> Vec<String> {
        let (name, kind, count) = &self.stages[stage];
        let mut lines = vec![name.clone()];
        lines.extend((name != kind).then(|| kind.clone()));
        lines.extend((*count != 1).then(|| format!("× {count}")));
        lines
    }

    fn json(&self) -> serde_json::Value {
        let stage =
            |(name, kind, instances): &(String, String, usize)| json!({"name": name, "kind": kind, "instances": instances});
        let edge = |((from, to), flows): (&(usize, usize), &Vec<String>)| json!({"from": self.stages[*from].0, "to": self.stages[*to].0, "flows": flows});
        json!({"stages": self.stages.iter().map(stage).collect::<Vec<_>>(), "edges": self.edges.iter().map(edge).collect::<Vec<_>>()})
    }

    /// Source: the flowchart syntax of mermaid, which GitHub and editors render.
    fn mermaid(&self) -> String {
        let mut text = String::from("flowchart TD\n");
        for i in 0..self.stages.len() {
            writeln!(text, "    s{i}[\"{}\"]", self.lines(i).join("<br>")).expect("writing to a string");
        }
        for ((from, to), labels) in &self.edges {
            let label = if labels.is_empty() { String::new() } else { format!("|{}|", labels.join("<br>")) };
            writeln!(text, "    s{from} -->{label} s{to}").expect("writing to a string");
        }
        text
    }

    /// Source: the DOT language of Graphviz.
    fn dot(&self) -> String {
        let mut text = String::from("digraph workflow {\n    node [shape=box];\n");
        for i in 0..self.stages.len() {
            writeln!(text, "    s{i} [label=\"{}\"];", self.lines(i).join("\\n")).expect("writing to a string");
        }
        for ((from, to), labels) in &self.edges {
            writeln!(text, "    s{from} -> s{to} [label=\"{}\"];", labels.join("\\n")).expect("writing to a string");
        }
        text.push_str("}\n");
        text
    }
}
