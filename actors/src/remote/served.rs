//! Owns   · the subscriptions of the components of this process: what comes on their role subjects.
//! Answers · nothing in this process: questions of others, by way of the components' own ports.
//! Asks   · the components of this process.
//! If it dies · others take the questions; the node stops in order.

use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, WrapFuture};
use async_nats::Message;
use async_trait::async_trait;
use futures_util::StreamExt;
use portcullis_config::limits::ROLE_DENIED_PAUSE;

use super::{Link, envelope, subjects};
use crate::ask::{Ask, AskError, Port};
use crate::clock;

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

/// What this process answers to others.
pub struct Served {
    link: Link,
    lines: Vec<(String, Arc<dyn Answering>)>,
}

impl Served {
    /// Nothing yet, on this link.
    #[must_use]
    pub const fn new(link: Link) -> Self {
        Self { link, lines: Vec::new() }
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
            ctx.spawn(serve(self.link.clone(), subject, answering).into_actor(self));
        }
    }
}

async fn serve(link: Link, subject: String, answering: Arc<dyn Answering>) {
    loop {
        if let Some(mut questions) = link.listen(&subject, Some(GROUP)).await {
            while let Some(question) = questions.next().await {
                let (link, subject, answering) = (link.clone(), subject.clone(), Arc::clone(&answering));
                // how many are under way is bounded by the port that answers
                actix_rt::spawn(async move { answer(&link, &subject, answering.as_ref(), question).await });
            }
        }
        tokio::time::sleep(ROLE_DENIED_PAUSE).await;
    }
}

async fn answer(link: &Link, subject: &str, answering: &dyn Answering, question: Message) {
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
