//! Who used the machine while something was measured.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::ground::Ground;
use crate::cpu;

/// CPU time by part, so far.
#[derive(Debug, Clone, Copy)]
struct Used {
    gateways: Duration,
    servers: Duration,
    provider: Duration,
    /// This process and all below it.
    ours: Duration,
    /// Everybody.
    all: Duration,
    stolen: Duration,
}

/// A measurement that runs.
pub struct Meter {
    began: Instant,
    before: Used,
}

/// How it was.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// How long it took.
    pub elapsed: Duration,
    /// CPU time of the three gateways.
    pub gateways: Duration,
    /// CPU time of the three servers.
    pub servers: Duration,
    /// CPU time of the provider.
    pub provider: Duration,
    /// CPU time of this process: browsers, relays, the upstream.
    pub clients: Duration,
    others: Duration,
    stolen: Duration,
    cores: f64,
    nice: i32,
}

impl Meter {
    /// Begins.
    ///
    /// # Errors
    /// A part has ended.
    pub fn start(ground: &Ground) -> Result<Self> {
        Ok(Self { began: Instant::now(), before: used(ground)? })
    }

    /// Ends.
    ///
    /// # Errors
    /// A part has ended.
    pub fn stop(&self, ground: &Ground) -> Result<Share> {
        let after = used(ground)?;
        let since = |read: fn(&Used) -> Duration| read(&after).saturating_sub(read(&self.before));
        let [gateways, servers, provider] = [since(|u| u.gateways), since(|u| u.servers), since(|u| u.provider)];
        let ours = since(|used| used.ours);
        Ok(Share {
            elapsed: self.began.elapsed(),
            gateways,
            servers,
            provider,
            clients: ours.saturating_sub(gateways + servers + provider),
            others: since(|used| used.all).saturating_sub(ours),
            stolen: since(|used| used.stolen),
            cores: f64::from(u32::try_from(std::thread::available_parallelism()?.get())?),
            nice: nice()?,
        })
    }
}

/// How this process, and everything it starts, stands to others that want the machine (proc(5): the 19th field).
fn nice() -> Result<i32> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').context("no name in /proc/self/stat")?;
    Ok(after_name.split_ascii_whitespace().nth(16).context("no nice value in /proc/self/stat")?.parse()?)
}

fn used(ground: &Ground) -> Result<Used> {
    let sum = |ids: Vec<u32>| ids.into_iter().map(cpu::used).sum::<Result<Duration>>();
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no line cpu in /proc/stat")?;
    let ticks: Vec<u32> = fields.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let at = |index: usize| cpu::TICK * ticks.get(index).copied().unwrap_or_default();
    Ok(Used {
        gateways: sum(ground.gateways.iter().map(|gateway| gateway.id()).collect())?,
        servers: sum(ground.servers())?,
        provider: cpu::used(ground.provider.id())?,
        ours: cpu::used(std::process::id())?,
        // user, nice, system, irq, softirq (proc(5))
        all: [0, 1, 2, 5, 6].into_iter().map(at).sum(),
        stolen: at(7),
    })
}

impl Display for Share {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = |part: Duration| part.as_secs_f64() * 100.0 / (self.elapsed.as_secs_f64() * self.cores);
        writeln!(
            f,
            "  CPU       gateways {:.0} %, NATS servers {:.0} %, provider {:.0} %, clients {:.0} % of the machine",
            percent(self.gateways),
            percent(self.servers),
            percent(self.provider),
            percent(self.clients)
        )?;
        let (others, stolen) = (percent(self.others), percent(self.stolen));
        let nice = self.nice;
        writeln!(f, "  beside    other processes {others:.0} %, the hypervisor {stolen:.0} %; these ran at nice {nice}")
    }
}
