//! `health_checks`: a list of Envoy's `HealthCheck`, as far as it is done here.

use base64::Engine;
use http::Method;

use super::decode::{check, positive, whole};
use super::{HealthCheck, Probe};
use crate::keys::BASE64;
use crate::limits::HEALTH_CHECKS;
use crate::node::{Fields, Node};

const KINDS: [&str; 3] = ["http_health_check", "tcp_health_check", "grpc_health_check"];

/// What Envoy has besides.
const LATER: [&str; 13] = [
    "custom_health_check",
    "no_traffic_interval",
    "no_traffic_healthy_interval",
    "unhealthy_edge_interval",
    "healthy_edge_interval",
    "interval_jitter_percent",
    "reuse_connection",
    "event_log_path",
    "event_logger",
    "event_service",
    "alt_port",
    "tls_options",
    "transport_socket_match_criteria",
];

/// The checks of a route.
pub fn decode(fields: &Fields<'_>) -> Vec<HealthCheck> {
    let Some(list) = fields.get("health_checks") else { return Vec::new() };
    match list.items() {
        Some(items) if items.len() > HEALTH_CHECKS => {
            list.wrong("has too many members", &format!("{HEALTH_CHECKS} at most"));
            Vec::new()
        }
        Some(items) => items.iter().filter_map(one).collect(),
        None => list
            .refuse("is not a list", "a list of maps with timeout, interval and one kind of check")
            .unwrap_or_default(),
    }
}

fn one(node: &Node<'_>) -> Option<HealthCheck> {
    let fields = node.fields()?;
    let mut here = vec![
        "timeout",
        "interval",
        "unhealthy_interval",
        "interval_jitter",
        "initial_jitter",
        "unhealthy_threshold",
        "healthy_threshold",
    ];
    here.extend(KINDS);
    check(&fields, &here, &LATER);
    let duration = |name: &str| fields.required(name, "a duration such as 5s").and_then(|node| positive(&node));
    let count = |name: &str| fields.required(name, "a whole number such as 2").and_then(|node| whole(&node, 1, 1000));
    let (timeout, interval) = (duration("timeout"), duration("interval"));
    let (unhealthy, healthy) = (count("unhealthy_threshold"), count("healthy_threshold"));
    let optional = |name: &str| fields.get(name).and_then(|node| node.duration());
    let given: Vec<_> = KINDS.iter().filter_map(|kind| Some((*kind, fields.get(kind)?))).collect();
    let probe = match given.as_slice() {
        [("http_health_check", node)] => http(node),
        [("tcp_health_check", node)] => tcp(node),
        [(_, node)] => grpc(node),
        [_, (_, second), ..] => second.refuse("is given beside another kind of check", "keep one of them"),
        [] => node.refuse("has no kind of check", &format!("one of {}", KINDS.join(", "))),
    };
    let interval = interval?;
    Some(HealthCheck {
        timeout: timeout?,
        interval,
        unhealthy_interval: optional("unhealthy_interval").unwrap_or(interval),
        interval_jitter: optional("interval_jitter").unwrap_or_default(),
        initial_jitter: optional("initial_jitter").unwrap_or_default(),
        unhealthy_threshold: unhealthy?,
        healthy_threshold: healthy?,
        probe: probe?,
    })
}

fn http(node: &Node<'_>) -> Option<Probe> {
    let fields = node.fields()?;
    let later = [
        "send",
        "receive",
        "response_buffer_size",
        "request_headers_to_add",
        "request_headers_to_remove",
        "retriable_statuses",
        "codec_client_type",
        "service_name_matcher",
    ];
    check(&fields, &["path", "host", "method", "expected_statuses"], &later);
    let path = fields.required("path", "a path such as /healthz")?;
    let text = path.text()?;
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return path.refuse("is not the path of a request", "a path such as /healthz");
    }
    let host = host(&fields, "host")?;
    let methods = [("GET", 0_usize), ("HEAD", 1), ("POST", 2), ("PUT", 3), ("DELETE", 4), ("OPTIONS", 5)];
    let method = match fields.get("method") {
        None => Method::GET,
        Some(node) => match node.choice(&methods, &["CONNECT", "TRACE", "PATCH"])? {
            1 => Method::HEAD,
            2 => Method::POST,
            3 => Method::PUT,
            4 => Method::DELETE,
            5 => Method::OPTIONS,
            _ => Method::GET,
        },
    };
    let mut expected = Vec::new();
    if let Some(list) = fields.get("expected_statuses") {
        for item in list.items().unwrap_or_default() {
            expected.push(range(&item)?);
        }
        if expected.is_empty() {
            return list.refuse("is no list of ranges", "- {start: 200, end: 300}");
        }
    }
    Some(Probe::Http { path: text, host, method, expected })
}

fn range(node: &Node<'_>) -> Option<(u16, u16)> {
    let fields = node.fields()?;
    check(&fields, &["start", "end"], &[]);
    let bound = |name: &str| {
        let node = fields.required(name, "a status, such as 200")?;
        u16::try_from(whole(&node, 100, 600)?).ok()
    };
    let (start, end) = (bound("start")?, bound("end")?);
    if start >= end {
        return node.refuse("holds no status", "start below end, which is not counted in");
    }
    Some((start, end))
}

fn tcp(node: &Node<'_>) -> Option<Probe> {
    if node.scalar().is_some_and(|scalar| scalar.text.is_empty()) || node.is_empty_collection() {
        return Some(Probe::Tcp { send: Vec::new(), receive: Vec::new() });
    }
    let fields = node.fields()?;
    check(&fields, &["send", "receive"], &["proxy_protocol_config"]);
    let send = match fields.get("send") {
        Some(node) => payload(&node)?,
        None => Vec::new(),
    };
    let receive = match fields.get("receive") {
        Some(list) => list.items().unwrap_or_else(|| vec![list.clone()]).iter().map(payload).collect::<Option<_>>()?,
        None => Vec::new(),
    };
    Some(Probe::Tcp { send, receive })
}

fn payload(node: &Node<'_>) -> Option<Vec<u8>> {
    let fields = node.fields()?;
    check(&fields, &["text", "binary"], &[]);
    let right = "text: bytes as pairs of hex digits, or binary: base64";
    if let Some(text) = fields.get("text") {
        let digits = text.text()?;
        let bytes = digits.as_bytes().chunks(2).map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.len() == 2)
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        return bytes.collect::<Option<_>>().or_else(|| text.refuse("is not made of pairs of hex digits", right));
    }
    match fields.get("binary") {
        Some(node) => BASE64.decode(node.text()?).ok().or_else(|| node.refuse("is not base64", right)),
        None => node.refuse("holds nothing", right),
    }
}

fn grpc(node: &Node<'_>) -> Option<Probe> {
    if node.is_empty_collection() {
        return Some(Probe::Grpc { service: String::new(), authority: None });
    }
    let fields = node.fields()?;
    check(&fields, &["service_name", "authority"], &["initial_metadata"]);
    let service = fields.get("service_name").and_then(|node| node.text()).unwrap_or_default();
    Some(Probe::Grpc { service, authority: host(&fields, "authority")? })
}

/// A host with perhaps a port, as a header carries it; `None` where it cannot be one.
fn host(fields: &Fields<'_>, name: &str) -> Option<Option<String>> {
    let Some(node) = fields.get(name) else { return Some(None) };
    let text = node.text()?;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if !text.bytes().all(is_good) {
        return node.refuse("is no host", "a name or address, perhaps with a port");
    }
    Some(Some(text))
}
