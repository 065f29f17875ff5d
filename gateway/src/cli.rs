//! The command line: what can be asked of the binary, and the exit codes it answers with.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use portcullis_config::limits::REASON_CHARS;
use portcullis_events::SessionId;

use crate::sessions::print::is_printable;
use crate::tcp::destination::{Destination, Gateway, destination, gateway};

/// Everything went well.
pub const FINE: u8 = 0;
/// Bad usage or configuration (`EX_USAGE` of sysexits).
pub const USAGE: u8 = 64;
/// A fault beneath us (`EX_SOFTWARE` of sysexits).
pub const FAULT: u8 = 70;

/// An identity-aware access proxy.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` by default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a command: `run` with this configuration.
    #[command(flatten)]
    pub run: ConfigFile,
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The configuration file (YAML or JSON, Pomerium's keys).
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway.
    Run(ConfigFile),
    /// Check a configuration and say everything that is wrong with it.
    Validate(ConfigFile),
    /// Run a gateway with a provider and an upstream of its own, to look at.
    Demo(DemoOptions),
    /// Print the event log as JSON lines, one CloudEvent each.
    Events(EventsOptions),
    /// Look at sessions, and end them.
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Open a TCP tunnel through a gateway: to HOST:PORT of its route `from: tcp+https://HOST:PORT`.
    Tcp(TcpOptions),
}

/// Which tunnel, and through which gateway.
#[derive(Debug, Clone, Args)]
pub struct TcpOptions {
    /// Where to: HOST:PORT, tcp+https://HOST:PORT or tcp+https://GATEWAY/HOST:PORT.
    #[arg(value_name = "DESTINATION", value_parser = destination)]
    pub destination: Destination,
    /// Where connections are taken; `-` is standard input and output, as ssh's ProxyCommand has it.
    #[arg(long, value_name = "ADDRESS:PORT|-", default_value = "127.0.0.1:0", value_parser = local)]
    pub listen: Local,
    /// The gateway, where it is not at https://HOST.
    #[arg(long, visible_alias = "pomerium-url", value_name = "URL", value_parser = gateway, overrides_with = "portcullis_url")]
    pub portcullis_url: Option<Gateway>,
    /// The command that opens a browser; the address is its last argument.
    #[arg(long, value_name = "COMMAND", overrides_with = "browser_cmd")]
    pub browser_cmd: Option<String>,
    /// Whose certificates are trusted.
    #[command(flatten)]
    pub trust: TrustOptions,
}

/// Whose certificates are trusted.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustOptions {
    /// Trust the authorities in this file (PEM) instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub alternate_ca_path: Option<PathBuf>,
    /// The same in place: PEM in base64.
    #[arg(long, value_name = "BASE64")]
    pub ca_cert: Option<String>,
    /// Believe any certificate: whoever is on the way can read and change everything.
    #[arg(long, conflicts_with_all = ["alternate_ca_path", "ca_cert"])]
    pub disable_tls_verification: bool,
    /// A certificate of our own (PEM), where the gateway asks for one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
}

/// Where connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// Standard input and output.
    Standard,
    /// An address and a port.
    Address(std::net::SocketAddr),
}

fn local(text: &str) -> Result<Local, String> {
    if text == "-" {
        return Ok(Local::Standard);
    }
    // as in other programs, a port alone is one of this machine
    let whole = text.strip_prefix(':').map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    let whole = whole.strip_prefix("localhost:").map_or_else(|| whole.clone(), |port| format!("127.0.0.1:{port}"));
    whole
        .parse()
        .map(Local::Address)
        .map_err(|_| "neither `-` nor an address and port, such as 127.0.0.1:5432".to_owned())
}

/// How the demo runs.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Where to listen: a loopback address and a port.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub address: std::net::SocketAddr,
    /// Where log, keys and certificates are kept; a directory that goes away by default.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write the configuration the demo runs on to this file.
    #[arg(long, value_name = "FILE")]
    pub config_out: Option<PathBuf>,
    /// Run only the provider and the upstream, for a `portcullis run` beside them.
    #[arg(long)]
    pub peers_only: bool,
}

/// Which events.
#[derive(Debug, Clone, Args)]
pub struct EventsOptions {
    /// Which log: the configuration's.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Begin at this sequence.
    #[arg(long, default_value_t = 1, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub from: u64,
    /// Go on with what comes later, until interrupted.
    #[arg(long)]
    pub follow: bool,
}

/// What to do with sessions. They are read from the log, and ended on it: every gateway obeys within a second.
#[derive(Debug, Clone, Subcommand)]
pub enum SessionsCommand {
    /// List the open sessions.
    List {
        /// Where from, and how it is printed.
        #[command(flatten)]
        common: SessionsOptions,
    },
    /// Show one session.
    Show {
        /// The session.
        #[arg(value_parser = session_id)]
        id: SessionId,
        /// Where from, and how it is printed.
        #[command(flatten)]
        common: SessionsOptions,
    },
    /// End one session, or all open sessions of a person.
    #[command(group(clap::ArgGroup::new("whose").required(true).args(["id", "user"])))]
    Revoke {
        /// The session.
        #[arg(value_parser = session_id)]
        id: Option<SessionId>,
        /// The person: the user id or the e-mail address, exactly.
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Why; it stands on the log for everybody who may read it.
        #[arg(long, value_name = "TEXT", default_value = "revoked by command", value_parser = reason)]
        reason: String,
        /// Where from, and how it is printed.
        #[command(flatten)]
        common: SessionsOptions,
    },
}

/// What all commands on sessions have.
#[derive(Debug, Clone, Args)]
pub struct SessionsOptions {
    /// Which log: the configuration's.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl SessionsCommand {
    /// What all commands on sessions have.
    pub const fn options(&self) -> &SessionsOptions {
        match self {
            Self::List { common } | Self::Show { common, .. } | Self::Revoke { common, .. } => common,
        }
    }
}

fn session_id(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|_| "not the id of a session, such as `portcullis sessions list` prints".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0 => Err("a reason is not empty".to_owned()),
        1..=REASON_CHARS if text.chars().all(is_printable) => Ok(text.to_owned()),
        1..=REASON_CHARS => Err("a reason is a line of text that can be printed".to_owned()),
        _ => Err(format!("a reason has at most {REASON_CHARS} characters")),
    }
}

fn loopback(text: &str) -> Result<std::net::SocketAddr, String> {
    let address: std::net::SocketAddr =
        text.parse().map_err(|_| "not an address and port, such as 127.0.0.1:8443".to_owned())?;
    match address.ip() {
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) if ip.is_loopback() => Ok(address),
        _ => Err("the demo listens on loopback only: its passwords are no secret".to_owned()),
    }
}

/// Reads the arguments. Pomerium's `-config FILE`, with one dash, is `--config FILE`.
///
/// # Errors
/// clap's own error, which prints itself: help and version go to stdout and are no failure.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments.map(two_dashes))
}

fn two_dashes(argument: OsString) -> OsString {
    match argument.to_str() {
        Some("-config") => "--config".into(),
        Some("-version") => "--version".into(),
        Some(text) if text.starts_with("-config=") => format!("-{text}").into(),
        Some(_) | None => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn pomeriums_way_to_start_is_ours() {
        for line in ["pomerium -config a.yaml", "p --config a.yaml", "p -config=a.yaml", "p -c a.yaml"] {
            let cli = read(line).unwrap();
            assert!(cli.command.is_none());
            assert_eq!(cli.run.config, Some(PathBuf::from("a.yaml")), "{line}");
        }
        for line in ["p run -c a.yaml", "p run --config a.yaml", "p run -config a.yaml"] {
            let Some(Command::Run(file)) = read(line).unwrap().command else { panic!("{line}") };
            assert_eq!(file.config, Some(PathBuf::from("a.yaml")), "{line}");
        }
    }

    #[test]
    fn a_tunnel_is_asked_for_as_of_pomeriums_client() {
        let line = "p tcp redis.example.com:6379 --listen - --pomerium-url https://gate.example.com --browser-cmd open";
        let Some(Command::Tcp(options)) = read(line).unwrap().command else { panic!() };
        assert_eq!(
            (options.listen, options.destination.authority.as_str()),
            (Local::Standard, "redis.example.com:6379")
        );
        assert_eq!(options.portcullis_url.unwrap().host, "gate.example.com");
        for (text, address) in [(":5432", "127.0.0.1:5432"), ("localhost:1", "127.0.0.1:1"), ("[::1]:0", "[::1]:0")] {
            let Some(Command::Tcp(options)) = read(&format!("p tcp a:1 --listen {text}")).unwrap().command else {
                panic!()
            };
            assert_eq!(options.listen, Local::Address(address.parse().unwrap()));
        }
        for wrong in ["", "a", "a:1 --listen 5432", "a:1 --client-cert x", "a:1 --disable-tls-verification --ca-cert x"]
        {
            assert!(read(&format!("p tcp {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_revocation_says_whose_session_it_ends() {
        let id = "00000000-0000-4000-8000-000000000001";
        for good in [format!("p sessions revoke {id}"), "p sessions revoke --user a@b -c x --json".into()] {
            assert!(read(&good).is_ok(), "{good}");
        }
        for bad in ["p sessions revoke".into(), format!("p sessions revoke {id} --user a"), "p sessions show 7".into()]
        {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reason_is_a_line_that_can_be_printed() {
        assert_eq!(reason("Åsa's laptop was \"lost\" 字").as_deref(), Ok("Åsa's laptop was \"lost\" 字"));
        for bad in ["", "a\nb", "a\u{1b}[2J", "a\u{9b}2J", "a\u{202e}b", &"x".repeat(REASON_CHARS + 1)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_demo_stays_on_loopback() {
        assert!(read("p demo --address 0.0.0.0:8443").is_err());
        assert!(read("p demo --address 127.0.0.1:9000").is_ok());
        assert!(read("p demo --address [::1]:9000").is_ok());
    }
}
