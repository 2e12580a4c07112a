//! A node as its users have it: a process, and HTTP.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use serde_json::{Value, json};
use test_raftstore::wait;

/// For whatever a node needs time for on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// `preload-node` with arguments.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preload-node"));
    command.args(args);
    command
}

/// A running node, which is killed when a test fails.
pub(crate) struct Node {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    stdout: Receiver<String>,
    /// What it has logged so far.
    pub(crate) log: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    /// Starts a node with its data in `dir/data` and waits until its regions have leaders.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[], "")
    }

    /// With more arguments, and `config` behind the test's own.
    pub(crate) fn start_with(dir: &Path, args: &[&str], config: &str) -> Self {
        let node = Self::spawn(dir, args, config);
        node.wait_for("ready: ");
        node
    }

    /// Returns as soon as its status server listens.
    pub(crate) fn spawn(dir: &Path, args: &[&str], config: &str) -> Self {
        let log = dir.join("node.log");
        let file = dir.join("node.toml");
        // Elections within a second.
        let own = "[raftstore]\nraft-base-tick-interval = \"50ms\"\n";
        fs::write(&file, format!("{own}{config}")).unwrap();
        let mut command = command(&["serve"]);
        command.arg("--config").arg(&file).arg("--data-dir").arg(dir.join("data")).args(args);
        if !args.contains(&"--status-addr") {
            command.args(["--status-addr", "127.0.0.1:0"]);
        }
        let stderr = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut process = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = lines_of(process.stdout.take().unwrap());
        let mut node = Self { process, address: SocketAddr::from(([0, 0, 0, 0], 0)), stdout, log };
        let line = node.wait_for("status page: http://");
        node.address = line.trim_start_matches("status page: http://").trim_end_matches('/').parse().unwrap();
        node
    }

    /// The next line of its output that begins with `start`.
    #[track_caller]
    pub(crate) fn wait_for(&self, start: &str) -> String {
        loop {
            match self.stdout.recv_timeout(DEADLINE) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line {start:?}: {error}; log: {}", self.log()),
            }
        }
    }

    /// All lines of its output until it ends.
    pub(crate) fn rest_of_output(&self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.stdout.recv_timeout(DEADLINE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {lines:?}"),
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        wait::within(DEADLINE, || self.process.try_wait().unwrap()).expect("the node ends")
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self) {
        self.signal(signal_hook::consts::SIGTERM);
        let status = self.end();
        assert!(status.success(), "{status}, log: {}", self.log());
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn http(&self) -> Http {
        Http { address: self.address, headers: Vec::new() }
    }

    /// The answer to a GET, which must be 200.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.http().send("GET", path, None).ok()
    }

    /// The answer to a POST, which must be 200.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: Value) -> Value {
        self.http().send("POST", path, Some(body)).ok()
    }

    #[track_caller]
    pub(crate) fn put(&self, key: &str, value: &str) -> Value {
        self.post("/kv/put", json!({ "key": hex(key), "value": hex(value) }))
    }

    /// The value as text.
    #[track_caller]
    pub(crate) fn read(&self, key: &str) -> Option<String> {
        let got = self.post("/kv/get", json!({ "key": hex(key) }));
        got["value"].as_str().map(unhex)
    }

    /// A region as `/regions/{id}` shows it.
    #[track_caller]
    pub(crate) fn region(&self, id: u64) -> Value {
        self.get(&format!("/regions/{id}"))
    }

    pub(crate) fn leader(&self, region: u64) -> u64 {
        wait::until_some("a leader", || self.region(region)["leader"]["store_id"].as_u64())
    }

    /// The state of a region in the cache of a store.
    pub(crate) fn cache_state(&self, region: u64, store: u64) -> String {
        let region = self.region(region);
        let peers = region["peers"].as_array().unwrap();
        let peer = peers.iter().find(|peer| peer["store_id"] == store);
        peer.map_or("", |peer| peer["cache"]["state"].as_str().unwrap()).to_owned()
    }

    /// What the process has of memory.
    pub(crate) fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

fn lines_of(stdout: std::process::ChildStdout) -> Receiver<String> {
    let (sender, receiver) = unbounded();
    let read = move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdout".into()).spawn(read).unwrap();
    receiver
}

/// A client that can be told to misbehave.
pub(crate) struct Http {
    pub(crate) address: SocketAddr,
    /// Instead of the usual ones, or besides.
    pub(crate) headers: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The status and the code of an error.
    #[track_caller]
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Http {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.try_send(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Fails when the node is not there, or ends meanwhile.
    pub(crate) fn try_send(&self, method: &str, path: &str, body: Option<Value>) -> std::io::Result<Answer> {
        read_answer(&mut self.begin(method, path, body)?)
    }

    /// Sends a request without waiting for the answer.
    pub(crate) fn begin(&self, method: &str, path: &str, body: Option<Value>) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut headers = vec![
            ("Host", self.address.to_string()),
            ("Connection", "close".into()),
            ("Content-Length", body.len().to_string()),
        ];
        if method != "GET" {
            headers.push(("Content-Type", "application/json".into()));
        }
        headers.retain(|(name, _)| !self.headers.iter().any(|(own, _)| own == name));
        headers.extend(self.headers.iter().filter(|(_, value)| !value.is_empty()).cloned());
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        stream.write_all(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n{body}").as_bytes())?;
        Ok(stream)
    }
}

/// Reads until the server closes the connection.
pub(crate) fn read_answer(stream: &mut TcpStream) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let unexpected = || std::io::Error::other(format!("not an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(unexpected)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(unexpected)?;
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err(std::io::Error::other("the answer was cut off"));
    }
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

pub(crate) fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

pub(crate) fn unhex(text: &str) -> String {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    String::from_utf8(digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()).unwrap()
}
