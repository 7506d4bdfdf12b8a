//! The stage against a server with faults, and against local files.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sprint_artifacts::Secrecy;
use sprint_stage_api::{ErrorClass, Stage, StageError, StageOutputs};

use super::Download;
use super::faults::{COMMIT, Fault, Server};
use super::fetch::Retry;
use crate::testing::Bench;

const BODY: &[u8] = b"label\ttext\nspam\tWin a prize\nham\tSee you at noon\n";

fn quick() -> Download {
    let pause = Duration::from_millis(1);
    Download { retry: Retry { attempts: 4, restarts: 3, pause, longest: pause }, ..Download::new() }
}

fn fetch(faults: &[Fault]) -> (Bench, Server, Result<StageOutputs, StageError>) {
    let bench = Bench::new();
    let server = Server::start(&[("/data/mail.tsv", BODY)], faults);
    let source = format!("{}/data/mail.tsv", server.endpoint);
    let result = bench.run(&quick(), &json!({ "source": source }));
    (bench, server, result)
}

fn hub(faults: &[Fault]) -> (Bench, Server) {
    let description = format!(
        r#"{{"id":"o/n","sha":"{COMMIT}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"README.md"}},{{"rfilename":"model.safetensors"}}]}}"#
    );
    let at = |name: &str| format!("/o/n/resolve/{COMMIT}/{name}");
    let (config, weights) = (at("config.json"), at("model.safetensors"));
    let files: [(&str, &[u8]); 3] =
        [("/api/models/o/n/revision/main", description.as_bytes()), (&config, b"{}"), (&weights, BODY)];
    let server = Server::start(&files, faults);
    let mut bench = Bench::new();
    bench.env.insert("HF_ENDPOINT".into(), server.endpoint.clone());
    bench.env.insert("HF_TOKEN".into(), "hf_canary".into());
    (bench, server)
}

fn assert_whole(bench: &Bench, result: Result<StageOutputs, StageError>) {
    let outputs = result.expect("downloads");
    let (manifest, files) = bench.output(&outputs, "files");
    assert_eq!(manifest.secrecy(), Secrecy::Secret);
    assert_eq!(files["mail.tsv"], BODY);
    let left = fs::read_dir(bench.ledgers().join("partial")).expect("was made").count();
    assert_eq!(left, 0, "no partial file stays");
}

#[test]
fn a_file_arrives_whole_under_its_name() {
    let (bench, server, result) = fetch(&[]);
    assert_whole(&bench, result);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_busy_server_is_asked_again() {
    let (bench, server, result) = fetch(&[Fault::Unavailable, Fault::Unavailable]);
    assert_whole(&bench, result);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let (bench, server, result) = fetch(&[Fault::Cut(10), Fault::Cut(5)]);
    assert_whole(&bench, result);
    let ranges: Vec<_> = server.requests().into_iter().map(|(_, range)| range).collect();
    assert_eq!(ranges, [None, Some("bytes=10-".into()), Some("bytes=15-".into())]);
}

#[test]
fn a_truncated_body_is_not_a_whole_one() {
    let (bench, server, result) = fetch(&[Fault::Truncate]);
    assert_whole(&bench, result);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (bench, _, result) = fetch(&[Fault::Cut(10), Fault::NoRange]);
    assert_whole(&bench, result);
    assert!(bench.events.lines().iter().any(|l| l.contains("10 bytes are dropped")), "{:?}", bench.events.lines());
}

#[test]
fn two_versions_are_never_joined() {
    let (bench, _, result) = fetch(&[Fault::Cut(10), Fault::Change]);
    let (_, files) = bench.output(&result.expect("downloads"), "files");
    let reversed: Vec<u8> = BODY.iter().rev().copied().collect();
    assert_eq!(files["mail.tsv"], reversed);
}

#[test]
fn a_page_in_place_of_a_file_is_refused() {
    let (_, _, result) = fetch(&[Fault::Html; 8]);
    let error = result.expect_err("never a file");
    assert_eq!(error.class, ErrorClass::RemoteUnavailable);
    assert!(error.message.contains("HTML"), "{error}");
    let (bench, _, result) = fetch(&[Fault::Html]);
    assert_whole(&bench, result);
}

#[test]
fn a_missing_file_is_not_asked_for_again() {
    let (_, server, result) = fetch(&[Fault::Gone]);
    assert_eq!(result.expect_err("gone").class, ErrorClass::Permanent);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn an_unreachable_host_is_remote_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let source = format!("http://127.0.0.1:{port}/x");
    let error = Bench::new().run(&quick(), &json!({ "source": source })).expect_err("nobody listens");
    assert_eq!(error.class, ErrorClass::RemoteUnavailable, "{error}");
}

#[test]
fn a_download_continues_in_the_next_attempt() {
    let bench = Bench::new();
    let server = Server::start(&[("/m.tsv", BODY)], &[Fault::Cut(20), Fault::Html, Fault::Html, Fault::Html]);
    let params = json!({ "source": format!("{}/m.tsv", server.endpoint) });
    bench.run(&quick(), &params).expect_err("four attempts are not enough");
    let outputs = bench.run(&quick(), &params).expect("the next attempt has the rest");
    assert_eq!(bench.output(&outputs, "files").1["m.tsv"], BODY);
    assert_eq!(server.requests().last().expect("asked").1.as_deref(), Some("bytes=20-"));
}

#[test]
fn a_wrong_digest_is_refused_after_one_more_look() {
    let bench = Bench::new();
    let server = Server::start(&[("/m.tsv", BODY)], &[]);
    let digest = format!("sha256:{}", "0".repeat(64));
    let params = json!({ "source": format!("{}/m.tsv", server.endpoint), "digest": digest });
    let error = bench.run(&quick(), &params).expect_err("another file");
    assert_eq!(error.class, ErrorClass::Permanent);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn more_bytes_than_allowed_are_refused() {
    let bench = Bench::new();
    let server = Server::start(&[("/m.tsv", BODY)], &[]);
    let params = json!({ "source": format!("{}/m.tsv", server.endpoint), "max_bytes": 10 });
    assert_eq!(bench.run(&quick(), &params).expect_err("too large").class, ErrorClass::Refused);
}

#[test]
fn a_hub_model_is_pinned_to_its_commit_and_checked_by_the_hubs_digest() {
    let (bench, server) = hub(&[Fault::Corrupt, Fault::Cut(1)]);
    let outputs = bench.run(&quick(), &json!({"source": "hf://o/n"})).expect("downloads");
    let (manifest, files) = bench.output(&outputs, "files");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
    assert_eq!(files["model.safetensors"], BODY);
    assert_eq!(manifest.meta()["commit"].as_text(), Some(COMMIT));
    assert!(server.requests().iter().all(|(path, _)| path.contains(COMMIT)));
    assert!(bench.events.lines().iter().all(|l| !l.contains("hf_canary")), "the token is never logged");
}

#[test]
fn persistent_corruption_is_refused() {
    let (bench, _) = hub(&[Fault::Corrupt; 20]);
    let error = bench.run(&quick(), &json!({"source": "hf://o/n"})).expect_err("never right");
    assert!(error.message.contains("not the expected one"), "{error}");
}

#[test]
fn files_that_have_arrived_are_not_fetched_again_by_the_next_attempt() {
    let (bench, server) = hub(&[Fault::Cut(2), Fault::Unavailable, Fault::Unavailable, Fault::Unavailable, Fault::Unavailable]);
    bench.run(&quick(), &json!({"source": "hf://o/n"})).expect_err("the second file does not come");
    bench.run(&quick(), &json!({"source": "hf://o/n"})).expect("now it does");
    let config: Vec<_> = server.requests().into_iter().filter(|(path, _)| path.ends_with("config.json")).collect();
    assert_eq!(config.last().expect("asked").1.as_deref(), Some("bytes=2-"), "only whether there is more");
}

#[test]
fn an_unknown_repository_is_named() {
    let (bench, _) = hub(&[]);
    let error = bench.run(&quick(), &json!({"source": "hf://o/other"})).expect_err("unknown");
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(error.message.contains("hf://o/other") && error.message.contains("404"), "{error}");
}

#[test]
fn one_changed_input_byte_changes_the_pinned_parameters() {
    let bench = Bench::new();
    let stage = Download::new();
    let path = bench.base().join("m.tsv");
    let params = stage.normalise(&json!({"source": "file:m.tsv"})).expect("valid");
    let pinned = |bytes: &[u8]| -> Value {
        fs::write(&path, bytes).expect("writes");
        stage.pin(&params, &bench.base()).expect("reads")
    };
    let (before, same, after) = (pinned(b"a\tb\n"), pinned(b"a\tb\n"), pinned(b"a\tc\n"));
    assert_eq!(before, same);
    assert_ne!(before, after);
    let error = bench.run_normalised(&stage, &before).expect_err("the file is no longer the planned one");
    assert!(error.message.contains("changed between planning and running"), "{error}");
    let outputs = bench.run_normalised(&stage, &after).expect("runs");
    let (manifest, files) = bench.output(&outputs, "files");
    assert_eq!((manifest.secrecy(), files["m.tsv"].as_slice()), (Secrecy::Secret, b"a\tc\n".as_slice()));
}

#[test]
fn a_missing_local_file_is_a_problem_of_the_plan() {
    let stage = Download::new();
    let params = stage.normalise(&json!({"source": "nowhere.tsv"})).expect("valid");
    let problems = stage.pin(&params, &Bench::new().base()).expect_err("missing");
    assert_eq!(problems[0].path, ["source"]);
    assert!(problems[0].message.contains("nowhere.tsv"), "{problems:?}");
}

#[test]
fn parameters_are_checked_together() {
    let params = json!({"source": "ftp://x/y", "digest": "md5:1", "revisoin": "main"});
    let problems = Download::new().normalise(&params).expect_err("three problems");
    assert_eq!(problems.iter().map(|p| p.path.join(".")).collect::<Vec<_>>(), ["revisoin", "source", "digest"]);
    assert_eq!(problems[0].help.as_deref(), Some("did you mean \"revision\"?"));
    let params = json!({"source": "hf://a/b", "digest": format!("b3:{}", "0".repeat(64)), "revision": "../x"});
    let problems = Download::new().normalise(&params).expect_err("two problems");
    assert_eq!(problems.iter().map(|p| p.path.join(".")).collect::<Vec<_>>(), ["digest", "revision"]);
}
