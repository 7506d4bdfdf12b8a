//! A remote on an S3 service, and everything that goes wrong on the way to one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::moto::Moto;
use crate::support::proxy::{Delivery, Proxy, Request, Response, Rule};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest as _;
use sprint_artifacts::remote::{Body, Creation, Objects, RemoteSpec, Verdict};
use sprint_artifacts::{Check, Manifest, Remote, ResultRecord, Secrecy, Store, StoreOptions, Value};
use sprint_cloud::{AccessKeys, S3Objects, S3Options};

const PART: u64 = 5 << 20;

/// moto behind a proxy, with one bucket.
struct Service {
    _moto: Moto,
    proxy: Proxy,
}

impl Service {
    fn start(rule: Arc<Rule>) -> Option<Self> {
        let moto = Moto::start()?;
        let checksums = Mutex::new(Checksums::default());
        let checked: Arc<Rule> = Arc::new(move |request, forward| rule(request, &|r| with_checksums(&checksums, r, forward)));
        let proxy = Proxy::start(moto.addr, checked);
        let bucket = Request {
            method: "PUT".into(),
            target: "/flow".into(),
            headers: vec![
                ("host".into(), moto.addr.to_string()),
                ("authorization".into(), "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/s3/aws4_request".into()),
            ],
            body: Vec::new(),
        };
        let made = Proxy::start(moto.addr, Arc::new(|r, f| (f(r), Delivery::Whole)));
        let status = raw(&made, &bucket);
        assert_eq!(status, 200, "a bucket");
        Some(Self { _moto: moto, proxy })
    }

    fn spec(&self) -> RemoteSpec {
        let mut spec = RemoteSpec::new("s3://flow/team/a".parse().expect("valid"));
        spec.endpoint = Some(self.proxy.url());
        spec.region = Some("us-east-1".into());
        spec
    }

    fn objects(&self) -> S3Objects {
        S3Objects::connect(&self.spec(), options()).expect("a client")
    }

    fn remote(&self) -> Remote {
        Remote::new(Box::new(self.objects()), None)
    }
}

/// One conditional creation at a time.
static CREATION: Mutex<()> = Mutex::new(());

/// SHA-256 checksums of objects by their targets, and of parts by the targets they were sent to.
#[derive(Default)]
struct Checksums {
    objects: BTreeMap<String, String>,
    parts: BTreeMap<String, BTreeMap<u32, String>>,
}

/// What moto lacks: checksums are compared with what arrives, kept, and told; and `ListParts` has the name it has at AWS.
fn with_checksums(known: &Mutex<Checksums>, request: &Request, forward: &dyn Fn(&Request) -> Response) -> Response {
    let sent = request.header("x-amz-checksum-sha256").map(str::to_owned);
    if sent.as_ref().is_some_and(|sum| *sum != STANDARD.encode(sha2::Sha256::digest(&request.body))) {
        return Response::error(400, "BadDigest");
    }
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let field = |name: &str| query.split('&').find_map(|f| f.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    // At S3 the look whether an object is there and its creation are one; at moto they are two.
    let conditional = request.header("if-none-match").is_some();
    let guard = conditional.then(|| CREATION.lock().expect("no panic"));
    let mut response = forward(request);
    drop(guard);
    let mut known = known.lock().expect("no panic");
    if response.status != 200 {
        return response;
    }
    match (request.method.as_str(), field("uploadId"), field("partNumber").and_then(|n| n.parse().ok())) {
        ("PUT", Some(upload), Some(number)) => {
            known.parts.entry(upload).or_default().insert(number, sent.unwrap_or_default());
        }
        ("PUT", None, None) => drop(sent.and_then(|sum| known.objects.insert(path.to_owned(), sum))),
        ("POST", Some(upload), None) => {
            let parts = known.parts.remove(&upload).unwrap_or_default();
            let mut hasher = sha2::Sha256::new();
            parts.values().for_each(|sum| hasher.update(STANDARD.decode(sum).expect("a checksum")));
            let sum = format!("{}-{}", STANDARD.encode(hasher.finalize()), parts.len());
            known.objects.insert(path.to_owned(), sum);
        }
        ("HEAD", None, None) => {
            if let Some(sum) = known.objects.get(path) {
                response.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("x-amz-checksum-sha256"));
                response.headers.push(("x-amz-checksum-sha256".into(), sum.clone()));
            }
        }
        ("GET", Some(upload), None) => {
            let mut text = String::from_utf8(response.body).expect("XML").replace("ListPartsResponse", "ListPartsResult");
            for (number, sum) in known.parts.get(&upload).into_iter().flatten() {
                let part = format!("<PartNumber>{number}</PartNumber>");
                text = text.replace(&part, &format!("{part}<ChecksumSHA256>{sum}</ChecksumSHA256>"));
            }
            response.body = text.into_bytes();
        }
        _ => {}
    }
    response
}

fn raw(proxy: &Proxy, request: &Request) -> u16 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(proxy.addr).expect("listens");
    let headers: String = request.headers.iter().flat_map(|(n, v)| [n, ": ", v, "\r\n"]).collect();
    write!(stream, "{} {} HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n", request.method, request.target).expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    String::from_utf8_lossy(&answer[9..]).parse().expect("a status")
}

fn pass() -> Arc<Rule> {
    Arc::new(|request, forward| (forward(request), Delivery::Whole))
}

fn options() -> S3Options {
    S3Options { part: PART, attempt_s: 20, keys: Some(AccessKeys::new("test", "test")) }
}

fn store(dir: &Path) -> Store {
    Store::open(dir.join("store"), StoreOptions::read_write().index(false)).expect("a store")
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn result(store: &Store, bytes: Vec<u8>) -> ResultRecord {
    let builder = Manifest::builder("thing@1", Secrecy::Public).bytes("big", bytes).bytes("small", "few");
    let (id, _) = store.put_artifact(builder).expect("stored");
    let record = ResultRecord {
        kind: "kind@1".to_owned(),
        stage: "stage".to_owned(),
        preimage: Value::map([("kind", "kind".into())]),
        outputs: BTreeMap::from([("x".to_owned(), id)]),
        run: "20261122-101530-1a2b3c4d".to_owned(),
        attempt: 1,
        started_unix_ms: 1,
        finished_unix_ms: 2,
        host: "here".to_owned(),
        log: None,
        metrics: BTreeMap::new(),
        private: true,
    };
    store.commit_result(&record).expect("committed");
    record
}

fn file(dir: &Path, length: usize) -> std::path::PathBuf {
    let path = dir.join("file");
    std::fs::write(&path, noise(length)).expect("written");
    path
}

fn is_part(request: &Request) -> bool {
    request.method == "PUT" && request.target.contains("partNumber=")
}

#[test]
fn a_result_reaches_another_machine_through_s3() {
    let Some(service) = Service::start(pass()) else { return };
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (a, b) = (store(here.path()), store(there.path()));
    let record = result(&a, noise(PART as usize * 2 + 77));
    let remote = service.remote();
    let pushed = remote.push(&a, &record).expect("pushed");
    assert_eq!((pushed.objects, pushed.verdict), (4, Verdict::First));
    assert_eq!(remote.push(&a, &record).expect("pushed").verdict, Verdict::Already);
    assert_eq!(remote.pull(&b, &record.key()).expect("pulled"), Some(record.clone()));
    assert!(b.has_artifact(&record.outputs["x"], Check::Full).expect("looked").is_present());
    let names = service.objects().list("v1/").expect("listed");
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().all(|n| n.starts_with("v1/blobs/b3/") || n.starts_with("v1/results/")), "{names:?}");
}

#[test]
fn of_sixteen_writers_one_creates() {
    let Some(service) = Service::start(pass()) else { return };
    let made: Vec<Creation> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|n| {
                let service = &service;
                scope.spawn(move || service.objects().create("one", Body::Bytes(&[n; 64])).expect("answered"))
            })
            .collect();
        writers.into_iter().map(|w| w.join().expect("no panic")).collect()
    });
    assert_eq!(made.iter().filter(|c| **c == Creation::New).count(), 1, "{made:?}");
    assert_eq!(made.iter().filter(|c| **c == Creation::Other).count(), 15, "{made:?}");
}

#[test]
fn an_interrupted_upload_goes_on_with_the_parts_that_are_there() {
    let sent = Arc::new(AtomicUsize::new(0));
    let broken = Arc::new(AtomicUsize::new(1));
    let (sent_, broken_) = (sent.clone(), broken.clone());
    let rule: Arc<Rule> = Arc::new(move |request, forward| {
        if is_part(request) && request.target.contains("partNumber=4") && broken_.load(Ordering::SeqCst) == 1 {
            return (Response::error(400, "EntityTooSmall"), Delivery::Whole);
        }
        if is_part(request) {
            sent_.fetch_add(1, Ordering::SeqCst);
        }
        (forward(request), Delivery::Whole)
    });
    let Some(service) = Service::start(rule) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (path, note) = (file(dir.path(), PART as usize * 5 + 1), dir.path().join("note"));
    let body = Body::File { path: &path, size: PART * 5 + 1, note: Some(&note) };
    service.objects().create("big", body).expect_err("part 4 is refused");
    assert!(note.is_file(), "what was begun is noted");
    let before = sent.swap(0, Ordering::SeqCst);
    broken.store(0, Ordering::SeqCst);
    assert_eq!(service.objects().create("big", body).expect("completed"), Creation::New);
    let after = sent.load(Ordering::SeqCst);
    assert!(after < 6 && before + after >= 6, "{before} parts before, {after} after");
    assert!(!note.exists());
    let mut read = Vec::new();
    assert!(service.objects().read("big", &mut read).expect("read"));
    assert!(read == noise(PART as usize * 5 + 1));
    assert_eq!(service.objects().create("big", body).expect("answered"), Creation::Same);
}

#[test]
fn a_forgotten_upload_begins_again() {
    let Some(service) = Service::start(pass()) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (path, note) = (file(dir.path(), PART as usize + 9), dir.path().join("note"));
    let stale = format!(r#"{{"bucket":"flow","key":"team/a/big","upload":"gone","size":{},"part":{PART}}}"#, PART + 9);
    std::fs::write(&note, stale).expect("written");
    let body = Body::File { path: &path, size: PART + 9, note: Some(&note) };
    assert_eq!(service.objects().create("big", body).expect("completed"), Creation::New);
    assert!(!note.exists());
}

/// Every fault hits the first two requests of its kind.
fn faulty(kind: &'static str, wanted: fn(&Request) -> bool) -> Arc<Rule> {
    let hits = AtomicUsize::new(0);
    Arc::new(move |request, forward| {
        if !wanted(request) || hits.fetch_add(1, Ordering::SeqCst) >= 2 {
            return (forward(request), Delivery::Whole);
        }
        match kind {
            "503" => (Response::error(503, "SlowDown"), Delivery::Whole),
            "500" => (Response::error(500, "InternalError"), Delivery::Whole),
            "reset" => (Response::error(500, "x"), Delivery::Lost),
            "lost answer" => (forward(request), Delivery::Lost),
            "cut" => (forward(request), Delivery::Cut(10)),
            "altered upload" => {
                let mut altered = request.clone();
                if let Some(byte) = altered.body.first_mut() {
                    *byte ^= 1;
                }
                (forward(&altered), Delivery::Whole)
            }
            _ => {
                let mut response = forward(request);
                if let Some(byte) = response.body.last_mut() {
                    *byte ^= 1;
                }
                (response, Delivery::Whole)
            }
        }
    })
}

#[test]
fn whatever_the_network_does_a_result_arrives_whole_or_not_at_all() {
    let Some(moto) = Moto::start() else { return };
    drop(moto);
    let put: fn(&Request) -> bool = |r| matches!(r.method.as_str(), "PUT" | "POST") && r.target.contains("v1/");
    let get: fn(&Request) -> bool = |r| r.method == "GET" && r.target.contains("v1/blobs");
    for (kind, wanted) in [
        ("503", put),
        ("500", get),
        ("reset", put),
        ("lost answer", put),
        ("altered upload", put),
        ("cut", get),
        ("altered answer", get),
        ("reset", get),
    ] {
        let Some(service) = Service::start(faulty(kind, wanted)) else { return };
        let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (a, b) = (store(here.path()), store(there.path()));
        let record = result(&a, noise(PART as usize + 3));
        let remote = service.remote();
        let pushed = (0..4).find_map(|_| remote.push(&a, &record).ok());
        assert!(pushed.is_some(), "{kind}: pushed in the end");
        let pulled = (0..4).find_map(|_| remote.pull(&b, &record.key()).ok().flatten());
        assert_eq!(pulled.as_ref(), Some(&record), "{kind}");
        assert!(b.has_artifact(&record.outputs["x"], Check::Full).expect("looked").is_present(), "{kind}");
    }
}

#[test]
fn a_bucket_that_is_not_there_is_named_and_waiting_does_not_help() {
    let Some(service) = Service::start(pass()) else { return };
    let mut spec = service.spec();
    spec.url = "s3://absent/x".parse().expect("valid");
    let objects = S3Objects::connect(&spec, options()).expect("a client");
    let error = objects.create("one", Body::Bytes(b"x")).expect_err("no bucket");
    assert!(matches!(&error, sprint_artifacts::remote::ObjectError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let error = objects.read("one", &mut Vec::new()).expect_err("no bucket is not the same as no object");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
}
