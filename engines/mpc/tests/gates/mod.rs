//! Real gate programs through three processes.

pub(crate) mod three;

use std::path::Path;
use std::sync::Arc;

use sprint_model::{
    Activation, Architecture, Batch, Calibration, Checkpoint, Example, HeadSpec, LayerRanges, LoraSpec, ModelSpec, Pooling,
    Range, ScoreRange, SoftCaps, Softmax, TargetModules, WeightPolicy,
};
use sprint_mpc::{
    BenchInput, BenchOptions, GateSession, GateSetup, LinkShape, ModelFiles, ProgramSize, SessionOptions, SharedModel, bench_mpc,
    precompute_material,
};
use sprint_mpc_core::{InMemory, Mode, Options, PrivateWeights, PublicWeights, compile, encode_inputs, os_randomness};

const POLICY: WeightPolicy = WeightPolicy::PublicBase { public_a: true };
const SIZES: [ProgramSize; 2] = [ProgramSize { batch: 1, tokens: 8 }, ProgramSize { batch: 3, tokens: 16 }];

fn spec() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Bert,
        layers: 2,
        hidden: 32,
        heads: 2,
        intermediate: 64,
        vocab: 50,
        positions: 32,
        token_types: 2,
        layer_norm_eps: 1e-12,
        pad_token: 0,
        activation: Activation::Gelu,
        softmax: Softmax::Exact,
        caps: SoftCaps::default(),
        hidden_dropout: 0.0,
        lora: Some(LoraSpec::new(4, 8.0, TargetModules::default())),
        head: Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 }),
    }
}

fn batch(size: ProgramSize) -> Batch {
    let length = |row: usize| size.tokens - row * 3;
    let example = |row: usize| Example { ids: vec![7; length(row)], type_ids: vec![0; length(row)], label: None };
    let examples: Vec<Example> = (0..size.batch).map(example).collect();
    Batch::new(&examples, size.tokens, 0).unwrap()
}

/// Values of about the size that a layer normalisation gives.
fn embedded(size: ProgramSize, seed: usize) -> Vec<f32> {
    (0..size.batch * size.tokens * 32).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
}

/// The same program on ring integers in the clear.
fn simulated(model: &Checkpoint, size: ProgramSize, embedded: &[f32]) -> Vec<Vec<f32>> {
    let options = Options::new(Mode::Exact, POLICY, size.batch, size.tokens);
    let program = Arc::new(compile(model.spec(), &options).unwrap());
    let public = Arc::new(PublicWeights::prepare(&program, model).unwrap());
    let private = PrivateWeights::share(&program, model, &mut os_randomness).unwrap();
    let input = encode_inputs(&program, &batch(size), embedded).unwrap();
    InMemory::new(program, public, private).simulate(&input).unwrap()
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn options(dir: &Path, shared: &SharedModel, files: [ModelFiles; 2]) -> SessionOptions {
    SessionOptions {
        binary: std::env::current_exe().unwrap(),
        args: vec!["gate-role".into()],
        setup: GateSetup {
            spec: spec(),
            policy: POLICY,
            mode: Mode::Exact,
            calibration: None,
            sizes: SIZES.to_vec(),
            model: shared.digest,
        },
        files,
        third: None,
        ledgers: dir.to_owned(),
        link: LinkShape::LOOPBACK,
        dealer_link: LinkShape::LOOPBACK,
        limits: crate::limits(),
        plan: vec![0, 1],
        standing: None,
        material: None,
    }
}

pub(crate) fn a_real_model_answers_batches_of_two_sizes() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 3).unwrap();
    let shared = SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap();
    let files = shared.write(dir.path()).unwrap();
    for files in &files {
        assert_eq!(std::fs::metadata(&files.share).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut session = GateSession::launch(&options(dir.path(), &shared, files)).unwrap();
    for (request, program) in [0, 1, 1, 0].into_iter().enumerate() {
        let size = SIZES[program];
        let x = embedded(size, request);
        let logits = session.infer(program as u32, &batch(size), &x).unwrap();
        let clear = simulated(&model, size, &x);
        assert!(distance(&logits, &clear) < 5e-3, "{logits:?} {clear:?}");
        assert!(clear.iter().flatten().any(|v| v.abs() > 1e-2), "a comparison of zeros tells nothing");
    }
    let meter = session.finish().unwrap();
    for party in &meter.parties {
        assert_eq!(party.inferences.len(), 4);
        assert!(party.by_part.iter().any(|s| s.name.contains("layer.1")), "{:?}", party.by_part);
    }
}

pub(crate) fn a_real_model_answers_from_material_made_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 3).unwrap();
    let shared = SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap();
    let files = shared.write(dir.path()).unwrap();
    let options = options(dir.path(), &shared, files);
    let folder = dir.path().join("material");
    let made = precompute_material(&folder, &options.setup, &model, &[0, 1]).unwrap();
    assert_eq!(made.batch.plan, [0, 1]);
    let mut session = GateSession::launch(&SessionOptions { material: Some(folder), ..options.clone() }).unwrap();
    for program in [0, 1] {
        let (size, x) = (SIZES[program], embedded(SIZES[program], program));
        let logits = session.infer(program as u32, &batch(size), &x).unwrap();
        assert!(distance(&logits, &simulated(&model, size, &x)) < 5e-3);
    }
    session.finish().unwrap();

    // The seed of weight masks stays in the folder: another private part under the same masks would show the difference to this one.
    let folder = dir.path().join("again");
    precompute_material(&folder, &options.setup, &model, &[0, 0]).unwrap();
    let ask = |session: Result<GateSession, sprint_mpc::GateError>| {
        session?.infer(0, &batch(SIZES[0]), &embedded(SIZES[0], 0)).map(drop)
    };
    let with_folder = SessionOptions { material: Some(folder.clone()), ..options.clone() };
    ask(GateSession::launch(&with_folder)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let resplit = SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap();
    let files = resplit.write(elsewhere.path()).unwrap();
    let setup = GateSetup { model: resplit.digest, ..options.setup.clone() };
    let refused = ask(GateSession::launch(&SessionOptions { files, setup, ..with_folder.clone() })).unwrap_err().to_string();
    assert!(refused.contains("masks of private weights"), "{refused}");
    ask(GateSession::launch(&with_folder)).unwrap();

    // Made for a model of the same shape: every opening would still be masked, but not by material that this model's owner ordered.
    let other = Checkpoint::random(spec(), 4).unwrap();
    let folder = dir.path().join("other");
    precompute_material(&folder, &options.setup, &other, &[0]).unwrap();
    let mut session = GateSession::launch(&SessionOptions { material: Some(folder.clone()), ..options.clone() }).unwrap();
    let refused = session.infer(0, &batch(SIZES[0]), &embedded(SIZES[0], 0)).unwrap_err().to_string();
    assert!(refused.contains("for another model"), "{refused}");
    let setup = GateSetup { sizes: SIZES[..1].to_vec(), ..options.setup.clone() };
    let refused = GateSession::launch(&SessionOptions { material: Some(folder), setup, ..options }).err().unwrap().to_string();
    assert!(refused.contains("made for other programs"), "{refused}");
}

/// Material of the requests to come is made although nobody said how many there will be, and what is left over is no failure.
pub(crate) fn a_standing_order_serves_any_number_and_ends_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 3).unwrap();
    let shared = SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap();
    let files = shared.write(dir.path()).unwrap();
    let options = SessionOptions { plan: vec![0], standing: Some(1), ..options(dir.path(), &shared, files) };
    let mut session = GateSession::launch(&options).unwrap();
    let programs = [0, 1, 1, 1];
    for program in programs {
        let (size, x) = (SIZES[program], embedded(SIZES[program], program));
        let logits = session.infer(program as u32, &batch(size), &x).unwrap();
        assert!(distance(&logits, &simulated(&model, size, &x)) < 5e-3);
    }
    let made = session.finish().unwrap().dealer.offline_s.len();
    assert_eq!(made, programs.len() + options.limits.lookahead, "as many are ahead at the end as ever");
}

pub(crate) fn shares_do_not_serve_the_gates_of_another_mode() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 3).unwrap();
    let shared = SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap();
    let files = shared.write(dir.path()).unwrap();
    let head = ScoreRange { scores: Range { low: -2.0, high: 2.0 }, log_sums: Range { low: 0.5, high: 5.0 } };
    let layer = LayerRanges { heads: vec![head; 2], activation: Range { low: -4.0, high: 4.0 } };
    let calibration = Some(Calibration::new(&spec(), 1, vec![layer; 2]).unwrap());
    let mut options = options(dir.path(), &shared, files);
    options.setup = GateSetup { mode: Mode::Calibrated, calibration, ..options.setup };
    let refused = GateSession::launch(&options).err().unwrap().to_string();
    assert!(refused.contains("failed: the model here has digest"), "{refused}");
}

pub(crate) fn shares_of_two_sharings_do_not_pass_for_a_pair() {
    let [one, two] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let model = Checkpoint::random(spec(), 3).unwrap();
    let [first, second] = [0, 1].map(|_| SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap());
    let [files0, _] = first.write(one.path()).unwrap();
    let [_, files1] = second.write(two.path()).unwrap();
    let refused = GateSession::launch(&options(one.path(), &first, [files0.clone(), files1])).err().unwrap().to_string();
    assert!(refused.contains("party 1 failed: the model here has digest"), "{refused}");
    let swapped = options(one.path(), &first, [files0.clone(), files0]);
    let refused = GateSession::launch(&swapped).err().unwrap().to_string();
    assert!(refused.contains("another party's share"), "{refused}");
}

/// A benchmark of two inferences on loopback, by this program as every role.
fn bench<'a>(folder: &Path, checkpoint: &'a Checkpoint, policy: WeightPolicy, mode: Mode) -> BenchOptions<'a> {
    BenchOptions {
        binary: std::env::current_exe().unwrap(),
        args: vec!["gate-role".into()],
        checkpoint,
        policy,
        mode,
        calibration: None,
        model: "small".into(),
        net: "loopback".into(),
        link: LinkShape::LOOPBACK,
        runs: 2,
        folder: folder.to_owned(),
        limits: crate::limits(),
    }
}

pub(crate) fn the_benchmark_reports_what_its_session_measured() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 5).unwrap();
    let size = SIZES[1];
    let x = embedded(size, 1);
    let clear = simulated(&model, size, &x);
    let bench = bench(dir.path(), &model, POLICY, Mode::Exact);
    let report = bench_mpc(&bench, &BenchInput { batch: &batch(size), embedded: &x, logits: Some(&clear) }).unwrap();
    let cost = compile(&spec(), &Options::new(Mode::Exact, POLICY, size.batch, size.tokens)).unwrap().cost();
    assert_eq!(report.rounds, cost.rounds);
    assert_eq!(report.dealer_bytes, cost.dealer_bytes.map(|b| b + 32));
    for sent in &report.online_bytes_sent {
        // Headers, TLS records and the three session frames are the rest.
        let overhead = sent - cost.online_bytes;
        assert!(overhead > 0 && overhead < 200 * (u64::from(cost.rounds) + 3) + cost.online_bytes / 100, "{overhead}");
    }
    let declared = &report.predicted;
    for sent in &report.session_bytes_sent {
        // TLS and its certificates, the handshake, the watermark and the opening of the private weights.
        let overhead = sent - declared.session_opened_bytes;
        assert!(declared.session_opened_bytes > 0 && overhead < 4000 + declared.session_opened_bytes / 100, "{overhead}");
    }
    assert_eq!((declared.rounds, declared.flushes), (report.rounds, report.flushes));
    assert_eq!(declared.dealer_bytes, report.dealer_bytes);
    for (predicted, sent) in declared.online_bytes_sent.iter().zip(&report.online_bytes_sent) {
        // A write that a full socket takes in two pieces makes one record more.
        assert!(sent >= predicted && sent - predicted <= 22 * u64::from(cost.rounds), "{predicted} {sent}");
    }
    for table in [&declared.by_layer, &declared.by_gate] {
        assert_eq!(table.iter().map(|s| s.rounds).sum::<u64>(), u64::from(cost.rounds));
        assert_eq!(table.iter().map(|s| s.bytes_sent).sum::<u64>(), cost.online_bytes);
        assert_eq!(table.iter().map(|s| s.dealer_bytes).sum::<u64>(), cost.dealer_bytes.iter().sum::<u64>());
    }
    assert!(report.total_s.median >= report.online_s.median && report.max_logit_diff.unwrap() < 5e-3, "{report:?}");
    assert_eq!(report.by_layer.iter().map(|s| s.rounds).sum::<u64>(), 3 * u64::from(cost.rounds));
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["online_s"]["median"].is_f64() && json["peak_rss"]["dealer"].is_u64() && json["mode"] == "exact");
}

/// A fully tuned model: its public part is empty, and the answers are the float model's up to what a small model averages out.
pub(crate) fn a_model_whose_weights_are_all_private_answers_as_declared() {
    let dir = tempfile::tempdir().unwrap();
    let policy = WeightPolicy::AllPrivate;
    let spec = ModelSpec { lora: None, ..spec() };
    let model = Checkpoint::random(spec.clone(), 5).unwrap();
    let size = SIZES[1];
    let x = embedded(size, 1);
    let program = Arc::new(compile(&spec, &Options::new(Mode::Exact, policy, size.batch, size.tokens)).unwrap());
    let clear = {
        let public = Arc::new(PublicWeights::prepare(&program, &model).unwrap());
        let private = PrivateWeights::share(&program, &model, &mut os_randomness).unwrap();
        let input = encode_inputs(&program, &batch(size), &x).unwrap();
        InMemory::new(Arc::clone(&program), public, private).simulate(&input).unwrap()
    };
    let shared = SharedModel::split(&model, policy, Mode::Exact, None).unwrap();
    assert!(shared.public.len() < 64, "no tensor is public: {} bytes", shared.public.len());
    let bench = bench(dir.path(), &model, policy, Mode::Exact);
    let report = bench_mpc(&bench, &BenchInput { batch: &batch(size), embedded: &x, logits: Some(&clear) }).unwrap();
    let cost = program.cost();
    assert_eq!((report.rounds, report.dealer_bytes), (cost.rounds, cost.dealer_bytes.map(|b| b + 32).to_vec()));
    let opened = program.weight_frame_bytes() as u64;
    assert_eq!(report.predicted.session_opened_bytes, opened);
    for sent in &report.session_bytes_sent {
        let overhead = sent - opened;
        assert!(overhead < 4000 + opened / 100, "{overhead}");
    }
    assert!(report.max_logit_diff.unwrap() < 5e-3, "{:?}", report.max_logit_diff);
}
