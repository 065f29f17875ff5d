//! What a worker has open, and whether it would be let in again by the rules and the views of now.

use portcullis_actors::authorize::Standing;
use portcullis_actors::databroker::view::Views;
use portcullis_actors::proxy::exchanges::{self, Held};
use portcullis_actors::proxy::routes::Located;
use portcullis_events::{SessionId, Time};

use crate::in_force::Rules;

/// Everything that a worker has open.
pub type Exchanges = exchanges::Exchanges<Kept>;
/// The right of one exchange to stay open.
pub type Ticket = exchanges::Ticket<Kept>;

/// One exchange, as it was permitted.
pub struct Kept(pub Standing);

impl Held for Kept {
    fn session(&self) -> Option<SessionId> {
        self.0.session()
    }

    fn ends_at(&self) -> Option<Time> {
        self.0.ends_at()
    }
}

impl Kept {
    /// As [`Self::is_permitted`] for what was decided before a word that came meanwhile: authorize in another process is
    /// asked about it as soon as can be.
    pub fn is_still_permitted(&mut self, rules: &Rules, views: &Views, now: Time) -> bool {
        self.0.doubt();
        self.is_permitted(rules, views, now)
    }

    /// Whether the same request would still lead to the same route and be permitted there.
    pub fn is_permitted(&mut self, rules: &Rules, views: &Views, now: Time) -> bool {
        match rules.routes.locate(self.0.request()) {
            Ok(Located::Route { index, route }) => self.0.holds(&rules.policies, index, &route, views, now),
            Ok(Located::Own { .. }) | Err(_) => false,
        }
    }
}
