//! `portcullis events`: the log, as it is, to whoever wants to read it.

use std::io::Write;

use anyhow::{Result, bail};
use futures_util::StreamExt;
use portcullis_actors::databroker::log::{Log, Tailed};

/// Prints the log from `from` on, a line an event: the stored bytes, with `sequence` added at the end (CloudEvents
/// Sequence extension). Without the addition a line is what the next event's `prevhash` was made from.
///
/// # Errors
/// The log cannot be reached or read. A reader that went away is none.
pub async fn print(log: &dyn Log, from: u64, follow: bool, mut out: impl Write) -> Result<()> {
    let head = log.head().await?;
    if !follow && from > head.last {
        return Ok(());
    }
    let mut tail = log.tail(from.saturating_sub(1));
    while let Some(item) = tail.next().await {
        match item? {
            Tailed::Record(record) => {
                if !follow && record.seq > head.last {
                    return Ok(());
                }
                let Some(body) = record.body.strip_suffix(b"}") else {
                    bail!("sequence {}: not a JSON object", record.seq);
                };
                let mut line = body.to_vec();
                line.extend_from_slice(format!(",\"sequence\":\"{}\"}}\n", record.seq).as_bytes());
                if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
                    return if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) };
                }
                if !follow && record.seq == head.last {
                    return Ok(());
                }
            }
            Tailed::Head { .. } => {}
            Tailed::Away(why) => tracing::warn!(%why, "the log is away"),
        }
    }
    bail!("the log ended")
}
