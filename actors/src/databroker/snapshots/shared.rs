//! Snapshots that the nodes of a cluster share, in an object store beside the log. Who may write there can withhold
//! them and can forge none: each carries its tag.

use std::path::Path;

use async_nats::jetstream;
use async_nats::jetstream::object_store::{Config, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use futures_util::StreamExt;
use portcullis_config::limits::{SNAPSHOT_SHARE, SNAPSHOTS_SHARED};
use portcullis_events::{Epoch, SCHEMA};
use tokio::io::AsyncWriteExt;

use super::Name;
use crate::databroker::nats::Nats;

/// The bucket.
const BUCKET: &str = "PORTCULLIS_SNAP";

/// The bucket on a connection; it is made when the first snapshot is shared.
#[derive(Debug, Clone)]
pub struct SharedSnapshots {
    nats: Nats,
    replicas: usize,
}

impl SharedSnapshots {
    /// The bucket, with so many replicas if we make it.
    pub(crate) fn new(nats: &Nats, replicas: usize) -> Self {
        Self { nats: nats.clone(), replicas }
    }

    /// The newest of this schema, of a log or of any; `None` if there is none.
    ///
    /// # Errors
    /// The bucket cannot be read.
    pub(super) async fn newest(&self, epoch: Option<Epoch>) -> Result<Option<Name>, String> {
        let Some(bucket) = self.bucket().await else { return Ok(None) };
        let names = names(&bucket).await?.into_iter();
        Ok(names.filter(|name| name.schema == SCHEMA && epoch.is_none_or(|epoch| name.epoch == epoch)).max())
    }

    /// Puts a file into the bucket; older ones of the same log go.
    ///
    /// # Errors
    /// The bucket takes it not.
    pub(super) async fn put(&self, name: Name, path: &Path) -> Result<(), String> {
        let bucket = match self.bucket().await {
            Some(bucket) => bucket,
            None => self.make_bucket().await?,
        };
        let mut file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
        let metadata = ObjectMetadata { name: name.to_string(), ..ObjectMetadata::default() };
        bucket.put(metadata, &mut file).await.map_err(|error| error.to_string())?;
        let mut all = names(&bucket).await?;
        all.retain(|other| other.epoch == name.epoch);
        all.sort_unstable_by(|one, other| other.cmp(one));
        for old in all.into_iter().skip(SNAPSHOTS_SHARED) {
            // another node may have done it
            let _ = bucket.delete(old.to_string()).await;
        }
        Ok(())
    }

    /// All that are there.
    ///
    /// # Errors
    /// The bucket cannot be read.
    #[cfg(test)]
    pub(super) async fn all(&self) -> Result<Vec<Name>, String> {
        names(&self.bucket().await.ok_or("there is none")?).await
    }

    /// Copies one into a file; its digest is compared on the way.
    ///
    /// # Errors
    /// It cannot be read to its end.
    pub(super) async fn get(&self, name: Name, path: &Path) -> Result<(), String> {
        let bucket = self.bucket().await.ok_or_else(|| "the bucket is away".to_owned())?;
        let mut object = bucket.get(name.to_string()).await.map_err(|error| error.to_string())?;
        let mut file = tokio::fs::File::create(path).await.map_err(|error| error.to_string())?;
        tokio::io::copy(&mut object, &mut file).await.map_err(|error| error.to_string())?;
        file.flush().await.map_err(|error| error.to_string())?;
        file.sync_all().await.map_err(|error| error.to_string())
    }

    async fn bucket(&self) -> Option<ObjectStore> {
        match self.context().get_object_store(BUCKET).await {
            Ok(bucket) => Some(bucket),
            Err(error) => {
                tracing::debug!(%error, "no shared snapshots");
                None
            }
        }
    }

    async fn make_bucket(&self) -> Result<ObjectStore, String> {
        let config = Config {
            bucket: BUCKET.into(),
            storage: StorageType::File,
            num_replicas: self.replicas,
            ..Config::default()
        };
        self.context().create_object_store(config).await.map_err(|error| error.to_string())
    }

    fn context(&self) -> jetstream::Context {
        self.nats.jetstream(SNAPSHOT_SHARE.0)
    }
}

async fn names(bucket: &ObjectStore) -> Result<Vec<Name>, String> {
    let mut listed = bucket.list().await.map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    while let Some(info) = listed.next().await {
        let info = info.map_err(|error| error.to_string())?;
        names.extend(info.name.parse::<Name>().ok());
    }
    Ok(names)
}
