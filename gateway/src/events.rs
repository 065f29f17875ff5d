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
    // a tail that begins beyond the head would take the log for one that went backwards
    let mut tail = log.tail(from.saturating_sub(1).min(head.last));
    while let Some(item) = tail.next().await {
        match item? {
            Tailed::Record(record) if record.seq < from => {}
            Tailed::Record(record) => {
                if !follow && record.seq > head.last {
                    return Ok(());
                }
                // none of ours has such a character in it: whoever wrote one would write lines or to the terminal
                let text = std::str::from_utf8(&record.body).ok().filter(|text| !text.contains(char::is_control));
                let Some(body) = text.and_then(|text| text.strip_suffix('}')) else {
                    bail!("sequence {}: not a JSON object in one line", record.seq);
                };
                let mut line = body.as_bytes().to_vec();
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

#[cfg(test)]
mod tests {
    use portcullis_actors::databroker::log::file::FileLog;
    use portcullis_actors::databroker::log::{Expected, NewRecord};
    use portcullis_events::{Aggregate, EventId, SessionId};
    use uuid::Uuid;

    use super::*;

    async fn append(log: &FileLog) {
        append_raw(log, b"{\"a\":1}").await;
    }

    async fn append_raw(log: &FileLog, body: &[u8]) {
        let aggregate = Aggregate::session(SessionId::new(Uuid::new_v4()));
        let (expected, id) = (Expected::NoStream, EventId::new(Uuid::now_v7()));
        log.append(NewRecord { aggregate, expected, id, body: body.to_vec() }).await.unwrap();
    }

    /// Says when the reader has what it waits for: a write into it fails from then on.
    struct Two(Vec<u8>);

    impl Write for Two {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.iter().filter(|byte| **byte == b'\n').count() == 2 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            self.0.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[actix_rt::test]
    async fn a_record_is_one_line_and_one_that_would_write_more_than_itself_is_named_instead() {
        let forged = ["{\"a\":\n{\"forged\":1}\n}", "{\"a\":\"\u{1b}[2J\"}", "{\"a\":\"\u{9b}2J\"}", "{\"a\":1\r}"];
        for body in forged.iter().map(|text| text.as_bytes()).chain([&b"{\"a\":\"\xff\"}"[..]]) {
            let dir = tempfile::tempdir().unwrap();
            let log = FileLog::open(dir.path()).unwrap();
            append(&log).await;
            append_raw(&log, body).await;
            let mut out = Vec::new();
            let error = print(&log, 1, false, &mut out).await.unwrap_err().to_string();
            assert!(error.contains("sequence 2"), "{error}");
            assert_eq!(out, b"{\"a\":1,\"sequence\":\"1\"}\n");
        }
    }

    #[actix_rt::test]
    async fn whoever_follows_from_beyond_the_end_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = FileLog::open(dir.path()).unwrap();
        append(&log).await;
        let mut out = Two(Vec::new());
        let (printed, ()) = futures_util::future::join(print(&log, 4, true, &mut out), async {
            for _ in 0..5 {
                append(&log).await;
            }
        })
        .await;
        printed.unwrap();
        let text = String::from_utf8(out.0).unwrap();
        assert_eq!(text, "{\"a\":1,\"sequence\":\"4\"}\n{\"a\":1,\"sequence\":\"5\"}\n");
    }
}
