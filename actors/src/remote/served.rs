//! Owns   · the subscriptions of the components of this process: what comes on their role subjects.
//! Answers · [`Leave`]; and the questions of others, by way of the components' own ports.
//! Asks   · the components of this process.
//! If it dies · others take the questions; the node stops in order.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use async_trait::async_trait;
use futures_util::StreamExt;
use portcullis_config::limits::{ROLE_DENIED_PAUSE, ROLE_PAUSE};
use tokio::sync::watch;

use super::{Link, envelope, subjects};
use crate::ask::{Ask, AskError, Port};
use crate::clock;
use crate::databroker::view::Views;

/// Processes with the same component take turns.
const GROUP: &str = "portcullis";

/// What the subject of a reply begins with: an inbox, or what the server makes of one in another account. Whoever may ask
/// us could else have us write, with our permissions, to any subject: into the log, for one.
const REPLIES: [&str; 2] = ["_INBOX.", "_R_."];

/// Answers the bytes of one kind of message.
#[async_trait]
trait Answering: Send + Sync {
    async fn answer(&self, message: &[u8]) -> Vec<u8>;
}

#[async_trait]
impl<M: Ask + Sync> Answering for Port<M>
where
    M::Answer: Sync,
{
    async fn answer(&self, message: &[u8]) -> Vec<u8> {
        let answer = match serde_json::from_slice::<M>(message) {
            Ok(message) => self.ask(message).await,
            Err(_) => Err(AskError::Version),
        };
        // an answer that has no JSON is found by the tests of its type
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}

/// That a component is there.
struct Present;

#[async_trait]
impl Answering for Present {
    async fn answer(&self, _: &[u8]) -> Vec<u8> {
        b"{\"Ok\":null}".to_vec()
    }
}

/// Take no more questions; answered when those that are under way are.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Leave;

/// What this process answers to others.
pub struct Served {
    link: Link,
    lines: Vec<(String, Arc<dyn Answering>)>,
    /// Views that must have been read to their end before anything is answered from them.
    views: Option<Arc<Views>>,
    leaving: watch::Sender<bool>,
    /// Held by every question that is under way.
    under_way: Arc<()>,
}

impl Served {
    /// Nothing yet, on this link.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self { link, lines: Vec::new(), views: None, leaving: watch::Sender::new(false), under_way: Arc::default() }
    }

    /// A kind of message, answered by way of `port`, whose bounds hold for others too.
    #[must_use]
    pub fn line<M: Ask + Sync>(mut self, subject: &str, port: Port<M>) -> Self
    where
        M::Answer: Sync,
    {
        self.lines.push((subject.to_owned(), Arc::new(port)));
        self
    }

    /// Answers nothing before these views were read to the log's end, and nothing at all where they cannot be.
    #[must_use]
    pub fn once_read(mut self, views: Arc<Views>) -> Self {
        self.views = Some(views);
        self
    }

    /// Says that a component is there to whoever asks.
    #[must_use]
    pub fn present(mut self, component: &str) -> Self {
        self.lines.push((subjects::ping(component), Arc::new(Present)));
        self
    }
}

impl Actor for Served {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for (subject, answering) in std::mem::take(&mut self.lines) {
            let line = Arc::new(Answers { link: self.link.clone(), subject, answering });
            let (under_way, mut leaving) = (Arc::clone(&self.under_way), self.leaving.subscribe());
            let views = self.views.clone();
            let serve = async move {
                let is_ready = async {
                    match views {
                        Some(views) => views.progress.becomes_current(Duration::MAX).await,
                        None => true,
                    }
                };
                let is_ready = tokio::select! {
                    is_ready = is_ready => is_ready,
                    _ = leaving.wait_for(|leaving| *leaving) => false,
                };
                if is_ready {
                    line.serve(under_way, leaving).await;
                }
            };
            ctx.spawn(serve.into_actor(self));
        }
    }
}

impl Handler<Leave> for Served {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        self.leaving.send_replace(true);
        let (link, under_way) = (self.link.clone(), Arc::clone(&self.under_way));
        Box::pin(async move {
            // this one and the actor's own; a line that leaves holds one until it has answered what it was given
            while Arc::strong_count(&under_way) > 2 {
                tokio::time::sleep(ROLE_PAUSE).await;
            }
            // what was said last is on its way
            let _ = link.nats().client().flush().await;
        })
    }
}

/// One kind of question, and who answers it.
struct Answers {
    link: Link,
    subject: String,
    answering: Arc<dyn Answering>,
}

impl Answers {
    /// Answers until the process leaves: then what the server has given us already is answered as well, and the next
    /// question goes to another process.
    async fn serve(self: Arc<Self>, under_way: Arc<()>, mut leaving: watch::Receiver<bool>) {
        loop {
            let listening = tokio::select! {
                listening = self.link.listen(&self.subject, Some(GROUP)) => listening,
                _ = leaving.wait_for(|leaving| *leaving) => return,
            };
            let Some(mut questions) = listening else {
                tokio::select! {
                    () = tokio::time::sleep(ROLE_DENIED_PAUSE) => continue,
                    _ = leaving.wait_for(|leaving| *leaving) => return,
                }
            };
            loop {
                let question = tokio::select! {
                    question = questions.next() => question,
                    _ = leaving.wait_for(|leaving| *leaving) => {
                        // what is on its way at this moment is lost: the library does not wait for the server's word that
                        // nothing more comes, and whoever asked asks again
                        let drained = questions.drain().await;
                        while let (Ok(()), Some(question)) = (&drained, questions.next().await) {
                            self.begin(question, &under_way);
                        }
                        return;
                    }
                };
                let Some(question) = question else { break };
                self.begin(question, &under_way);
            }
        }
    }

    /// How many are under way is bounded by the port that answers.
    fn begin(self: &Arc<Self>, question: async_nats::Message, under_way: &Arc<()>) {
        let (line, under_way) = (Arc::clone(self), Arc::clone(under_way));
        actix_rt::spawn(async move {
            answer(&line.link, &line.subject, line.answering.as_ref(), question).await;
            drop(under_way);
        });
    }
}

async fn answer(link: &Link, subject: &str, answering: &dyn Answering, question: async_nats::Message) {
    let Some(reply) = question.reply else { return };
    if !REPLIES.iter().any(|begin| reply.starts_with(begin)) {
        return tracing::error!(subject, %reply, "a question wants its answer where none is read: it stays unanswered");
    }
    let payload = match envelope::open_question(link.sealer(), subject, &question.payload, clock::now()) {
        Ok((message, asked)) => {
            let answer = answering.answer(&message).await;
            envelope::answer(link.sealer(), &asked, &answer).unwrap_or_else(|_| {
                tracing::error!(subject, bytes = answer.len(), "an answer is too large to be sent");
                envelope::no_answer()
            })
        }
        // whoever tries whether it may ask
        Err(_) if question.payload.is_empty() => envelope::no_answer(),
        Err(error) => {
            tracing::warn!(subject, %error, "a question is not believed");
            envelope::no_answer()
        }
    };
    if link.nats().client().publish(reply, payload.into()).await.is_err() {
        tracing::warn!(subject, "an answer was not sent");
    }
}
