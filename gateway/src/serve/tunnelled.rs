//! Routes of TCP: the upstream is connected to first, then the client hears `200`, and from there bytes pass as they are.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use portcullis_actors::authorize::Permit;
use portcullis_actors::proxy::leash::{Bounds, Cut};
use portcullis_config::limits::BUDGET_WAIT;
use portcullis_config::{HostPort, Route, Tunnel};

use super::Exchange;
use super::admission::TOO_MANY;
use super::answers::X_REQUEST_ID;
use crate::answer::Answer;
use crate::client_body::Switch;
use crate::forward;
use crate::forward::UpstreamFault;
use crate::forward::body::AnswerBody;
use crate::forward::budget::Use;
use crate::forward::tcp::{Unreached, connect};
use crate::metrics::tally::Bound;
use crate::open::Ticket;

impl Exchange {
    /// Opens the tunnel. The permit is spent.
    pub(super) async fn tunnelled(
        self,
        permit: Permit,
        ticket: Ticket,
        tunnel: &Tunnel,
        route: Arc<Route>,
        client: Switch,
    ) -> Response<AnswerBody> {
        let budget = self.client(&permit);
        // held for as long as the tunnel is open: each is a connection of its own
        let Some(share) = self.worker.budgets.share(budget, &route, Use::Open, BUDGET_WAIT).await else {
            return self.refuse_at(Bound::RequestsUnderWay, TOO_MANY, route);
        };
        let upstream = match connect(self.in_turn(&tunnel.to)).await {
            Ok(upstream) => upstream,
            Err(why) => {
                let fault = match why {
                    Unreached::Late => UpstreamFault::ConnectLate,
                    Unreached::Refused => UpstreamFault::Unreachable,
                };
                return self.refuse(Answer::new(fault.status(), fault.message()), fault.detail(), Some(route));
            }
        };
        let now = Instant::now();
        let ends = |bound: Option<std::time::Duration>, why| bound.map(|bound| (now + bound, why));
        let timeouts = &route.timeouts;
        let ends = ends(timeouts.answer.ends, Cut::AnswerLate).into_iter().chain(ends(timeouts.write, Cut::Lasting));
        let ends = ends.min_by_key(|(end, _)| *end);
        self.leash.bind(Bounds { ends, upload: None, idle: timeouts.idle }, now);
        let id = HeaderValue::try_from(&*self.request_id);
        let mut record = self.record;
        record.answered(StatusCode::OK.as_u16(), "tunnel", Some(route));
        forward::Tunnel::over(upstream).held(share).join(client, ticket, record);
        let mut response = Response::new(AnswerBody::own(Bytes::new()));
        if let Ok(id) = id {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response
    }

    /// Every place once, beginning with the one whose turn it is.
    fn in_turn<'a>(&self, places: &'a [HostPort]) -> impl Iterator<Item = &'a HostPort> {
        let turn = self.worker.turn.get();
        self.worker.turn.set(turn.wrapping_add(1));
        let first = turn.checked_rem(places.len()).unwrap_or_default();
        places.iter().cycle().skip(first).take(places.len())
    }
}
