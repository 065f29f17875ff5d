//! Two nodes on one log, both of the opinion that everything is theirs to do, while they and their provider die.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_config::Storage;
use portcullis_events::token::{self, Renewal};

use super::node::{Clock, Node, counted, identity};
use super::rotating::{Deal, Fate, LIFE, Mortal, Rotating, Seen};

const SESSIONS: usize = 100;
const ROUNDS: usize = 60;

/// Deals fates from a seed: most are good.
fn dealt(seed: u64) -> Deal {
    let mut chance = fastrand::Rng::with_seed(seed);
    Box::new(move || match chance.u8(..100) {
        0..=5 => Fate::NotSent,
        6..=11 => Fate::Unavailable,
        12 => Fate::Lost,
        13 => Fate::DiesBeforeTheCall,
        14 => Fate::DiesBeforeTheAnswer,
        15 => Fate::DiesBeforeTheVault,
        16..=18 => Fate::DiesBeforeTheLog,
        _ => Fate::Answered,
    })
}

/// A look that ends when it is done or when somebody dies over it; whose refresher it was is replaced then.
async fn look(node: &mut Node, vault: &Mortal) {
    let died = tokio::select! {
        () = node.look() => false,
        () = vault.death() => true,
    };
    if died {
        node.replace_refresher();
    }
}

#[actix_rt::test]
async fn two_refreshers_in_a_race_never_present_a_refresh_token_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = store::open(&Storage::File(None), dir.path()).await.unwrap();
    let vaults = [Mortal::new(Arc::clone(&store.vault)), Mortal::new(Arc::clone(&store.vault))];
    let clock = Clock::new();
    let provider = Rotating::new(dealt(7));
    let mut nodes = Vec::new();
    for vault in &vaults {
        let store = Store { vault: vault.clone(), ..store.clone() };
        let seen = Rc::new(Seen { provider: Rc::clone(&provider), vault: Arc::clone(vault) });
        // each believes that it is alone
        nodes.push(Node::among(store, seen, clock.clone(), Neighbours::of("me".into())).await);
    }
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let person = format!("person-{n}");
        let token = provider.give(&person);
        sessions.push((person.clone(), nodes[0].sign_in(identity(&person, &token, clock.now().plus(LIFE))).await));
    }
    for node in &nodes {
        node.catches_up().await;
    }
    let (mut a, mut b) = (nodes.remove(0), nodes.remove(0));
    for _ in 0..ROUNDS {
        clock.wind(40);
        futures_util::future::join(look(&mut a, &vaults[0]), look(&mut b, &vaults[1])).await;
        // whoever did not die gets done before the clock goes on: a minute without an outcome would be a death too
        for (node, vault) in [(&a, &vaults[0]), (&b, &vaults[1])] {
            node.is_left_to_the_dead(|| vault.deaths()).await;
        }
    }
    for node in [&a, &b] {
        node.catches_up().await;
    }

    let bereft = provider.bereft.borrow().clone();
    let mut generations = 0;
    let mut ended = 0;
    for (person, id) in &sessions {
        assert_eq!(a.views.session(*id).as_deref(), b.views.session(*id).as_deref());
        let held = a.told(*id).await;
        let known = a.known_tokens(*id).await;
        assert_eq!(known, b.known_tokens(*id).await);
        let is_open = a.views.session(*id).is_some();
        assert_eq!(known, if is_open { token::State::Held(held) } else { token::State::Absent });
        generations += held.stored.generation - 1;
        if a.views.session(*id).is_none() {
            ended += 1;
            assert!(
                bereft.contains(person),
                "{person} was signed out and had lost nothing: {held:?}, {} tokens presented twice",
                provider.reuses()
            );
            assert!(matches!(held.renewal, Renewal::InDoubt(_)), "{person}: {held:?}");
        }
    }
    let fates = provider.fates.borrow();
    let mut dealt: Vec<_> = fates.iter().collect();
    dealt.sort();
    let sum = |counter: fn(&Node) -> u64| counter(&a) + counter(&b);
    let recovered = sum(|node| counted(&node.tally.recovered));
    println!(
        "{SESSIONS} sessions, {generations} generations, {} tokens presented, {} of them twice; {} deaths, {} people \
         whose tokens were lost, {ended} sessions ended; {dealt:?}",
        provider.calls(),
        provider.reuses(),
        vaults.iter().map(|vault| vault.deaths()).sum::<usize>(),
        bereft.len(),
    );
    assert_eq!(provider.reuses(), 0);
    assert!(generations > 400 && recovered > 0 && ended > 0, "nothing was tried");
}
