//! What is wrong with the stages as a graph: unknown kinds, ports, stages and axes, mismatched artifacts, axes lost without a
//! gather, cycles, limits that can never hold. Everything is collected.

use std::collections::BTreeMap;
use std::sync::Arc;

use sprint_stage_api::{CachePolicy, Effect, Registry, Stage, StageSpec};

use super::matrix::Axis;
use super::schema::{Document, InputDecl, StageDecl};
use super::template::Reference;
use crate::diagnostic::{Problem, Span, suggest};

/// What was found out about each declared stage, in the order written.
pub(crate) struct Linked {
    /// The kind; `None` if it is unknown.
    pub(crate) kinds: Vec<Option<Arc<dyn Stage>>>,
    /// What each is over.
    pub(crate) over: Vec<Over>,
    /// Stage indices such that producers come before consumers.
    pub(crate) order: Vec<usize>,
}

/// The axes a stage is over.
pub(crate) struct Over {
    /// Axis indices in matrix order.
    pub(crate) known: Vec<usize>,
    /// Whether these are all that it names.
    complete: bool,
}

/// Checks the document against the registry.
pub(crate) fn link(doc: &Document, axes: &[Axis], registry: &Registry, problems: &mut Vec<Problem>) -> Linked {
    let kinds: Vec<_> = doc.stages.iter().map(|s| kind_of(s, registry, problems)).collect();
    let over: Vec<_> = doc.stages.iter().map(|s| over_of(s, axes, problems)).collect();
    let by_name = doc.stages.iter().enumerate().map(|(i, s)| (s.name.value.as_str(), i)).collect();
    let linker = Linker { doc, axes, kinds: &kinds, over: &over, by_name };
    for (index, stage) in doc.stages.iter().enumerate() {
        linker.inputs(index, stage, problems);
        linker.needs(stage, problems);
        linker.policies(index, stage, problems);
    }
    let order = linker.order(problems);
    Linked { kinds, over, order }
}

fn kind_of(stage: &StageDecl, registry: &Registry, problems: &mut Vec<Problem>) -> Option<Arc<dyn Stage>> {
    let wanted = stage.kind.as_ref()?;
    if let Some(found) = registry.get(&wanted.value.name, wanted.value.version) {
        return Some(found.clone());
    }
    let versions: Vec<String> = registry.versions(&wanted.value.name).map(|s| s.spec().version.to_string()).collect();
    problems.push(if versions.is_empty() {
        let known = registry.iter().map(|s| s.spec().kind);
        Problem::new("workflow::unknown_kind", wanted.span, format!("there is no stage kind `{}`", wanted.value.name))
            .maybe_help(suggest(&wanted.value.name, known))
    } else {
        let version = wanted.value.version.unwrap_or_default();
        Problem::new("workflow::unknown_kind", wanted.span, format!("there is no version {version} of `{}`", wanted.value.name))
            .help(format!("known versions: {}", versions.join(", ")))
    });
    None
}

fn over_of(stage: &StageDecl, axes: &[Axis], problems: &mut Vec<Problem>) -> Over {
    let before = problems.len();
    let mut over = Vec::new();
    for name in &stage.over {
        match axes.iter().position(|a| a.name() == name.value) {
            Some(axis) if over.contains(&axis) => {
                problems.push(Problem::new("workflow::axis", name.span, format!("`{}` is named twice", name.value)));
            }
            Some(axis) => over.push(axis),
            None => problems.push(
                Problem::new("workflow::axis", name.span, format!("there is no axis `{}`", name.value))
                    .maybe_help(suggest(&name.value, axes.iter().map(Axis::name))),
            ),
        }
    }
    over.sort_unstable();
    Over { known: over, complete: problems.len() == before }
}

struct Linker<'a> {
    doc: &'a Document,
    axes: &'a [Axis],
    kinds: &'a [Option<Arc<dyn Stage>>],
    over: &'a [Over],
    by_name: BTreeMap<&'a str, usize>,
}

impl Linker<'_> {
    fn spec(&self, index: usize) -> Option<&StageSpec> {
        self.kinds[index].as_ref().map(|k| k.spec())
    }

    fn stage(&self, name: &str, at: Span) -> Result<usize, Problem> {
        self.by_name.get(name).copied().ok_or_else(|| {
            Problem::new("workflow::unknown_stage", at, format!("there is no stage `{name}`"))
                .maybe_help(suggest(name, self.by_name.keys().copied()))
        })
    }

    fn inputs(&self, index: usize, stage: &StageDecl, problems: &mut Vec<Problem>) {
        for input in &stage.inputs {
            match self.stage(&input.stage, input.from) {
                Ok(producer) => {
                    self.axes_join(index, producer, input, problems);
                    problems.extend(self.ports_join(index, producer, input));
                }
                Err(problem) => problems.push(problem),
            }
            let Some(spec) = self.spec(index) else { continue };
            if !spec.inputs.iter().any(|p| p.name == input.port.value) {
                let message = format!("kind `{}` has no input `{}`", spec.kind, input.port.value);
                let help = suggest(&input.port.value, spec.inputs.iter().map(|p| p.name));
                problems.push(Problem::new("workflow::unknown_input", input.port.span, message).maybe_help(help));
            }
        }
        self.missing_inputs(index, stage, problems);
    }

    fn missing_inputs(&self, index: usize, stage: &StageDecl, problems: &mut Vec<Problem>) {
        let Some(spec) = self.spec(index) else { return };
        for port in spec.inputs.iter().filter(|p| !p.optional) {
            let given =
                stage.inputs.iter().any(|i| i.port.value == port.name) || stage.broken_inputs.iter().any(|b| b == port.name);
            if given {
                continue;
            }
            let name = &stage.name.value;
            let message = format!("stage `{name}` has no input `{}` (an artifact of kind `{}`)", port.name, port.artifact);
            let makers = self.doc.stages.iter().enumerate().filter(|(i, _)| *i != index).filter_map(|(i, s)| {
                let output = self.spec(i)?.outputs.iter().find(|o| o.artifact == port.artifact)?;
                Some(format!("`{}: {}.{}`", port.name, s.name.value, output.name))
            });
            let makers: Vec<String> = makers.collect();
            let help = (!makers.is_empty()).then(|| format!("under `inputs`: {}", makers.join(" or ")));
            problems.push(Problem::new("workflow::missing_input", stage.name.span, message).maybe_help(help));
        }
    }

    fn ports_join(&self, consumer: usize, producer: usize, input: &InputDecl) -> Option<Problem> {
        let made = self.spec(producer)?;
        let Some(output) = made.outputs.iter().find(|o| o.name == input.output) else {
            let message = format!("stage `{}` (kind `{}`) has no output `{}`", input.stage, made.kind, input.output);
            let help = suggest(&input.output, made.outputs.iter().map(|o| o.name));
            return Some(Problem::new("workflow::unknown_output", input.from, message).maybe_help(help));
        };
        let port = self.spec(consumer)?.inputs.iter().find(|p| p.name == input.port.value)?;
        if port.artifact != output.artifact {
            let message = format!(
                "input `{}` takes a `{}`, but `{}.{}` is a `{}`",
                port.name, port.artifact, input.stage, input.output, output.artifact
            );
            let fitting: Vec<String> = made
                .outputs
                .iter()
                .filter(|o| o.artifact == port.artifact)
                .map(|o| format!("`{}.{}`", input.stage, o.name))
                .collect();
            let help = (!fitting.is_empty()).then(|| format!("{} would fit", fitting.join(" or ")));
            return Some(Problem::new("workflow::artifact", input.from, message).maybe_help(help));
        }
        if input.gather && !port.gather {
            let message =
                format!("input `{}` of kind `{}` takes one artifact and cannot gather", port.name, self.spec(consumer)?.kind);
            return Some(Problem::new("workflow::gather", input.from, message));
        }
        None
    }

    fn axes_join(&self, consumer: usize, producer: usize, input: &InputDecl, problems: &mut Vec<Problem>) {
        let (own, theirs) = (&self.over[consumer], &self.over[producer]);
        if input.gather || !own.complete {
            return;
        }
        let lost = theirs.known.iter().filter(|a| !own.known.contains(a));
        let lost: Vec<&str> = lost.map(|a| self.axes[*a].name()).collect();
        if lost.is_empty() {
            return;
        }
        let (name, lost) = (&self.doc.stages[consumer].name.value, lost.join("`, `"));
        let message = format!("`{}` runs once per `{lost}`, but `{name}` does not", input.stage);
        problems.push(Problem::new("workflow::axes", input.from, message).help(format!(
            "add `{lost}` to the `over` of `{name}`, or take them all: `{{gather: {}.{}}}`",
            input.stage, input.output
        )));
    }

    fn needs(&self, stage: &StageDecl, problems: &mut Vec<Problem>) {
        problems.extend(stage.needs.iter().filter_map(|n| self.stage(&n.value, n.span).err()));
    }

    fn policies(&self, index: usize, stage: &StageDecl, problems: &mut Vec<Problem>) {
        if let (Some(r), Some(cpu)) = (&stage.resources, self.doc.limits.cpu)
            && r.value.cpu > cpu
        {
            let message = format!("needs {} cpus, but limits.cpu is {cpu}: it could never run", r.value.cpu);
            problems.push(Problem::new("workflow::limits", r.span, message));
        }
        if let (Some(r), Some(mem)) = (&stage.resources, self.doc.limits.mem)
            && r.value.mem > mem
        {
            let message = format!("needs {} bytes of memory, but limits.mem is {mem}: it could never run", r.value.mem);
            problems.push(Problem::new("workflow::limits", r.span, message));
        }
        for mutex in &stage.mutex {
            for reference in mutex.template.references() {
                if let Reference::Axis(axis) = reference
                    && self.over[index].complete
                    && !self.over[index].known.iter().any(|a| self.axes[*a].name() == axis)
                {
                    let message = format!("`${{matrix.{axis}}}` is used, but this stage is not over `{axis}`");
                    problems.push(Problem::new("workflow::axis", mutex.span, message));
                }
            }
        }
        let Some(spec) = self.spec(index) else { return };
        let fresh = matches!(spec.effect, Effect::Lease | Effect::FreshRandomness);
        if let Some(cache) = &stage.cache
            && fresh
            && cache.value != CachePolicy::Never
        {
            let why = if spec.effect == Effect::Lease { "holds machines" } else { "draws fresh secret randomness" };
            let message = format!("kind `{}` {why}: its result never stands in for another run", spec.kind);
            problems.push(Problem::new("workflow::cache", cache.span, message).help("write `cache: never`, or leave it out"));
        }
        if let Some(lease) = &stage.lease
            && spec.effect != Effect::Lease
        {
            let message = format!("kind `{}` holds no lease", spec.kind);
            problems.push(Problem::new("workflow::lease", lease.span, message));
        }
    }

    /// Depth first, in the order written; a cycle is reported once, at the edge that closes it.
    fn order(&self, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut walk =
            Walk { linker: self, done: vec![false; self.doc.stages.len()], path: Vec::new(), order: Vec::new(), problems };
        for index in 0..self.doc.stages.len() {
            walk.visit(index);
        }
        walk.order
    }

    /// The stages that must come before `index`, with the place that says so.
    fn before(&self, index: usize) -> Vec<(usize, Span)> {
        let stage = &self.doc.stages[index];
        let inputs = stage.inputs.iter().map(|i| (i.stage.as_str(), i.from));
        let needs = stage.needs.iter().map(|n| (n.value.as_str(), n.span));
        inputs.chain(needs).filter_map(|(name, span)| Some((*self.by_name.get(name)?, span))).collect()
    }
}

struct Walk<'a, 'b> {
    linker: &'a Linker<'a>,
    done: Vec<bool>,
    path: Vec<usize>,
    order: Vec<usize>,
    problems: &'b mut Vec<Problem>,
}

impl Walk<'_, '_> {
    fn visit(&mut self, index: usize) {
        if self.done[index] {
            return;
        }
        self.path.push(index);
        for (producer, span) in self.linker.before(index) {
            if let Some(from) = self.path.iter().position(|p| *p == producer) {
                let name = |i: &usize| self.linker.doc.stages[*i].name.value.as_str();
                let mut cycle: Vec<&str> = self.path[from..].iter().map(name).collect();
                cycle.push(name(&producer));
                let message = format!("stages wait for each other: {}", cycle.join(" → "));
                self.problems.push(Problem::new("workflow::cycle", span, message).help("each arrow reads \"waits for\""));
            } else {
                self.visit(producer);
            }
        }
        self.path.pop();
        self.done[index] = true;
        self.order.push(index);
    }
}
