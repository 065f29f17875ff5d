use std::time::Duration;

use portcullis_config::limits::{REFRESH_LOOK, REFRESH_TAKEOVER};
use portcullis_events::{
    Aggregate, Context as Cause, Envelope, Epoch, Event, EventId, PersonId, Sealed, log, session, token,
};
use uuid::Uuid;

use super::super::schedule::{Nodes, What};
use super::*;

const IDP: &str = "idp";
const BEGAN: Time = Time::from_secs(1_000_000);

fn id(n: u32) -> SessionId {
    // the low bits of a random id are random
    SessionId::new(Uuid::from_u128(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)))
}

/// A log that is folded as it is written.
struct World {
    fold: RefCell<Fold>,
    agenda: RefCell<Agenda>,
    epoch: Epoch,
}

impl World {
    fn new() -> Self {
        let world =
            Self { fold: RefCell::default(), agenda: RefCell::default(), epoch: Epoch::new(Uuid::from_u128(1)) };
        world.append(Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch: world.epoch })));
        world
    }

    fn append(&self, aggregate: Aggregate, event: Event) {
        let mut fold = self.fold.borrow_mut();
        let envelope = Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: "/test".into(),
            aggregate,
            time: BEGAN,
            context: Cause { actor: "test".into(), cause: None, traceparent: None },
            epoch: self.epoch,
            prev: fold.tip(aggregate).map(|tip| tip.hash),
            event,
        };
        let body = envelope.encode().unwrap();
        let next = fold.applied() + 1;
        fold.apply(next, &aggregate.subject(), &body).unwrap();
        self.agenda.borrow_mut().touch(SessionId::new(aggregate.id));
    }

    /// A session whose access token ends at this time.
    fn begin(&self, id: SessionId, ends: Time) {
        let stored = token::Stored { generation: 1, access_expires_at: Some(ends), refreshable: true };
        self.append(Aggregate::token(id), Event::Token(token::Event::Stored(stored)));
        let signed_in = session::SignedIn {
            person: PersonId::new(Uuid::from_u128(7)),
            idp: IDP.into(),
            profile: Sealed::new("sealed".into()),
            issued_at: BEGAN,
            expires_at: BEGAN.plus(Duration::from_secs(1_000_000)),
            provider_session: None,
        };
        self.append(Aggregate::session(id), Event::Session(session::Event::SignedIn(signed_in)));
    }

    async fn owed(&self, at: Time, nodes: &Nodes) -> Vec<Due> {
        let (nodes, looked) = (nodes.clone(), at.minus(REFRESH_LOOK));
        let look = WhatIsOwed { idp: IDP.into(), nodes, began: BEGAN, looked, now: at };
        gather(&look, &self.agenda, &self.fold).await
    }

    /// Those whose tokens are to be refreshed.
    async fn refreshes(&self, at: Time, nodes: &Nodes) -> Vec<SessionId> {
        let owed = self.owed(at, nodes).await.into_iter();
        owed.filter(|due| matches!(due.what, What::Tokens(token::Owed::Refresh { .. })))
            .map(|due| due.session)
            .collect()
    }
}

fn at(seconds: u64) -> Time {
    BEGAN.plus(Duration::from_secs(seconds))
}

fn alone() -> Nodes {
    Nodes::alone("a".into())
}

#[actix_rt::test]
async fn what_falls_due_comes_again_until_it_is_done() {
    let world = World::new();
    for (n, ends) in [(1, 500), (2, 400), (3, 9000)] {
        world.begin(id(n), at(ends));
    }
    assert!(world.refreshes(at(100), &alone()).await.is_empty());
    assert_eq!(world.refreshes(at(345), &alone()).await, [id(2)]);
    assert_eq!(world.refreshes(at(445), &alone()).await.len(), 2);
    assert_eq!(world.refreshes(at(450), &alone()).await.len(), 2, "nothing was done");
    let refreshed =
        token::Refreshed { generation: 2, refreshed_at: at(450), access_expires_at: Some(at(900)), refreshable: true };
    world.append(Aggregate::token(id(2)), Event::Token(token::Event::Refreshed(refreshed)));
    assert_eq!(world.refreshes(at(455), &alone()).await, [id(1)]);
    assert!(world.refreshes(at(841), &alone()).await.contains(&id(2)), "its next generation");
    world.append(Aggregate::session(id(1)), Event::Session(session::Event::SignedOut(session::SignedOut {})));
    assert_eq!(world.refreshes(at(850), &alone()).await, [id(2)]);
}

#[actix_rt::test]
async fn another_nodes_sessions_are_left_to_it_for_a_while() {
    let (world, nodes) = (World::new(), Nodes::among("a".into(), vec!["b".into()]));
    let (mine, other) = ((1..).map(id).find(|id| nodes.is_first(*id)), (1..).map(id).find(|id| !nodes.is_first(*id)));
    let (mine, other) = (mine.unwrap(), other.unwrap());
    world.begin(mine, at(400));
    world.begin(other, at(400));
    assert_eq!(world.refreshes(at(340), &nodes).await, [mine]);
    assert!(!world.refreshes(at(359), &nodes).await.contains(&other));
    assert!(world.refreshes(at(340).plus(REFRESH_TAKEOVER), &nodes).await.contains(&other));
}

#[actix_rt::test]
async fn a_look_examines_what_is_due_and_not_what_there_is() {
    const SESSIONS: u32 = 50_000;
    let world = World::new();
    for n in 1..=SESSIONS {
        world.begin(id(n), at(3600 + u64::from(n % 3600)));
    }
    // the first look enters all of them, wherever they belong
    world.owed(at(1), &alone()).await;
    let entries = world.agenda.borrow().entries.clone();
    assert_eq!(entries.len(), usize::try_from(SESSIONS).unwrap());
    assert!(entries.first().unwrap().0 > at(1));
    // five seconds bring so many of them a look at their claims, and leave the others where they are
    let owed = world.owed(at(6), &alone()).await;
    assert!((300..600).contains(&owed.len()), "{}", owed.len());
    let moved = world.agenda.borrow().entries.difference(&entries).count();
    assert_eq!(moved, owed.len());
}

#[actix_rt::test]
async fn sessions_that_cannot_be_helped_keep_nobody_else_from_their_turn() {
    let world = World::new();
    let many = u32::try_from(REFRESH_BATCH).unwrap() + 10;
    for n in 1..=many {
        world.begin(id(n), at(400));
    }
    let mut seen: BTreeSet<_> = world.refreshes(at(341), &alone()).await.into_iter().collect();
    assert_eq!(seen.len(), REFRESH_BATCH);
    seen.extend(world.refreshes(at(346), &alone()).await);
    assert_eq!(seen.len(), usize::try_from(many).unwrap());
}
