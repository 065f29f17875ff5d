//! What is measured: how clients speak, and how nginx keeps its log.

use clap::ValueEnum;
use serde::Serialize;

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// HTTP/1.1 without TLS.
    Plain,
    /// The same, nginx gathering its log lines as portcullis does.
    PlainBuffered,
    /// HTTP/1.1 over TLS 1.3, connections kept.
    Tls,
    /// HTTP/2 over TLS 1.3, connections kept.
    H2,
}

impl Row {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Plain, Self::PlainBuffered, Self::Tls, Self::H2];

    /// What the report calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1.1",
            Self::PlainBuffered => "HTTP/1.1, nginx with a buffered log",
            Self::Tls => "HTTP/1.1 over TLS",
            Self::H2 => "HTTP/2 over TLS",
        }
    }

    /// Whether clients come by TLS.
    pub const fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2)
    }

    /// Whether clients speak HTTP/2.
    pub const fn h2(self) -> bool {
        matches!(self, Self::H2)
    }

    /// Whether nginx writes its log in batches and not line by line, as it does unless told.
    pub const fn buffered_log(self) -> bool {
        matches!(self, Self::PlainBuffered)
    }
}
