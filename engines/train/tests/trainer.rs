//! The training loop as its callers see it: budgets, crashes, resumption and learning, on a model of two small layers.

use std::io;
use std::sync::{Arc, Mutex};

use sprint_dp::ledger::{LedgerSink, MemorySink, RunId};
use sprint_model::{Checkpoint, Example, Label, ModelSpec, ParamPath};
use sprint_train::{
    Accounting, Backend, BackendKind, HeadConfig, LoraConfig, OptimiserConfig, PrivacyConfig, Progress, Sampling, TrainConfig,
    TrainError, TrainInputs, TrainObserver, TrainedModel, TuningConfig, Unobserved, predict, train,
};

fn spec() -> ModelSpec {
    ModelSpec { hidden: 16, intermediate: 24, vocab: 40, positions: 12, ..ModelSpec::bert_tiny_5k() }
}

fn base() -> Checkpoint {
    Checkpoint::random(spec(), 5).expect("the spec is valid")
}

/// Class 1 contains token 30, class 0 token 31, at a position that moves; the rest is filler.
fn examples(n: usize) -> Vec<Example> {
    let example = |i: usize| {
        let class = (i / 3) % 2;
        let mut ids: Vec<u32> = (0..4 + i % 5).map(|t| ((i * 7 + t * 11) % 28 + 2) as u32).collect();
        let at = i % ids.len();
        ids[at] = 30 + u32::from(class == 0);
        Example { type_ids: vec![0; ids.len()], ids, label: Some(Label::Class(class as u32)) }
    };
    (0..n).map(example).collect()
}

fn config() -> TrainConfig {
    TrainConfig {
        tuning: TuningConfig::Lora(LoraConfig { rank: 2, ..LoraConfig::default() }),
        batch_size: 16,
        epochs: 2.0,
        microbatch: 8,
        learning_rate: 1e-2,
        privacy: Some(PrivacyConfig { delta: 1e-4, ..PrivacyConfig::default() }),
        snapshot_every: 1,
        ..TrainConfig::default()
    }
}

/// A ledger's bytes that outlive the process that charges them.
#[derive(Clone, Default)]
struct SharedSink(Arc<Mutex<MemorySink>>);

impl SharedSink {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("one thread").bytes().to_vec()
    }
}

impl LedgerSink for SharedSink {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.0.lock().expect("one thread").read()
    }

    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().expect("one thread").append_durably(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.lock().expect("one thread").truncate(length)
    }
}

fn accounting(sink: &SharedSink) -> Accounting {
    let run = RunId::new("test").expect("a name");
    Accounting { sink: Box::new(sink.clone()), data_set: "data".to_owned(), run }
}

/// Keeps the last snapshot and stops after a number of steps, as a crash between two steps does.
#[derive(Default)]
struct Crash {
    after: Option<u64>,
    taken: u64,
    kept: Option<Vec<u8>>,
}

impl TrainObserver for Crash {
    fn progress(&mut self, _: &Progress) {
        self.taken += 1;
    }

    fn snapshot(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.kept = Some(bytes.to_vec());
        Ok(())
    }

    fn cancelled(&mut self) -> bool {
        self.after == Some(self.taken)
    }
}

fn run(config: &TrainConfig, examples: &[Example], sink: &SharedSink) -> TrainedModel {
    let base = base();
    let inputs = TrainInputs { base: &base, examples, outputs: 2, described: &[] };
    train(inputs, config, Some(accounting(sink)), None, &mut Unobserved).expect("a valid run")
}

fn values(model: &TrainedModel) -> Vec<f32> {
    model.params.values().flat_map(|t| t.data().to_vec()).collect()
}

/// Starts a run, crashes it after `after` steps, and resumes it from its last snapshot.
fn crash_and_resume(config: &TrainConfig, examples: &[Example], sink: &SharedSink, after: u64) -> TrainedModel {
    let base = base();
    let inputs = TrainInputs { base: &base, examples, outputs: 2, described: &[] };
    let mut crash = Crash { after: Some(after), ..Crash::default() };
    let stopped = train(inputs, config, Some(accounting(sink)), None, &mut crash);
    assert!(matches!(stopped, Err(TrainError::Cancelled)), "stopped after {after} steps");
    train(inputs, config, Some(accounting(sink)), crash.kept.as_deref(), &mut Unobserved).expect("a resumed run")
}

#[test]
fn a_reproducible_run_resumes_bit_for_bit_from_any_step() {
    let data = examples(96);
    for (privacy, snapshot_every) in [(config().privacy, 1), (config().privacy, 5), (None, 3)] {
        let config = TrainConfig { seed: Some(9), privacy, snapshot_every, average: 0.5, ..config() };
        let whole = run(&config, &data, &SharedSink::default());
        for after in [0, 1, 4, 7, 10, 11] {
            let resumed = crash_and_resume(&config, &data, &SharedSink::default(), after);
            assert_eq!(values(&resumed), values(&whole), "crash after {after} steps, snapshot every {snapshot_every}");
            assert!(resumed.privacy.is_none_or(|p| !p.private && p.claim.is_none()), "a seeded run is never called private");
        }
    }
}

/// Texts that stand for their class, as the data's tokens do.
fn described() -> Vec<Example> {
    let text = |i: u32| Example {
        ids: vec![2 + i % 9, if i % 2 == 1 { 30 } else { 31 }, 12 + i % 7],
        type_ids: vec![0; 3],
        label: Some(Label::Class(i % 2)),
    };
    (0..24).map(text).collect()
}

#[test]
fn a_run_within_public_directions_resumes_bit_for_bit_and_gives_updates_of_the_whole_shape() {
    let (data, texts, base) = (examples(96), described(), base());
    let tuning = TuningConfig::Lora(LoraConfig { rank: 2, public_basis: Some(3), ..LoraConfig::default() });
    let config = TrainConfig { tuning, seed: Some(9), average: 0.5, ..config() };
    let inputs = TrainInputs { base: &base, examples: &data, outputs: 2, described: &texts };
    let whole = train(inputs, &config, None, None, &mut Unobserved).expect("a valid run");
    let mut crash = Crash { after: Some(5), ..Crash::default() };
    assert!(matches!(train(inputs, &config, None, None, &mut crash), Err(TrainError::Cancelled)));
    let resumed = train(inputs, &config, None, crash.kept.as_deref(), &mut Unobserved).expect("resumes");
    assert_eq!(values(&resumed), values(&whole));
    // The 12 updates' R of 3 rows and 2 columns, and the head.
    assert_eq!(whole.privacy.as_ref().map(|p| p.mechanism.dimension), Some(12 * 3 * 2 + 2 * 16 + 2));
    let update = whole.params.iter().filter(|(path, _)| path.as_str().ends_with("intermediate.dense.lora_B"));
    assert!(update.into_iter().all(|(_, b)| b.shape() == [24, 2] && b.data().iter().any(|v| *v != 0.0)));
    let none = TrainInputs { described: &[], ..inputs };
    let error = train(none, &config, None, None, &mut Unobserved).expect_err("no texts").to_string();
    assert!(error.contains("tuning.public_basis"), "{error}");
}

#[test]
fn every_attempt_is_paid_for_and_the_noise_of_a_resumed_run_is_fresh() {
    let (data, sink) = (examples(96), SharedSink::default());
    let config = TrainConfig { snapshot_every: 4, ..config() };
    let model = crash_and_resume(&config, &data, &sink, 7);
    let report = model.privacy.expect("a private run has a report");
    // Seven charges before the crash, then steps 4 to 11 after the snapshot at step 4.
    assert_eq!((report.steps.get(), report.attempts, report.private), (12, 7 + 8, true));
    assert!(report.claim.expect("private").epsilon > 8.0);
    let again = run(&config, &data, &SharedSink::default()).privacy.expect("a report");
    assert_eq!((again.steps.get(), again.attempts), (12, 12));
    let epsilon = again.claim.expect("private").epsilon;
    assert!(epsilon <= 8.0 && epsilon > 7.9, "{epsilon}");
    let text = String::from_utf8(sink.bytes()).expect("the ledger is text");
    let keys: std::collections::BTreeSet<&str> = text.split("\"key_id\":\"").skip(1).filter_map(|t| t.get(..32)).collect();
    assert_eq!(keys.len(), 2, "one key a process");
}

#[test]
fn a_ledger_older_than_the_snapshot_is_refused() {
    let (data, sink, base) = (examples(96), SharedSink::default(), base());
    let inputs = TrainInputs { base: &base, examples: &data, outputs: 2, described: &[] };
    let mut crash = Crash { after: Some(5), ..Crash::default() };
    let _ = train(inputs, &config(), Some(accounting(&sink)), None, &mut crash);
    let fresh = accounting(&SharedSink::default());
    let error = train(inputs, &config(), Some(fresh), crash.kept.as_deref(), &mut Unobserved).expect_err("rolled back");
    assert!(error.to_string().contains("rolled back"), "{error}");
}

#[test]
fn a_snapshot_of_another_configuration_or_other_data_is_refused() {
    let (data, base) = (examples(96), base());
    let config = TrainConfig { seed: Some(1), ..config() };
    let inputs = TrainInputs { base: &base, examples: &data, outputs: 2, described: &[] };
    let mut crash = Crash { after: Some(5), ..Crash::default() };
    let _ = train(inputs, &config, None, None, &mut crash);
    let kept = crash.kept.as_deref();
    let other = TrainConfig { learning_rate: 1e-3, ..config.clone() };
    assert!(matches!(train(inputs, &other, None, kept, &mut Unobserved), Err(TrainError::Snapshot(_))));
    let mut changed = data.clone();
    changed[3].ids[0] = 3;
    let inputs = TrainInputs { examples: &changed, ..inputs };
    assert!(matches!(train(inputs, &config, None, kept, &mut Unobserved), Err(TrainError::Snapshot(_))));
    let faster = TrainConfig { microbatch: 3, threads: 1, ..config };
    assert!(train(TrainInputs { examples: &data, ..inputs }, &faster, None, kept, &mut Unobserved).is_ok());
}

#[test]
fn the_limit_on_epsilon_holds_through_crashes() {
    let (data, sink, base) = (examples(96), SharedSink::default(), base());
    let privacy = Some(PrivacyConfig { delta: 1e-4, max_epsilon: Some(8.4), ..PrivacyConfig::default() });
    let config = TrainConfig { privacy, snapshot_every: 0, ..config() };
    let inputs = TrainInputs { base: &base, examples: &data, outputs: 2, described: &[] };
    let mut refused = false;
    for _ in 0..6 {
        let mut crash = Crash { after: Some(6), ..Crash::default() };
        match train(inputs, &config, Some(accounting(&sink)), None, &mut crash) {
            Err(TrainError::Cancelled) => {}
            Err(TrainError::Ledger(error)) => {
                assert!(error.to_string().contains("max-epsilon"), "{error}");
                refused = true;
            }
            other => panic!("neither cancelled nor refused: {other:?}"),
        }
    }
    assert!(refused, "36 steps cannot fit where 12 were planned");
}

/// Six bands, a crash and a resumption: 12 + 2 charges are three compositions, rounds go on where the ledger stands, and the limit is of compositions.
#[test]
fn correlated_noise_survives_a_crash_and_accounts_rounds() {
    let (data, sink) = (examples(96), SharedSink::default());
    let privacy = Some(PrivacyConfig { delta: 1e-4, bands: 6, ..PrivacyConfig::default() });
    let config = TrainConfig { privacy, snapshot_every: 4, ..config() };
    let model = crash_and_resume(&config, &data, &sink, 6);
    let report = model.privacy.expect("a report");
    assert_eq!((report.steps.get(), report.attempts), (12, 14));
    assert_eq!(report.segments.iter().map(|s| s.steps.get()).collect::<Vec<_>>(), [3]);
    assert_eq!(report.sampler, sprint_dp::report::Sampler::CyclicPoisson);
    assert_eq!(report.mechanism.strategy.bands(), 6);
    assert!(report.private && report.claim.expect("a claim").epsilon > 8.0, "the repeated rounds begin a third composition");
    let undisturbed = run(&config, &data, &SharedSink::default()).privacy.expect("a report");
    let claim = undisturbed.claim.expect("a claim").epsilon;
    assert!(claim <= 8.0 && claim > 7.9, "{claim}");
}

#[test]
fn physical_batches_and_threads_change_nothing_but_rounding() {
    let data = examples(96);
    let config = TrainConfig { seed: Some(4), ..config() };
    let expected = values(&run(&config, &data, &SharedSink::default()));
    for (microbatch, threads) in [(1, 1), (3, 2), (64, 4)] {
        let config = TrainConfig { microbatch, threads, ..config.clone() };
        let found = values(&run(&config, &data, &SharedSink::default()));
        let largest = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-3, "microbatch {microbatch}, {threads} threads: {largest}");
    }
}

#[test]
fn empty_batches_take_their_steps() {
    let config = TrainConfig { batch_size: 1, epochs: 0.1, ..config() };
    let model = run(&config, &examples(96), &SharedSink::default());
    // Ten steps at q = 1/96: a batch is empty with probability 0.37.
    assert_eq!(model.history.len(), 10);
    assert_eq!(model.privacy.expect("a report").attempts, 10);
}

/// A token whose embedding overflows makes its examples' gradients NaN.
#[test]
fn an_example_whose_gradient_is_not_finite_contributes_nothing_and_is_counted() {
    let (spec, mut params) = base().into_parts();
    let words = params.get_mut(&ParamPath::new("embeddings.word_embeddings.weight")).expect("the base has it");
    words.data_mut()[39 * 16..40 * 16].fill(3e38);
    let poisoned = Checkpoint::from_params("poisoned", spec, params).expect("every value is finite");
    let mut data = examples(32);
    data[4].ids[0] = 39;
    let config = TrainConfig { batch_size: 32, epochs: 3.0, seed: Some(2), ..config() };
    let inputs = TrainInputs { base: &poisoned, examples: &data, outputs: 2, described: &[] };
    let model = train(inputs, &config, None, None, &mut Unobserved).expect("a NaN is not an error");
    assert_eq!(model.rejected_examples, 3, "one example in each of three full batches");
    assert!(values(&model).iter().all(|v| v.is_finite()));
}

fn accuracy(model: &TrainedModel, data: &[Example]) -> f64 {
    let mut params = base().into_parts().1;
    params.extend(model.params.clone());
    let checkpoint = Checkpoint::from_params("trained", model.spec.clone(), params).expect("complete");
    let logits = predict(&checkpoint, data, Backend::open(BackendKind::Flex).expect("built")).expect("logits");
    let right = logits.iter().zip(data).filter(|(l, e)| e.label == Some(Label::Class(u32::from(l[1] > l[0]))));
    right.count() as f64 / data.len() as f64
}

#[test]
fn every_tuning_and_optimiser_learns_a_separable_task() {
    let (train_data, test_data) = (examples(240), examples(400)[240..].to_vec());
    let lora = |freeze_a| TuningConfig::Lora(LoraConfig { rank: 4, freeze_a, ..LoraConfig::default() });
    let adamw = OptimiserConfig::default();
    let adambc = OptimiserConfig::DpAdambc { beta1: 0.9, beta2: 0.99, floor: 0.1, weight_decay: 0.0 };
    let sgd = OptimiserConfig::Sgd { momentum: 0.9, weight_decay: 0.0 };
    // Seeded, and with little noise: 240 examples learn nothing reliably under a budget that one would publish.
    let private = Some(PrivacyConfig { epsilon: 1000.0, delta: 1e-4, clip: 1.0, max_epsilon: None, bands: 1 });
    let base = TrainConfig { batch_size: 48, epochs: 20.0, seed: Some(1), ..config() };
    for (tuning, optimiser, privacy, learning_rate, sampling) in [
        (lora(true), adamw, None, 1e-2, Sampling::Shuffled),
        (lora(false), adamw, private, 2e-2, Sampling::Poisson),
        (lora(true), adambc, private, 1e-2, Sampling::Poisson),
        (lora(true), adamw, private.map(|p| PrivacyConfig { bands: 5, ..p }), 2e-2, Sampling::Poisson),
        (TuningConfig::Full, sgd, None, 1e-1, Sampling::Poisson),
        (TuningConfig::Full, adamw, private, 1e-2, Sampling::Poisson),
    ] {
        let head = HeadConfig { dense: true, ..HeadConfig::default() };
        let name = format!("{tuning:?} {optimiser:?} private {}", privacy.is_some());
        let config = TrainConfig { tuning, optimiser, privacy, learning_rate, sampling, head, ..base.clone() };
        let model = run(&config, &train_data, &SharedSink::default());
        let right = accuracy(&model, &test_data);
        assert!(right > 0.9, "{name}: {right}");
        assert_eq!(model.history.iter().any(|h| h.loss.is_some()), privacy.is_none(), "no loss leaves a private run");
    }
}

#[test]
fn regression_learns_a_score() {
    let mut data = examples(240);
    for example in &mut data {
        let Some(Label::Class(class)) = example.label else { continue };
        example.label = Some(Label::Score(if class == 1 { 2.0 } else { -1.0 }));
    }
    let base = base();
    let config = TrainConfig { privacy: None, batch_size: 48, epochs: 40.0, ..config() };
    let model =
        train(TrainInputs { base: &base, examples: &data, outputs: 1, described: &[] }, &config, None, None, &mut Unobserved)
            .expect("a valid run");
    let last = model.history.iter().rev().find_map(|h| h.loss).expect("a batch was not empty");
    assert!(last < 0.3, "½·(error)² is {last}; a constant gives 1.1");
}

#[test]
fn a_private_run_without_a_ledger_is_refused() {
    let (data, base) = (examples(96), base());
    let inputs = TrainInputs { base: &base, examples: &data, outputs: 2, described: &[] };
    assert!(matches!(train(inputs, &config(), None, None, &mut Unobserved), Err(TrainError::NoLedger)));
}

/// Each line of the list: the error names the field, and neither the ledger nor any parameter has been touched.
#[test]
fn bad_input_is_refused_by_its_field_before_anything_is_spent() {
    type Break = fn(&mut TrainConfig, &mut Vec<Example>);
    fn privacy(config: &mut TrainConfig) -> &mut PrivacyConfig {
        config.privacy.as_mut().expect("the test's configuration is private")
    }
    fn targets(config: &mut TrainConfig, names: &[&str]) {
        let targets = names.iter().map(|n| (*n).to_owned()).collect();
        config.tuning = TuningConfig::Lora(LoraConfig { targets, ..LoraConfig::default() });
    }
    let cases: [(&str, &str, Break); 12] = [
        ("a label outside the head", "row 2 has the label 2, outside the head's 2 classes", |_, data| {
            data[2].label = Some(Label::Class(2));
        }),
        ("an empty split", "examples: the training split is empty", |_, data| data.clear()),
        ("delta of one", "privacy.delta: 1 given", |c, _| privacy(c).delta = 1.0),
        ("a NaN delta", "privacy.delta: NaN given", |c, _| privacy(c).delta = f64::NAN),
        ("epsilon of zero", "privacy.epsilon: 0 given", |c, _| privacy(c).epsilon = 0.0),
        ("a negative epsilon", "privacy.epsilon: -3 given", |c, _| privacy(c).epsilon = -3.0),
        ("no clipping", "privacy.clip: inf given", |c, _| privacy(c).clip = f64::INFINITY),
        ("a sampling rate above one", "batch_size: 97 given, but there are 96 examples", |c, _| c.batch_size = 97),
        ("a target that matches nothing", "tuning.targets", |c, _| targets(c, &["falora"])),
        ("one of two targets that matches nothing", "tuning.targets", |c, _| targets(c, &["query", "falora"])),
        ("a module that matches nothing", "modules_to_save: \"layernorm\" matches no parameter", |c, _| {
            c.modules_to_save = vec!["layernorm".to_owned()];
        }),
        ("shuffled batches", "sampling: shuffled batches have no accounted guarantee", |c, _| c.sampling = Sampling::Shuffled),
    ];
    for (name, expected, spoil) in cases {
        let (mut config, mut data, sink, base) = (config(), examples(96), SharedSink::default(), base());
        spoil(&mut config, &mut data);
        let inputs = TrainInputs { base: &base, examples: &data, outputs: 2, described: &[] };
        let error = train(inputs, &config, Some(accounting(&sink)), None, &mut Unobserved).expect_err(name);
        assert!(matches!(error, TrainError::Config(_)) && error.to_string().contains(expected), "{name}: {error}");
        assert!(sink.bytes().is_empty(), "{name}: something was charged");
    }
}

#[test]
fn weights_that_are_no_numbers_never_become_a_model() {
    for bad in [f32::NAN, f32::INFINITY] {
        let (spec, mut params) = base().into_parts();
        let path = ParamPath::new("encoder.layer.1.attention.self.key.weight");
        params.get_mut(&path).expect("the base has it").data_mut()[7] = bad;
        let error = Checkpoint::from_params("spoilt", spec, params).expect_err("not finite").to_string();
        assert!(error.contains(path.as_str()) && error.contains("element 7"), "{error}");
    }
}
