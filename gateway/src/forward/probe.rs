//! Active checks: asking an upstream whether it is well, by HTTP, a few bytes, or gRPC's health protocol.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use portcullis_actors::proxy::upstreams::Prober;
use portcullis_actors::proxy::upstreams::cluster::Cluster;
use portcullis_actors::proxy::upstreams::member::Member;
use portcullis_config::limits::HEALTH_ANSWER_BYTES;
use portcullis_config::upstreams::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::Here;
use super::line::Line;

/// Asks on a connection of its own each time, as the route's requests would go.
pub struct Asking;

#[async_trait(?Send)]
impl Prober for Asking {
    async fn probe(&self, cluster: &Arc<Cluster>, member: &Arc<Member>, probe: &Probe) -> Result<(), String> {
        let line = Line::to(cluster, member).await.map_err(|error| error.to_string())?;
        let upstream = cluster.upstream(member).ok_or("no address")?;
        let authority = |said: &Option<String>| said.clone().unwrap_or_else(|| upstream.url.authority().to_owned());
        let scheme = upstream.url.scheme();
        match probe {
            Probe::Tcp { send, receive } => bytes(line, send, receive).await,
            Probe::Http { path, host, method, expected } => {
                let h2 = upstream.h2c && !cluster.settings.http1 || line.is_h2();
                let request = Asked { method, scheme, authority: authority(host), path, headers: HeaderMap::new() };
                let (status, ..) = request.send(line, h2, Bytes::new()).await?;
                let good = if expected.is_empty() {
                    status == 200
                } else {
                    expected.iter().any(|(from, to)| (*from..*to).contains(&status))
                };
                good.then_some(()).ok_or_else(|| format!("status {status}"))
            }
            Probe::Grpc { service, authority: said } => {
                let headers = HeaderMap::from_iter([
                    (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
                    (TE, HeaderValue::from_static("trailers")),
                ]);
                let path = "/grpc.health.v1.Health/Check";
                let request = Asked { method: &Method::POST, scheme, authority: authority(said), path, headers };
                let (status, headers, body) = request.send(line, true, health_request(service)).await?;
                let grpc = headers.get("grpc-status").and_then(|code| code.to_str().ok());
                if status != 200 || grpc != Some("0") {
                    return Err(format!("status {status}, gRPC {}", grpc.unwrap_or("none")));
                }
                is_serving(&body).then_some(()).ok_or_else(|| "not serving".to_owned())
            }
        }
    }
}

/// A request of a check.
struct Asked<'a> {
    method: &'a Method,
    scheme: &'a str,
    authority: String,
    path: &'a str,
    headers: HeaderMap,
}

impl Asked<'_> {
    /// Status, headers with trailers, and body of the answer.
    async fn send(self, line: Line, h2: bool, body: Bytes) -> Result<(u16, HeaderMap, Bytes), String> {
        let said = |error: hyper::Error| error.to_string();
        let mut request = Request::builder().method(self.method.clone());
        if let Some(headers) = request.headers_mut() {
            *headers = self.headers;
            headers.insert(USER_AGENT, HeaderValue::from_static("portcullis-health-check"));
        }
        let io = TokioIo::new(line);
        let body = Full::new(body);
        let response = if h2 {
            let uri = Uri::builder().scheme(self.scheme).authority(self.authority).path_and_query(self.path).build();
            let request = request.version(Version::HTTP_2).uri(uri.map_err(|error| error.to_string())?).body(body);
            let (mut sender, connection) = http2::handshake(Here, io).await.map_err(said)?;
            actix_rt::spawn(async move { drop(connection.await) });
            sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(said)?
        } else {
            let request = request.uri(self.path).header(HOST, self.authority).body(body);
            let (mut sender, connection) = http1::handshake(io).await.map_err(said)?;
            actix_rt::spawn(async move { drop(connection.await) });
            sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(said)?
        };
        let status = response.status().as_u16();
        let mut headers = response.headers().clone();
        let limited = Limited::new(response.into_body(), HEALTH_ANSWER_BYTES);
        let answer = limited.collect().await.map_err(|error| error.to_string())?;
        headers.extend(answer.trailers().cloned().unwrap_or_default());
        Ok((status, headers, answer.to_bytes()))
    }
}

/// Sends some bytes and waits for others, each after the one before.
async fn bytes(mut line: Line, send: &[u8], receive: &[Vec<u8>]) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    line.write_all(send).await.map_err(said)?;
    line.flush().await.map_err(said)?;
    let mut came = Vec::new();
    while !found(&came, receive) {
        if came.len() > HEALTH_ANSWER_BYTES {
            return Err("too much came".to_owned());
        }
        let mut buffer = [0; 1024];
        let read = line.read(&mut buffer).await.map_err(said)?;
        if read == 0 {
            return Err("the connection ended".to_owned());
        }
        came.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(())
}

fn found(mut came: &[u8], receive: &[Vec<u8>]) -> bool {
    receive.iter().all(|piece| {
        let at = came.windows(piece.len().max(1)).position(|window| piece.is_empty() || window == piece.as_slice());
        match at.and_then(|at| came.get(at + piece.len()..)) {
            Some(rest) => {
                came = rest;
                true
            }
            None => piece.is_empty(),
        }
    })
}

/// `HealthCheckRequest { service = 1 }` as a gRPC message: not compressed, its length, then its fields.
fn health_request(service: &str) -> Bytes {
    let mut fields = BytesMut::new();
    if !service.is_empty() {
        fields.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            fields.put_u8(u8::try_from(length % 0x80).unwrap_or(0) | 0x80);
            length /= 0x80;
        }
        fields.put_u8(u8::try_from(length).unwrap_or(0));
        fields.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(fields.len()).unwrap_or(0));
    message.put_slice(&fields);
    message.freeze()
}

/// Whether a message is `HealthCheckResponse { status = SERVING (1) }`.
fn is_serving(message: &[u8]) -> bool {
    message.get(5..) == Some(&[0x08, 0x01])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_one_after_another() {
        let pieces = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        assert!(found(b"", &[]));
        assert!(found(b"a 220 ready 250 ok", &pieces(&["220", "250"])));
        assert!(!found(b"a 250 ready 220 ok", &pieces(&["220", "250"])));
        assert!(!found(b"22", &pieces(&["220"])));
    }

    #[test]
    fn a_health_request_is_framed_as_grpc_frames_messages() {
        assert_eq!(health_request(""), [0, 0, 0, 0, 0].as_slice());
        assert_eq!(health_request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b'].as_slice());
        let long = health_request(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]) && !is_serving(&[0, 0, 0, 0, 2, 8, 2]) && !is_serving(&[]));
    }
}
