//! The same share of the machine for everybody: a control group with a bandwidth, or else one core.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cpu::family;

/// The bandwidth: so many microseconds of CPU in each period.
const QUOTA: u32 = 5_000;
/// The period, in microseconds.
const PERIOD: u32 = 10_000;

/// What bounds whoever is put into it.
pub enum Quota {
    /// A control group, and the one to go back to. Version 2 has one hierarchy, version 1 one for each controller.
    Group {
        /// Ours.
        group: PathBuf,
        /// Where processes were before.
        parent: PathBuf,
        /// Version 2.
        unified: bool,
    },
    /// No control group may be made: the first core and no other.
    OneCore,
}

impl Quota {
    /// The best that can be had.
    pub fn make() -> Self {
        unified().or_else(bandwidth).unwrap_or(Self::OneCore)
    }

    fn set(&self, file: &str, value: &str) -> Option<()> {
        match self {
            Self::Group { group, .. } => fs::write(group.join(file), value).ok(),
            Self::OneCore => None,
        }
    }

    /// What the report says of it.
    pub const fn title(&self) -> &'static str {
        match self {
            Self::Group { unified: true, .. } => "half a core by cgroup v2 (5 ms in each 10 ms)",
            Self::Group { unified: false, .. } => "half a core by cgroup v1 (5 ms in each 10 ms)",
            Self::OneCore => "one core by taskset: no cgroup may be made",
        }
    }

    /// Puts processes, and all that they have started, under the quota.
    ///
    /// # Errors
    /// The system refuses.
    pub fn put(&self, roots: &[u32]) -> Result<()> {
        match self {
            Self::Group { group, .. } => moved(roots, group),
            Self::OneCore => pinned(roots, "0"),
        }
    }

    /// Lets them go again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn release(&self, roots: &[u32]) -> Result<()> {
        match self {
            Self::Group { parent, .. } => moved(roots, parent),
            Self::OneCore => {
                let last = std::thread::available_parallelism()?.get() - 1;
                pinned(roots, &format!("0-{last}"))
            }
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        if let Self::Group { group, .. } = self {
            // whoever is still in it keeps it; the next run has a name of its own
            let _ = fs::remove_dir(group);
        }
    }
}

fn moved(roots: &[u32], group: &Path) -> Result<()> {
    for process in family(roots)? {
        fs::write(group.join("cgroup.procs"), process.to_string())
            .with_context(|| format!("process {process} cannot be moved to {}", group.display()))?;
    }
    Ok(())
}

fn pinned(roots: &[u32], cores: &str) -> Result<()> {
    for process in family(roots)? {
        let mut taskset = Command::new("taskset");
        taskset.args(["-a", "-c", "-p", cores, &process.to_string()]).stdout(Stdio::null());
        let done = taskset.status().context("no taskset (Debian: `apt-get install util-linux`)")?;
        ensure!(done.success(), "process {process} cannot be bound to core {cores}");
    }
    Ok(())
}

fn unified() -> Option<Quota> {
    let parent = place("cgroup2", |_| true, "")?;
    let controllers = fs::read_to_string(parent.join("cgroup.controllers")).ok()?;
    controllers.split_ascii_whitespace().find(|name| *name == "cpu")?;
    fs::write(parent.join("cgroup.subtree_control"), "+cpu").ok()?;
    let quota = Quota::Group { group: created(&parent)?, parent, unified: true };
    // dropped, it takes its group away again
    quota.set("cpu.max", &format!("{QUOTA} {PERIOD}"))?;
    Some(quota)
}

fn bandwidth() -> Option<Quota> {
    let parent = place("cgroup", |options| options.split(',').any(|option| option == "cpu"), "cpu")?;
    let quota = Quota::Group { group: created(&parent)?, parent, unified: false };
    quota.set("cpu.cfs_period_us", &PERIOD.to_string())?;
    quota.set("cpu.cfs_quota_us", &QUOTA.to_string())?;
    Some(quota)
}

fn created(parent: &Path) -> Option<PathBuf> {
    let group = parent.join(format!("portcullis-bench-{}", std::process::id()));
    fs::create_dir(&group).ok()?;
    Some(group)
}

/// Where we are ourselves in a hierarchy of control groups: below a mount of this kind.
fn place(kind: &str, has: impl Fn(&str) -> bool, controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, of, options) = (fields.next()?, fields.next()?, fields.next()?);
        (of == kind && has(options)).then(|| PathBuf::from(point))
    })?;
    let ours = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = ours.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    Some(mount.join(path.trim_start_matches('/')))
}
