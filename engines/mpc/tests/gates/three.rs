//! Three servers and no dealer, as processes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use sprint_model::Checkpoint;
use sprint_mpc::{BenchInput, GateSession, GateSetup, LinkShape, ModelFiles, SessionOptions, SharedModel, bench_mpc};
use sprint_mpc_core::{Mode, Options, ReplicatedProgram, compile};

use super::{POLICY, SIZES, batch, bench, distance, embedded, options, simulated, spec};

fn three(dir: &Path, shared: &SharedModel, files: [ModelFiles; 2]) -> SessionOptions {
    let options = options(dir, shared, files);
    let setup = GateSetup { mode: Mode::ThreeServer, ..options.setup };
    SessionOptions { setup, third: Some(ModelFiles::of_third(dir)), plan: Vec::new(), ..options }
}

fn split(model: &Checkpoint) -> SharedModel {
    SharedModel::split(model, POLICY, Mode::ThreeServer, None).unwrap()
}

pub(crate) fn three_servers_answer_without_a_dealer() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 3).unwrap();
    let shared = split(&model);
    let files = shared.write(dir.path()).unwrap();
    let options = three(dir.path(), &shared, files);
    let predicted = options.setup.predict_all(LinkShape::LOOPBACK).unwrap();
    let mut session = GateSession::launch(&options).unwrap();
    let programs = [0usize, 1, 1, 0];
    for (request, program) in programs.into_iter().enumerate() {
        let size = SIZES[program];
        let x = embedded(size, request);
        if request == 2 {
            session.prepare(program as u32).unwrap();
        }
        let logits = session.infer(program as u32, &batch(size), &x).unwrap();
        let clear = simulated(&model, size, &x);
        assert!(distance(&logits, &clear) < 5e-3, "{logits:?} {clear:?}");
        assert!(clear.iter().flatten().any(|v| v.abs() > 1e-2), "a comparison of zeros tells nothing");
    }
    let meter = session.finish().unwrap();
    assert!(meter.dealer.inferences.is_empty() && meter.client.len() == 3);
    let third = meter.third.as_ref().expect("there is a third server");
    for (at, server) in meter.parties.iter().chain([third]).enumerate() {
        assert_eq!(server.inferences.len(), programs.len());
        for (inference, program) in server.inferences.iter().zip(programs) {
            let due = &predicted[program];
            assert_eq!((inference.rounds, inference.opened_bytes_sent), (due.rounds, due.opened_bytes[at]));
            assert_eq!((inference.material_bytes, inference.flushes), (0, due.flushes));
        }
        assert!(server.by_part.iter().any(|s| s.name.contains("layer.1")), "{:?}", server.by_part);
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().all(|f| f.unwrap().path().extension().is_none_or(|e| e != "ledger")));
}

pub(crate) fn three_servers_refuse_what_is_not_for_them() {
    let [of_three, of_two] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let model = Checkpoint::random(spec(), 3).unwrap();
    let (shared, pair) = (split(&model), SharedModel::split(&model, POLICY, Mode::Exact, None).unwrap());
    let files = shared.write(of_three.path()).unwrap();
    let options = three(of_three.path(), &shared, files);
    let refused = |options: &SessionOptions| GateSession::launch(options).err().unwrap().to_string();

    let files = pair.write(of_two.path()).unwrap();
    let mixed = refused(&SessionOptions { files, ..options.clone() });
    assert!(mixed.contains("another number of servers"), "{mixed}");
    let twice = refused(&SessionOptions { third: Some(options.files[0].clone()), ..options.clone() });
    assert!(twice.contains("party 2 failed") && twice.contains("another party's share"), "{twice}");
    let resplit = split(&model);
    resplit.write(of_two.path()).unwrap();
    let other = refused(&SessionOptions { third: Some(ModelFiles::of_third(of_two.path())), ..options.clone() });
    assert!(other.contains("party 2 failed: the model here has digest"), "{other}");
    let missing = refused(&SessionOptions { third: None, ..options.clone() });
    assert!(missing.contains("three servers' files"), "{missing}");
    let material = refused(&SessionOptions { material: Some(of_two.path().to_owned()), ..options.clone() });
    assert!(material.contains("no material"), "{material}");
}

pub(crate) fn a_third_server_that_dies_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 3).unwrap();
    let shared = split(&model);
    let files = shared.write(dir.path()).unwrap();
    let mut session = GateSession::launch(&three(dir.path(), &shared, files)).unwrap();
    session.infer(0, &batch(SIZES[0]), &embedded(SIZES[0], 1)).unwrap();
    let third = session.pids()[2].to_string();
    assert!(Command::new("kill").args(["-9", &third]).status().unwrap().success());
    let failure = session.infer(0, &batch(SIZES[0]), &embedded(SIZES[0], 2)).unwrap_err().to_string();
    assert!(failure.contains("party 2 died"), "{failure}");
}

pub(crate) fn the_benchmark_of_three_servers_reports_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::random(spec(), 5).unwrap();
    let size = SIZES[1];
    let x = embedded(size, 1);
    let clear = simulated(&model, size, &x);
    let bench = bench(dir.path(), &model, POLICY, Mode::ThreeServer);
    let report = bench_mpc(&bench, &BenchInput { batch: &batch(size), embedded: &x, logits: Some(&clear) }).unwrap();
    let program = compile(&spec(), &Options::new(Mode::ThreeServer, POLICY, size.batch, size.tokens)).unwrap();
    let cost = ReplicatedProgram::new(Arc::new(program)).unwrap().cost();
    assert_eq!(report.rounds, cost.rounds);
    assert_eq!(report.dealer_bytes, [0; 3]);
    assert_eq!((report.predicted.rounds, report.predicted.flushes), (report.rounds, report.flushes));
    for (predicted, sent) in report.predicted.online_bytes_sent.iter().zip(&report.online_bytes_sent) {
        assert!(sent >= predicted && sent - predicted <= 44 * u64::from(cost.rounds), "{predicted} {sent}");
    }
    assert!(report.max_logit_diff.unwrap() < 5e-3, "{report:?}");
    assert!(report.peak_rss.p2.is_some() && report.cpu_online_s.p2.is_some());
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["mode"] == "three_server" && json["online_bytes_sent"].as_array().unwrap().len() == 3);
    assert!(json["cpu_s"]["p2"].is_f64());
}
