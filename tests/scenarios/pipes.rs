//! Whoever reads what the gateway writes may stand still or go away: it serves on, and it ends when it is told to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// More than a pipe and everything before it holds.
const REQUESTS: usize = 2000;
const STOP: Duration = Duration::from_secs(2);

/// A gateway whose output nobody reads.
struct Unread {
    process: Child,
    address: String,
    /// The rest of stderr, kept so that it stays open.
    stderr: Option<Box<dyn BufRead>>,
    _home: TempDir,
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Unread {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.yaml");
        let config = "address: 127.0.0.1:0\nhealth_check_addr: 127.0.0.1:0\ninsecure_server: true\n\
            authenticate_service_url: https://authenticate.localhost\n\
            idp_provider: oidc\nidp_provider_url: http://127.0.0.1:1\nidp_client_id: a\nidp_client_secret: b\n\
            routes:\n- from: http://app.localhost\n  to: http://127.0.0.1:1\n  allow_any_authenticated_user: true\n";
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "-c"])
            .arg(&file)
            .env_clear()
            .env("STATE_DIRECTORY", home.path().join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let from = said.len();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended: {said}");
            if let Some((_, address)) = said.get(from..).unwrap().split_once("listening on http://") {
                break address.trim().to_owned();
            }
        };
        Self { process, address, stderr: Some(Box::new(stderr)), _home: home }
    }

    /// So many requests on one connection, each of them answered.
    fn ask(&self, requests: usize) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for number in 1..=requests {
            let connection = if number == requests { "close" } else { "keep-alive" };
            let head = format!("GET /robots.txt HTTP/1.1\r\nHost: app.localhost\r\nConnection: {connection}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            if number < requests {
                let mut answer = [0; 8192];
                assert!(stream.read(&mut answer).unwrap() > 0, "request {number} was not answered");
            }
        }
        stream.read_to_end(&mut Vec::new()).unwrap();
    }

    /// Ctrl-C; its exit code.
    fn stop(&mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let told = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(told.elapsed() < STOP, "it does not stop");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_reader_of_the_request_log_that_stands_still_delays_neither_answers_nor_the_stop() {
    let mut gateway = Unread::start();
    gateway.ask(REQUESTS);
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn readers_that_went_away_stop_nothing() {
    let mut gateway = Unread::start();
    gateway.stderr = None;
    drop(gateway.process.stdout.take());
    gateway.ask(REQUESTS);
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn an_error_that_nobody_reads_still_has_its_exit_code() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["validate", "-c", "/nonexistent"])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stderr.take());
    assert_eq!(process.wait().unwrap().code(), Some(64));
}
