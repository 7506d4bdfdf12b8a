//! What a run would do, and why: keys, hits, misses, and what cannot be known yet.

mod explain;
mod key;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sprint_artifacts::{ActionKey, Check, RecordError, Remote, RemoteError, ResultRecord, Store};
use sprint_stage_api::{CachePolicy, Effect, Foreseen, ForeseenInputs};

pub(crate) use explain::reasons;
pub use explain::{Change, History};
pub(crate) use key::Keyed;
pub(crate) use resolve::{Found, Outputs, key_of, look_up};

use crate::workflow::{Instance, InstanceId, Selector, Workflow};

/// Whether an instance would run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// A result is there, or nobody needs a new one.
    Hit,
    /// A result is on the remote; it would be pulled.
    HitRemote,
    /// It would run.
    Miss,
    /// It depends on outputs that are not made yet; if they come out as before, it will be a hit.
    Blocked,
}

/// One instance of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedStage {
    /// Its name.
    pub id: InstanceId,
    /// Its kind, without version.
    pub kind: String,
    /// Its version.
    pub version: u32,
    /// Its action key, if its inputs are known.
    pub key: Option<ActionKey>,
    /// Whether it would run.
    pub state: PlanState,
    /// Why, in words; one entry per changed field of the key.
    pub why: Vec<String>,
    /// What differs from the nearest earlier result.
    pub changes: Vec<Change>,
    /// Whether running it spends privacy budget.
    pub spends_privacy: bool,
    /// What running it would cost, in the stage's own words, if it foresees that.
    pub cost: Option<serde_json::Value>,
}

/// What a run would do, in the order of the workflow's instances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The workflow's name.
    pub workflow: String,
    /// The instances.
    pub stages: Vec<PlannedStage>,
}

/// A selector that matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`--only {selector}` selects no stage{}", .help.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct NothingSelected {
    /// The selector.
    pub selector: String,
    /// The fix.
    pub help: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// `--only` selects nothing.
    #[error(transparent)]
    Nothing(#[from] NothingSelected),
    /// The store cannot be read.
    #[error("the store's results cannot be read")]
    Record(#[from] RecordError),
    /// The remote cannot be asked.
    #[error("the remote cannot be asked")]
    Remote(#[from] RemoteError),
}

impl Plan {
    /// Plans `workflow` against what `store` holds; without a store everything is new.
    pub fn of(workflow: &Workflow, store: Option<&Store>, only: &[Selector], salt: &str) -> Result<Self, PlanError> {
        Self::with_remote(workflow, store, None, only, salt)
    }

    /// As [`Plan::of`], and says what would be pulled from `remote`. Nothing is pulled for a look.
    pub fn with_remote(
        workflow: &Workflow,
        store: Option<&Store>,
        remote: Option<&Remote>,
        only: &[Selector],
        salt: &str,
    ) -> Result<Self, PlanError> {
        let selected = select(workflow, only)?;
        let (states, outputs, foreseen) = (Vec::new(), Vec::new(), Vec::new());
        let mut planner = Planner { workflow, store, remote, salt, history: None, states, outputs, foreseen };
        for index in 0..workflow.instances().len() {
            let mut planned = if selected.contains(&index) { Some(planner.stage(index)?) } else { None };
            planner.foresee(index, planned.as_mut());
            planner.states.push(planned);
        }
        planner.demand();
        Ok(Self { workflow: workflow.name().to_owned(), stages: planner.states.into_iter().flatten().collect() })
    }

    /// How many instances would run, as far as is known.
    pub fn count(&self, state: PlanState) -> usize {
        self.stages.iter().filter(|s| s.state == state).count()
    }

    /// Whether a run would run no stage.
    pub fn is_done(&self) -> bool {
        self.count(PlanState::Hit) + self.count(PlanState::HitRemote) == self.stages.len()
    }
}

/// The instances that `only` selects and everything they need; all of them if it is empty.
pub(crate) fn select(workflow: &Workflow, only: &[Selector]) -> Result<BTreeSet<usize>, NothingSelected> {
    let instances = workflow.instances();
    if only.is_empty() {
        return Ok((0..instances.len()).collect());
    }
    let mut selected = BTreeSet::new();
    for selector in only {
        let before = selected.len();
        selected.extend((0..instances.len()).filter(|i| selector.matches(instances[*i].id())));
        let known = instances.iter().any(|i| selector.matches(i.id()));
        if selected.len() == before && !known {
            let stages = workflow.stages().iter().map(crate::workflow::StageDef::name);
            let help = if stages.clone().any(|s| s == selector.stage()) {
                instances
                    .iter()
                    .find(|i| i.id().stage() == selector.stage())
                    .map(|i| format!("its instances look like `{}`", i.id()))
            } else {
                crate::diagnostic::suggest(selector.stage(), stages)
            };
            return Err(NothingSelected { selector: selector.to_string(), help });
        }
    }
    for index in (0..instances.len()).rev() {
        if selected.contains(&index) {
            selected.extend(instances[index].before());
        }
    }
    Ok(selected)
}

struct Planner<'a> {
    workflow: &'a Workflow,
    store: Option<&'a Store>,
    remote: Option<&'a Remote>,
    salt: &'a str,
    history: Option<History>,
    states: Vec<Option<PlannedStage>>,
    outputs: Vec<Option<Outputs>>,
    /// What is known of each instance's outputs.
    foreseen: Vec<BTreeMap<String, Foreseen>>,
}

impl Planner<'_> {
    fn stage(&mut self, index: usize) -> Result<PlannedStage, PlanError> {
        let instance = &self.workflow.instances()[index];
        let stage = self.workflow.stage_of(instance);
        let spec = stage.kind().spec();
        self.outputs.resize(index + 1, None);
        let keyed = key_of(self.workflow, index, self.salt, |i| self.outputs[i].as_ref());
        let mut planned = PlannedStage {
            id: instance.id().clone(),
            kind: spec.kind.to_owned(),
            version: spec.version,
            key: keyed.as_ref().ok().map(|k| k.key),
            state: PlanState::Miss,
            why: Vec::new(),
            changes: Vec::new(),
            spends_privacy: spec.effect == Effect::SpendsPrivacy,
            cost: None,
        };
        match keyed {
            Err(unknown) => {
                let names = unknown.iter().map(|i| self.workflow.instances()[*i].id().to_string()).collect::<Vec<_>>();
                let more = if names.len() > 4 { format!(" and {} more", names.len() - 4) } else { String::new() };
                planned.state = PlanState::Blocked;
                planned.why = vec![format!("unknown until {}{more} ran", names[..names.len().min(4)].join(", "))];
            }
            Ok(keyed) if stage.cache() == CachePolicy::Never => self.outputs[index] = Some(Outputs::ByKey(keyed.key)),
            Ok(keyed) => {
                let found = match self.store {
                    Some(store) => look_up(store, spec, stage.cache(), &keyed.key, None, Check::Cheap)?,
                    None => Found::Miss(Vec::new()),
                };
                match found {
                    Found::Hit(record) => {
                        planned.state = PlanState::Hit;
                        self.outputs[index] = Some(Outputs::Artifacts(record.outputs));
                    }
                    Found::Miss(reasons) => {
                        if let Some(record) = self.offered(stage.cache(), &keyed.key)? {
                            planned.state = PlanState::HitRemote;
                            self.outputs[index] = Some(Outputs::Artifacts(record.outputs));
                        } else {
                            (planned.why, planned.changes) = self.why(instance, &keyed, reasons)?;
                        }
                    }
                }
            }
        }
        Ok(planned)
    }

    /// What the remote has of an action; a damaged record counts as none, as in a run.
    fn offered(&self, cache: CachePolicy, key: &ActionKey) -> Result<Option<ResultRecord>, RemoteError> {
        let Some(remote) = self.remote.filter(|_| cache == CachePolicy::Always) else { return Ok(None) };
        match remote.offers(key) {
            Err(error) if error.is_integrity() => Ok(None),
            other => other,
        }
    }

    /// Notes what is known of an instance's outputs, and what running it would cost.
    fn foresee(&mut self, index: usize, planned: Option<&mut PlannedStage>) {
        if let Some(Outputs::Artifacts(all)) = self.outputs.get(index).and_then(Option::as_ref) {
            self.foreseen.push(all.iter().map(|(name, id)| (name.clone(), Foreseen::Artifact(*id))).collect());
            return;
        }
        let instance = &self.workflow.instances()[index];
        let (Some(store), Some(planned)) = (self.store, planned) else {
            self.foreseen.push(BTreeMap::new());
            return;
        };
        let known = |(port, edges): (&String, &Vec<crate::workflow::Edge>)| match &edges[..] {
            [edge] => Some((port.clone(), self.foreseen[edge.instance].get(&edge.output)?.clone())),
            _ => None,
        };
        let inputs: ForeseenInputs = instance.inputs().iter().filter_map(known).collect();
        let forecast = self.workflow.stage_of(instance).kind().forecast(store, instance.params(), &inputs);
        planned.cost = forecast.cost;
        self.foreseen.push(forecast.outputs.into_iter().map(|(name, facts)| (name, Foreseen::Facts(facts))).collect());
    }

    fn why(
        &mut self,
        instance: &Instance,
        keyed: &Keyed,
        reasons: Vec<String>,
    ) -> Result<(Vec<String>, Vec<Change>), RecordError> {
        if !reasons.is_empty() {
            return Ok((reasons, Vec::new()));
        }
        if self.history.is_none() {
            self.history = Some(self.store.map(History::load).transpose()?.unwrap_or_default());
        }
        let changes = self.history.as_ref().and_then(|h| h.changes(instance.id(), &keyed.preimage));
        Ok(match changes {
            None => (vec!["never ran before".to_owned()], Vec::new()),
            Some(changes) => (explain::reasons(self.workflow, instance, &changes), changes),
        })
    }

    /// Instances whose result is never reused run only if somebody needs them; consumers come after, so backwards.
    fn demand(&mut self) {
        for index in (0..self.states.len()).rev() {
            let instance = &self.workflow.instances()[index];
            if self.workflow.stage_of(instance).cache() != CachePolicy::Never {
                continue;
            }
            let consumers: Vec<PlanState> =
                instance.consumers.iter().filter_map(|c| self.states[*c].as_ref()).map(|s| s.state).collect();
            let Some(own) = self.states[index].as_mut() else { continue };
            if own.state == PlanState::Blocked {
                continue;
            }
            (own.state, own.why) = if consumers.is_empty() {
                (PlanState::Miss, vec!["is never reused".to_owned()])
            } else if consumers.contains(&PlanState::Miss) {
                (PlanState::Miss, vec!["is never reused, and a consumer runs".to_owned()])
            } else if consumers.contains(&PlanState::Blocked) {
                (PlanState::Blocked, vec!["is never reused; runs if a consumer runs".to_owned()])
            } else {
                (PlanState::Hit, vec!["not needed: every consumer is cached".to_owned()])
            };
        }
    }
}
