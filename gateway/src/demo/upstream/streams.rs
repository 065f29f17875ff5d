//! The upstream's long answers: server-sent events, a WebSocket echo, an echo of the body, an answer that takes time.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::AggregatedMessage;
use bytes::Bytes;
use futures_util::stream;
use portcullis_actors::clock;
use portcullis_config::limits::{DEMO_MESSAGE_BYTES, DEMO_SLOWEST};

/// `GET /sse`: an event a second, until the client goes.
pub async fn events() -> HttpResponse {
    let ticks = actix_rt::time::interval(Duration::from_secs(1));
    let events = stream::unfold((ticks, 1_u64), |(mut ticks, number)| async move {
        ticks.tick().await;
        let event = format!("id: {number}\ndata: {}\n\n", clock::now().rfc3339());
        Some((Ok::<_, actix_web::Error>(Bytes::from(event)), (ticks, number.saturating_add(1))))
    });
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).content_type("text/event-stream").streaming(events)
}

/// `GET /ws`: every message comes back.
pub async fn socket(request: HttpRequest, body: web::Payload) -> actix_web::Result<HttpResponse> {
    let (response, mut session, messages) = actix_ws::handle(&request, body)?;
    let messages = messages.max_frame_size(DEMO_MESSAGE_BYTES).aggregate_continuations();
    let mut messages = messages.max_continuation_size(DEMO_MESSAGE_BYTES);
    actix_rt::spawn(async move {
        while let Some(Ok(message)) = messages.recv().await {
            let sent = match message {
                AggregatedMessage::Text(text) => session.text(text).await,
                AggregatedMessage::Binary(bytes) => session.binary(bytes).await,
                AggregatedMessage::Ping(bytes) => session.pong(&bytes).await,
                AggregatedMessage::Pong(_) => Ok(()),
                AggregatedMessage::Close(reason) => {
                    let _ = session.close(reason).await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
        let _ = session.close(None).await;
    });
    Ok(response)
}

/// `/echo`: the body comes back as it arrives, as bytes that no browser takes for a page.
pub async fn echo(body: web::Payload) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type("application/octet-stream")
        .streaming(body)
}

/// What `/slow` may be asked.
#[derive(serde::Deserialize)]
pub struct Slowness {
    /// How long the answer takes.
    seconds: Option<u64>,
}

/// `GET /slow?seconds=N`: answers after a while, three seconds by default.
pub async fn slow(asked: web::Query<Slowness>) -> HttpResponse {
    let wait = Duration::from_secs(asked.seconds.unwrap_or(3)).min(DEMO_SLOWEST);
    actix_rt::time::sleep(wait).await;
    HttpResponse::Ok().content_type("text/plain").body(format!("this took {} s\n", wait.as_secs()))
}
