//! What a proxy in another process is told, and that it is good for nothing but what was asked.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use portcullis_config::policy::Criterion;
use portcullis_config::{Config, Route, Secret, Staleness};
use portcullis_events::{Epoch, SessionId, Time};
use serde_json::json;
use uuid::Uuid;

use super::super::authorizer::Compiled;
use super::super::check::{Again, CannotCheck, Check, Checked, Handed, Keys, Mark, OneAgain, Who};
use super::super::checker::{Checker, Tools};
use super::super::policies::Policies;
use super::super::{Mismatch, Permit, RefusalKind, admit};
use super::people::*;
use crate::ask::Port;
use crate::authenticate::identify::CannotSay;
use crate::clock;
use crate::databroker::view::{SessionView, Views};
use crate::keyring::assertion::AssertionKeys;
use crate::keyring::handle::Handle;
use crate::keyring::{Keyring, Purpose};
use crate::proxy::routes::tests::config;
use crate::request::Canonical;
use crate::request::described::Described;

const LONG: Duration = Duration::from_secs(30);
const HOST: &str = "app.example.com";
const EPOCH: Epoch = Epoch::new(Uuid::from_u128(5));

fn admins() -> Route {
    Route { pass_identity_headers: true, ..route(policy([allow(and([Criterion::Groups(has(json!("admins")))]))])) }
}

/// A checker with one route, on views that were read to position 10 a moment ago.
struct Office {
    views: Arc<Views>,
    checker: Addr<Checker>,
    keyring: Keyring,
}

impl Office {
    fn with(route: Route) -> Self {
        Self::as_of(route, clock::now())
    }

    /// The same, with views that were read then.
    fn as_of(route: Route, at: Time) -> Self {
        Self::configured(route, at, |_| ())
    }

    fn configured(route: Route, at: Time, change: impl Fn(&mut Config)) -> Self {
        let views = Arc::new(Views::default());
        views.read_to(EPOCH, 10, at);
        let keyring = Keyring::new(vec![Secret::new(vec![1; 32])]).unwrap();
        let mut config = config(&[]);
        config.routes = vec![route];
        change(&mut config);
        let compiled = Arc::new(Compiled::of(Arc::new(config)));
        let tools = Tools {
            views: Arc::clone(&views),
            in_force: Box::new(move || Arc::clone(&compiled)),
            handles: keyring.sealer(Purpose::Handle).unwrap(),
            idp: "idp-1".into(),
            keys: Arc::new(AssertionKeys::derived(&keyring).unwrap()),
        };
        Self { views, checker: Checker::new(tools).start(), keyring }
    }

    /// Somebody who is signed in until an hour from now.
    fn sign_in(&self, person: SessionView) -> Handed {
        let now = clock::now();
        let expires_at = now.plus(Duration::from_secs(3600));
        let handle = Handle { session: person.id, epoch: EPOCH, position: 10, issued_at: now, expires_at };
        let handle = handle.seal(&self.keyring.sealer(Purpose::Handle).unwrap(), HOST).unwrap();
        self.views.begin(SessionView { issued_at: now, expires_at, ..person });
        Handed { audience: HOST.into(), handle }
    }

    async fn check(&self, request: &Canonical, presented: Option<Handed>) -> Result<Checked, CannotCheck> {
        self.check_knowing(None, request, presented).await
    }

    async fn check_knowing(
        &self,
        known: Option<Mark>,
        request: &Canonical,
        presented: Option<Handed>,
    ) -> Result<Checked, CannotCheck> {
        let check = Check { request: Described::of(request), route: admins().id, presented, known };
        Port::new(self.checker.clone(), 8, LONG).ask(check).await.unwrap()
    }

    async fn again(&self, position: u64, permits: Vec<OneAgain>) -> Vec<Result<bool, CannotSay>> {
        self.again_knowing(Mark { epoch: EPOCH, position }, permits).await
    }

    async fn again_knowing(&self, known: Mark, permits: Vec<OneAgain>) -> Vec<Result<bool, CannotSay>> {
        let again = Again { known: Some(known), permits };
        let said = Port::new(self.checker.clone(), 8, LONG).ask(again).await.unwrap();
        said.into_iter().map(|one| one.map(|one| one.holds)).collect()
    }
}

fn here(path: &str) -> Rc<Canonical> {
    Rc::new(request("GET", path, "203.0.113.9", false))
}

fn taken(request: &Rc<Canonical>, checked: &Checked) -> Result<Result<Permit, RefusalKind>, Mismatch> {
    let described = Rc::new(Described::of(request));
    admit(Rc::clone(request), described, Arc::new(admins()), checked, (clock::now(), clock::now()))
        .map(|(_, outcome)| outcome)
}

#[actix::test]
async fn a_request_is_decided_on_elsewhere_as_it_would_be_here() {
    let office = Office::with(admins());
    let request = here("/");
    let handed = office.sign_in(alice());
    let checked = office.check(&request, Some(handed.clone())).await.unwrap();
    let permit = taken(&request, &checked).unwrap().unwrap();
    assert_eq!(permit.session(), Some(alice().id));
    let names: Vec<_> = permit.told().unwrap().iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"x-pomerium-jwt-assertion"), "{names:?}");
    assert_eq!((checked.log().applied, checked.log().lag), (10, 0));

    // nobody, somebody else's handle, one for another host, and one whose session has ended
    for presented in [
        None,
        Some(Handed { handle: "x".into(), ..handed.clone() }),
        Some(Handed { audience: "b".into(), ..handed.clone() }),
    ] {
        let checked = office.check(&request, presented).await.unwrap();
        assert_eq!(taken(&request, &checked).unwrap().err(), Some(RefusalKind::SignIn));
    }
    office.views.finish(alice().id);
    let checked = office.check(&request, Some(handed)).await.unwrap();
    assert_eq!(taken(&request, &checked).unwrap().err(), Some(RefusalKind::SignIn));
    let developer = office.sign_in(bob());
    let checked = office.check(&request, Some(developer)).await.unwrap();
    assert_eq!(taken(&request, &checked).unwrap().err(), Some(RefusalKind::Denied));
    assert!(checked.identity.is_empty(), "what is refused carries nothing");
}

#[actix::test]
async fn an_answer_admits_the_request_that_was_asked_about_to_its_route_and_nothing_else() {
    let office = Office::with(admins());
    let asked = here("/a");
    let handed = office.sign_in(alice());
    let good = office.check(&asked, Some(handed)).await.unwrap();
    assert!(taken(&asked, &good).unwrap().is_ok());
    for other in [
        here("/b"),
        Rc::new(request("PUT", "/a", "203.0.113.9", false)),
        Rc::new(request("GET", "/a", "203.0.113.8", false)),
    ] {
        assert_eq!(taken(&other, &good).err(), Some(Mismatch::Request));
        // not even where somebody describes it as what was asked about
        let lie = Rc::new(Described::of(&asked));
        let taken = admit(other, lie, Arc::new(admins()), &good, (clock::now(), clock::now()));
        assert_eq!(taken.err(), Some(Mismatch::Request));
    }
    let elsewhere = Arc::new(Route { id: "fedcba9876543210".into(), ..admins() });
    let described = Rc::new(Described::of(&asked));
    let taken_elsewhere = admit(Rc::clone(&asked), described, elsewhere, &good, (clock::now(), clock::now()));
    assert_eq!(taken_elsewhere.err(), Some(Mismatch::Route));
    let mut nobody = good.clone();
    nobody.session = None;
    assert_eq!(taken(&asked, &nobody).err(), Some(Mismatch::Contradiction));
    let mut odd = good;
    odd.identity.push(("x y".into(), "z".into()));
    assert_eq!(taken(&asked, &odd).err(), Some(Mismatch::Header));
}

#[actix::test]
async fn a_route_that_authorize_does_not_have_is_not_decided_on() {
    let office = Office::with(Route { id: "another".into(), ..admins() });
    assert_eq!(office.check(&here("/"), None).await.err(), Some(CannotCheck::Route));
    let mut elsewhere = admins();
    elsewhere.from.host = "b.example.com".into();
    assert_eq!(Office::with(elsewhere).check(&here("/"), None).await.err(), Some(CannotCheck::Route));
}

fn permit(session: Option<SessionId>) -> OneAgain {
    OneAgain { request: Described::of(&here("/")), route: admins().id, session }
}

#[actix::test]
async fn what_is_open_is_asked_about_by_what_is_known_now() {
    let office = Office::with(admins());
    office.sign_in(alice());
    let (hers, nobodys) = (permit(Some(alice().id)), permit(None));
    let gone = OneAgain { route: "gone".into(), ..hers.clone() };
    assert_eq!(office.again(10, vec![hers.clone(), nobodys, gone]).await, [Ok(true), Ok(false), Ok(false)]);
    // a word named a position that this process has not read to: it does not say yes by what it knew before
    assert_eq!(office.again(11, vec![hers.clone()]).await, [Err(CannotSay::Behind)]);
    office.views.begin(SessionView { groups: vec!["dev".into()], expires_at: clock::now().plus(LONG), ..alice() });
    assert_eq!(office.again(10, vec![hers.clone()]).await, [Ok(false)]);
    office.views.finish(alice().id);
    assert_eq!(office.again(10, vec![hers]).await, [Ok(false)]);
}

#[actix::test]
async fn whoever_lags_behind_a_word_does_not_say_who_is_calling_and_a_word_of_another_log_is_none() {
    let office = Office::with(admins());
    let (handed, request) = (office.sign_in(alice()), here("/"));
    let at = |epoch, position| Some(Mark { epoch, position });
    let unknown = async |known, presented| office.check_knowing(known, &request, presented).await.unwrap().unknown;
    assert_eq!(unknown(at(EPOCH, 10), Some(handed.clone())).await, None);
    let checked = office.check_knowing(at(EPOCH, 11), &request, Some(handed.clone())).await.unwrap();
    assert_eq!(checked.unknown, Some(CannotSay::Behind));
    assert_eq!(taken(&request, &checked).unwrap().err(), Some(RefusalKind::SignIn));
    assert_eq!(unknown(at(EPOCH, 11), None).await, None, "of nobody there is nothing to be known");
    // a log was put in the place of another: positions of the one say nothing of the other
    let other = Epoch::new(Uuid::from_u128(6));
    assert_eq!(unknown(at(other, 1000), Some(handed.clone())).await, None);
    let hers = permit(Some(alice().id));
    assert_eq!(office.again_knowing(Mark { epoch: other, position: 1000 }, vec![hers]).await, [Ok(true)]);
    // it catches up while it is asked
    let catching_up = async { office.views.read_to(EPOCH, 11, clock::now()) };
    let (unknown, ()) = futures_util::future::join(unknown(at(EPOCH, 11), Some(handed)), catching_up).await;
    assert_eq!(unknown, None);
}

#[actix::test]
async fn an_answer_names_the_headers_that_no_client_may_set_by_the_file_that_it_was_made_with() {
    let office = Office::configured(admins(), clock::now(), |config| {
        config.jwt_claims_headers = vec![(http::HeaderName::from_static("x-email"), "email".into())];
    });
    let (handed, request) = (office.sign_in(alice()), here("/"));
    let checked = office.check(&request, Some(handed)).await.unwrap();
    let permit = taken(&request, &checked).unwrap().unwrap();
    assert_eq!(permit.claims_headers_told(), ["x-email"]);

    // a proxy whose own file names another one
    let mut own = config(&[]);
    own.jwt_claims_headers = vec![(http::HeaderName::from_static("x-name"), "name".into())];
    let managed = crate::request::hygiene::Managed::of(&own);
    let mut headers = http::HeaderMap::new();
    for (name, value) in [("x-email", "root"), ("x_email", "root"), ("x-mail", "a"), ("accept", "b")] {
        headers.insert(http::HeaderName::from_static(name), value.parse().unwrap());
    }
    assert_eq!(managed.bar_also(permit.claims_headers_told(), &mut headers).map(|name| name.as_str()), Some("x-email"));
    let left: std::collections::BTreeSet<_> = headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(left.into_iter().collect::<Vec<_>>(), ["accept", "x-mail"]);
    let same = crate::request::hygiene::Managed::of(&{
        own.jwt_claims_headers = vec![(http::HeaderName::from_static("x-email"), "email".into())];
        own
    });
    assert_eq!(same.bar_also(permit.claims_headers_told(), &mut headers), None, "the files agree");
    let mut odd = checked;
    odd.claims_headers.push("x y".into());
    assert_eq!(taken(&request, &odd).err(), Some(Mismatch::Header));
}

#[actix::test]
async fn views_that_are_too_old_for_the_route_let_nobody_in_and_say_so() {
    let office = Office::as_of(Route { max_staleness: Staleness::STRICT, ..admins() }, clock::now().minus(LONG));
    let (handed, request) = (office.sign_in(alice()), here("/"));
    let checked = office.check(&request, Some(handed)).await.unwrap();
    assert_eq!(checked.unknown, Some(CannotSay::Stale));
    assert_eq!(taken(&request, &checked).unwrap().err(), Some(RefusalKind::SignIn));
    assert_eq!(office.again(10, vec![permit(Some(alice().id))]).await, [Err(CannotSay::Stale)]);
    assert!(checked.log().age() >= LONG);
}

#[actix::test]
async fn pages_are_told_whose_session_it_is_and_by_which_keys_it_is_signed_for() {
    let office = Office::with(admins());
    let handed = office.sign_in(alice());
    let port = Port::new(office.checker.clone(), 8, LONG);
    for who in [Who::Handed(handed), Who::Session(alice().id)] {
        let view = port.ask(who).await.unwrap().unwrap().unwrap();
        assert_eq!((view.user.as_str(), view.groups.len()), ("alice", 2));
    }
    assert_eq!(port.ask(Who::Session(SessionId::new(Uuid::nil()))).await, Ok(Ok(None)));
    let keys = Port::new(office.checker, 8, LONG).ask(Keys).await.unwrap();
    assert!(keys.contains("\"keys\""), "{keys}");
}

#[actix::test]
async fn what_was_told_elsewhere_stands_until_it_is_called_void_or_is_too_old() {
    let office = Office::with(admins());
    let handed = office.sign_in(alice());
    let request = here("/");
    let checked = office.check(&request, Some(handed)).await.unwrap();
    let asked_at = clock::now();
    let route = Route { max_staleness: Staleness::STRICT, ..admins() };
    let described = Rc::new(Described::of(&request));
    let admitted =
        |now| admit(Rc::clone(&request), Rc::clone(&described), Arc::new(route.clone()), &checked, (asked_at, now));
    let late = asked_at.plus(Duration::from_secs(3));
    assert_eq!(admitted(late).err(), Some(Mismatch::Late), "an answer that lay about is none");
    let (ended, unbounded) =
        (checked.session().unwrap().expires_at, Route { max_staleness: Staleness::Unbounded, ..admins() });
    let over = admit(Rc::clone(&request), Rc::clone(&described), Arc::new(unbounded), &checked, (asked_at, ended));
    assert_eq!(over.err(), Some(Mismatch::Late), "the session has ended since");
    let (_, outcome) = admitted(asked_at).unwrap();
    let mut standing = outcome.unwrap().standing();
    let (policies, views) = (Policies::of(std::slice::from_ref(&route)), Views::default());
    let holds = |standing: &mut super::super::Standing, at| standing.holds(&policies, 0, &route, &views, at);
    assert!(holds(&mut standing, asked_at));
    assert!(!holds(&mut standing, asked_at.plus(Duration::from_secs(3))), "nobody has said yes for too long");

    let later = |secs: u64| asked_at.plus(Duration::from_secs(secs));
    let due = |standing: &mut super::super::Standing, at: Time| standing.due(at).is_some();
    assert!(due(&mut standing, asked_at) && !due(&mut standing, asked_at), "asked once at a time");
    assert!(due(&mut standing, later(1)), "and again well within its bound");
    standing.hear(&Err(CannotSay::Stale), later(3));
    assert!(!holds(&mut standing, later(3)), "who cannot say prolongs nothing");
    let yes = office.again(10, vec![permit(Some(alice().id))]).await;
    assert_eq!(yes, [Ok(true)]);
    let still = super::super::check::StillHeld { holds: true, age: Duration::ZERO };
    standing.hear(&Ok(still), later(3));
    assert!(holds(&mut standing, later(4)));
    standing.doubt();
    assert!(due(&mut standing, later(4)), "a word makes it due at once");
    standing.hear(&Ok(super::super::check::StillHeld { holds: false, ..still }), later(4));
    assert!(!holds(&mut standing, later(4)) && !due(&mut standing, later(9)), "void once, void for ever");
}
