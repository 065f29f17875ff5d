//! Three NATS servers on this machine as one cluster: each can be killed, stopped, held still, cut off and started
//! again, and whoever leads a stream can be asked and asked to step down.
//!
//! Servers reach each other through relays, one for each direction, so that any of them can be cut off; they tell
//! nobody of each other.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

use crate::nats_process::{self, NatsProcess};
use crate::process::eventually;
use crate::relay::Relay;

/// How many servers there are.
pub const SERVERS: usize = 3;
/// How many accounts there are beside the one of everybody without a name.
pub const ACCOUNTS: usize = 64;
/// How long servers may take to find each other and choose a leader: an election takes up to nine seconds.
const ELECTION: Duration = Duration::from_secs(60);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(3);

/// The cluster.
#[derive(Debug)]
pub struct NatsCluster {
    dir: TempDir,
    servers: Vec<Server>,
    /// The configuration file that all servers run on, with `NATS_NAME` in it.
    config: PathBuf,
}

#[derive(Debug)]
struct Server {
    name: String,
    port: u16,
    process: Option<NatsProcess>,
    /// The ways from this server to the others, by their numbers.
    routes: Vec<(usize, Relay)>,
}

impl NatsCluster {
    /// Starts one with a store that every message is synced to, and waits until it takes streams of three replicas.
    /// Whoever gives no name is in one account; the users `a0`, `a1` … (the password is the same) have one each.
    ///
    /// # Errors
    /// The servers do not start, or do not come together.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// As [`Self::start`], with more about the store (in the server's language).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(store: &str) -> Result<Self> {
        let accounts: String = (0..ACCOUNTS)
            .map(|n| format!("A{n}: {{ jetstream: enabled, users: [{{ user: a{n}, password: a{n} }}] }}\n"))
            .collect();
        let config = format!(
            "server_name: $NATS_NAME\n\
             jetstream {{ store_dir: nats, sync_interval: always, {store} }}\n\
             cluster {{ name: test }}\n\
             accounts {{ MAIN: {{ jetstream: enabled, users: [{{ user: main, password: main }}] }}\n{accounts} }}\n\
             no_auth_user: main\n"
        );
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("cluster.conf");
        fs::write(&file, config)?;
        Self::start_from(dir, file).await
    }

    /// Starts one from a configuration file as it is, which names its store relative to where the server runs; addresses
    /// and routes are those of the test.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(config: &Path) -> Result<Self> {
        Self::start_from(tempfile::tempdir()?, config.canonicalize()?).await
    }

    async fn start_from(dir: TempDir, config: PathBuf) -> Result<Self> {
        let server = |number: usize| {
            let others = (0..SERVERS).filter(|other| *other != number);
            let routes: Result<Vec<_>> = others.map(|other| Ok((other, Relay::start()?))).collect();
            anyhow::Ok(Server { name: format!("nats-{}", number + 1), port: 0, process: None, routes: routes? })
        };
        let servers: Result<Vec<_>> = (0..SERVERS).map(server).collect();
        let mut cluster = Self { dir, servers: servers?, config };
        for number in 0..SERVERS {
            cluster.launch(number)?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    fn launch(&mut self, number: usize) -> Result<()> {
        let command = self.command(number)?;
        let process = NatsProcess::start(command, true)?;
        let route = SocketAddr::from((Ipv4Addr::LOCALHOST, process.route_port().context("no port for routes")?));
        for server in &self.servers {
            server.routes.iter().filter(|(to, _)| *to == number).for_each(|(_, relay)| relay.lead_to(route));
        }
        let server = self.server_mut(number)?;
        server.port = process.client_port();
        server.process = Some(process);
        Ok(())
    }

    fn command(&self, number: usize) -> Result<Command> {
        let server = self.server(number)?;
        // -1: the server takes a free port, the first time
        let port = if server.port == 0 { "-1".to_owned() } else { server.port.to_string() };
        let routes: Vec<_> = server.routes.iter().map(|(_, relay)| format!("nats://{}", relay.address())).collect();
        fs::create_dir_all(self.store(number))?;
        let mut command = nats_process::command()?;
        command
            .env("NATS_NAME", &server.name)
            .args(["--addr", "127.0.0.1", "--port", &port, "--cluster", "nats://127.0.0.1:-1"])
            // nobody may learn of a way past the relays
            .args(["--no_advertise", "--cluster_advertise", "127.0.0.1:9", "--routes", &routes.join(",")])
            .arg("--config")
            .arg(&self.config)
            // the store is named relative to where the server runs
            .current_dir(self.store(number));
        Ok(command)
    }

    fn server(&self, number: usize) -> Result<&Server> {
        self.servers.get(number).context("there are three servers")
    }

    fn server_mut(&mut self, number: usize) -> Result<&mut Server> {
        self.servers.get_mut(number).context("there are three servers")
    }

    /// Where a server takes connections of clients.
    #[must_use]
    pub fn url(&self, number: usize) -> Url {
        nats_process::url("nats", self.servers.get(number).map_or(0, |server| server.port))
    }

    /// Where each of them does.
    #[must_use]
    pub fn urls(&self) -> Vec<Url> {
        (0..SERVERS).map(|number| self.url(number)).collect()
    }

    /// All of them as a connection string.
    #[must_use]
    pub fn connection_string(&self) -> String {
        self.urls().iter().map(Url::as_str).collect::<Vec<_>>().join(",")
    }

    /// All of them as a connection string, for a user of one of the accounts.
    #[must_use]
    pub fn connection_string_of(&self, user: &str) -> String {
        let ports = self.servers.iter().map(|server| format!("nats://{user}:{user}@127.0.0.1:{}", server.port));
        ports.collect::<Vec<_>>().join(",")
    }

    /// Relays to all servers for one client, which can then be cut off from them alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ways(&self) -> Result<Ways> {
        let relay = |server: &Server| Relay::to((Ipv4Addr::LOCALHOST, server.port).into());
        Ok(Ways { relays: self.servers.iter().map(relay).collect::<Result<_>>()? })
    }

    /// A server's process, while it runs.
    #[must_use]
    pub fn id(&self, number: usize) -> Option<u32> {
        Some(self.servers.get(number)?.process.as_ref()?.id())
    }

    /// Where a server keeps its files.
    #[must_use]
    pub fn store(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("store-{number}"))
    }

    /// The directory under which all files of all servers lie.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.dir.path()
    }

    /// A client without a name, connected to whichever server takes it.
    ///
    /// # Errors
    /// None does.
    pub async fn client(&self) -> Result<async_nats::Client> {
        self.client_of(None).await
    }

    /// A client of one of the accounts by its user, connected to whichever server takes it.
    ///
    /// # Errors
    /// None does.
    pub async fn client_of(&self, user: Option<&str>) -> Result<async_nats::Client> {
        let mut options =
            async_nats::ConnectOptions::new().connection_timeout(QUESTION).request_timeout(Some(QUESTION));
        if let Some(user) = user {
            options = options.user_and_password(user.to_owned(), user.to_owned());
        }
        let running = self.servers.iter().filter(|server| server.process.is_some());
        let addresses: Vec<_> = running.map(|server| format!("nats://127.0.0.1:{}", server.port)).collect();
        let addresses: Result<Vec<async_nats::ServerAddr>, _> =
            addresses.iter().map(|address| address.parse()).collect();
        Ok(options.connect(addresses?).await?)
    }

    /// Waits until all three servers hold a stream together.
    ///
    /// # Errors
    /// They do not in time.
    pub async fn ready(&self) -> Result<()> {
        let stream = json!({ "name": "READY", "subjects": ["ready"], "num_replicas": SERVERS, "storage": "memory" });
        let look = async || {
            let client = self.client().await?;
            let made = ask(&client, "STREAM.CREATE.READY", &stream).await?;
            ensure!(made.get("error").is_none(), "{made}");
            let found = ask(&client, "STREAM.INFO.READY", &json!({})).await?;
            ensure!(all_current(&found), "{found}");
            Ok(Some(()))
        };
        eventually("a stream of three replicas", ELECTION, look).await?;
        let client = self.client().await?;
        let look = async || {
            let deleted = ask(&client, "STREAM.DELETE.READY", &json!({})).await?;
            ensure!(deleted.get("error").is_none() || deleted.to_string().contains("10059"), "{deleted}");
            Ok(Some(()))
        };
        eventually("it is deleted", ELECTION, look).await
    }

    /// Waits until every replica of a stream of the unnamed account is current.
    ///
    /// # Errors
    /// They are not in time.
    pub async fn current(&self, stream: &str) -> Result<()> {
        let look = async || {
            let client = self.client().await?;
            let info = ask(&client, &format!("STREAM.INFO.{stream}"), &json!({})).await?;
            ensure!(all_current(&info), "{info}");
            Ok(Some(()))
        };
        eventually("every replica is current", ELECTION, look).await
    }

    /// The servers whose replica of a stream of the unnamed account is not current, as its leader sees them.
    ///
    /// # Errors
    /// No leader answers.
    pub async fn behind(&self, stream: &str) -> Result<Vec<usize>> {
        let info = ask(&self.client().await?, &format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let replicas = info.pointer("/cluster/replicas").and_then(Value::as_array).with_context(|| info.to_string())?;
        let behind = replicas.iter().filter(|replica| replica.get("current") != Some(&Value::Bool(true)));
        let names: Vec<_> = behind.filter_map(|replica| replica.get("name").and_then(Value::as_str)).collect();
        Ok((0..SERVERS)
            .filter(|number| self.servers.get(*number).is_some_and(|s| names.contains(&s.name.as_str())))
            .collect())
    }

    /// Which server leads a stream of the unnamed account; waits until one does.
    ///
    /// # Errors
    /// None does in time.
    pub async fn leader(&self, stream: &str) -> Result<usize> {
        let look = async || {
            let client = self.client().await?;
            let info = ask(&client, &format!("STREAM.INFO.{stream}"), &json!({})).await?;
            let leader = info.pointer("/cluster/leader").and_then(Value::as_str).unwrap_or_default();
            let number = self.servers.iter().position(|server| server.name == leader && server.process.is_some());
            match number {
                Some(number) => Ok(Some(number)),
                None => bail!("{info}"),
            }
        };
        eventually("a stream has a leader", ELECTION, look).await
    }

    /// Makes a server the leader of a stream of the unnamed account.
    ///
    /// # Errors
    /// It does not become it in time.
    pub async fn lead(&self, stream: &str, number: usize) -> Result<()> {
        let look = async || {
            if self.leader(stream).await? == number {
                return Ok(Some(()));
            }
            let answer = self.step_down(stream, number).await?;
            bail!("{answer}")
        };
        eventually("the server leads", ELECTION, look).await
    }

    /// Makes the leader of a stream of the unnamed account step down for a server, which may be elected then; the answer
    /// to that.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn step_down(&self, stream: &str, number: usize) -> Result<Value> {
        let wish = json!({ "placement": { "preferred": self.server(number)?.name } });
        ask(&self.client().await?, &format!("STREAM.LEADER.STEPDOWN.{stream}"), &wish).await
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.server_mut(number)?.process.take().map_or(Ok(()), NatsProcess::kill)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn stop(&mut self, number: usize) -> Result<()> {
        self.server_mut(number)?.process.take().map_or(Ok(()), NatsProcess::stop)
    }

    /// SIGSTOP: it stands still, and its connections stay.
    ///
    /// # Errors
    /// The system refuses.
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.server_mut(number)?.process.as_mut().map_or(Ok(()), |process| process.signal("STOP"))
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The system refuses.
    pub fn resume(&mut self, number: usize) -> Result<()> {
        self.server_mut(number)?.process.as_mut().map_or(Ok(()), |process| process.signal("CONT"))
    }

    /// Kills it, if it runs, and starts it on the same store and port.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.kill(number)?;
        self.launch(number)
    }

    /// Takes everything from a server that does not run.
    ///
    /// # Errors
    /// It runs, or the system refuses.
    pub fn wipe(&mut self, number: usize) -> Result<()> {
        ensure!(self.server(number)?.process.is_none(), "the server runs");
        Ok(fs::remove_dir_all(self.store(number))?)
    }

    /// Flips a bit in the middle of a stream's first block on a server that does not run, as a disk might; the index is
    /// gone, as after an unclean stop. `place` is counted from that middle, in bytes.
    ///
    /// # Errors
    /// It runs, or has no such block.
    pub fn flip_a_bit(&self, number: usize, stream: &str, place: usize) -> Result<()> {
        ensure!(self.server(number)?.process.is_none(), "the server runs");
        let (mut first, mut indices, mut todo) = (None, Vec::new(), vec![self.store(number)]);
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                for entry in fs::read_dir(&path)? {
                    todo.push(entry?.path());
                }
            } else if path.to_string_lossy().contains(stream) && path.ends_with("index.db") {
                indices.push(path);
            } else if path.to_string_lossy().contains(stream) && path.extension().is_some_and(|kind| kind == "blk") {
                // blocks are numbered; a server that was filled by another does not begin with 1
                let block = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
                first = first.into_iter().chain(block.map(|block| (block, path))).min();
            }
        }
        let (_, first) = first.context("the stream has no block")?;
        let mut bytes = fs::read(&first)?;
        let middle = bytes.len() / 2 + place;
        *bytes.get_mut(middle).context("the block is too short")? ^= 1;
        fs::write(first, bytes)?;
        indices.into_iter().try_for_each(fs::remove_file)?;
        Ok(())
    }

    /// Cuts a server off from the other two; clients still reach it.
    pub fn isolate(&self, number: usize) {
        self.routes_of(number).for_each(Relay::cut);
    }

    /// Brings it back.
    pub fn heal(&self, number: usize) {
        self.routes_of(number).for_each(Relay::heal);
    }

    fn routes_of(&self, number: usize) -> impl Iterator<Item = &Relay> {
        let all = self
            .servers
            .iter()
            .enumerate()
            .flat_map(|(from, server)| server.routes.iter().map(move |(to, relay)| (from, *to, relay)));
        all.filter(move |(from, to, _)| *from == number || *to == number).map(|(_, _, relay)| relay)
    }
}

/// The ways of one client to all servers.
#[derive(Debug)]
pub struct Ways {
    relays: Vec<Relay>,
}

impl Ways {
    /// The servers as this client reaches them, as a connection string.
    #[must_use]
    pub fn connection_string(&self) -> String {
        self.relays.iter().map(|relay| format!("nats://{}", relay.address())).collect::<Vec<_>>().join(",")
    }

    /// Packets are lost, and nobody is told.
    pub fn hold(&self) {
        self.relays.iter().for_each(Relay::hold);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.relays.iter().for_each(Relay::heal);
    }
}

/// What the server says of itself, such as `nats-server: v2.15.1`.
///
/// # Errors
/// There is none, or it does not run.
pub fn version() -> Result<String> {
    let output = nats_process::command()?.arg("--version").output().context("nats-server does not run")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A question to JetStream's API, with its answer as it is.
///
/// # Errors
/// Nobody answers.
pub async fn ask(client: &async_nats::Client, what: &str, query: &Value) -> Result<Value> {
    let answer = client.request(format!("$JS.API.{what}"), query.to_string().into()).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

fn all_current(info: &Value) -> bool {
    let replicas = info.pointer("/cluster/replicas").and_then(Value::as_array);
    let is_current = |replica: &Value| {
        replica.get("current") == Some(&Value::Bool(true))
            && replica.get("offline").is_none_or(|offline| offline == false)
    };
    info.pointer("/cluster/leader").is_some()
        && replicas.is_some_and(|replicas| replicas.len() == SERVERS - 1 && replicas.iter().all(is_current))
}
