//! A model in training: parameters, optimiser, and the gradient of a logical batch.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sprint_dp::mechanism::{GridMechanism, NoisyMean};
use sprint_model::{Batch, Bucket, Checkpoint, Example, ModelSpec, ParamPath, Parameter, Part, TensorData};

use crate::budget::Budget;
use crate::config::TrainConfig;
use crate::cut::cut;
use crate::device::Backend;
use crate::engine::ParamSet;
use crate::error::TrainError;
use crate::eval::upload;
use crate::layout::Layout;
use crate::lower::LowerStates;
use crate::mechanics::Mechanics;
use crate::merged::Merging;
use crate::optim::Optimiser;
use crate::per_sample::{Differentiable, Granularity};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::workers::Workers;

/// The mean gradient of a step, noisy or not.
pub(crate) struct Outcome {
    pub(crate) mean: Vec<f32>,
    pub(crate) noise_variance: f64,
    pub(crate) loss: Option<f64>,
    pub(crate) rejected: u64,
}

/// A model in training.
pub(crate) struct Run<'a> {
    examples: &'a [Example],
    spec: ModelSpec,
    pub(crate) layout: Layout,
    backend: Backend,
    frozen: ParamSet,
    merging: Merging,
    lower: Option<LowerStates>,
    workers: Workers,
    pub(crate) theta: Vec<f32>,
    /// The mean of the parameters after the steps that are averaged; empty before the first of them.
    average: Vec<f32>,
    pub(crate) optimiser: Optimiser,
    pub(crate) step: u64,
}

impl<'a> Run<'a> {
    pub(crate) fn prepare(
        examples: &'a [Example],
        config: &TrainConfig,
        model: &Checkpoint,
        layout: Layout,
        backend: Backend,
    ) -> Result<Self, TrainError> {
        let frozen = upload(model, &backend);
        // What is trained within a subspace starts at 0.
        let start = |p: &Parameter| match layout.basis(&p.path) {
            Some(_) => vec![0.0; p.len()],
            None => model.get(&p.path).map_or(vec![], |t| t.data().to_vec()),
        };
        let theta: Vec<f32> = layout.parameters().iter().flat_map(start).collect();
        let rate = |p: &Parameter| if p.part == Part::Head { config.head_rate as f32 } else { 1.0 };
        let rates = layout.parameters().iter().flat_map(|p| vec![rate(p); p.len()]).collect();
        let optimiser = Optimiser::new(config.optimiser, rates);
        let workers = Workers::new(config.threads)?;
        let merging = Merging::new(model.spec(), &layout, &backend);
        Ok(Self {
            examples,
            spec: model.spec().clone(),
            layout,
            backend,
            frozen,
            merging,
            lower: None,
            workers,
            theta,
            average: Vec::new(),
            optimiser,
            step: 0,
        })
    }

    /// Computes once what stays the same in every step, if it fits into `bytes`.
    pub(crate) fn keep_lower_states(&mut self, bytes: usize, cancelled: &mut dyn FnMut() -> bool) -> Result<(), TrainError> {
        let layer = self.layout.lowest_layer(&self.spec);
        if LowerStates::worthwhile(&self.spec, layer, self.examples, bytes) {
            self.lower = Some(LowerStates::compute(self, layer, cancelled)?);
        }
        Ok(())
    }

    pub(crate) fn restore(&mut self, snapshot: Snapshot) -> Result<(), SnapshotError> {
        let Snapshot { step, theta, average, first, second, bases, noise, .. } = snapshot;
        if !average.is_empty() && average.len() != theta.len() {
            return Err(SnapshotError::Shape("averaged parameters"));
        }
        self.layout = self.layout.clone().with_bases(&bases).ok_or(SnapshotError::Shape("subspaces"))?;
        self.merging = Merging::new(&self.spec, &self.layout, &self.backend);
        self.optimiser =
            self.optimiser.clone().restore(first, second, noise, step).ok_or(SnapshotError::Shape("optimiser state"))?;
        (self.theta, self.average, self.step) = (theta, average, step);
        Ok(())
    }

    pub(crate) fn snapshot(&self, digest: &str, budget: &Budget) -> Snapshot {
        let (first, second) = self.optimiser.moments();
        Snapshot {
            step: self.step,
            run_digest: digest.to_owned(),
            ledger: budget.noisy.as_ref().map(|noisy| noisy.ledger.head()),
            theta: self.theta.clone(),
            average: self.average.clone(),
            first: first.to_vec(),
            second: second.to_vec(),
            noise: self.optimiser.noise(),
            bases: self.layout.bases().values().flat_map(|basis| basis.values.iter().copied()).collect(),
        }
    }

    /// The gradient of this step. In a run with noise the ledger's charge is durable before the batch is even sampled.
    pub(crate) fn gradient(
        &self,
        budget: &mut Budget,
        config: &TrainConfig,
        mechanics: &mut dyn Mechanics,
    ) -> Result<Outcome, TrainError> {
        let Budget { source, sampler, noisy, .. } = budget;
        let Some(noisy) = noisy else {
            let batch = sampler.batch(source, self.step, 0, self.step);
            let (sum, loss) = self.summed(&batch, config)?;
            let mean = sum.iter().map(|v| (v / config.batch_size as f64) as f32).collect();
            let loss = (!batch.is_empty()).then(|| loss / batch.len() as f64);
            return Ok(Outcome { mean, noise_variance: 0.0, loss, rejected: 0 });
        };
        let charge = mechanics.charge(noisy, source, self.step)?;
        let batch = sampler.batch(source, self.step, charge.attempt(), charge.round());
        self.accumulate(&batch, config, &mut noisy.mechanism)?;
        let rejected = noisy.mechanism.rejected();
        let divisor = mechanics.divisor(noisy.plan.expected_batch(), batch.len());
        let mean = noisy.mechanism.finish(charge, source)?.mean(divisor);
        Ok(Outcome { mean: self.released(&mean), noise_variance: mean.noise_variance(), loss: None, rejected })
    }

    /// A released gradient in the layout's order.
    pub(crate) fn released(&self, mean: &NoisyMean) -> Vec<f32> {
        let mut values = mean.values().to_vec();
        self.merging.straighten(&self.layout, &mut values);
        values
    }

    /// Adds every example's clipped gradient to the mechanism. Sums are of integers, so neither the cut into physical batches nor the order
    /// of threads changes them. What is released of them is to go through [`Run::released`].
    pub(crate) fn accumulate(
        &self,
        batch: &[usize],
        config: &TrainConfig,
        mechanism: &mut GridMechanism,
    ) -> Result<(), TrainError> {
        let cuts = self.cut(batch, self.private_rows(config));
        let point = self.model().at(&self.theta);
        let mechanism = Mutex::new(mechanism);
        let add = |(): &mut (), item: usize| -> Result<(), TrainError> {
            let (physical, rows) = self.physical(batch, &cuts[item])?;
            let gradients = self.model().gradients(&point, &physical, &rows, Granularity::PerExample, self.dropout(config))?;
            let slabs: Vec<&[f32]> = gradients.blocks().collect();
            let mut mechanism = mechanism.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Ok(mechanism.accumulate_batch(gradients.rows, &slabs, None)?)
        };
        self.workers.fold(cuts.len(), || (), add)?;
        Ok(())
    }

    /// The sum of gradients and of losses, without clipping.
    pub(crate) fn summed(&self, batch: &[usize], config: &TrainConfig) -> Result<(Vec<f64>, f64), TrainError> {
        let cuts = self.cut(batch, config.microbatch);
        let point = self.model().at(&self.theta);
        let empty = || (vec![0.0_f64; self.layout.dim()], 0.0_f64);
        let add = |(sum, loss): &mut (Vec<f64>, f64), item: usize| -> Result<(), TrainError> {
            let (physical, rows) = self.physical(batch, &cuts[item])?;
            let gradients = self.model().gradients(&point, &physical, &rows, Granularity::Sum, self.dropout(config))?;
            let mut values = gradients.blocks().collect::<Vec<_>>().concat();
            self.merging.straighten(&self.layout, &mut values);
            sum.iter_mut().zip(values).for_each(|(s, g)| *s += f64::from(g));
            *loss += gradients.losses.iter().map(|l| f64::from(*l)).sum::<f64>();
            Ok(())
        };
        let mut total = empty();
        for (sum, loss) in self.workers.fold(cuts.len(), empty, add)? {
            total.0.iter_mut().zip(&sum).for_each(|(t, s)| *t += s);
            total.1 += loss;
        }
        Ok(total)
    }

    /// One step of the optimiser along `mean`.
    pub(crate) fn apply(&mut self, mean: &[f32], learning_rate: f64, noise_variance: f64) {
        self.optimiser.step(&mut self.theta, mean, learning_rate, noise_variance);
    }

    /// Counts the step just taken into the average, if it is among the last `fraction` of `steps`: `mean ← mean + (θ - mean)/k`.
    pub(crate) fn count_into_average(&mut self, fraction: f64, steps: u64) {
        let first = steps - (fraction * steps as f64).round() as u64;
        if self.step < first {
            return;
        }
        if self.average.is_empty() {
            self.average.clone_from(&self.theta);
        }
        let weight = 1.0 / (self.step - first + 1) as f32;
        self.average.iter_mut().zip(&self.theta).for_each(|(mean, theta)| *mean += (theta - *mean) * weight);
    }

    pub(crate) fn examples(&self) -> &[Example] {
        self.examples
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub(crate) fn frozen(&self) -> &ParamSet {
        &self.frozen
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    #[cfg(test)]
    pub(crate) fn lower(&self) -> Option<&LowerStates> {
        self.lower.as_ref()
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Runs `work` `each` times on every worker.
    pub(crate) fn on_workers<E: Send>(
        &self,
        each: usize,
        work: impl Fn(&mut (), usize) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        self.workers.fold(each * self.workers.count(), || (), work).map(drop)
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.count()
    }

    pub(crate) fn dim(&self) -> usize {
        self.layout.dim()
    }

    fn model(&self) -> Differentiable<'_> {
        Differentiable {
            spec: &self.spec,
            backend: &self.backend,
            frozen: &self.frozen,
            layout: &self.layout,
            merging: &self.merging,
            lower: self.lower.as_ref(),
        }
    }

    /// The key of this step's dropout masks, if anything is dropped.
    fn dropout(&self, config: &TrainConfig) -> Option<(u64, u64)> {
        let (lora, head) = (self.spec.lora.map_or(0.0, |l| l.dropout), self.spec.head.as_ref().map_or(0.0, |h| h.dropout));
        (self.spec.hidden_dropout.max(lora).max(head) > 0.0).then_some((config.init_seed, self.step))
    }

    /// The most examples of one physical batch. The gradient of a trained table or whole dense layer is too large to hold for several
    /// examples at once, so they go one by one.
    fn private_rows(&self, config: &TrainConfig) -> usize {
        if self.layout.is_low_rank() { config.microbatch } else { 1 }
    }

    /// Cuts a logical batch into physical ones of similar length.
    fn cut(&self, batch: &[usize], rows: usize) -> Vec<Bucket> {
        let lengths: Vec<usize> = batch.iter().map(|i| self.examples[*i].ids.len()).collect();
        cut(&lengths, rows, self.backend.kind())
    }

    fn physical(&self, batch: &[usize], cut: &Bucket) -> Result<(Batch, Vec<usize>), TrainError> {
        let rows: Vec<usize> = cut.rows.iter().map(|row| batch[*row]).collect();
        let physical = Batch::new(rows.iter().map(|i| &self.examples[*i]), cut.tokens, self.spec.pad_token)?;
        Ok((physical, rows))
    }

    /// The parameters that differ from the base model's, and the names of the trained ones.
    pub(crate) fn result(&self, base: &Checkpoint, model: &Checkpoint) -> (BTreeMap<ParamPath, TensorData>, Vec<ParamPath>) {
        let mut params = BTreeMap::new();
        for parameter in self.spec.parameters() {
            let added = model.get(&parameter.path).filter(|t| base.get(&parameter.path) != Some(*t));
            if let Some(tensor) = added.filter(|_| !self.layout.contains(&parameter.path)) {
                params.insert(parameter.path, tensor.clone());
            }
        }
        let mut trained = Vec::new();
        for (parameter, values) in self.layout.slices(if self.average.is_empty() { &self.theta } else { &self.average }) {
            let (shape, values) = self.layout.value(parameter, values);
            let tensor = TensorData::new(shape, values);
            params.insert(parameter.path.clone(), tensor.expect("a slice has its parameter's length"));
            trained.push(parameter.path.clone());
        }
        (params, trained)
    }
}
