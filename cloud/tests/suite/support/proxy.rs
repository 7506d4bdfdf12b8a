//! A proxy for HTTP/1.1 that hands every request to a rule, which may answer, alter, forward, or lose it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A request, whole.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// How much of an answer arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// The connection breaks before the first byte.
    Lost,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

impl Response {
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message><RequestId>r</RequestId></Error>"
        );
        Self { status, headers: vec![("content-type".into(), "application/xml".into())], body: body.into_bytes() }
    }
}

/// What happens to a request; the second argument forwards it.
pub(crate) type Rule = dyn Fn(&Request, &dyn Fn(&Request) -> Response) -> (Response, Delivery) + Send + Sync;

pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(upstream: SocketAddr, rule: Arc<Rule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let rule = rule.clone();
                std::thread::spawn(move || drop(serve(stream, upstream, &*rule)));
            }
        });
        Self { addr, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, upstream: SocketAddr, rule: &Rule) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader, &mut writer)? {
        let forward = |request: &Request| send(upstream, request).expect("moto answers");
        let (response, delivery) = rule(&request, &forward);
        if delivery == Delivery::Lost {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", response.status);
        for (name, value) in &response.headers {
            if !["content-length", "connection", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        // The length of what a HEAD request would have got is the server's to say.
        let length = response.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("content-length")).map(|(_, v)| v.clone());
        let length = length.filter(|_| request.method == "HEAD").unwrap_or_else(|| response.body.len().to_string());
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        writer.write_all(head.as_bytes())?;
        if let Delivery::Cut(bytes) = delivery {
            writer.write_all(&response.body[..bytes.min(response.body.len())])?;
            return writer.flush();
        }
        writer.write_all(&response.body)?;
        writer.flush()?;
    }
    Ok(())
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<(String, Vec<(String, String)>)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    Ok(Some((first.trim_end().to_owned(), headers)))
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let find = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if find("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..])?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match find("content-length").and_then(|v| v.parse().ok()) {
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        None => drop(reader.read_to_end(&mut body)?),
    }
    Ok(body)
}

fn read_request(reader: &mut impl BufRead, writer: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let Some((first, headers)) = read_head(reader)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    if headers.iter().any(|(n, v)| n.eq_ignore_ascii_case("expect") && v == "100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let bodied =
        headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length") || n.eq_ignore_ascii_case("transfer-encoding"));
    let body = if bodied { read_body(reader, &headers)? } else { Vec::new() };
    Ok(Some(Request { method, target, headers, body }))
}

fn send(upstream: SocketAddr, request: &Request) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(upstream)?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !["connection", "content-length", "transfer-encoding", "expect"].contains(&name.to_ascii_lowercase().as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut reader = BufReader::new(stream);
    let (first, headers) = read_head(&mut reader)?.unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(502);
    let body = if request.method == "HEAD" || status == 204 { Vec::new() } else { read_body(&mut reader, &headers)? };
    Ok(Response { status, headers, body })
}
