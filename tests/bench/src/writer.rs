//! Events written through the ports, as a gateway writes them.

use std::time::Duration;

use anyhow::Result;
use portcullis_actors::clock;
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::log::{Expected, NewRecord};
use portcullis_actors::databroker::profile::Profile;
use portcullis_actors::databroker::store::Store;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_events::{
    Aggregate, Context, Envelope, Epoch, Event, EventId, GroupId, Hash, PersonId, SessionId, group, session, token,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const LIFE: Duration = Duration::from_secs(14 * 60 * 60);

/// Who the events come from.
#[derive(Debug, Clone, Copy)]
pub struct Author {
    /// The source, as the envelope has it.
    pub source: &'static str,
    /// The component.
    pub actor: &'static str,
}

/// Writes to a log and a vault.
pub struct Writer {
    /// Where to.
    pub store: Store,
    /// The keys of the people written about.
    pub data_keys: DataKeys,
    /// The log's epoch.
    pub epoch: Epoch,
    author: Author,
}

impl Writer {
    /// One on the log of this epoch.
    ///
    /// # Errors
    /// The key of data keys cannot be made.
    pub fn new(store: Store, keyring: &Keyring, epoch: Epoch, author: Author) -> Result<Self> {
        let data_keys = DataKeys::new(store.vault.clone(), keyring.sealer(Purpose::DataKey)?);
        Ok(Self { store, data_keys, epoch, author })
    }

    /// A person is there, in these groups.
    ///
    /// # Errors
    /// Log or vault do not take it.
    pub async fn join(&self, person: PersonId, groups: &[&str]) -> Result<()> {
        let key = self.data_keys.get_or_make(person).await?;
        let sealed = (1_u128..)
            .zip(groups)
            .map(|(id, name)| anyhow::Ok((GroupId::new(Uuid::from_u128(id)), key.seal("group", name.as_bytes())?)));
        let added = group::MemberAdded { source: "claims:oidc".into(), groups: sealed.collect::<Result<_>>()? };
        self.begin(Aggregate::group(person), Event::Group(group::Event::MemberAdded(added))).await
    }

    /// A person signs in, with these claims.
    ///
    /// # Errors
    /// Log or vault do not take it.
    pub async fn sign_in(&self, person: PersonId, claims: Map<String, Value>) -> Result<()> {
        let (id, now) = (SessionId::new(Uuid::new_v4()), clock::now());
        let key = self.data_keys.get_or_make(person).await?;
        let stored = token::Stored { generation: 1, access_expires_at: Some(now.plus(LIFE)), refreshable: true };
        self.begin(Aggregate::token(id), Event::Token(token::Event::Stored(stored))).await?;
        let signed_in = session::SignedIn {
            person,
            idp: "oidc-0123456789abcdef".into(),
            profile: Profile { claims }.seal(&key, id)?,
            issued_at: now,
            expires_at: now.plus(LIFE),
            provider_session: None,
        };
        self.begin(Aggregate::session(id), Event::Session(session::Event::SignedIn(signed_in))).await
    }

    /// The first event of an aggregate.
    ///
    /// # Errors
    /// The log does not take it.
    pub async fn begin(&self, aggregate: Aggregate, event: Event) -> Result<()> {
        self.store.log.append(self.record(aggregate, None, event)?).await?;
        Ok(())
    }

    /// An event of an aggregate, after its last one: where that is, and its hash.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn record(&self, aggregate: Aggregate, last: Option<(u64, Hash)>, event: Event) -> Result<NewRecord> {
        let Author { source, actor } = self.author;
        let envelope = Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: source.into(),
            aggregate,
            time: clock::now(),
            context: Context { actor: actor.into(), cause: Some(Uuid::new_v4().to_string()), traceparent: None },
            epoch: self.epoch,
            prev: last.map(|(_, hash)| hash),
            event,
        };
        let expected = last.map_or(Expected::NoStream, |(seq, _)| Expected::Seq(seq));
        Ok(NewRecord { aggregate, expected, id: envelope.id, body: envelope.encode()? })
    }
}

/// What a provider says of a person.
pub fn claims(number: usize, groups: &[&str]) -> Map<String, Value> {
    let claims = json!({
        "iss": "https://id.example.com", "aud": "portcullis", "sub": format!("{:032x}", number * 7919),
        "email": format!("person.{number}@example.com"), "email_verified": true,
        "name": format!("Person Number {number}"), "preferred_username": format!("person.{number}"),
        "groups": groups,
        "iat": 1_790_000_000, "exp": 1_790_003_600, "auth_time": 1_790_000_000,
    });
    claims.as_object().cloned().unwrap_or_default()
}
