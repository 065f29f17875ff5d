//! Questions and answers through a real server, between us, strangers and those who listen.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use portcullis_config::{NatsStorage, Secret, Services};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use super::served::{Leave, Served};
use super::{Link, envelope, subjects};
use crate::ask::{Ask, AskError, Port};
use crate::clock;
use crate::keyring::{Keyring, Purpose, Sealer};

const SUBJECT: &str = "portcullis.role.databroker.open";
const LONG: Duration = Duration::from_secs(30);
const HERE: Services = Services { proxy: true, authenticate: false, authorize: false, databroker: false };

#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "String")]
struct Greet(String);

impl Ask for Greet {
    type Answer = String;
}

struct Greeter(&'static str);

impl Actor for Greeter {
    type Context = Context<Self>;
}

impl Handler<Greet> for Greeter {
    type Result = String;

    fn handle(&mut self, Greet(whom): Greet, _: &mut Self::Context) -> String {
        format!("{} {whom}", self.0)
    }
}

/// Never answers.
struct Mute;

impl Actor for Mute {
    type Context = Context<Self>;
}

impl Handler<Greet> for Mute {
    type Result = actix::ResponseFuture<String>;

    fn handle(&mut self, _: Greet, _: &mut Self::Context) -> Self::Result {
        Box::pin(std::future::pending())
    }
}

/// Says that it was asked, and answers when it is told to.
struct Slow(Arc<Notify>, Arc<Semaphore>);

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<Greet> for Slow {
    type Result = actix::ResponseFuture<String>;

    fn handle(&mut self, Greet(whom): Greet, _: &mut Self::Context) -> Self::Result {
        let finish = Arc::clone(&self.1);
        self.0.notify_one();
        Box::pin(async move {
            finish.acquire().await.unwrap().forget();
            format!("at last {whom}")
        })
    }
}

fn sealer(byte: u8) -> Sealer {
    Keyring::new(vec![Secret::new(vec![byte; 32])]).unwrap().sealer(Purpose::Role).unwrap()
}

async fn link(server: &NatsServer, byte: u8) -> Link {
    Link::connect(&NatsStorage::at(vec![server.url()]), HERE, sealer(byte)).await.unwrap()
}

fn port(link: &Link, within: Duration) -> Port<Greet> {
    link.port(SUBJECT, 8, within, Some(within / 2))
}

async fn client(server: &NatsServer) -> Client {
    async_nats::connect(server.url().as_str()).await.unwrap()
}

async fn served(server: &NatsServer, byte: u8, word: &'static str) {
    let answering = Port::new(Greeter(word).start(), 8, LONG);
    Served::new(link(server, byte).await).line(SUBJECT, answering).present("databroker").start();
}

async fn answers(port: &Port<Greet>) -> String {
    eventually("an answer", LONG, async || Ok(port.ask(Greet("you".into())).await.ok())).await.unwrap()
}

#[actix::test]
async fn a_question_is_answered_by_one_of_those_who_take_turns_and_outlives_one_that_leaves() {
    let server = NatsServer::start().unwrap();
    for word in ["hello", "good day"] {
        served(&server, 1, word).await;
    }
    let port = port(&link(&server, 1).await, LONG);
    let mut words = std::collections::BTreeSet::new();
    for _ in 0..200 {
        words.insert(answers(&port).await);
    }
    assert_eq!(words.into_iter().collect::<Vec<_>>(), ["good day you", "hello you"]);
}

#[actix::test]
async fn a_question_that_nobody_takes_says_so_and_one_that_is_not_answered_is_late() {
    let server = NatsServer::start().unwrap();
    let link = link(&server, 1).await;
    let short: Port<Greet> = link.port(SUBJECT, 8, Duration::from_millis(300), None);
    assert_eq!(short.ask(Greet("you".into())).await, Err(AskError::Away));
    let answering = Port::new(Mute.start(), 1, LONG);
    Served::new(link.clone()).line(SUBJECT, answering).start();
    let look = async || Ok((short.ask(Greet("you".into())).await == Err(AskError::Late)).then_some(()));
    eventually("it is taken and not answered", LONG, look).await.unwrap();
    // its only place is taken for as long as nobody answers there
    let look = async || Ok((port(&link, LONG).ask(Greet("you".into())).await == Err(AskError::Busy)).then_some(()));
    eventually("no more than the bound is under way", LONG, look).await.unwrap();
}

#[actix::test]
async fn who_leaves_answers_what_was_taken_and_takes_no_more() {
    let server = NatsServer::start().unwrap();
    let (taken, finish) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let answering = Port::new(Slow(Arc::clone(&taken), Arc::clone(&finish)).start(), 8, LONG);
    let leaving = Served::new(link(&server, 1).await).line(SUBJECT, answering).start();
    let ours: Port<Greet> = link(&server, 1).await.port(SUBJECT, 8, LONG, None);
    let asked = ours.clone();
    let asking = actix_rt::spawn(async move { asked.ask(Greet("you".into())).await });
    taken.notified().await;
    let left = actix_rt::spawn(leaving.send(Leave));
    served(&server, 1, "hello").await;
    let short: Port<Greet> = link(&server, 1).await.port(SUBJECT, 8, Duration::from_millis(500), None);
    let look = async || {
        for _ in 0..20 {
            if short.ask(Greet("you".into())).await.as_deref() != Ok("hello you") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    };
    eventually("only those who stay are asked", LONG, look).await.unwrap();
    finish.add_permits(8);
    assert_eq!(asking.await.unwrap().unwrap(), "at last you");
    left.await.unwrap().unwrap();
}

#[actix::test]
async fn every_question_is_answered_while_a_process_leaves() {
    let server = NatsServer::start().unwrap();
    for _ in 0..5 {
        let serving = async || {
            let answering = Port::new(Greeter("hello").start(), 256, LONG);
            Served::new(link(&server, 1).await).line(SUBJECT, answering).start()
        };
        let leaving = serving().await;
        let port: Port<Greet> = link(&server, 1).await.port(SUBJECT, 256, LONG, Some(Duration::from_millis(500)));
        answers(&port).await;
        serving().await;
        let ask = |_| {
            let port = port.clone();
            actix_rt::spawn(async move { port.ask(Greet("you".into())).await })
        };
        let before: Vec<_> = (0..100).map(ask).collect();
        tokio::task::yield_now().await;
        let left = actix_rt::spawn(leaving.send(Leave));
        let after: Vec<_> = (0..100).map(ask).collect();
        for asked in before.into_iter().chain(after) {
            assert_eq!(asked.await.unwrap().as_deref(), Ok("hello you"));
        }
        left.await.unwrap().unwrap();
    }
}

#[actix::test]
async fn a_server_that_is_away_is_waited_for_no_longer_than_the_deadline() {
    let mut server = NatsServer::start().unwrap();
    served(&server, 1, "hello").await;
    let port = port(&link(&server, 1).await, Duration::from_millis(500));
    answers(&port).await;
    server.kill().unwrap();
    let look = async || Ok(port.ask(Greet("you".into())).await.err().filter(|error| *error == AskError::Late));
    eventually("nobody answers", LONG, look).await.unwrap();
    server.restart().unwrap();
    assert_eq!(answers(&port).await, "hello you");
}

#[actix::test]
async fn a_stranger_who_knows_the_subject_gets_nothing_and_is_believed_nothing() {
    let server = NatsServer::start().unwrap();
    served(&server, 1, "hello").await;
    let ours = port(&link(&server, 1).await, LONG);
    answers(&ours).await;
    let stranger = client(&server).await;
    let (foreign, _) = envelope::question(&sealer(2), SUBJECT, b"\"you\"", clock::now()).unwrap();
    for question in [b"\"you\"".to_vec(), foreign, b"1 v1.x.y".to_vec(), b"{}".to_vec(), Vec::new()] {
        let answer = stranger.request(SUBJECT, question.into()).await.unwrap();
        assert_eq!(answer.payload, envelope::no_answer());
    }
    // the same from one of another installation
    let theirs = port(&link(&server, 2).await, Duration::from_secs(1));
    assert_eq!(theirs.ask(Greet("you".into())).await, Err(AskError::Forged));
}

#[actix::test]
async fn nobody_who_may_ask_has_us_write_where_they_may_not() {
    let server = NatsServer::start().unwrap();
    served(&server, 1, "hello").await;
    let ours = port(&link(&server, 1).await, LONG);
    answers(&ours).await;
    let stranger = client(&server).await;
    let targets = ["portcullis.evt.session.x", "$KV.PORTCULLIS_DEK.x", "$JS.API.STREAM.DELETE.X", "_INBOXES.x", "x"];
    let mut heard = stranger.subscribe(">").await.unwrap();
    let question = || envelope::question(&sealer(1), SUBJECT, b"\"you\"", clock::now()).unwrap().0;
    for target in targets {
        for payload in [Vec::new(), b"nonsense".to_vec(), question()] {
            stranger.publish_with_reply(SUBJECT, target, payload.into()).await.unwrap();
        }
    }
    // the control: the same to an inbox is answered, by the same process and after all of them
    stranger.publish_with_reply(SUBJECT, "_INBOX.stranger", question().into()).await.unwrap();
    loop {
        let message = heard.next().await.unwrap();
        assert!(!targets.contains(&message.subject.as_str()), "we wrote to {}", message.subject);
        if message.subject.as_str() == "_INBOX.stranger" {
            break;
        }
    }
}

#[actix::test]
async fn an_answer_that_was_heard_before_answers_nothing_else() {
    let server = NatsServer::start().unwrap();
    served(&server, 1, "hello").await;
    let ours = port(&link(&server, 1).await, Duration::from_secs(2));
    // whoever may listen to everything on the servers
    let listener = client(&server).await;
    let mut heard = listener.subscribe(">").await.unwrap();
    listener.flush().await.unwrap();
    answers(&ours).await;
    let mut recorded = None;
    while recorded.is_none() {
        let message = heard.next().await.unwrap();
        recorded = message.subject.starts_with("_INBOX.").then_some(message.payload);
    }
    let recorded = recorded.unwrap();
    assert!(!recorded.windows(5).any(|bytes| bytes == b"hello"), "it is there in plain text");

    // in the place of the one who answers, with what was said to the very same question
    let imposter = NatsServer::start().unwrap();
    let forger = client(&imposter).await;
    let mut questions = forger.subscribe(SUBJECT).await.unwrap();
    forger.flush().await.unwrap();
    let plain = Bytes::from_static(b"{\"Ok\":\"hello you\"}");
    let sealed_by_others = {
        let (payload, _) = envelope::question(&sealer(2), SUBJECT, b"\"you\"", clock::now()).unwrap();
        let (_, asked) = envelope::open_question(&sealer(2), SUBJECT, &payload, clock::now()).unwrap();
        Bytes::from(envelope::answer(&sealer(2), &asked, &plain).unwrap())
    };
    let replies = [recorded, plain, sealed_by_others, Bytes::from(envelope::no_answer())];
    let answering = actix_rt::spawn(async move {
        for reply in replies {
            let question = questions.next().await.unwrap();
            // its own question is no answer either
            forger.publish(question.reply.unwrap(), reply).await.unwrap();
            let question = questions.next().await.unwrap();
            forger.publish(question.reply.unwrap(), question.payload).await.unwrap();
            forger.flush().await.unwrap();
        }
    });
    let deceived = port(&link(&imposter, 1).await, LONG);
    for _ in 0..8 {
        assert_eq!(deceived.ask(Greet("you".into())).await, Err(AskError::Forged));
    }
    answering.await.unwrap();
}

#[actix::test]
async fn another_version_is_a_clear_error_on_both_sides() {
    let server = NatsServer::start().unwrap();
    let newer = client(&server).await;
    let mut questions = newer.subscribe(SUBJECT).await.unwrap();
    newer.flush().await.unwrap();
    let answering = actix_rt::spawn(async move {
        let question = questions.next().await.unwrap();
        newer.publish(question.reply.unwrap(), "2 ".into()).await.unwrap();
        newer.flush().await.unwrap();
    });
    let ours = port(&link(&server, 1).await, LONG);
    assert_eq!(ours.ask(Greet("you".into())).await, Err(AskError::Version));
    answering.await.unwrap();
    served(&server, 1, "hello").await;
    answers(&ours).await;
    let newer = client(&server).await;
    let answer = newer.request(SUBJECT, "2 v9.whatever".into()).await.unwrap();
    assert_eq!(answer.payload, "1 ", "it says which version is spoken");
}

#[actix::test]
async fn a_word_is_heard_by_us_alone_and_on_its_own_subject() {
    let server = NatsServer::start().unwrap();
    let (ours, theirs) = (link(&server, 1).await, link(&server, 2).await);
    let mut words = ours.listen(subjects::VOID, None).await.unwrap();
    for sender in [&theirs, &ours] {
        sender.say(subjects::VOID, b"void").await;
    }
    let words = [words.next().await.unwrap(), words.next().await.unwrap()];
    let heard = |subject| words.iter().filter_map(|word| ours.heard(subject, &word.payload)).collect::<Vec<_>>();
    assert_eq!(heard(subjects::VOID), [b"void"]);
    assert!(heard("portcullis.role.other").is_empty());
}

fn survives<T: Serialize + serde::de::DeserializeOwned>(value: &T) {
    let bytes = serde_json::to_vec(value).unwrap();
    let again: T = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(String::from_utf8(serde_json::to_vec(&again).unwrap()).unwrap(), String::from_utf8(bytes).unwrap());
}

#[test]
fn every_message_between_components_and_every_answer_survives_its_bytes() {
    use portcullis_events::{Epoch, SessionId, Time};
    use uuid::Uuid;

    use crate::authenticate::back_channel::{Deliver, Delivered, LogoutFault};
    use crate::authenticate::sign_in::{Arrive, Leave, Return, SignInFault, Step, Way};
    use crate::databroker::broker::{BrokerError, End, Ended, Open, Opened, Seen, SessionStanding, StandingOf};
    use crate::databroker::logout::{LogOut, LoggedOut};

    fn both<M: Ask>(message: &M, answers: Vec<M::Answer>) {
        survives(message);
        for answer in answers {
            survives(&Ok::<_, AskError>(answer));
        }
    }

    let (session, at) = (SessionId::new(Uuid::from_u128(1)), Time::from_secs(7));
    let (text, url) = (|| "text \u{fc}\n\"".to_owned(), || "https://a.example.com/b?c=d".parse().unwrap());
    let broken = || [BrokerError::Refused(text()), BrokerError::Unavailable(text())];
    let opened = Opened { session, epoch: Epoch::new(Uuid::nil()), position: u64::MAX, expires_at: at };
    let open = Open { hand_over: text(), host: text(), request_id: text() };
    both(&open, broken().map(Err).into_iter().chain([Ok(opened)]).collect());
    let ended = [Some(text()), None].map(|id_token_hint| Ok(Ended { id_token_hint }));
    both(&End { session, request_id: text() }, ended.into_iter().chain(broken().map(Err)).collect());
    let standings = [SessionStanding::Open { expires_at: at }, SessionStanding::Shut].map(Ok);
    both(&StandingOf { session }, standings.into_iter().chain(broken().map(Err)).collect());
    let log_out =
        LogOut { idp: text(), issuer: text(), subject: None, sid: Some(text()), token_id: text(), request_id: text() };
    both(&log_out, broken().map(Err).into_iter().chain([Ok(LoggedOut { sessions: 3 })]).collect());
    both(&Seen { session, at }, broken().map(Err).into_iter().chain([Ok(())]).collect());

    let faults = || [SignInFault::BadRequest(text()), SignInFault::Refused(text()), SignInFault::Unavailable(text())];
    let form = Way::Form { action: url(), fields: vec![(text(), text())] };
    let steps = || [form.clone(), Way::Redirect(url())].map(|way| Ok(Step { way, cookies: Vec::new() }));
    let arrive = Arrive { url: text(), handle: Some(text()), surplus: vec![text()] };
    both(&arrive, steps().into_iter().chain(faults().map(Err)).collect());
    let returned =
        Return { code: text(), state: text(), iss: None, keepsakes: vec![text(), text()], request_id: text() };
    both(&returned, steps().into_iter().chain(faults().map(Err)).collect());
    both(&Leave { id_token_hint: None, post_logout_redirect_uri: url() }, vec![None, Some(url())]);
    let refused = [LogoutFault::Refused(text()), LogoutFault::Unavailable(text())].map(Err);
    let deliver = Deliver { logout_token: text(), request_id: text() };
    both(&deliver, refused.into_iter().chain([Ok(Delivered { sessions: 2 })]).collect());

    for error in [AskError::Busy, AskError::Late, AskError::Gone, AskError::Denied, AskError::Version] {
        survives(&Err::<(), _>(error));
    }
}

#[test]
fn ports_go_from_thread_to_thread() {
    const fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Port<Greet>>();
    is_shared::<Arc<Link>>();
}
