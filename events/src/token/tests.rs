use uuid::Uuid;

use super::*;

const BEGAN: Time = Time::from_secs(1000);
const ENDS: Time = Time::from_secs(1300);
const LEAD: Duration = Duration::from_secs(60);
const LEAST: Duration = Duration::from_secs(10);

fn stored(generation: u32) -> Stored {
    Stored { generation, access_expires_at: Some(ENDS), refreshable: true }
}

fn attempt(n: u128) -> EventId {
    EventId::new(Uuid::from_u128(n))
}

fn intent(generation: u32, n: u128) -> RefreshStarted {
    RefreshStarted { generation, attempt: attempt(n), deadline: Time::from_secs(1345) }
}

fn started(generation: u32, n: u128) -> Event {
    Event::RefreshStarted(intent(generation, n))
}

fn failed(n: u128, class: FailureClass) -> RefreshFailed {
    RefreshFailed { generation: 1, attempt: attempt(n), class, retry_at: Time::from_secs(1250) }
}

fn refreshed(generation: u32) -> Refreshed {
    Refreshed {
        generation,
        refreshed_at: Time::from_secs(1240),
        access_expires_at: Some(Time::from_secs(1540)),
        refreshable: true,
    }
}

fn doubt(n: u128) -> LeftInDoubt {
    LeftInDoubt { generation: 1, attempt: attempt(n) }
}

/// What the tokens are after these events.
fn given(events: &[Event]) -> State {
    events.iter().fold(State::Absent, evolve)
}

fn start(state: &State, generation: u32, n: u128, at: i64) -> Result<Option<Event>, Refusal> {
    decide(state, &Command::Start { intent: intent(generation, n), at: Time::from_secs(at) })
}

fn owed(events: &[Event], now: i64) -> Option<Owed> {
    match given(events) {
        State::Held(held) => held.owed(BEGAN, LEAD, LEAST, Time::from_secs(now)),
        State::Absent => None,
    }
}

fn held(state: &State) -> Held {
    match state {
        State::Held(held) => *held,
        State::Absent => panic!("no tokens"),
    }
}

#[test]
fn the_first_tokens_have_generation_one() {
    assert_eq!(decide(&State::Absent, &Command::Store(stored(2))), Err(Refusal::NotFirst));
    let event = decide(&State::Absent, &Command::Store(stored(1))).unwrap().unwrap();
    assert_eq!(held(&given(&[event])).stored, stored(1));
}

#[test]
fn the_same_generation_is_stored_once() {
    assert_eq!(decide(&given(&[Event::Stored(stored(1))]), &Command::Store(stored(1))), Ok(None));
}

#[test]
fn a_generation_never_goes_back() {
    let state = given(&[Event::Stored(stored(3)), Event::Stored(stored(2)), Event::Refreshed(refreshed(3))]);
    assert_eq!(held(&state).stored, stored(3));
}

#[test]
fn a_generation_that_was_started_is_started_by_nobody_else() {
    let state = given(&[Event::Stored(stored(1)), started(1, 7)]);
    assert_eq!(start(&state, 1, 8, 2000), Err(Refusal::AlreadyStarted));
    // whoever asks again for the claim it has, has it
    assert_eq!(start(&state, 1, 7, 2000), Ok(None));
}

#[test]
fn only_the_generation_in_the_vault_is_started_and_only_with_a_refresh_token() {
    let state = given(&[Event::Stored(stored(1))]);
    assert_eq!(start(&state, 1, 7, 1240), Ok(Some(started(1, 7))));
    assert_eq!(start(&state, 2, 7, 1240), Err(Refusal::OtherGeneration));
    let without = given(&[Event::Stored(Stored { refreshable: false, ..stored(1) })]);
    assert_eq!(start(&without, 1, 7, 1240), Err(Refusal::NotRefreshable));
    assert_eq!(start(&State::Absent, 1, 7, 1240), Err(Refusal::NotRefreshable));
    let next = given(&[Event::Stored(stored(1)), started(1, 7), Event::Refreshed(refreshed(2))]);
    assert_eq!(start(&next, 1, 8, 1240), Err(Refusal::OtherGeneration));
    assert_eq!(start(&next, 2, 8, 1240), Ok(Some(started(2, 8))));
}

#[test]
fn what_was_not_spent_is_started_again_but_not_too_early() {
    for class in [FailureClass::NotSent, FailureClass::Unavailable, FailureClass::Rejected] {
        let before = given(&[Event::Stored(stored(1)), started(1, 7)]);
        let event = decide(&before, &Command::Fail(failed(7, class))).unwrap().unwrap();
        let state = evolve(before, &event);
        assert_eq!(held(&state).failures, 1);
        assert_eq!(start(&state, 1, 8, 1249), Err(Refusal::TooEarly), "{class:?}");
        assert_eq!(start(&state, 1, 8, 1250), Ok(Some(started(1, 8))), "{class:?}");
    }
}

#[test]
fn what_may_have_been_spent_is_never_started_again() {
    let before = given(&[Event::Stored(stored(1)), started(1, 7)]);
    let event = decide(&before, &Command::LeaveInDoubt(doubt(7))).unwrap().unwrap();
    let state = evolve(before, &event);
    assert_eq!(start(&state, 1, 8, i64::MAX), Err(Refusal::MaybeSpent));
    assert_eq!(start(&state, 1, 7, i64::MAX), Err(Refusal::MaybeSpent));
    assert_eq!(decide(&state, &Command::LeaveInDoubt(doubt(7))), Ok(None));
    assert_eq!(decide(&state, &Command::Fail(failed(7, FailureClass::NotSent))), Err(Refusal::NoSuchAttempt));
}

#[test]
fn an_answer_that_turns_up_late_ends_the_doubt() {
    let state = given(&[Event::Stored(stored(1)), started(1, 7), Event::LeftInDoubt(doubt(7))]);
    let event = decide(&state, &Command::Complete(refreshed(2))).unwrap().unwrap();
    let state = evolve(state, &event);
    assert_eq!(held(&state).renewal, Renewal::Idle(None));
    assert_eq!(decide(&state, &Command::Complete(refreshed(2))), Ok(None));
}

#[test]
fn nothing_is_completed_that_was_not_started() {
    let state = given(&[Event::Stored(stored(1))]);
    assert_eq!(decide(&state, &Command::Complete(refreshed(2))), Err(Refusal::NoSuchAttempt));
    let state = given(&[Event::Stored(stored(1)), started(1, 7)]);
    assert_eq!(decide(&state, &Command::Complete(refreshed(3))), Err(Refusal::OtherGeneration));
}

#[test]
fn an_attempt_says_nothing_of_another() {
    let state = given(&[Event::Stored(stored(1)), started(1, 7)]);
    assert_eq!(decide(&state, &Command::Fail(failed(8, FailureClass::NotSent))), Err(Refusal::NoSuchAttempt));
    assert_eq!(decide(&state, &Command::LeaveInDoubt(doubt(8))), Err(Refusal::NoSuchAttempt));
}

#[test]
fn a_refresh_is_due_a_minute_before_the_access_token_ends() {
    let tokens = [Event::Stored(stored(1))];
    assert_eq!(owed(&tokens, 1239), None);
    let due = Time::from_secs(1240);
    assert_eq!(owed(&tokens, 1240), Some(Owed::Refresh { generation: 1, failures: 0, due }));
}

#[test]
fn a_short_access_token_is_used_for_three_quarters_of_its_life() {
    let ends = Some(Time::from_secs(1040));
    let tokens = [Event::Stored(Stored { access_expires_at: ends, ..stored(1) })];
    assert_eq!(owed(&tokens, 1029), None);
    assert!(owed(&tokens, 1030).is_some());
    // the next one's life begins when it was asked for
    let short = Refreshed { access_expires_at: Some(Time::from_secs(1280)), ..refreshed(2) };
    let tokens = [Event::Stored(stored(1)), started(1, 7), Event::Refreshed(short)];
    assert_eq!(owed(&tokens, 1269), None);
    assert!(owed(&tokens, 1270).is_some());
}

#[test]
fn nothing_is_owed_to_tokens_that_cannot_be_renewed_or_do_not_end() {
    assert_eq!(owed(&[Event::Stored(Stored { refreshable: false, ..stored(1) })], i64::MAX / 2000), None);
    assert_eq!(owed(&[Event::Stored(Stored { access_expires_at: None, ..stored(1) })], i64::MAX / 2000), None);
}

#[test]
fn an_attempt_is_settled_after_its_deadline_alone() {
    let tokens = [Event::Stored(stored(1)), started(1, 7)];
    assert_eq!(owed(&tokens, 1344), None);
    assert_eq!(owed(&tokens, 1345), Some(Owed::Settle { intent: intent(1, 7), failures: 0 }));
}

#[test]
fn doubt_ends_a_session_when_its_access_token_ends_and_invalid_grant_at_once() {
    let tokens = [Event::Stored(stored(1)), started(1, 7), Event::LeftInDoubt(doubt(7))];
    assert_eq!(owed(&tokens, 1299), None);
    assert_eq!(owed(&tokens, 1300), Some(Owed::End { generation: 1, due: ENDS }));
    let over = Event::RefreshFailed(failed(7, FailureClass::InvalidGrant));
    let tokens = [Event::Stored(stored(1)), started(1, 7), over];
    assert_eq!(owed(&tokens, 1241), Some(Owed::End { generation: 1, due: Time::from_secs(1241) }));
    assert_eq!(start(&given(&tokens), 1, 8, 2000), Err(Refusal::Over));
}

#[test]
fn a_token_of_a_few_seconds_is_not_renewed_every_few_seconds() {
    // (its life, when it is renewed after it was given)
    for (life, after) in [(0, 10), (1, 10), (5, 10), (13, 10), (16, 12), (40, 30), (300, 240)] {
        let ends = |began: i64| Some(Time::from_secs(began + life));
        let first = Event::Stored(Stored { access_expires_at: ends(1000), ..stored(1) });
        assert_eq!(owed(std::slice::from_ref(&first), 999 + after), None, "{life}");
        assert!(owed(std::slice::from_ref(&first), 1000 + after).is_some(), "{life}");
        let next = Event::Refreshed(Refreshed {
            refreshed_at: Time::from_secs(2000),
            access_expires_at: ends(2000),
            ..refreshed(2)
        });
        let events = [first, started(1, 7), next];
        assert_eq!(owed(&events, 1999 + after), None, "{life}");
        assert!(owed(&events, 2000 + after).is_some(), "{life}");
    }
}
