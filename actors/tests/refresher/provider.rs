//! The refresher at a real HTTP provider that answers as it is told.

use std::rc::Rc;

use actix::Actor;
use portcullis_actors::authenticate::provider::{Begin, Provider, Redeem};
use portcullis_actors::databroker::store;
use portcullis_actors::idp::{Identity, RenewalClient};
use portcullis_config::Storage;
use portcullis_config::limits::{IDP_GROUPS, RETRY_AFTER_MOST};
use portcullis_events::{SessionId, token};
use portcullis_harness::idp::{Mischief, Person, Refreshing, ScriptedIdp};
use url::Url;

use super::node::{Clock, Node, counted};
use super::registration;

pub fn authenticate() -> Url {
    Url::parse("https://authenticate.example").unwrap()
}

async fn signed_in(idp: &ScriptedIdp) -> Identity {
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let provider = Provider::new(registration::at(idp), authenticate()).start();
    let begin = Begin { state: "state".into(), nonce: "nonce".into(), verifier: verifier.into() };
    let back = idp.authorize(&provider.send(begin).await.unwrap().unwrap()).unwrap();
    let parameter = |name: &str| back.query_pairs().find(|(have, _)| have == name).map(|(_, value)| value.into_owned());
    let (code, iss) = (parameter("code").unwrap(), parameter("iss"));
    let redeem = Redeem { code, verifier: verifier.into(), nonce: "nonce".into(), iss };
    provider.send(redeem).await.unwrap().unwrap()
}

struct World {
    idp: ScriptedIdp,
    node: Node,
    session: SessionId,
    _dir: tempfile::TempDir,
}

impl World {
    /// A provider whose access tokens live for 300 s, and alice with a session.
    async fn new() -> Self {
        let idp = ScriptedIdp::start();
        let dir = tempfile::tempdir().unwrap();
        let store = store::open(&Storage::File(None), dir.path()).await.unwrap();
        let client = Rc::new(RenewalClient::new(registration::at(&idp), authenticate()));
        let node = Node::start(store, client, Clock::new()).await;
        let session = node.sign_in(signed_in(&idp).await).await;
        node.clock.set();
        idp.forget_requests();
        Self { idp, node, session, _dir: dir }
    }

    fn asked(&self, path: &str) -> usize {
        self.idp.requests().iter().filter(|seen| seen.path == path).count()
    }

    async fn generation(&self) -> u32 {
        self.node.tokens(self.session).await.stored.generation
    }
}

#[actix_rt::test]
async fn an_access_token_is_renewed_before_it_ends_and_nobody_notices() {
    let world = World::new().await;
    let before = world.node.views.session(world.session).unwrap();
    let sealed = world.node.sealed(world.session).await;
    world.node.after(200).await;
    assert_eq!(world.asked("/token"), 0);
    world.node.after(40).await;
    assert_eq!((world.asked("/token"), world.generation().await), (1, 2));
    assert_ne!(world.node.sealed(world.session).await, sealed);
    // the same claims make no event: what was signed for this session stays good
    assert_eq!(world.node.views.session(world.session).unwrap(), before);
    world.node.look().await;
    assert_eq!(world.asked("/token"), 1);
    assert_eq!(world.idp.reuses(), 0);
}

#[actix_rt::test]
async fn claims_are_replaced_whole_so_that_one_that_went_away_is_gone() {
    let world = World::new().await;
    let before = world.node.views.session(world.session).unwrap();
    assert!(before.claims.contains_key("email_verified"));
    let groups = vec!["staff".to_owned()];
    world.idp.set_person(Person { groups, name: "Alice Other".into(), email_verified: None, ..Person::default() });
    world.node.after(240).await;
    let after = world.node.views.session(world.session).unwrap();
    assert_eq!((after.groups.as_slice(), after.name.as_deref()), (&["staff".to_owned()][..], Some("Alice Other")));
    assert!(!after.claims.contains_key("email_verified"));
    assert!(after.seq > before.seq, "what was signed from the old claims must not be used again");
    assert_eq!((after.issued_at, after.expires_at, after.person), (before.issued_at, before.expires_at, before.person));
    assert!(world.node.is_open(world.session).await);
    world.idp.set_person(Person { groups: vec![], ..Person::default() });
    world.node.after(240).await;
    assert!(world.node.views.session(world.session).unwrap().groups.is_empty());
    assert_eq!(counted(&world.node.tally.claims_replaced), 2);
}

#[actix_rt::test]
async fn a_session_that_is_renewed_keeps_the_name_that_its_provider_ends_it_by() {
    let world = World::new().await;
    let sid = |world: &World| world.node.views.session(world.session).unwrap().claims.get("sid").cloned();
    let before = sid(&world);
    assert!(before.is_some());
    // OpenID Connect Core §12.2 asks for no sid in a renewed ID token
    for name in ["Alice Other", "Alice Third"] {
        world.idp.set_person(Person { sid: String::new(), name: name.into(), ..Person::default() });
        world.node.after(240).await;
        assert_eq!(world.node.views.session(world.session).unwrap().name.as_deref(), Some(name));
        assert_eq!(sid(&world), before, "a logout of this session would not find it");
    }
}

#[actix_rt::test]
async fn claims_that_are_more_than_a_session_can_carry_end_it_and_do_not_keep_the_old_ones() {
    for large in [Some(Mischief::UserInfoLarge), Some(Mischief::UserInfoHuge), None] {
        let world = World::new().await;
        match large {
            Some(mischief) => world.idp.set(mischief),
            None => {
                let groups = (0..=IDP_GROUPS).map(|n| format!("g{n}")).collect();
                world.idp.set_person(Person { groups, ..Person::default() });
            }
        }
        world.node.after(240).await;
        assert!(!world.node.is_open(world.session).await, "{large:?}");
    }
    // a provider that has trouble says nothing of anybody, whatever page it shows
    for trouble in [Mischief::UserInfoDown, Mischief::UserInfoHugePage] {
        let world = World::new().await;
        world.idp.set(trouble);
        world.node.after(240).await;
        assert!(world.node.is_open(world.session).await, "{trouble:?}");
    }
}

#[actix_rt::test]
async fn user_info_is_asked_for_every_ten_minutes_with_a_refresh_token_or_without() {
    let idp = ScriptedIdp::start();
    idp.set_access_life(7200);
    let dir = tempfile::tempdir().unwrap();
    let store = store::open(&Storage::File(None), dir.path()).await.unwrap();
    let client = Rc::new(RenewalClient::new(registration::at(&idp), authenticate()));
    let node = Node::start(store, client, Clock::new()).await;
    let mut identity = signed_in(&idp).await;
    identity.tokens.refresh = None;
    let session = node.sign_in(identity).await;
    idp.forget_requests();
    idp.set_person(Person { groups: vec!["new".into()], ..Person::default() });
    for _ in 0..120 {
        node.after(5).await;
    }
    assert_eq!(node.views.session(session).unwrap().groups, ["new"]);
    let asked = |path: &str| idp.requests().iter().filter(|seen| seen.path == path).count();
    assert_eq!((asked("/userinfo"), asked("/token")), (1, 0));
    // an access token that has ended asks nobody, and ends nothing
    for _ in 0..8 {
        node.after(900).await;
    }
    idp.forget_requests();
    node.after(900).await;
    assert_eq!(asked("/userinfo"), 0);
    assert!(node.is_open(session).await);
}

#[actix_rt::test]
async fn a_provider_that_is_down_for_ten_minutes_signs_nobody_out_and_is_not_stormed() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::Down);
    world.node.clock.wind(240);
    for _ in 0..120 {
        world.node.after(5).await;
    }
    let asked = world.asked("/token");
    assert!((4..10).contains(&asked), "{asked}");
    assert!(world.node.is_open(world.session).await);
    world.idp.set_refreshing(Refreshing::Rotates);
    world.node.after(300).await;
    assert_eq!((world.generation().await, world.idp.reuses()), (2, 0));
}

#[actix_rt::test]
async fn a_provider_that_is_gone_was_sent_nothing() {
    let world = World::new().await;
    world.node.after(240).await;
    let World { idp, node, session, _dir } = world;
    drop(idp);
    node.after(240).await;
    let held = node.tokens(session).await;
    assert!(matches!(held.renewal, token::Renewal::Idle(Some(_))), "{held:?}");
    assert_eq!(counted(&node.tally.not_sent), 1);
    assert!(node.is_open(session).await);
}

#[actix_rt::test]
async fn a_provider_that_answers_and_dies_is_never_sent_the_same_token_again() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::Dies);
    world.node.after(240).await;
    assert!(matches!(world.node.tokens(world.session).await.renewal, token::Renewal::InDoubt(_)));
    world.idp.set_refreshing(Refreshing::Rotates);
    world.node.after(30).await;
    assert!(world.node.is_open(world.session).await);
    world.node.after(30).await;
    assert!(!world.node.is_open(world.session).await);
    assert_eq!((world.asked("/token"), world.idp.reuses()), (1, 0));
}

#[actix_rt::test]
async fn an_answer_that_comes_twice_counts_once() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::AnswersTwice);
    world.node.after(240).await;
    world.node.after(240).await;
    assert_eq!((world.generation().await, world.asked("/token"), world.idp.reuses()), (3, 2, 0));
}

#[actix_rt::test]
async fn invalid_grant_ends_the_session_at_once() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::Refuses);
    let mut ended = world.node.views.changes();
    world.node.after(240).await;
    assert_eq!(ended.try_recv().unwrap().session, world.session);
    assert!(!world.node.is_open(world.session).await);
    assert_eq!(world.node.sealed(world.session).await, None);
    world.node.after(600).await;
    assert_eq!(world.asked("/token"), 1);
}

#[actix_rt::test]
async fn a_client_secret_that_is_being_rotated_signs_nobody_out() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::DoesNotKnowUs);
    world.node.after(240).await;
    world.node.after(60).await;
    assert_eq!(counted(&world.node.tally.rejected), 2);
    assert!(world.node.is_open(world.session).await);
    world.idp.set_refreshing(Refreshing::Rotates);
    world.node.after(60).await;
    assert_eq!((world.generation().await, world.idp.reuses()), (2, 0));
}

#[actix_rt::test]
async fn tokens_of_another_person_end_the_session() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::OfAnotherPerson);
    world.node.after(240).await;
    assert!(!world.node.is_open(world.session).await);
    assert_eq!(world.node.sealed(world.session).await, None);
}

#[actix_rt::test]
async fn a_renewed_id_token_that_is_forged_is_not_believed_and_the_tokens_are_kept_all_the_same() {
    let world = World::new().await;
    let before = world.node.views.session(world.session).unwrap();
    world.idp.set_refreshing(Refreshing::Forges);
    world.node.after(240).await;
    assert_eq!(world.node.views.session(world.session).unwrap(), before);
    world.idp.set_refreshing(Refreshing::RotatesWithoutIdToken);
    world.node.after(240).await;
    assert_eq!((world.generation().await, world.idp.reuses()), (3, 0));
    assert!(world.node.is_open(world.session).await);
}

#[actix_rt::test]
async fn a_rotated_token_is_kept_when_user_info_fails_and_the_claims_stay() {
    let world = World::new().await;
    let before = world.node.views.session(world.session).unwrap();
    world.idp.set_person(Person { groups: vec![], ..Person::default() });
    for (mischief, generation) in [(Mischief::UserInfoDown, 2), (Mischief::UserInfoOther, 3)] {
        world.idp.set(mischief);
        world.node.after(240).await;
        assert_eq!(world.generation().await, generation, "{mischief:?}");
        assert_eq!(world.node.views.session(world.session).unwrap(), before, "{mischief:?}");
    }
    world.idp.set(Mischief::None);
    world.node.after(240).await;
    assert!(world.node.views.session(world.session).unwrap().groups.is_empty());
    assert_eq!(world.idp.reuses(), 0);
}

#[actix_rt::test]
async fn a_provider_that_asks_to_be_left_alone_is_and_not_for_ever() {
    let world = World::new().await;
    world.idp.set_refreshing(Refreshing::Busy(40));
    world.node.after(240).await;
    assert_eq!(world.asked("/token"), 1);
    // without its word it would be asked again within ten seconds
    world.node.after(39).await;
    assert_eq!(world.asked("/token"), 1);
    world.idp.set_refreshing(Refreshing::Busy(1_000_000_000));
    world.node.after(1).await;
    assert_eq!(world.asked("/token"), 2);
    world.idp.set_refreshing(Refreshing::Rotates);
    world.node.after(RETRY_AFTER_MOST.as_secs() - 1).await;
    assert_eq!(world.asked("/token"), 2);
    world.node.after(1).await;
    assert_eq!((world.asked("/token"), world.generation().await), (3, 2));
    assert!(world.node.is_open(world.session).await);
}
