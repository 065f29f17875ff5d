//! A connection that is no longer HTTP: bytes both ways until one side ends, the session does, or the node stops.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portcullis_actors::proxy::connections::Ticket;

use crate::telemetry::AccessRecord;

/// The upstream's half of a switched connection.
pub struct Tunnel {
    upstream: OnUpgrade,
}

impl Tunnel {
    pub(super) fn to(upstream: OnUpgrade) -> Self {
        Self { upstream }
    }

    /// Joins it to the client's half on a task of this worker. The ticket's cut closes both; the access line is written
    /// at the end.
    pub fn join(self, client: OnUpgrade, ticket: Ticket, mut record: AccessRecord) {
        actix_rt::spawn(async move {
            let joined = async {
                let (client, upstream) = futures_util::future::try_join(client, self.upstream).await?;
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                // one side that breaks off ends the other: that is how most of them end
                let passed = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                Ok::<_, hyper::Error>(passed.map_or(0, |(_, to_client)| to_client))
            };
            tokio::select! {
                outcome = joined => match outcome {
                    Ok(passed) => record.add_bytes(usize::try_from(passed).unwrap_or(usize::MAX)),
                    Err(error) => tracing::debug!(%error, "a connection did not switch"),
                },
                () = ticket.cut() => record.cut_short(),
            }
        });
    }
}
