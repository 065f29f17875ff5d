//! The process on one page: what is asked, what it runs on, and how it ends.

mod answer;
mod apart;
mod cli;
mod client_body;
mod demo;
mod events;
mod forward;
mod h1;
mod h2;
mod health;
mod in_force;
mod listen;
mod metrics;
mod node;
mod open;
mod pages;
mod passed_on;
mod reload;
mod request_id;
mod roles;
mod serve;
mod sessions;
mod socket;
mod state_dir;
mod tcp;
mod telemetry;
mod tls;
mod worker;

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use portcullis_actors::databroker::store;
use portcullis_config::{Config, LogLevel, Problems};
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Command, ConfigFile, DemoOptions, EventsOptions, FAULT, FINE, SessionsCommand, TcpOptions, USAGE};
use node::Node;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => {
            // help and version are what was asked for, and go to stdout
            let code = if answer.use_stderr() { USAGE } else { FINE };
            let _ = answer.print();
            return ExitCode::from(code);
        }
    };
    // one crypto library for the whole process; a second call, which there is none, would keep the first
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(file) => run(&file),
        Command::Validate(file) => validate(&file),
        Command::Demo(options) => run_demo(&options),
        Command::Events(options) => print_events(&options),
        Command::Sessions(command) => on_sessions(&command),
        Command::Tcp(options) => open_tunnel(&options),
    };
    match outcome {
        Ok(()) => ExitCode::from(FINE),
        Err(error) => {
            say(&error);
            let usage = error.is::<Problems>()
                || error.is::<NoConfiguration>()
                || error.is::<tls::Unusable>()
                || error.is::<sessions::NoSuchSession>();
            ExitCode::from(if usage { USAGE } else { FAULT })
        }
    }
}

/// On stderr, for whoever started us: problems as they are, a line each; anything else with its causes.
fn say(error: &anyhow::Error) {
    let mut stderr = std::io::stderr().lock();
    // where nobody listens any more, the exit code says it alone
    let _ = match error.downcast_ref::<Problems>() {
        Some(problems) => writeln!(stderr, "{problems}"),
        None => writeln!(stderr, "portcullis: {error:#}"),
    };
}

#[derive(Debug, thiserror::Error)]
#[error("no configuration: name a file with -c FILE or PORTCULLIS_CONFIG, or look around first with `portcullis demo`")]
struct NoConfiguration;

fn path(file: &ConfigFile) -> Result<&Path> {
    Ok(file.config.as_ref().ok_or(NoConfiguration)?)
}

fn load(file: &ConfigFile) -> Result<Config> {
    Ok(reload::ConfigFile::load(path(file)?)?)
}

fn run(file: &ConfigFile) -> Result<()> {
    let path = path(file)?.to_owned();
    in_system(async move {
        // before it is read: what changes from now on is seen
        let file = reload::ConfigFile::new(path.clone())?;
        let config = reload::ConfigFile::load(&path)?;
        telemetry::init(config.log_level);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let data_dir = state_dir::default_dir()?;
        let mut signals = Signals::new()?;
        let takes_requests = config.services.proxy;
        let listener = takes_requests.then(|| listen::bind(&config.address)).transpose().context("address")?;
        let mut node = Node::start(config, &data_dir, listener).await?;
        if let Some(reload) = node.reload() {
            actix_rt::spawn(file.follow(reload));
        }
        until_told(node, &mut signals).await
    })
}

fn validate(file: &ConfigFile) -> Result<()> {
    let config = load(file)?;
    for warning in &config.warnings {
        writeln!(std::io::stderr(), "{warning} (warning)")?;
    }
    tls::for_listener(&config)?;
    show(&format!("the configuration is valid: {} routes\n", config.routes.len()))
}

fn print_events(options: &EventsOptions) -> Result<()> {
    let config = load(&options.config)?;
    telemetry::init(LogLevel::Warn);
    let data_dir = state_dir::default_dir()?;
    in_system(async move {
        let mut signals = Signals::new()?;
        let log = store::open_log_for_reading(&config.storage, &data_dir).await?;
        tokio::select! {
            outcome = events::print(log.as_ref(), options.from, options.follow, std::io::stdout()) => outcome,
            () = signals.stop() => Ok(()),
        }
    })
}

fn on_sessions(command: &SessionsCommand) -> Result<()> {
    let config = load(&command.options().config)?;
    telemetry::init(LogLevel::Warn);
    let data_dir = state_dir::default_dir()?;
    in_system(async move {
        let mut signals = Signals::new()?;
        let said = tokio::select! {
            said = sessions::carry_out(command, &config, &data_dir) => said?,
            () = signals.stop() => anyhow::bail!("interrupted"),
        };
        match show(&said) {
            // whoever reads has seen enough
            Err(error) if is_broken_pipe(&error) => Ok(()),
            shown => shown,
        }
    })
}

fn open_tunnel(options: &TcpOptions) -> Result<()> {
    telemetry::init(LogLevel::Warn);
    in_system(async move {
        let mut signals = Signals::new()?;
        tokio::select! {
            outcome = tcp::run(options) => outcome,
            () = signals.stop() => Ok(()),
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run_demo(options: &DemoOptions) -> Result<()> {
    telemetry::init(LogLevel::Info);
    in_system(async move {
        if options.peers_only {
            return demo::peers_only(options).await;
        }
        let mut signals = Signals::new()?;
        let listener = std::net::TcpListener::bind(options.address)
            .with_context(|| format!("cannot listen on {}; choose another address with --address", options.address))?;
        let demo = demo::prepare(options, listener.local_addr()?).await?;
        let name = demo.config_path.display().to_string();
        // the demo runs on what it writes, and on nothing that happens to be in the environment
        let config = portcullis_config::parse(&name, &demo.config_text, &|_| None)?;
        let data_dir = demo.config_path.parent().unwrap_or(&demo.config_path);
        let node = Node::start(config, data_dir, Some(listener)).await?;
        show(&demo.greeting)?;
        let outcome = until_told(node, &mut signals).await;
        demo.stop().await.and(outcome)
    })
}

fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Runs until a signal, then stops in order; a component that falls stops the node too, and that is a fault.
async fn until_told(mut node: Node, signals: &mut Signals) -> Result<()> {
    let fallen = tokio::select! {
        () = signals.stop() => None,
        name = node.fallen() => Some(name),
    };
    tracing::info!("stopping");
    tokio::select! {
        () = node.stop() => {}
        () = signals.stop() => tracing::warn!("stopping at once"),
    }
    match fallen {
        None => Ok(()),
        Some(name) => anyhow::bail!("{name} fell"),
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn in_system(run: impl Future<Output = Result<()>>) -> Result<()> {
    actix_rt::System::new().block_on(run)
}
