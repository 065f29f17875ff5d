//! A log with many people who are signed in, written through the ports as a gateway writes them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use portcullis_actors::clock;
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::log::{Expected, NewRecord};
use portcullis_actors::databroker::profile::Profile;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::{Secret, Storage};
use portcullis_events::{
    Aggregate, Context, Envelope, Epoch, Event, EventId, GroupId, PersonId, Sealed, SessionId, group, log, session,
    token,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::say;

/// The secret that everything is sealed with, as the configuration spells it: 32 bytes in base64.
pub const SHARED_SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const SECRET_BYTE: u8 = 7;
/// Appends under way: enough for the writer to commit a thousand at once.
const UNDER_WAY: usize = 2048;
const LIFE: Duration = Duration::from_secs(14 * 60 * 60);

/// What the provider says of a person.
pub fn claims(number: usize) -> Value {
    json!({
        "iss": "https://id.example.com", "aud": "portcullis", "sub": format!("{:032x}", number * 7919),
        "email": format!("person.{number}@example.com"), "email_verified": true,
        "name": format!("Person Number {number}"), "preferred_username": format!("person.{number}"),
        "groups": ["admins", "engineering", "everyone"],
        "iat": 1_790_000_000, "exp": 1_790_003_600, "auth_time": 1_790_000_000,
    })
}

/// Writes a log with so many open sessions of so many people into a directory.
///
/// # Errors
/// The log or the vault refuses.
pub async fn write(dir: &Path, sessions: usize, people: usize) -> Result<()> {
    let store = store::open(&Storage::File(None), dir).await?;
    let keyring = Keyring::new(vec![Secret::new(vec![SECRET_BYTE; 32])])?;
    let data_keys = DataKeys::new(store.vault.clone(), keyring.sealer(Purpose::DataKey)?);
    data_keys.pseudonyms().await?;
    let writer = Writer { store, data_keys, epoch: Epoch::new(Uuid::new_v4()) };
    writer.append(Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch: writer.epoch }))).await?;
    let ids: Vec<PersonId> = (0..people).map(|_| PersonId::new(Uuid::new_v4())).collect();
    let each = |of: usize| {
        (0..of).map(|number| (number, ids.get(number % people).copied().unwrap_or(PersonId::new(Uuid::nil()))))
    };
    stream::iter(each(people))
        .map(|(_, person)| writer.join(person))
        .buffer_unordered(UNDER_WAY)
        .try_collect::<()>()
        .await?;
    say("  people are there\n")?;
    let signed_in = stream::iter(each(sessions)).map(|(number, person)| writer.sign_in(number, person));
    signed_in.buffer_unordered(UNDER_WAY).try_collect::<()>().await
}

struct Writer {
    store: Store,
    data_keys: DataKeys,
    epoch: Epoch,
}

impl Writer {
    async fn join(&self, person: PersonId) -> Result<()> {
        let key = self.data_keys.get_or_make(person).await?;
        let mut groups = std::collections::BTreeMap::new();
        for (id, name) in (1_u128..).zip(["admins", "engineering", "everyone"]) {
            groups.insert(GroupId::new(Uuid::from_u128(id)), key.seal("group", name.as_bytes())?);
        }
        let added = group::MemberAdded { source: "claims:idp".into(), groups };
        self.append(Aggregate::group(person), Event::Group(group::Event::MemberAdded(added))).await
    }

    async fn sign_in(&self, number: usize, person: PersonId) -> Result<()> {
        let id = SessionId::new(Uuid::new_v4());
        let now = clock::now();
        let stored = token::Stored { generation: 1, access_expires_at: Some(now.plus(LIFE)), refreshable: true };
        self.append(Aggregate::token(id), Event::Token(token::Event::Stored(stored))).await?;
        let signed_in = session::SignedIn {
            person,
            idp: "oidc-0123456789abcdef".into(),
            profile: self.profile(id, number, person).await?,
            issued_at: now,
            expires_at: now.plus(LIFE),
            provider_session: None,
        };
        self.append(Aggregate::session(id), Event::Session(session::Event::SignedIn(signed_in))).await
    }

    async fn profile(&self, id: SessionId, number: usize, person: PersonId) -> Result<Sealed> {
        let key = self.data_keys.get_or_make(person).await?;
        let claims = claims(number).as_object().cloned().unwrap_or_default();
        Ok(Profile { claims }.seal(&key, id)?)
    }

    /// The first event of an aggregate.
    async fn append(&self, aggregate: Aggregate, event: Event) -> Result<()> {
        let envelope = Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: "/portcullis/00000000-0000-4000-8000-000000000001".into(),
            aggregate,
            time: clock::now(),
            context: Context {
                actor: "authenticate".into(),
                cause: Some(Uuid::new_v4().to_string()),
                traceparent: None,
            },
            epoch: self.epoch,
            prev: None,
            event,
        };
        let body = envelope.encode()?;
        let record = NewRecord { aggregate, expected: Expected::NoStream, id: envelope.id, body };
        self.store.log.append(record).await?;
        Ok(())
    }
}
