//! What the process tells: its own log on stderr, the request log on stdout.
//!
//! The request log is JSON lines, an access line and a decision line for each request, joined by `request-id`. A
//! worker collects lines and hands them over in batches, so that no request waits for whoever reads stdout.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{REFERER, USER_AGENT};
use portcullis_actors::authorize::decision_log::{LineSink, Lines};
use portcullis_actors::clock;
use portcullis_actors::proxy::leash::{Cut, Leash};
use portcullis_actors::request::Canonical;
use portcullis_config::{LogLevel, Route};
use portcullis_events::Time;
use tracing_subscriber::EnvFilter;

use crate::metrics::tally::Tally;

/// Begins the process log on stderr.
pub fn init(level: LogLevel) {
    let level = match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    // dependencies speak up only when something is wrong with them: some of them write requests and headers, tokens
    // included, at their debug level
    let others = "warn";
    let filter =
        EnvFilter::new(format!("{others},portcullis={level},portcullis_actors={level},portcullis_config={level}"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // else a line that cannot be written is complained of on stderr, and the thread that had something to say panics
    let subscriber = subscriber.log_internal_errors(false);
    // a second call, in a test, keeps the first
    let _ = subscriber.try_init();
}

/// How many bytes a worker collects before it hands them over at once.
const BATCH: usize = 32 * 1024;

/// Room for a batch and for the line that makes it full.
fn empty_batch() -> Vec<u8> {
    Vec::with_capacity(BATCH + 4096)
}

/// The request log of one worker.
pub struct RequestLog {
    sink: LineSink,
    tally: Tally,
    pending: RefCell<Vec<u8>>,
    stamp: RefCell<Stamp>,
}

impl RequestLog {
    /// A log that hands its lines to `sink` and counts what they say in `tally`.
    pub fn new(sink: LineSink, tally: Tally) -> Rc<Self> {
        Rc::new(Self { sink, tally, pending: RefCell::new(empty_batch()), stamp: RefCell::default() })
    }

    /// Adds one line, written by `write` into the object that is begun here.
    pub fn line(&self, message: &str, write: impl FnOnce(&mut Line<'_>)) {
        let full = {
            let mut pending = self.pending.borrow_mut();
            let mut stamp = self.stamp.borrow_mut();
            let mut line = Line::begin(&mut pending, stamp.of(clock::now()), message);
            write(&mut line);
            line.end();
            pending.len() >= BATCH
        };
        if full {
            self.flush();
        }
    }

    /// What the lines add up to.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Hands over what was collected.
    pub fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if !pending.is_empty() {
            let batch = std::mem::replace(&mut *pending, empty_batch());
            self.sink.write(Lines(batch));
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// One JSON object being written. Everything beyond printable ASCII is escaped, so that a line stays a line and reads
/// the same in every terminal.
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>, now: &str, message: &str) -> Self {
        out.extend_from_slice(b"{\"level\":\"info\"");
        let mut line = Self { out };
        line.plain("time", now);
        line.text("message", message);
        line
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push(b'"');
        let mut rest = value;
        // all of it at once, which is several bytes at a time: hardly ever does anything need escaping
        if rest.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            self.out.extend_from_slice(rest.as_bytes());
            rest = "";
        }
        while let Some(at) = rest.bytes().position(|byte| !is_plain(byte)) {
            let (plain, escaped) = rest.split_at(at);
            self.out.extend_from_slice(plain.as_bytes());
            let mut characters = escaped.chars();
            if let Some(character) = characters.next() {
                self.escape(character);
            }
            rest = characters.as_str();
        }
        self.out.extend_from_slice(rest.as_bytes());
        self.out.push(b'"');
    }

    /// A value that needs no escaping, as text.
    pub fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        // writing to memory cannot fail
        let _ = write!(self.out, "\"{value}\"");
    }

    /// The value of a header, whatever bytes it has.
    pub fn header(&mut self, name: &str, value: Option<&http::HeaderValue>) {
        self.text(name, &value.map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default());
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        // writing to memory cannot fail
        let _ = write!(self.out, "{value}");
    }

    /// A truth value.
    pub fn truth(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A list of names that need no escaping.
    pub fn list<'b>(&mut self, name: &str, values: impl Iterator<Item = &'b str>) {
        self.name(name);
        self.out.push(b'[');
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(value.as_bytes());
            self.out.push(b'"');
        }
        self.out.push(b']');
    }

    fn escape(&mut self, character: char) {
        match character {
            '"' => self.out.extend_from_slice(b"\\\""),
            '\\' => self.out.extend_from_slice(b"\\\\"),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    self.out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
}

/// Printable ASCII that means nothing in a JSON string.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// RFC 3339 with milliseconds; the second is written once for all the lines that it has.
#[derive(Default)]
struct Stamp {
    second: i64,
    text: String,
}

impl Stamp {
    fn of(&mut self, now: Time) -> &str {
        if self.second != now.secs() || self.text.is_empty() {
            self.second = now.secs();
            self.text = now.rfc3339();
        } else {
            let end = self.text.len().saturating_sub(4);
            self.text.truncate(end);
            // writing to memory cannot fail
            let _ = write!(self.text, "{:03}Z", now.millis().rem_euclid(1000));
        }
        &self.text
    }
}

/// The access line of one request, written when its answer has passed or was given up.
pub struct AccessRecord {
    log: Rc<RequestLog>,
    began: Instant,
    line: RequestLine,
    route: Option<Arc<Route>>,
    status: u16,
    detail: &'static str,
    bytes: usize,
    leash: Option<Rc<Leash>>,
}

/// What an access line says of the request.
pub struct RequestLine {
    /// The request id.
    pub request_id: Rc<str>,
    /// The method, unless the head was never understood.
    pub method: Option<http::Method>,
    /// The client.
    pub client: std::net::IpAddr,
    /// The request, unless it was never understood.
    pub request: Option<Rc<Canonical>>,
}

impl AccessRecord {
    /// Begins the record of a request. Unless it is answered, its client has left before that.
    pub fn new(log: Rc<RequestLog>, began: Instant, line: RequestLine) -> Self {
        Self { log, began, line, route: None, status: 0, detail: "client_gone", bytes: 0, leash: None }
    }

    /// What can end the exchange from outside: the reason is written down.
    pub fn held_by(mut self, leash: &Rc<Leash>) -> Self {
        self.leash = Some(Rc::clone(leash));
        self
    }

    /// There is an answer, and perhaps a route that it came by.
    pub fn answered(&mut self, status: u16, detail: &'static str, route: Option<Arc<Route>>) {
        (self.status, self.detail, self.route) = (status, detail, route);
    }

    /// Bytes of the body passed.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The answer did not reach its end.
    pub fn cut_short(&mut self) {
        self.detail = "cut_short";
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let (request, headers) = (self.line.request.as_deref(), self.line.request.as_deref().map(Canonical::headers));
        let took = self.began.elapsed();
        self.log.tally.answered(self.route.as_deref(), self.status, took);
        self.log.line("http-request", |line| {
            line.text("request-id", &self.line.request_id);
            line.text("method", self.line.method.as_ref().map_or("", http::Method::as_str));
            line.text("authority", request.map_or("", Canonical::authority));
            line.text("path", request.map_or("", Canonical::path));
            line.plain("forwarded-for", self.line.client);
            line.number("response-code", self.status);
            let cut = self.leash.as_ref().and_then(|leash| leash.why());
            line.text("response-code-details", cut.map_or(self.detail, Cut::detail));
            line.number("size", self.bytes);
            line.number("duration", format_args!("{}.{:09}", took.as_secs(), took.subsec_nanos()));
            line.text("upstream-cluster", self.route.as_ref().map_or("", |route| route.id.as_str()));
            let referer = headers.and_then(|headers| headers.get(REFERER));
            line.text("referer", &referer.map(without_query).unwrap_or_default());
            line.header("user-agent", headers.and_then(|headers| headers.get(USER_AGENT)));
        });
    }
}

/// The part of a URL that may be kept: its query may carry a handle, and what else nobody may read.
fn without_query(url: &http::HeaderValue) -> Cow<'_, str> {
    let end = url.as_bytes().iter().position(|byte| matches!(byte, b'?' | b'#'));
    String::from_utf8_lossy(url.as_bytes().get(..end.unwrap_or(url.len())).unwrap_or_default())
}
