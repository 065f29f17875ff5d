//! What is measured: how clients speak, and what they do.

use clap::ValueEnum;
use serde::Serialize;

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// HTTP/1.1 without TLS.
    H1,
    /// HTTP/1.1 over TLS 1.3, connections kept.
    TlsH1,
    /// HTTP/2 over TLS 1.3, connections kept.
    TlsH2,
    /// A new TLS 1.3 connection for each request: full handshakes, nothing resumed.
    Connections,
    /// Messages on open WebSockets, sent back by the upstream.
    Websocket,
    /// Answers of 1 MB.
    Download,
    /// Requests of 1 MB.
    Upload,
    /// Memory: idle, and for each idle connection.
    Memory,
    /// A policy of 1, 100 and 10,000 routes.
    Routes,
    /// 100 and 1,000,000 open sessions.
    Sessions,
}

/// How clients reach a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// HTTP/1.1 without TLS.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
}

impl Way {
    /// Whether clients come by TLS.
    pub const fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2)
    }
}

impl Row {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 10] = [
        Self::H1,
        Self::TlsH1,
        Self::TlsH2,
        Self::Connections,
        Self::Websocket,
        Self::Download,
        Self::Upload,
        Self::Memory,
        Self::Routes,
        Self::Sessions,
    ];

    /// What the report calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::H1 => "HTTP/1.1",
            Self::TlsH1 => "HTTP/1.1 over TLS",
            Self::TlsH2 => "HTTP/2 over TLS",
            Self::Connections => "New TLS 1.3 connections, one request on each",
            Self::Websocket => "WebSocket messages, there and back",
            Self::Download => "Answers of 1 MB",
            Self::Upload => "Requests of 1 MB",
            Self::Memory => "Memory",
            Self::Routes => "Number of routes",
            Self::Sessions => "Number of open sessions",
        }
    }

    /// What is counted in it.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Connections => "connection",
            Self::Websocket => "message",
            Self::Download | Self::Upload => "body",
            _ => "request",
        }
    }

    /// The same, many of them.
    pub const fn units(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Websocket => "messages",
            Self::Download | Self::Upload => "bodies",
            _ => "requests",
        }
    }

    /// How clients come.
    pub const fn way(self) -> Way {
        match self {
            Self::TlsH1 | Self::Connections => Way::Tls,
            Self::TlsH2 => Way::H2,
            _ => Way::Plain,
        }
    }

    /// Whether it is measured under a quota and at a fixed rate as well.
    pub const fn in_depth(self) -> bool {
        matches!(self, Self::H1 | Self::TlsH1 | Self::TlsH2)
    }
}
