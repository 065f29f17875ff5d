//! Everything that can be broken, by name.

mod clocks;
mod network;
mod processes;
mod provider;
mod records;
mod storage;

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use portcullis_harness::idp::Refreshing;

use crate::campaign::Campaign;

/// How long whatever is broken stays broken, as a rule.
const BROKEN: Duration = Duration::from_secs(10);

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As much as has a place in every change.
    Short,
    /// Everything.
    Full,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// A gateway is killed and comes back after five seconds.
    GatewayKilled,
    /// The leader of the log is killed and comes back.
    LeaderKilled,
    /// Every gateway and every server is killed at once.
    AllKilled,
    /// A gateway stands still for ten seconds.
    GatewayPaused,
    /// The leader of the log stands still for ten seconds.
    LeaderPaused,
    /// A gateway loses its ways to the log, and nobody is told.
    GatewayCut,
    /// The leader of the log is cut off from the other servers; gateways still reach it.
    LeaderCut,
    /// One of the followers is.
    FollowerCut,
    /// Two servers are gone for ten seconds.
    QuorumLost,
    /// A server comes back without its disk.
    ServerEmptied,
    /// The servers may store nothing more.
    DiskFull,
    /// A gateway with its own log cannot write any more (a limit on its files).
    DiskFullEmbedded,
    /// One bit flips in a server's file of the log, and the leader steps down for that server.
    BitFlipped,
    /// An event of a type that nobody knows stands on the log.
    UnknownEvent,
    /// Half an event does.
    TruncatedEvent,
    /// An event that does not follow from the one before it does.
    BrokenHash,
    /// An administrator deletes a message.
    MessageDeleted,
    /// The clock of a node goes five minutes ahead, and back.
    ClockAhead,
    /// The clock of a node goes five minutes back, and forth.
    ClockBehind,
    /// The provider spends the refresh token and says nothing.
    IdpDies,
    /// The provider answers twice.
    IdpTwice,
    /// The provider never answers.
    IdpHangs,
    /// The provider says 503 for a while.
    IdpDown,
    /// A thousand refreshes of sessions that all nodes find due, while nodes are killed.
    RefreshRace,
}

impl Fault {
    /// Whether it is tried at every change: it is over in seconds, and no other one or scenario is much the same.
    #[must_use]
    pub const fn is_short(self) -> bool {
        !matches!(
            self,
            Self::GatewayKilled
                | Self::LeaderPaused
                | Self::FollowerCut
                | Self::TruncatedEvent
                | Self::BrokenHash
                | Self::ClockBehind
                | Self::IdpDies
                | Self::IdpTwice
                | Self::IdpHangs
        )
    }

    /// Breaks it, and mends it again; what else is to be said.
    ///
    /// # Errors
    /// It cannot be broken or mended, or a promise was broken meanwhile.
    pub async fn strike(self, campaign: &mut Campaign) -> Result<Option<String>> {
        match self {
            Self::GatewayKilled => processes::kill_gateway(campaign).await,
            Self::LeaderKilled => processes::kill_leader(campaign).await,
            Self::AllKilled => processes::kill_all(campaign).await,
            Self::GatewayPaused => processes::pause_gateway(campaign).await,
            Self::LeaderPaused => processes::pause_leader(campaign).await,
            Self::GatewayCut => network::cut_gateway(campaign).await,
            Self::LeaderCut => network::cut_leader(campaign).await,
            Self::FollowerCut => network::cut_follower(campaign).await,
            Self::QuorumLost => processes::lose_quorum(campaign).await,
            Self::ServerEmptied => storage::empty_server(campaign).await,
            Self::DiskFull => storage::fill(campaign).await,
            Self::DiskFullEmbedded => storage::fill_embedded(campaign).await,
            Self::BitFlipped => storage::flip(campaign).await,
            Self::UnknownEvent => records::write(campaign, records::Kind::Unknown).await,
            Self::TruncatedEvent => records::write(campaign, records::Kind::Truncated).await,
            Self::BrokenHash => records::write(campaign, records::Kind::BrokenHash).await,
            Self::MessageDeleted => storage::delete_message(campaign).await,
            Self::ClockAhead => clocks::ahead(campaign).await,
            Self::ClockBehind => clocks::behind(campaign).await,
            Self::IdpDies => provider::answers(campaign, Refreshing::Dies).await,
            Self::IdpTwice => provider::answers(campaign, Refreshing::AnswersTwice).await,
            Self::IdpHangs => provider::answers(campaign, Refreshing::Hangs).await,
            Self::IdpDown => provider::answers(campaign, Refreshing::Down).await,
            Self::RefreshRace => provider::race(campaign).await,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}
