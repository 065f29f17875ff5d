//! The one thread that writes a file: what waits shares a commit, and is answered after it.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use portcullis_config::limits::GROUP_COMMIT;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{Database, Fault};

/// One thing to do in a transaction that it shares with others.
pub trait Job: Send + 'static {
    /// What comes of it, once the transaction is on the disk.
    type Answer: Send + 'static;

    /// Does it. A refusal is an answer; an error undoes the whole transaction.
    ///
    /// # Errors
    /// What SQLite says.
    fn run(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Self::Answer>;

    /// Whether what it removes must be gone from every file before it is answered.
    fn erases(&self) -> bool {
        false
    }
}

struct Order<J: Job> {
    job: J,
    answer: oneshot::Sender<Result<J::Answer, Fault>>,
}

/// The way to the writing thread, which ends with it.
#[derive(Debug)]
pub struct Writer<J: Job> {
    orders: Option<mpsc::Sender<Order<J>>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Job> Writer<J> {
    /// Starts the thread. `committed` is called there after each commit.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        name: &str,
        database: Arc<Database>,
        connection: Connection,
        committed: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel(GROUP_COMMIT);
        let mut desk = Desk { database, connection, broken: None };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || desk.work(inbox, committed))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Has it done, and waits until it is on the disk.
    ///
    /// # Errors
    /// [`Fault`]; after [`Fault::Passing`] from a thread that ended it may have been done.
    pub async fn perform(&self, job: J) -> Result<J::Answer, Fault> {
        let gone = || Fault::Passing("the writer has stopped".into());
        let orders = self.orders.as_ref().ok_or_else(gone)?;
        let (answer, answered) = oneshot::channel();
        orders.send(Order { job, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl<J: Job> Drop for Writer<J> {
    fn drop(&mut self) {
        // the thread does what was ordered already, closes the file and ends: one commit at most
        drop(self.orders.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of a file ended in a panic");
        }
    }
}

struct Desk {
    database: Arc<Database>,
    connection: Connection,
    /// After damage nothing more is written: a failed sync may have lost what the next one would claim to have kept.
    broken: Option<Fault>,
}

impl Desk {
    fn work<J: Job>(&mut self, mut inbox: mpsc::Receiver<Order<J>>, committed: impl Fn()) {
        while let Some(first) = inbox.blocking_recv() {
            let waiting = std::iter::from_fn(|| inbox.try_recv().ok()).take(GROUP_COMMIT - 1);
            let (jobs, answers): (Vec<_>, Vec<_>) =
                std::iter::once(first).chain(waiting).map(|order| (order.job, order.answer)).unzip();
            match self.commit(&jobs) {
                Ok(outcomes) => {
                    committed();
                    // whoever stopped waiting needs no answer
                    answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| drop(answer.send(Ok(outcome))));
                }
                Err(fault) => answers.into_iter().for_each(|answer| drop(answer.send(Err(fault.clone())))),
            }
        }
    }

    fn commit<J: Job>(&mut self, jobs: &[J]) -> Result<Vec<J::Answer>, Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        let outcome = self.database.verify().and_then(|()| self.transact(jobs));
        if let Err(fault @ (Fault::Broken(_) | Fault::Replaced(_))) = &outcome {
            tracing::error!(%fault, "nothing more is written until the process is started again");
            self.broken = Some(fault.clone());
        }
        outcome
    }

    fn transact<J: Job>(&mut self, jobs: &[J]) -> Result<Vec<J::Answer>, Fault> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcomes = jobs.iter().map(|job| job.run(&transaction)).collect::<rusqlite::Result<Vec<_>>>()?;
        transaction.commit()?;
        if jobs.iter().any(Job::erases) {
            self.empty_write_ahead_log()?;
        }
        Ok(outcomes)
    }

    fn empty_write_ahead_log(&self) -> Result<(), Fault> {
        let busy: i64 = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        match busy {
            0 => Ok(()),
            _ => Err(Fault::Passing("another reader keeps old values in the write-ahead log".into())),
        }
    }
}
