//! What is said when there is no node, or something else.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use crate::{ctl, stderr, stdout};

/// Lets `answer` deal with one connection, and returns the address.
fn serve_once(answer: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::Builder::new().name("answers".to_owned()).spawn(move || answer(listener.accept().unwrap().0)).unwrap();
    address
}

/// Runs `args` against an HTTP server that gives this answer.
fn run_against(answer: &'static str, args: &[&str]) -> (String, std::process::Output) {
    let address = serve_once(move |mut stream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let output = ctl(args).args(["--addr", &address]).output().unwrap();
    (address, output)
}

#[test]
fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for args in [&["regions"][..], &["put", "a", "b"], &["watch"], &["preload", "1", "2"], &["unpin", "a", "b"]] {
        let output = ctl(args).env("PRELOAD_ADDR", &address).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{args:?}");
        let said = stderr(&output);
        assert!(
            said.contains(&address) && said.contains("preload-node serve") && said.contains("PRELOAD_ADDR"),
            "{said}"
        );
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn somebody_else_there() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let (address, output) = run_against(answer, &["regions"]);
        assert_eq!(output.status.code(), Some(4), "{answer:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(&format!("what answers at {address} is no preload node")),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn nodes_words_and_an_exit_code_for_each_kind_of_no() {
    for (status, code) in [(400, 2), (401, 3), (403, 3), (404, 1), (409, 3), (413, 2), (500, 3), (503, 4), (504, 5)] {
        let body = r#"{"error":{"code":"some_code","message":"the reason"},"operator":17}"#;
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (address, output) = run_against(answer.leak(), &["split", "1"]);
        assert_eq!(output.status.code(), Some(code), "{status}");
        let said = stderr(&output);
        assert!(said.contains(&format!("the node at {address} says some_code: the reason")), "{said}");
        match status {
            401 => assert!(said.contains("--token-file"), "{said}"),
            403 => assert!(said.contains("server.allowed-hosts"), "{said}"),
            _ => assert!(said.contains("operator 17 goes on"), "{said}"),
        }
    }
}

#[test]
fn no_answer_in_time() {
    let (give_up, wait) = std::sync::mpsc::channel::<()>();
    let address = serve_once(move |stream| {
        // Ends when the test does.
        let _ = wait.recv();
        drop(stream);
    });
    let output = ctl(["stores", "--timeout", "1ms", "--addr", &address]).output().unwrap();
    drop(give_up);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains(&address) && stderr(&output).contains("--timeout"), "{}", stderr(&output));
}

#[test]
fn command_line_that_makes_no_sense_is_refused_before_anybody_is_asked() {
    for args in [
        &["--addr", "https://x", "regions"][..],
        &["--addr", "a b", "regions"],
        &["--token-file", "no/such/file", "regions"],
        &["--timeout", "1h", "regions"],
        &["get", "\\q"],
        &["put", "hex:1", "a"],
        &["pin", "a"],
        &["pin", "--region", "1", "a", "b"],
        &["config", "set", "a"],
        &["fail", "set", "a/../b", "return"],
        &["region", "x"],
        &["scan", "--limit", "0"],
        &["cache", "evict", "1"],
        &["unknown"],
    ] {
        let output = ctl(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
}
