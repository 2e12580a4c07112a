//! Clients that are wrong, slow or many. The node goes on, within bounds.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::json;
use test_raftstore::wait;

use crate::support::{Node, hex, read_answer};

#[test]
fn malformed_and_oversized_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &[], "[server]\nmax-body-size = \"64KiB\"\n");
    let raw = |bytes: &[u8]| {
        let mut stream = node.http().connect();
        // The server may have answered and closed before it has read all.
        let _ = stream.write_all(bytes);
        read_answer(&mut stream)
    };
    let status = |bytes: &[u8]| raw(bytes).map(|answer| answer.status).ok();
    for malformed in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n".as_slice(),
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /kv/put HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n",
    ] {
        assert!(matches!(status(malformed), Some(400) | None), "{:?}", String::from_utf8_lossy(malformed));
    }
    let headers = |count: usize, len: usize| {
        let header = format!("X-Header: {}\r\n", "x".repeat(len));
        format!("GET /status HTTP/1.1\r\nHost: localhost\r\n{}\r\n", header.repeat(count)).into_bytes()
    };
    assert!(matches!(status(&headers(200, 1)), Some(431)), "too many headers");
    assert!(matches!(status(&headers(1, 100_000)), Some(431)), "a long header");
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    assert!(matches!(status(long_path.as_bytes()), Some(414 | 431)), "a long path");

    let large = json!({ "key": hex("k"), "value": "00".repeat(40_000) });
    assert_eq!(node.http().send("POST", "/kv/put", Some(large)).error(), (413, "too_large".into()));
    // Without a length that is known in advance.
    let mut chunked =
        b"POST /kv/put HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"1000\r\n");
        chunked.extend_from_slice(&[b' '; 0x1000]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(status(&chunked), Some(413));
    let body = |text: &str| {
        let request = format!(
            "POST /kv/get HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{text}",
            text.len()
        );
        raw(request.as_bytes()).unwrap().error()
    };
    let deep = "[".repeat(30_000);
    for malformed in
        ["{", "[]", "{\"key\": 1}", "{\"key\": \"6B\", \"keys\": 1}", "{\"key\": \"6B\"} x", "\u{feff}{}", &deep]
    {
        assert_eq!(body(malformed), (400, "bad_request".into()), "{malformed:.40}");
    }
    node.put("k", "v");
    assert_eq!(node.read("k").as_deref(), Some("v"));
    node.stop();
}

/// Whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

#[test]
fn slow_clients_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &[], "[server]\nclient-timeout = \"300ms\"\n");
    let sent = |bytes: &[u8]| {
        let mut stream = node.http().connect();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut slow = [
        ("says nothing", sent(b"")),
        ("does not end its headers", sent(b"GET /status HTTP/1.1\r\nHost: localhost\r\n")),
        ("keeps a connection that it does not use", sent(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        (
            "does not send its body",
            sent(b"POST /kv/get HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"),
        ),
    ];
    for (what, stream) in &mut slow {
        wait::until(&format!("the end of a client that {what}"), || is_closed(stream));
    }
    node.put("k", "v");
    node.stop();
}

#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &[], "[server]\nclient-timeout = \"500ms\"\n");
    for n in 0..40 {
        node.put(&format!("k{n:02}"), &"v".repeat(100_000));
    }
    let body = json!({ "limit": 100 }).to_string();
    let request = format!(
        "POST /kv/scan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut unread: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = node.http().connect();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    // It does not read, so it is told by the system, in the middle of its answer, that the connection is gone.
    for stream in &mut unread {
        wait::until("the end of a client that does not read", || stream.write_all(b"x").is_err());
    }
    assert_eq!(node.read("k00").map(|value| value.len()), Some(100_000));
    node.stop();
}

#[test]
fn a_thousand_connections_neither_take_the_memory_nor_stop_the_writes() {
    const CONNECTIONS: usize = 1000;
    /// Some 64 KiB each; it is a tenth of that.
    const GROWTH_MAX: u64 = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.put("k", "v");
    let leader = node.region(1)["leader"].clone();
    let before = node.rss_bytes();
    // Half of them say nothing; the others ask for something, which takes the stores' time, and stay.
    let mut held: Vec<TcpStream> = Vec::new();
    for n in 0..CONNECTIONS {
        let mut stream = node.http().connect();
        let request: &[u8] = match n % 4 {
            0 => b"GET /regions HTTP/1.1\r\nHost: localhost\r\n\r\n",
            1 => b"GET /preloads?since=99&wait_ms=20000 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            _ => b"",
        };
        stream.write_all(request).unwrap();
        held.push(stream);
    }
    let mut peak = node.rss_bytes();
    for n in 0..50 {
        node.put("k", &format!("{n}"));
        peak = peak.max(node.rss_bytes());
    }
    assert_eq!(node.read("k").as_deref(), Some("49"));
    assert_eq!(node.region(1)["leader"], leader, "no election has taken place");
    let metrics = node.http().send("GET", "/metrics", None).body;
    let connections = metrics.lines().find_map(|line| line.strip_prefix("tikv_server_http_connections ")).unwrap();
    assert!(connections.parse::<usize>().unwrap() > CONNECTIONS, "all were open meanwhile: {connections}");
    let grown = peak.saturating_sub(before);
    println!("{CONNECTIONS} connections: {} KiB of memory, before {} KiB", grown >> 10, before >> 10);
    assert!(grown < GROWTH_MAX, "{grown} bytes for {CONNECTIONS} connections");
    drop(held);
    node.stop();
}

#[test]
fn connections_beyond_the_limit_wait_until_others_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &[], "[server]\nmax-connections = 4\nclient-timeout = \"1s\"\n");
    let mut silent: Vec<TcpStream> = (0..4).map(|_| node.http().connect()).collect();
    // Served when the first of them is cut off.
    node.put("k", "v");
    assert!(silent.iter_mut().any(is_closed));
    node.stop();
}

#[test]
fn large_bodies_and_answers_at_once_are_bounded() {
    /// 64 MiB of bodies and some answers, with what they are copied into; all at once they would be several times that.
    const GROWTH_MAX: u64 = 384 << 20;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for n in 0..40 {
        node.put(&format!("k{n:02}"), &"v".repeat(100_000));
    }
    let before = node.rss_bytes();
    let scan = json!({ "limit": 100 }).to_string();
    let clients: Vec<TcpStream> = (0..200)
        .map(|n| {
            let (path, length, sent) = match n % 2 {
                0 => ("scan", scan.len(), scan.as_bytes().to_vec()),
                // The last byte never comes.
                _ => ("put", 4 << 20, vec![b' '; (4 << 20) - 1]),
            };
            let mut stream = node.http().connect();
            stream.set_nonblocking(true).unwrap();
            let head = format!(
                "POST /kv/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            );
            // What is not taken in stays with the system.
            let _ = stream.write_all(&[head.as_bytes(), &sent].concat());
            stream
        })
        .collect();
    let mut peak = 0;
    for _ in 0..50 {
        node.get("/status");
        peak = peak.max(node.rss_bytes());
    }
    let grown = peak.saturating_sub(before);
    println!("200 large requests: {} MiB of memory, before {} MiB", grown >> 20, before >> 20);
    assert!(grown < GROWTH_MAX, "{grown} bytes");
    drop(clients);
    node.put("k", "v");
    node.stop();
}
