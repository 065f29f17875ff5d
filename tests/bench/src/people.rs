//! A log with many people who are signed in, written through the ports as a gateway writes them.

use std::path::Path;

use anyhow::Result;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use portcullis_actors::databroker::store;
use portcullis_actors::keyring::Keyring;
use portcullis_config::{Secret, Storage};
use portcullis_events::{Aggregate, Epoch, Event, PersonId, log};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::say;
use crate::writer::{self, Author, Writer};

/// The secret that everything is sealed with, as the configuration spells it: 32 bytes in base64.
pub const SHARED_SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const SECRET_BYTE: u8 = 7;
/// Appends under way: enough for the writer to commit a thousand at once.
const UNDER_WAY: usize = 2048;
const AUTHOR: Author = Author { source: "/portcullis/00000000-0000-4000-8000-000000000001", actor: "authenticate" };
const GROUPS: [&str; 3] = ["admins", "engineering", "everyone"];

/// What the provider says of a person.
pub fn claims(number: usize) -> Map<String, Value> {
    writer::claims(number, &GROUPS)
}

/// Writes a log with so many open sessions of so many people into a directory.
///
/// # Errors
/// The log or the vault refuses.
pub async fn write(dir: &Path, sessions: usize, people: usize) -> Result<()> {
    let store = store::open(&Storage::File(None), dir).await?;
    let keyring = Keyring::new(vec![Secret::new(vec![SECRET_BYTE; 32])])?;
    let writer = Writer::new(store, &keyring, Epoch::new(Uuid::new_v4()), AUTHOR)?;
    writer.data_keys.pseudonyms().await?;
    writer.begin(Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch: writer.epoch }))).await?;
    let ids: Vec<PersonId> = (0..people).map(|_| PersonId::new(Uuid::new_v4())).collect();
    let each = |of: usize| {
        (0..of).map(|number| (number, ids.get(number % people).copied().unwrap_or(PersonId::new(Uuid::nil()))))
    };
    stream::iter(each(people))
        .map(|(_, person)| writer.join(person, &GROUPS))
        .buffer_unordered(UNDER_WAY)
        .try_collect::<()>()
        .await?;
    say("  people are there\n")?;
    let signed_in = stream::iter(each(sessions)).map(|(number, person)| writer.sign_in(person, claims(number)));
    signed_in.buffer_unordered(UNDER_WAY).try_collect::<()>().await
}
