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
            let (link, under_way, mut leaving) =
                (self.link.clone(), Arc::clone(&self.under_way), self.leaving.subscribe());
            let views = self.views.clone();
            let serve = async move {
                let answered = async {
                    let is_ready = match views {
                        Some(views) => views.progress.becomes_current(Duration::MAX).await,
                        None => true,
                    };
                    if is_ready {
                        serve(link, subject, answering, under_way).await;
                    }
                };
                tokio::select! {
                    () = answered => {}
                    // dropped with its subscription: the next question goes to another process
                    _ = leaving.wait_for(|leaving| *leaving) => {}
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
            // this one and the actor's own
            while Arc::strong_count(&under_way) > 2 {
                tokio::time::sleep(ROLE_PAUSE).await;
            }
            // what was said last is on its way
            let _ = link.nats().client().flush().await;
        })
    }
}

async fn serve(link: Link, subject: String, answering: Arc<dyn Answering>, under_way: Arc<()>) {
    loop {
        if let Some(mut questions) = link.listen(&subject, Some(GROUP)).await {
            while let Some(question) = questions.next().await {
                let (link, subject, answering) = (link.clone(), subject.clone(), Arc::clone(&answering));
                let under_way = Arc::clone(&under_way);
                // how many are under way is bounded by the port that answers
                actix_rt::spawn(async move {
                    answer(&link, &subject, answering.as_ref(), question).await;
                    drop(under_way);
                });
            }
        }
        tokio::time::sleep(ROLE_DENIED_PAUSE).await;
    }
}

async fn answer(link: &Link, subject: &str, answering: &dyn Answering, question: async_nats::Message) {
    let Some(reply) = question.reply else { return };
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
