//! A connection that is no longer HTTP: bytes both ways until one side ends, the session does, or the node stops.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portcullis_actors::proxy::connections::Ticket;

/// The upstream's half of a switched connection.
pub struct Tunnel {
    upstream: OnUpgrade,
}

impl Tunnel {
    pub(super) fn to(upstream: OnUpgrade) -> Self {
        Self { upstream }
    }

    /// Joins it to the client's half on a task of this worker. The ticket's cut closes both.
    pub fn join(self, client: OnUpgrade, ticket: Ticket) {
        actix_rt::spawn(async move {
            let joined = async {
                let (client, upstream) = futures_util::future::try_join(client, self.upstream).await?;
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                outcome = joined => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "a connection did not switch");
                    }
                }
                () = ticket.cut() => {}
            }
        });
    }
}
