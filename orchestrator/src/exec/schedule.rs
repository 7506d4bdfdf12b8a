//! What happens next: keys become known, results are looked up, what must run is started as soon as it may.

use std::collections::{BTreeMap, BTreeSet};

use sprint_stage_api::{Ancestor, CachePolicy, Effect, InputArtifact, Inputs};
use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Timer};
use super::executor::{Intent, IntentId, Operation, Outcome, Report};
use super::node::{Attempt, Phase};
use crate::event::{LeaseIntent, RunEvent};
use crate::journal::JournalError;
use crate::plan::{Outputs, key_of};
use crate::workflow::{Lease, Placement, Resources};

impl Dispatcher {
    /// Moves every instance as far as it can go now. Keys and failures travel with the order of instances, demand against it, so
    /// passes are repeated until nothing moves.
    pub(super) fn advance(&mut self) -> Result<(), JournalError> {
        let mut starts = Vec::new();
        loop {
            let before: Vec<Phase> = self.nodes.iter().map(|n| n.phase).collect();
            for index in 0..self.nodes.len() {
                match self.nodes[index].phase {
                    Phase::Waiting => self.try_key(index)?,
                    Phase::Wanted => starts.extend(self.try_start(index)?),
                    Phase::Following => self.follow(index)?,
                    _ => {}
                }
            }
            if self.nodes.iter().zip(before).all(|(n, phase)| n.phase == phase) {
                break;
            }
        }
        if !starts.is_empty() {
            // The intents are durable before anything is done about them.
            self.flush()?;
            for intent in starts {
                let id = intent.id.clone();
                if let Err(error) = self.set.executor.submit(intent, self.reports.clone()) {
                    let _ = self.reports.send((id, Report::Ended(Outcome::Failed(error))));
                }
            }
        }
        if !self.nodes.iter().any(|n| n.phase.is_active()) {
            self.settle()?;
        }
        self.release_leases()
    }

    fn policy(&self, index: usize) -> CachePolicy {
        self.set.workflow.stage_of(&self.set.workflow.instances()[index]).cache()
    }

    /// Consumers that take part in this run.
    fn consumers(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let all = &self.set.workflow.instances()[index].consumers;
        all.iter().copied().filter(|c| self.nodes[*c].phase != Phase::Skipped)
    }

    fn try_key(&mut self, index: usize) -> Result<(), JournalError> {
        if self.block_if_dead(index)? {
            return Ok(());
        }
        let workflow = self.set.workflow.clone();
        let Ok(keyed) = key_of(&workflow, index, &self.set.salt, |i| self.nodes[i].identity.as_ref()) else { return Ok(()) };
        let key = keyed.key;
        self.nodes[index].keyed = Some(keyed);
        if self.policy(index) != CachePolicy::Never {
            self.evaluate(index);
            return Ok(());
        }
        self.nodes[index].identity = Some(Outputs::ByKey(key));
        self.nodes[index].phase = Phase::Optional;
        let consumers: Vec<usize> = self.consumers(index).collect();
        if consumers.is_empty() || consumers.iter().any(|c| self.nodes[*c].phase == Phase::Wanted) {
            self.want(index);
        }
        Ok(())
    }

    fn block_if_dead(&mut self, index: usize) -> Result<bool, JournalError> {
        let before = &self.nodes[index].before;
        let dead: Vec<usize> = before.iter().copied().filter(|p| self.nodes[*p].phase.is_dead()).collect();
        if dead.is_empty() {
            return Ok(false);
        }
        self.block(index, &dead)?;
        Ok(true)
    }

    fn block(&mut self, index: usize, by: &[usize]) -> Result<(), JournalError> {
        self.nodes[index].phase = Phase::Blocked;
        let by = by.iter().map(|p| self.id(*p)).collect();
        self.emit(RunEvent::StageBlocked { stage: self.id(index), by })
    }

    /// The instance has to run; so have those of its producers whose results are never reused.
    pub(super) fn want(&mut self, index: usize) {
        self.nodes[index].phase = Phase::Wanted;
        for producer in self.nodes[index].before.clone() {
            if self.nodes[producer].phase == Phase::Optional {
                self.want(producer);
            }
        }
    }

    /// Journals the intent of an instance that may start now.
    fn try_start(&mut self, index: usize) -> Result<Option<Intent>, JournalError> {
        let first_attempt_here = self.nodes[index].attempt.is_none();
        if first_attempt_here && self.block_if_dead(index)? {
            return Ok(None);
        }
        let no_new = self.stopping.is_some() || (self.some_failed && !self.set.keep_going);
        if no_new || !self.nodes[index].before.iter().all(|p| self.nodes[*p].phase.has_artifacts()) {
            return Ok(None);
        }
        let workflow = self.set.workflow.clone();
        let instance = &workflow.instances()[index];
        let stage = workflow.stage_of(instance);
        let here = *stage.placement() == Placement::Local;
        // A cluster's processors are its own affair; names and the number of jobs are this run's.
        let wanted = if here { stage.resources() } else { Resources { cpu: 0, mem: 0 } };
        let Some(share) = self.capacity.take(wanted, &instance.mutex) else { return Ok(None) };
        let cpus = if here { share.cpu } else { stage.resources().cpu };
        let intent = self.intent(index, cpus as usize, first_attempt_here);
        let spec = stage.kind().spec();
        let lease = (spec.effect == Effect::Lease).then(|| {
            let (kind, base) = (spec.kind.to_owned(), intent.base.clone());
            Box::new(LeaseIntent {
                kind,
                version: spec.version,
                params: instance.params().clone(),
                inputs: intent.inputs.clone(),
                base,
            })
        });
        if lease.is_some() {
            self.leases.hold(index, intent.attempt);
        }
        let now = Instant::now();
        // Elsewhere it may have to wait for a machine first.
        if let Some(limit) = stage.timeout().filter(|_| here) {
            self.timers.insert((now + limit, Timer::Timeout(index, intent.id.clone())));
        }
        self.running.insert(intent.id.clone(), index);
        let node = &mut self.nodes[index];
        node.phase = Phase::Running;
        node.attempts = intent.attempt;
        node.attempt = Some(Attempt {
            began: now,
            began_unix_ms: (self.set.host.now_unix_ms)(),
            share: Some(share),
            metrics: BTreeMap::new(),
            timed_out: false,
            host: self.set.host.name.clone(),
        });
        self.emit(RunEvent::StageStarted { stage: self.id(index), key: intent.key, attempt: intent.attempt, lease })?;
        Ok(Some(intent))
    }

    /// What becomes of an instance whose key another one works on: it takes its result when that is there, and shares its failure.
    fn follow(&mut self, index: usize) -> Result<(), JournalError> {
        let key = self.nodes[index].keyed.as_ref().expect("follows once its key is known").key;
        let leader = self.leaders.get(&key).copied().expect("what is followed is known");
        match self.nodes[leader].phase {
            Phase::Ran | Phase::Hit => self.evaluate(index),
            Phase::Failed => {
                let failure = self.nodes[leader].failure.clone().expect("a failed instance has its failure");
                self.fail(index, failure)?;
            }
            Phase::Blocked | Phase::Interrupted => self.block(index, &[leader])?,
            _ => {}
        }
        Ok(())
    }

    /// The next attempt, or the last one of an earlier process where its executor still has it.
    fn intent(&self, index: usize, cpus: usize, first_here: bool) -> Intent {
        let last = self.nodes[index].attempts;
        let earlier = (first_here && last > 0).then(|| self.intent_of(index, cpus, last));
        earlier.filter(|intent| self.set.executor.knows(intent)).unwrap_or_else(|| self.intent_of(index, cpus, last + 1))
    }

    fn intent_of(&self, index: usize, cpus: usize, attempt: u32) -> Intent {
        let workflow = &self.set.workflow;
        let instance = &workflow.instances()[index];
        let stage = workflow.stage_of(instance);
        let spec = stage.kind().spec();
        Intent {
            id: IntentId::new(&self.set.run, instance.id(), attempt, &Operation::Run),
            run: self.set.run.clone(),
            stage: instance.id().clone(),
            operation: Operation::Run,
            kind: spec.kind.to_owned(),
            version: spec.version,
            key: self.nodes[index].keyed.as_ref().expect("wanted once its key is known").key,
            params: instance.params.clone(),
            inputs: self.inputs(index),
            ancestors: self.ancestors(index),
            attempt,
            axes: instance.axes(),
            env: self.set.host.env.clone(),
            base: workflow.inputs().base.clone(),
            cpus,
            placement: stage.placement().clone(),
            resources: stage.resources(),
            timeout: stage.timeout(),
            code: spec.code_digest,
            store: self.set.store.root().to_owned(),
            log: super::log_path(&self.set.logs, instance.id(), attempt),
            checkpoint_every_ms: stage.checkpoint.every.map(|d| d.as_millis() as u64),
            checkpoint_keep: stage.checkpoint.keep,
            lease: stage.lease().map(Lease::terms).unwrap_or_default(),
            remote: self.set.remote.as_ref().map(|r| r.spec.clone()),
        }
    }

    fn inputs(&self, index: usize) -> Inputs {
        let instances = self.set.workflow.instances();
        let spec = self.set.workflow.stage_of(&instances[index]).kind().spec();
        let ports = instances[index].inputs().iter().map(|(port, edges)| {
            let gathers = spec.inputs.iter().any(|p| p.name == *port && p.gather);
            let artifacts = edges.iter().map(|edge| {
                let axes = if gathers { instances[edge.instance].axes() } else { BTreeMap::new() };
                let id = self.nodes[edge.instance].artifacts.get(&edge.output).copied();
                InputArtifact { axes, id: id.expect("a committed producer has every declared output") }
            });
            let mut artifacts: Vec<InputArtifact> = artifacts.collect();
            artifacts.sort();
            (port.clone(), artifacts)
        });
        ports.collect()
    }

    /// Everything the instance depends on, in the workflow's order.
    fn ancestors(&self, index: usize) -> Vec<Ancestor> {
        let mut found = BTreeSet::new();
        let mut open = self.nodes[index].before.clone();
        while let Some(next) = open.pop() {
            if found.insert(next) {
                open.extend(&self.nodes[next].before);
            }
        }
        let instances = self.set.workflow.instances();
        let ancestor = |i: usize| Ancestor {
            stage: instances[i].id().stage().to_owned(),
            axes: instances[i].axes(),
            seconds: self.nodes[i].seconds,
        };
        found.into_iter().map(ancestor).collect()
    }

    /// Nothing is under way and nothing could start: what is left is not needed, or will not be.
    fn settle(&mut self) -> Result<(), JournalError> {
        for index in (0..self.nodes.len()).rev() {
            if self.nodes[index].phase != Phase::Optional {
                continue;
            }
            let fine = |p: Phase| p.has_artifacts() || p == Phase::Unneeded;
            let needless = self.consumers(index).all(|c| fine(self.nodes[c].phase));
            if needless {
                self.nodes[index].phase = Phase::Unneeded;
                let stage = self.id(index);
                self.emit(RunEvent::StageHit { stage, key: None, outputs: BTreeMap::new() })?;
            } else {
                self.block(index, &[])?;
            }
        }
        for index in 0..self.nodes.len() {
            match self.nodes[index].phase {
                Phase::Waiting | Phase::Wanted | Phase::Following if self.nodes[index].attempt.is_some() => {
                    self.nodes[index].phase = Phase::Interrupted;
                    let (stage, attempt) = (self.id(index), self.nodes[index].attempts);
                    self.emit(RunEvent::StageInterrupted { stage, attempt })?;
                }
                Phase::Waiting | Phase::Wanted | Phase::Following => {
                    let dead: Vec<usize> = {
                        let before = self.nodes[index].before.iter().copied();
                        before.filter(|p| self.nodes[*p].phase == Phase::Failed).collect()
                    };
                    self.block(index, &dead)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
