//! How long a session that nobody uses stays, and what the log is told of those in use.

use std::time::Duration;

use uuid::Uuid;

use super::super::*;

fn alice(issued_at: Time) -> SessionView {
    SessionView {
        id: SessionId::new(Uuid::from_u128(1)),
        person: PersonId::new(Uuid::from_u128(7)),
        idp: "idp".into(),
        user: "alice".into(),
        email: None,
        name: None,
        claims: serde_json::Map::new(),
        groups: Vec::new(),
        issued_at,
        expires_at: issued_at.plus(Duration::from_secs(3600)),
        seq: 1,
        activity: Arc::default(),
    }
}

const BEGAN: Time = Time::from_secs(1000);

fn at(secs: u64) -> Time {
    BEGAN.plus(Duration::from_secs(secs))
}

fn idle_after_a_minute() -> (Views, SessionId) {
    let views = Views::with_idle_timeout(Some(Duration::from_secs(60)));
    views.begin(alice(BEGAN));
    (views, alice(BEGAN).id)
}

#[test]
fn what_is_owed_to_the_log_is_told_once_in_a_while_and_again_after_a_failure() {
    let (views, id) = idle_after_a_minute();
    for second in 1..15 {
        views.touch(&views.session(id).unwrap(), at(second));
    }
    assert_eq!(views.due(at(14)), []);
    assert_eq!(views.due(at(15)), [(id, at(14))]);
    assert_eq!(views.due(at(15)), [], "it is under way");
    views.owe(id);
    assert_eq!(views.due(at(16)), [(id, at(14))]);
    assert!(views.seen(id, at(14), 2, None));
    views.touch(&views.session(id).unwrap(), at(17));
    assert_eq!(views.due(at(28)), []);
    assert_eq!(views.due(at(29)), [(id, at(17))]);
}

#[test]
fn what_this_node_knows_of_a_sessions_use_outlives_a_new_view_of_it() {
    let (views, id) = idle_after_a_minute();
    let before = views.session(id).unwrap();
    views.touch(&before, at(50));
    views.open(SessionView { seq: 9, ..alice(BEGAN) }, None, at(15));
    // whoever holds the old view touches the same session
    views.touch(&before, at(55));
    let view = views.session(id).unwrap();
    assert_eq!((view.seq, view.activity.last()), (9, at(55)));
    assert!(views.seen(id, at(56), 10, None));
    assert_eq!(views.session(id).unwrap().seq, 10);
}

#[test]
fn an_idle_session_is_swept_and_whoever_listens_is_told() {
    let (views, id) = idle_after_a_minute();
    let mut ended = views.changes();
    views.touch(&views.session(id).unwrap(), at(10));
    views.sweep(at(69));
    assert!(views.session(id).is_some());
    views.sweep(at(70));
    assert!(views.session(id).is_none());
    assert_eq!(ended.try_recv().unwrap().session, id);
    assert_eq!(views.due(at(100)), [], "nothing is owed of what is over");
    assert!(!views.seen(id, at(71), 2, None));
}

#[test]
fn without_a_bound_on_idleness_nothing_is_owed() {
    let views = Views::default();
    views.begin(alice(BEGAN));
    let view = views.session(alice(BEGAN).id).unwrap();
    views.touch(&view, at(100));
    assert_eq!(views.due(at(3000)), []);
    assert!(view.is_open(at(3599)));
}
