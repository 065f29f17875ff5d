//! What a node holds of sessions as one value: nodes that hold the same give the same.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::view::{SessionView, Views};

/// Looks that are taken before the views are said to be in motion.
const LOOKS: usize = 3;

/// What the views of a node come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The log position that they stand at.
    pub applied: u64,
    /// How many sessions there are.
    pub sessions: usize,
    /// SHA-256 over all of them, in hexadecimal.
    pub sha256: String,
}

/// Reads every session in the views; `None` where they did not stand still meanwhile. When a session was last in use is
/// left out: each node has its own word on that before the log has one. Looks at everything: not for the request path.
#[must_use]
pub fn of(views: &Views) -> Option<Digest> {
    (0..LOOKS).find_map(|_| {
        let applied = views.progress.applied();
        let mut sessions = views.find(None, |_| true);
        sessions.sort_unstable_by_key(|session| session.id);
        let mut context = digest::Context::new(&digest::SHA256);
        for session in &sessions {
            context.update(written(session).to_string().as_bytes());
            context.update(b"\n");
        }
        let sha256 = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        (views.progress.applied() == applied).then_some(Digest { applied, sessions: sessions.len(), sha256 })
    })
}

fn written(session: &SessionView) -> Value {
    let SessionView { id, person, idp, user, email, name, claims, groups, issued_at, expires_at, seq, activity: _ } =
        session;
    let (id, person) = (id.to_string(), person.to_string());
    let (issued_at, expires_at) = (issued_at.millis(), expires_at.millis());
    json!([id, person, idp, user, email, name, claims, groups, issued_at, expires_at, seq])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_events::{PersonId, SessionId, Time};
    use serde_json::Map;
    use uuid::Uuid;

    use super::*;

    fn session(id: u128, seq: u64) -> SessionView {
        SessionView {
            id: SessionId::new(Uuid::from_u128(id)),
            person: PersonId::new(Uuid::from_u128(7)),
            idp: "idp".into(),
            user: "alice".into(),
            email: None,
            name: None,
            claims: Map::new(),
            groups: Vec::new(),
            issued_at: Time::from_secs(1000),
            expires_at: Time::from_secs(5000),
            seq,
            activity: Arc::default(),
        }
    }

    fn holding(sessions: &[(u128, u64)]) -> Views {
        let views = Views::default();
        sessions.iter().for_each(|(id, seq)| views.begin(session(*id, *seq)));
        views
    }

    #[test]
    fn nodes_that_hold_the_same_give_the_same_whatever_the_order() {
        let (one, other) = (of(&holding(&[(1, 4), (2, 8)])), of(&holding(&[(2, 8), (1, 4)])));
        assert!(one.is_some());
        assert_eq!(one, other);
    }

    #[test]
    fn another_session_or_another_word_on_one_is_another_value() {
        let known = of(&holding(&[(1, 4), (2, 8)]));
        for other in [&[(1, 4)][..], &[(1, 4), (3, 8)], &[(1, 4), (2, 9)], &[(1, 4), (2, 8), (3, 9)]] {
            assert_ne!(of(&holding(other)), known, "{other:?}");
        }
    }

    #[test]
    fn the_use_of_a_session_is_each_nodes_own_affair() {
        let (used, unused) = (holding(&[(1, 4)]), holding(&[(1, 4)]));
        let view = used.session(SessionId::new(Uuid::from_u128(1))).unwrap();
        used.touch(&view, Time::from_secs(2000));
        assert_eq!(of(&used), of(&unused));
    }
}
