//! A tiny HTTP server on loopback with the faults of real ones, for the tests of this stage.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest as _, Sha256};

/// What the server does to the next requests for a file's body, one entry a request; after the last it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// 503 with `Retry-After: 0`.
    Unavailable,
    /// Closes the connection after this many bytes of the body.
    Cut(usize),
    /// Flips one bit of the body.
    Corrupt,
    /// Answers 200 with a page.
    Html,
    /// Answers a Range with the whole file.
    NoRange,
    /// Replaces the file before answering.
    Change,
    /// Announces more bytes than it sends.
    Truncate,
    /// 404.
    Gone,
}

/// What was asked: path and `Range`, in order.
pub(super) type Requests = Vec<(String, Option<String>)>;

struct State {
    files: BTreeMap<String, (String, Vec<u8>)>,
    faults: Vec<Fault>,
    requests: Requests,
}

/// A running server; the thread ends with the process.
pub(super) struct Server {
    pub(super) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves `files` by path; a path that begins with `/api/` is JSON.
    pub(super) fn start(files: &[(&str, &[u8])], faults: &[Fault]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let served = files.iter().map(|(path, bytes)| ((*path).to_owned(), (etag(bytes), bytes.to_vec()))).collect();
        let state = Arc::new(Mutex::new(State { files: served, faults: faults.to_vec(), requests: Vec::new() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client that hangs up is part of the tests.
                thread::spawn(move || drop(answer(stream, &shared)));
            }
        });
        Self { endpoint, state }
    }

    /// The requests for bodies so far.
    pub(super) fn requests(&self) -> Requests {
        self.state.lock().expect("no handler panics").requests.clone()
    }
}

fn etag(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A stand-in for a commit.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let reply = reply(&path, &headers, state);
        stream.write_all(reply.head.as_bytes())?;
        stream.write_all(&reply.body)?;
        if reply.close {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

struct Reply {
    head: String,
    body: Vec<u8>,
    close: bool,
}

fn plain(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    Reply { head, body: body.to_vec(), close: false }
}

fn reply(path: &str, headers: &BTreeMap<String, String>, state: &Mutex<State>) -> Reply {
    let mut state = state.lock().expect("no handler panics");
    if path.starts_with("/api/") {
        return match state.files.get(path) {
            Some((_, body)) => plain("200 OK", "Content-Type: application/json\r\n", body),
            None => plain("404 Not Found", "X-Error-Code: RepoNotFound\r\n", b""),
        };
    }
    state.requests.push((path.to_owned(), headers.get("range").cloned()));
    let fault = if state.faults.is_empty() { None } else { Some(state.faults.remove(0)) };
    match fault {
        Some(Fault::Unavailable) => return plain("503 Service Unavailable", "Retry-After: 0\r\n", b""),
        Some(Fault::Html) => return plain("200 OK", "Content-Type: text/html; charset=utf-8\r\n", b"<html>Sign in</html>"),
        Some(Fault::Gone) => return plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b""),
        Some(Fault::Change) => {
            if let Some(file) = state.files.get_mut(path) {
                file.1.reverse();
                file.0 = etag(&file.1);
            }
        }
        _ => {}
    }
    let Some((etag, bytes)) = state.files.get(path) else { return plain("404 Not Found", "", b"") };
    let quoted = format!("\"{etag}\"");
    let range = headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok());
    let range = range.filter(|_| fault != Some(Fault::NoRange) && headers.get("if-range").is_none_or(|v| *v == quoted));
    let about = format!("ETag: {quoted}\r\nX-Linked-Etag: {quoted}\r\nX-Repo-Commit: {COMMIT}\r\n");
    if range.is_some_and(|start| start >= bytes.len()) {
        return plain("416 Range Not Satisfiable", &format!("Content-Range: bytes */{}\r\n", bytes.len()), b"");
    }
    let mut reply = match range {
        Some(start) => {
            let content_range = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            plain("206 Partial Content", &format!("{about}{content_range}"), &bytes[start..])
        }
        None => plain("200 OK", &about, bytes),
    };
    match fault {
        Some(Fault::Corrupt) => reply.body[0] ^= 1,
        Some(Fault::Cut(n)) => {
            reply.body.truncate(n);
            reply.close = true;
        }
        Some(Fault::Truncate) => {
            let half = reply.body.len() / 2;
            reply.body.truncate(half);
            reply.close = true;
        }
        _ => {}
    }
    reply
}
