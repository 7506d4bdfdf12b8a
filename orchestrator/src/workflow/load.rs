//! From the text of a workflow to checked stages and instances, or to every problem at once.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sprint_artifacts::remote::RemoteSpec;
use sprint_artifacts::{Digest, encode};
use sprint_stage_api::{CachePolicy, Effect, ParamProblem, Registry, Stage};

use super::instance::InstanceId;
use super::matrix::{self, Axis, Place};
use super::placement::{self, Placement, PlacementDecl};
use super::reader::Reader;
use super::schema::{Checkpoint, Document, Lease, Limits, Resources, Retry, StageDecl};
use super::template::Template;
use super::validate::{self, Linked};
use super::yaml::{self, Node, Value};
use crate::config;
use crate::diagnostic::{Diagnostics, Problem, Sources};

/// Everything a workflow was read from: kept with a run, so that `resume` reads the same again whatever became of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowInputs {
    /// The file as the user named it.
    pub file: PathBuf,
    /// The directory that relative paths in the workflow are resolved against, absolute.
    pub base: PathBuf,
    /// The file's text.
    pub text: String,
    /// `--set` arguments in order.
    pub sets: Vec<String>,
    /// Texts of the fragments used, by the name the workflow gives them.
    pub fragments: BTreeMap<String, String>,
}

impl WorkflowInputs {
    /// What makes two invocations the same run: equal bytes read, equal `--set`, equal base directory.
    pub fn digest(&self) -> Digest {
        let texts = |list: &[String]| encode::Value::Array(list.iter().map(|s| s.as_str().into()).collect());
        let fragments = self.fragments.iter().map(|(name, text)| (name.clone(), encode::Value::from(text.as_str())));
        let value = encode::Value::map([
            ("base", self.base.to_string_lossy().as_ref().into()),
            ("text", self.text.as_str().into()),
            ("sets", texts(&self.sets)),
            ("fragments", encode::Value::map(fragments)),
        ]);
        Digest::derived("sprint-flow workflow v1", &value.to_bytes())
    }
}

/// Why a workflow cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file can be read but not used.
    #[error("{0}")]
    Invalid(Diagnostics),
}

/// A checked workflow: every stage is of a known kind, every edge fits, every parameter is normalised.
pub struct Workflow {
    name: String,
    inputs: WorkflowInputs,
    limits: Limits,
    remote: Option<RemoteSpec>,
    axes: Vec<Axis>,
    stages: Vec<StageDef>,
    instances: Vec<Instance>,
    resolved: String,
}

/// One stage of a workflow.
pub struct StageDef {
    pub(crate) name: String,
    pub(crate) stage: Arc<dyn Stage>,
    pub(crate) cache: CachePolicy,
    pub(crate) resources: Resources,
    pub(crate) retry: Retry,
    pub(crate) timeout: Option<Duration>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) lease: Option<Lease>,
    pub(crate) secrets: Vec<String>,
    pub(crate) placement: Placement,
}

impl StageDef {
    /// The stage's name in the workflow.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind that runs it.
    pub fn kind(&self) -> &Arc<dyn Stage> {
        &self.stage
    }

    /// When an earlier result stands in: what the workflow says, else what the kind says; fresh randomness and leases never.
    pub fn cache(&self) -> CachePolicy {
        self.cache
    }

    /// What it uses while it runs.
    pub fn resources(&self) -> Resources {
        self.resources
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Where its attempts run.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// When another attempt follows.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Its lease terms.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

/// The output of one instance on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Index of the producer in [`Workflow::instances`].
    pub instance: usize,
    /// The producer's output port.
    pub output: String,
}

/// A stage at one place of the matrix.
pub struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) stage: usize,
    pub(crate) params: Arc<Json>,
    pub(crate) inputs: BTreeMap<String, Vec<Edge>>,
    pub(crate) after: Vec<usize>,
    pub(crate) mutex: Vec<String>,
    pub(crate) consumers: Vec<usize>,
}

impl Instance {
    /// Its name.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Its normalised parameters.
    pub fn params(&self) -> &Json {
        &self.params
    }

    /// What it reads, by port; a gathering port has one edge per producer, in matrix order.
    pub fn inputs(&self) -> &BTreeMap<String, Vec<Edge>> {
        &self.inputs
    }

    /// Its coordinates.
    pub fn axes(&self) -> BTreeMap<String, String> {
        self.id.axes().iter().cloned().collect()
    }

    /// Instances that must come first: producers and `needs`, each once, in order.
    pub fn before(&self) -> impl Iterator<Item = usize> + '_ {
        let mut all: Vec<usize> = self.inputs.values().flatten().map(|e| e.instance).chain(self.after.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }
}

impl Workflow {
    /// Reads and checks the workflow in `file`.
    pub fn load(file: &Path, sets: &[String], registry: &Registry) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(file).map_err(|source| LoadError::Read { path: file.to_owned(), source })?;
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let base = std::path::absolute(folder).map_err(|source| LoadError::Read { path: file.to_owned(), source })?;
        let base = tidy(&base);
        let inputs = WorkflowInputs { file: file.to_owned(), base, text, sets: sets.to_vec(), fragments: BTreeMap::new() };
        let folder = inputs.base.clone();
        Self::build(inputs, registry, &mut |name| std::fs::read_to_string(folder.join(name)).map_err(|e| e.to_string()))
            .map_err(LoadError::Invalid)
    }

    /// Checks what an earlier [`Workflow::load`] read, without touching the file system.
    pub fn from_inputs(inputs: WorkflowInputs, registry: &Registry) -> Result<Self, Diagnostics> {
        let fragments = inputs.fragments.clone();
        Self::build(inputs, registry, &mut |name| {
            fragments.get(name).cloned().ok_or_else(|| "not recorded with the run".to_owned())
        })
    }

    fn build(mut inputs: WorkflowInputs, registry: &Registry, read: &mut config::ReadFragment<'_>) -> Result<Self, Diagnostics> {
        let mut sources = Sources::default();
        let id = sources.add(inputs.file.to_string_lossy(), inputs.text.as_str());
        let mut problems = Vec::new();
        let Some(mut root) = yaml::parse(id, &inputs.text, &mut problems) else {
            return Err(Diagnostics::new(sources, problems));
        };
        let mut fragments = BTreeMap::new();
        problems.extend(config::expand_fragments(&mut root, &mut sources, &mut |name| {
            let text = read(name)?;
            fragments.insert(name.to_owned(), text.clone());
            Ok(text)
        }));
        inputs.fragments = fragments;
        for arg in &inputs.sets {
            problems.extend(config::apply_set(&mut root, arg, &mut sources));
        }
        let mut reader = Reader { problems };
        let mut doc = reader.document(&root);
        let mut problems = reader.problems;
        if doc.name.is_empty() {
            doc.name = inputs.file.file_stem().map_or_else(|| "workflow".to_owned(), |s| s.to_string_lossy().into_owned());
        }
        check_params_are_plain(doc.params.as_ref(), &mut problems);
        let axes = matrix::axes(&doc.matrix, doc.params.as_ref(), &mut problems);
        check_mutexes(&doc, &mut problems);
        let linked = validate::link(&doc, &axes, registry, &mut problems);
        placement::check(&doc, &linked, &mut problems);
        let params = Parameters { base: &inputs.base, doc: &doc, axes: &axes, linked: &linked }.normalise(&mut problems);
        let (true, Some(params_of)) = (problems.is_empty(), params) else {
            return Err(Diagnostics::new(sources, problems));
        };
        let expansion = Expansion { doc: &doc, axes: &axes, linked: &linked }.expand(params_of);
        check_budget(&doc, &expansion, &mut problems);
        if !problems.is_empty() {
            return Err(Diagnostics::new(sources, problems));
        }
        let stages = define_stages(doc.stages, doc.executor.as_ref(), &linked);
        let resolved = serde_yaml::to_string(&root.to_yaml()).expect("plain values have a YAML form");
        let remote = doc.remote.map(|mut remote| {
            remote.identity = remote.identity.map(|path| inputs.base.join(path));
            remote
        });
        Ok(Self { name: doc.name, inputs, limits: doc.limits, remote, axes, stages, instances: expansion, resolved })
    }

    /// The workflow's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was read from.
    pub fn inputs(&self) -> &WorkflowInputs {
        &self.inputs
    }

    /// The workflow with its fragments and `--set` values filled in, as YAML; kept with each run for people to read.
    pub fn resolved(&self) -> &str {
        &self.resolved
    }

    /// What the stages running at once may use together.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where results are kept for other machines; an identity's path is absolute.
    pub fn remote(&self) -> Option<&RemoteSpec> {
        self.remote.as_ref()
    }

    /// The matrix.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// The stages in the order written.
    pub fn stages(&self) -> &[StageDef] {
        &self.stages
    }

    /// The instances, producers before consumers; their order depends on nothing but the workflow.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The stage of an instance.
    pub fn stage_of(&self, instance: &Instance) -> &StageDef {
        &self.stages[instance.stage]
    }
}

/// The JSON Schema of a workflow file for editors.
pub fn workflow_schema(registry: &Registry) -> Json {
    let kinds: Vec<_> =
        registry.iter().map(|s| (s.spec().kind, s.spec().version, s.spec().about, &s.spec().params_schema)).collect();
    super::fields::json_schema(&kinds)
}

/// Removes `.` steps, so that `./w.yaml` and `w.yaml` are the same run.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}

fn check_params_are_plain(params: Option<&Node>, problems: &mut Vec<Problem>) {
    let Some(node) = params else { return };
    match &node.value {
        Value::String(text) if super::template::mentions_reference(text) => problems.push(
            Problem::new("workflow::reference", node.span, "a parameter of the workflow cannot refer to others")
                .help("`${…}` is allowed in the scalar params of stages, mutex names and as a matrix axis"),
        ),
        Value::List(items) => items.iter().for_each(|n| check_params_are_plain(Some(n), problems)),
        Value::Map(entries) => entries.iter().for_each(|e| check_params_are_plain(Some(&e.value), problems)),
        _ => {}
    }
}

/// Normalised parameters of each stage, in the order of [`matrix::combinations`].
type ParamsOf = Vec<Vec<Arc<Json>>>;

struct Parameters<'a> {
    base: &'a Path,
    doc: &'a Document,
    axes: &'a [Axis],
    linked: &'a Linked,
}

impl Parameters<'_> {
    /// Fills in and normalises the parameters of every instance whose own stage is sound, whatever is wrong elsewhere.
    fn normalise(&self, problems: &mut Vec<Problem>) -> Option<ParamsOf> {
        let stages = 0..self.doc.stages.len();
        let all: Vec<Option<Vec<Arc<Json>>>> = stages.map(|i| self.stage(i, problems)).collect();
        all.into_iter().collect()
    }

    fn stage(&self, index: usize, problems: &mut Vec<Problem>) -> Option<Vec<Arc<Json>>> {
        let kind = self.linked.kinds[index].as_ref()?;
        let over = &self.linked.over[index].known;
        let decl = &self.doc.stages[index];
        let empty = Node { span: decl.name.span, value: Value::Map(Vec::new()) };
        let node = decl.params.as_ref().filter(|n| matches!(n.value, Value::Map(_))).unwrap_or(&empty);
        let mut known: BTreeMap<String, Option<Arc<Json>>> = BTreeMap::new();
        let mut all = Vec::new();
        let mut sound = true;
        for at in matrix::combinations(self.axes, over) {
            let place = Place { params: self.doc.params.as_ref(), axes: self.axes, at: &at };
            let before = problems.len();
            let resolved = place.resolve(node, problems);
            if problems.len() > before {
                return None;
            }
            let normal = known.entry(resolved.to_string()).or_insert_with(|| match self.normal_form(&**kind, &resolved) {
                Ok(json) => Some(Arc::new(json)),
                Err(found) => {
                    problems.extend(found.into_iter().map(|p| param_problem(&place, node, &decl.name.value, p)));
                    None
                }
            });
            match normal {
                Some(json) => all.push(json.clone()),
                None => sound = false,
            }
        }
        sound.then_some(all)
    }

    /// Defaults filled in, local files pinned, every number exact.
    fn normal_form(&self, kind: &dyn Stage, params: &Json) -> Result<Json, Vec<ParamProblem>> {
        let pinned = kind.pin(&kind.normalise(params)?, self.base)?;
        match encode::Value::from_json(&pinned) {
            Ok(_) => Ok(pinned),
            Err(e) => Err(vec![ParamProblem::new(&[], format!("a number cannot be part of a key: {e}"))]),
        }
    }
}

fn param_problem(place: &Place<'_>, node: &Node, stage: &str, problem: ParamProblem) -> Problem {
    let span = place.locate(node, &problem.path);
    let what = if problem.path.is_empty() { "params".to_owned() } else { format!("params.{}", problem.path.join(".")) };
    Problem::new("workflow::param", span, format!("{stage}: {what}: {}", problem.message)).maybe_help(problem.help)
}

struct Expansion<'a> {
    doc: &'a Document,
    axes: &'a [Axis],
    linked: &'a Linked,
}

/// The instances of one stage, found by their coordinates.
struct Expanded {
    over: Vec<usize>,
    /// Index of the instance at each place.
    by_place: BTreeMap<Vec<(usize, usize)>, usize>,
}

impl Expanded {
    /// Instances whose shared coordinates agree with `at`, in matrix order.
    fn matching(&self, at: &[(usize, usize)]) -> Vec<usize> {
        let shared: Vec<(usize, usize)> = at.iter().filter(|(a, _)| self.over.contains(a)).copied().collect();
        if shared.len() == self.over.len() {
            return self.by_place.get(&shared).copied().into_iter().collect();
        }
        let agrees = |place: &Vec<(usize, usize)>| shared.iter().all(|s| place.contains(s));
        self.by_place.iter().filter(|(place, _)| agrees(place)).map(|(_, i)| *i).collect()
    }
}

impl Expansion<'_> {
    /// Only called on a document without problems.
    fn expand(&self, params_of: ParamsOf) -> Vec<Instance> {
        let mut instances: Vec<Instance> = Vec::new();
        let mut expanded: BTreeMap<&str, Expanded> = BTreeMap::new();
        for &stage in &self.linked.order {
            let decl = &self.doc.stages[stage];
            let over = self.linked.over[stage].known.clone();
            let mut by_place = BTreeMap::new();
            for (nth, at) in matrix::combinations(self.axes, &over).into_iter().enumerate() {
                let index = instances.len();
                let instance = self.instance(stage, &at, params_of[stage][nth].clone(), &expanded);
                for producer in instance.before() {
                    instances[producer].consumers.push(index);
                }
                instances.push(instance);
                by_place.insert(at, index);
            }
            expanded.insert(&decl.name.value, Expanded { over, by_place });
        }
        instances
    }

    fn instance(&self, stage: usize, at: &[(usize, usize)], params: Arc<Json>, made: &BTreeMap<&str, Expanded>) -> Instance {
        let decl = &self.doc.stages[stage];
        let coordinates = at.iter().map(|(a, v)| (self.axes[*a].name().to_owned(), self.axes[*a].values[*v].text.clone()));
        let inputs = decl.inputs.iter().map(|i| {
            let producers = made[i.stage.as_str()].matching(at);
            let edges = producers.into_iter().map(|instance| Edge { instance, output: i.output.clone() });
            (i.port.value.clone(), edges.collect())
        });
        let place = Place { params: self.doc.params.as_ref(), axes: self.axes, at };
        let mutex = decl.mutex.iter().filter_map(|m| match place.fill(&m.template, m.span) {
            Ok(Json::String(name)) => Some(name),
            Ok(other) => Some(other.to_string()),
            Err(_) => None,
        });
        Instance {
            id: InstanceId::new(&decl.name.value, coordinates.collect()),
            stage,
            params,
            inputs: inputs.collect(),
            after: decl.needs.iter().flat_map(|n| made[n.value.as_str()].matching(at)).collect(),
            mutex: mutex.collect(),
            consumers: Vec::new(),
        }
    }
}

fn define_stages(declared: Vec<StageDecl>, executor: Option<&PlacementDecl>, linked: &Linked) -> Vec<StageDef> {
    let define = |(index, d): (usize, StageDecl)| {
        let stage = linked.kinds[index].clone().expect("a sound document has known kinds");
        let spec = stage.spec();
        let never = matches!(spec.effect, Effect::Lease | Effect::FreshRandomness);
        let cache = if never { CachePolicy::Never } else { d.cache.map_or(spec.cache, |c| c.value) };
        // Machines are taken and given back by the orchestrator's machine, which knows of them.
        let placement = match spec.effect {
            Effect::Lease => Placement::Local,
            _ => Placement::of(d.executor.as_ref(), executor),
        };
        StageDef {
            name: d.name.value,
            cache,
            stage,
            placement,
            resources: d.resources.map(|r| r.value).unwrap_or_default(),
            retry: d.retry,
            timeout: d.timeout,
            checkpoint: d.checkpoint,
            lease: d.lease.map(|l| l.value),
            secrets: d.secrets.into_iter().map(|s| s.value).collect(),
        }
    };
    declared.into_iter().enumerate().map(define).collect()
}

/// Mutex names are filled in when instances are made; this finds what is wrong with them before.
/// What all leases may cost together is known before the first dollar: the sum of their caps must not be above the workflow's.
fn check_budget(doc: &Document, instances: &[Instance], problems: &mut Vec<Problem>) {
    let Some(allowed) = doc.limits.max_usd else { return };
    let mut sum = 0.0;
    for (index, stage) in doc.stages.iter().enumerate() {
        let Some(lease) = &stage.lease else { continue };
        let Some(cap) = lease.value.max_usd else {
            let message = format!("stage `{}` may cost anything, but limits.max_usd is {allowed}", stage.name.value);
            problems.push(Problem::new("workflow::budget", lease.span, message).help("give its lease a max_usd"));
            continue;
        };
        let count = instances.iter().filter(|i| i.stage == index).count();
        sum += cap * count as f64;
        if sum > allowed {
            let message = format!(
                "with {count} instances of stage `{}` leases may cost {sum} USD together, but limits.max_usd is {allowed}",
                stage.name.value
            );
            problems.push(Problem::new("workflow::budget", lease.span, message).help("lower lease.max_usd, or raise the limit"));
            return;
        }
    }
}

fn check_mutexes(doc: &Document, problems: &mut Vec<Problem>) {
    for mutex in doc.stages.iter().flat_map(|s| &s.mutex) {
        let place = Place { params: doc.params.as_ref(), axes: &[], at: &[] };
        for reference in mutex.template.references() {
            if matches!(reference, super::template::Reference::Param(_)) {
                let alone = Template { parts: vec![super::template::Part::Reference(reference.clone())] };
                problems.extend(place.fill(&alone, mutex.span).err());
            }
        }
    }
}
