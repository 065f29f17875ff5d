//! What is open on a worker, and when it is cut.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use portcullis_config::limits::{CUT_GRACE, WRITE_STALL};
use portcullis_events::{SessionId, Time};
use uuid::Uuid;

use super::{Exchanges, Held, Ticket};
use crate::proxy::connections::{Connections, Scopes};
use crate::proxy::leash::{Bounds, Cut, Leash};

struct Known {
    session: Option<SessionId>,
    ends_at: Option<Time>,
}

impl Held for Known {
    fn session(&self) -> Option<SessionId> {
        self.session
    }

    fn ends_at(&self) -> Option<Time> {
        self.ends_at
    }
}

fn session(number: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(number))
}

fn enter(exchanges: &Rc<Exchanges<Known>>, session: Option<SessionId>) -> Ticket<Known> {
    let known = Known { session, ends_at: session.map(|_| Time::from_secs(60)) };
    exchanges.admit(known, &Rc::default(), exchanges.heard(), |_| true).ok().unwrap()
}

fn only(session: SessionId) -> Scopes {
    Scopes::Sessions(HashSet::from([session]))
}

/// Late enough for nothing to have grace.
fn later() -> Instant {
    Instant::now() + CUT_GRACE
}

#[test]
fn what_is_open_is_counted_and_forgotten_when_it_ends() {
    let connections = Connections::default();
    let (here, there) = (Exchanges::new(connections.clone()), Exchanges::new(connections.clone()));
    let (first, second) = (enter(&here, Some(session(1))), enter(&there, None));
    assert_eq!(connections.len(), 2);
    drop(first);
    assert_eq!(connections.len(), 1);
    drop(second);
    assert!(connections.is_empty());
}

#[test]
fn what_belongs_to_a_session_is_asked_about_and_cut_and_the_rest_is_not_even_asked() {
    let exchanges = Exchanges::new(Connections::default());
    let (alice, bob) = (session(1), session(2));
    let (ended, other, public) =
        (enter(&exchanges, Some(alice)), enter(&exchanges, Some(bob)), enter(&exchanges, None));
    exchanges.reconsider(&only(alice), later(), |held| {
        assert_eq!(held.session, Some(alice));
        false
    });
    assert_eq!(ended.leash().why(), Some(Cut::PermitLost));
    assert_eq!((other.leash().why(), public.leash().why()), (None, None));
    // a change that leaves the permit as it was changes nothing
    exchanges.reconsider(&only(bob), later(), |_| true);
    assert_eq!(other.leash().why(), None);
    exchanges.reconsider(&Scopes::All, later(), |held| held.session.is_some());
    assert_eq!((other.leash().why(), public.leash().why()), (None, Some(Cut::PermitLost)));
}

#[test]
fn a_request_has_a_second_and_a_tunnel_has_none() {
    let exchanges = Exchanges::new(Connections::default());
    let (request, tunnel, switching) = (enter(&exchanges, None), enter(&exchanges, None), enter(&exchanges, None));
    tunnel.last();
    exchanges.reconsider(&Scopes::All, Instant::now(), |_| false);
    assert_eq!((request.leash().why(), tunnel.leash().why()), (None, Some(Cut::PermitLost)));
    switching.last();
    assert_eq!(switching.leash().why(), Some(Cut::PermitLost));
    exchanges.sweep(Instant::now(), Time::from_secs(0), |_| true);
    assert_eq!(request.leash().why(), None);
    // a permit that was lost does not come back
    exchanges.sweep(later(), Time::from_secs(0), |_| true);
    assert_eq!(request.leash().why(), Some(Cut::PermitLost));
}

#[test]
fn what_outlives_its_session_is_cut_unless_the_session_was_prolonged() {
    let exchanges = Exchanges::new(Connections::default());
    let (over, prolonged, public) =
        (enter(&exchanges, Some(session(1))), enter(&exchanges, Some(session(2))), enter(&exchanges, None));
    let still = |held: &mut Known| {
        let prolonged = held.session == Some(session(2));
        if prolonged {
            held.ends_at = Some(Time::from_secs(120));
        }
        prolonged
    };
    exchanges.sweep(later(), Time::from_secs(59), |_| panic!("asked before the end"));
    exchanges.sweep(later(), Time::from_secs(60), still);
    assert_eq!(over.leash().why(), Some(Cut::PermitLost));
    assert_eq!((prolonged.leash().why(), public.leash().why()), (None, None));
}

#[test]
fn a_decision_that_a_word_has_overtaken_is_made_once_more() {
    let exchanges = Exchanges::new(Connections::default());
    let admit = |heard, still| {
        let known = Known { session: Some(session(1)), ends_at: None };
        exchanges.admit(known, &Rc::default(), heard, |_| still).is_ok()
    };
    let before = exchanges.heard();
    assert!(admit(before, false), "nothing was said");
    exchanges.reconsider(&only(session(1)), later(), |_| true);
    assert!(!admit(before, false) && admit(before, true));
    assert!(admit(exchanges.heard(), false));
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_one_that_is_given_nothing_is_not() {
    let exchanges = Exchanges::new(Connections::default());
    let (stalled, idle, reading) = (enter(&exchanges, None), enter(&exchanges, None), enter(&exchanges, None));
    let now = Instant::now();
    stalled.leash().give(now);
    reading.leash().give(now);
    reading.leash().take();
    exchanges.sweep(now + WRITE_STALL - Duration::from_millis(1), Time::from_secs(0), |_| true);
    assert_eq!(stalled.leash().why(), None);
    exchanges.sweep(now + WRITE_STALL, Time::from_secs(0), |_| true);
    assert_eq!(stalled.leash().why(), Some(Cut::Stalled));
    assert_eq!((idle.leash().why(), reading.leash().why()), (None, None));
}

#[test]
fn what_passes_its_bounds_is_cut_and_what_moves_is_not_idle() {
    let (second, now) = (Duration::from_secs(1), Instant::now());
    let bounds = [
        (Bounds { ends: Some((now + second, Cut::AnswerLate)), ..Bounds::default() }, Some(Cut::AnswerLate)),
        (Bounds { upload: Some(now + second), ..Bounds::default() }, Some(Cut::UploadLate)),
        (Bounds { idle: Some(second), ..Bounds::default() }, Some(Cut::Idle)),
        (Bounds::default(), None),
    ];
    for (bounds, why) in bounds {
        let exchanges = Exchanges::new(Connections::default());
        let ticket = enter(&exchanges, None);
        ticket.leash().bind(bounds, now);
        exchanges.sweep(now + second - Duration::from_millis(1), Time::from_secs(0), |_| true);
        assert_eq!(ticket.leash().why(), None);
        exchanges.sweep(now + second, Time::from_secs(0), |_| true);
        assert_eq!(ticket.leash().why(), why);
    }
    let exchanges = Exchanges::new(Connections::default());
    let ticket = enter(&exchanges, None);
    ticket.leash().bind(Bounds { idle: Some(second), upload: Some(now + second), ends: None }, now);
    ticket.leash().uploaded();
    ticket.leash().moves(now + second / 2);
    exchanges.sweep(now + second, Time::from_secs(0), |_| true);
    assert_eq!(ticket.leash().why(), None);
    // the next exchange on the same connection begins without them
    let leash = Rc::clone(ticket.leash());
    drop(ticket);
    assert_eq!(leash.overdue(now + 60 * second), None);
}

#[test]
fn what_lay_there_before_a_request_is_not_held_against_it() {
    let exchanges = Exchanges::new(Connections::default());
    let leash = Rc::new(Leash::default());
    let now = Instant::now();
    leash.give(now);
    let known = Known { session: None, ends_at: None };
    let _ticket = exchanges.admit(known, &leash, exchanges.heard(), |_| true).ok().unwrap();
    exchanges.sweep(now + WRITE_STALL, Time::from_secs(0), |_| true);
    assert_eq!(leash.why(), None);
}

#[test]
fn a_node_that_stops_cuts_everything_and_admits_nothing_more() {
    let connections = Connections::default();
    let exchanges = Exchanges::new(connections.clone());
    let open = enter(&exchanges, None);
    connections.stop();
    exchanges.reconsider(&Scopes::All, Instant::now(), |_| true);
    assert_eq!(open.leash().why(), Some(Cut::Stopping));
    let known = Known { session: None, ends_at: None };
    assert_eq!(exchanges.admit(known, &Rc::default(), exchanges.heard(), |_| true).err(), Some(Cut::Stopping));
}

#[actix::test]
async fn whoever_waits_for_a_cut_hears_it_and_whoever_comes_later_as_well() {
    let leash = Rc::new(Leash::default());
    let (first, second) = (leash.is_cut(), leash.is_cut());
    let cutting = async {
        leash.cut(Cut::PermitLost);
        leash.cut(Cut::Stopping);
    };
    let (first, second, ()) = futures_util::future::join3(first, second, cutting).await;
    assert_eq!((first, second), (Cut::PermitLost, Cut::PermitLost));
    assert_eq!(leash.is_cut().await, Cut::PermitLost);
}
