//! Events written through the ports, as the journal of a gateway writes them: the moment of the ack is known here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use portcullis_actors::clock;
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::log::{Expected, NewRecord};
use portcullis_actors::databroker::profile::Profile;
use portcullis_actors::databroker::store::Store;
use portcullis_actors::keyring::Purpose;
use portcullis_events::{
    Aggregate, Context as Cause, Envelope, Epoch, Event, EventId, GroupId, Hash, PersonId, SessionId, group, session,
    token,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ground::Ground;

/// Sign-ins under way: about what three gateways carry.
const UNDER_WAY: usize = 64;
const LIFE: Duration = Duration::from_secs(14 * 60 * 60);

/// Writes beside the gateways.
pub struct Writer {
    store: Store,
    data_keys: DataKeys,
    epoch: Epoch,
}

/// A revocation that was written.
pub struct Revoked {
    /// How long the append took.
    pub took: Duration,
    /// When its ack was here.
    pub acked: Instant,
}

impl Writer {
    /// One on the log of these gateways.
    ///
    /// # Errors
    /// The log is away, or empty.
    pub async fn beside(ground: &Ground) -> Result<Self> {
        let store = ground.store().await?;
        let first = store.log.last(Aggregate::LOG).await?.context("an empty log")?;
        let epoch = Envelope::decode(&first.body)?.epoch;
        let data_keys = DataKeys::new(store.vault.clone(), Ground::keyring()?.sealer(Purpose::DataKey)?);
        Ok(Self { store, data_keys, epoch })
    }

    /// Where the log ends.
    ///
    /// # Errors
    /// It is away.
    pub async fn head(&self) -> Result<u64> {
        Ok(self.store.log.head().await?.last)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The log does not take it.
    pub async fn revoke(&self, session: SessionId) -> Result<Revoked> {
        let aggregate = Aggregate::session(session);
        let last = self.store.log.last(aggregate).await?.context("a session that the log does not know")?;
        let event = Event::Session(session::Event::Revoked(session::Revoked { reason: "measured".into() }));
        let record = self.record(aggregate, Some((last.seq, Hash::of(&last.body))), event)?;
        let began = Instant::now();
        self.store.log.append(record).await?;
        let acked = Instant::now();
        Ok(Revoked { took: acked - began, acked })
    }

    /// So many events at the least, as sign-ins of new people make them.
    ///
    /// # Errors
    /// Log or vault do not take them.
    pub async fn write(&self, events: u32) -> Result<()> {
        let sign_ins = stream::iter(0..events.div_ceil(3)).map(|number| self.sign_in(number));
        sign_ins.buffer_unordered(UNDER_WAY).try_collect().await
    }

    async fn sign_in(&self, number: u32) -> Result<()> {
        let (person, id, now) = (PersonId::new(Uuid::new_v4()), SessionId::new(Uuid::new_v4()), clock::now());
        let key = self.data_keys.get_or_make(person).await?;
        let stored = token::Stored { generation: 1, access_expires_at: Some(now.plus(LIFE)), refreshable: true };
        self.begin(Aggregate::token(id), Event::Token(token::Event::Stored(stored))).await?;
        let mut groups = BTreeMap::new();
        for (group, name) in (1_u128..).zip(["staff", "admins"]) {
            groups.insert(GroupId::new(Uuid::from_u128(group)), key.seal("group", name.as_bytes())?);
        }
        let added = group::MemberAdded { source: "claims:oidc".into(), groups };
        self.begin(Aggregate::group(person), Event::Group(group::Event::MemberAdded(added))).await?;
        let signed_in = session::SignedIn {
            person,
            idp: "oidc-0123456789abcdef".into(),
            profile: Profile { claims: claims(number) }.seal(&key, id)?,
            issued_at: now,
            expires_at: now.plus(LIFE),
            provider_session: None,
        };
        self.begin(Aggregate::session(id), Event::Session(session::Event::SignedIn(signed_in))).await
    }

    async fn begin(&self, aggregate: Aggregate, event: Event) -> Result<()> {
        self.store.log.append(self.record(aggregate, None, event)?).await?;
        Ok(())
    }

    fn record(&self, aggregate: Aggregate, last: Option<(u64, Hash)>, event: Event) -> Result<NewRecord> {
        let envelope = Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: "/portcullis/bench".into(),
            aggregate,
            time: clock::now(),
            context: Cause { actor: "bench".into(), cause: Some(Uuid::new_v4().to_string()), traceparent: None },
            epoch: self.epoch,
            prev: last.map(|(_, hash)| hash),
            event,
        };
        let expected = last.map_or(Expected::NoStream, |(seq, _)| Expected::Seq(seq));
        Ok(NewRecord { aggregate, expected, id: envelope.id, body: envelope.encode()? })
    }
}

/// What a provider says of a person.
fn claims(number: u32) -> Map<String, Value> {
    let claims = json!({
        "iss": "https://id.example.com", "aud": "portcullis", "sub": format!("{number:032x}"),
        "email": format!("person.{number}@example.com"), "email_verified": true,
        "name": format!("Person Number {number}"), "preferred_username": format!("person.{number}"),
        "groups": ["staff", "admins"], "iat": 1_790_000_000, "exp": 1_790_003_600, "auth_time": 1_790_000_000,
    });
    claims.as_object().cloned().unwrap_or_default()
}
