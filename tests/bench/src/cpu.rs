//! CPU time of a process and all of its children, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time so far of every thread of `roots` and of the processes below them that still runs, to the nanosecond
/// (`schedstat`, which counts time on a core alone).
///
/// # Errors
/// One of `roots` does not run.
pub fn spent(roots: &[u32]) -> Result<Duration> {
    let mut nanoseconds = 0_u64;
    for process in family(roots)? {
        for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            // it may have ended since
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let on_core = text.split_ascii_whitespace().next().and_then(|text| text.parse::<u64>().ok());
            nanoseconds += on_core.context("a schedstat without a figure")?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// `roots` and every process below them that still runs.
///
/// # Errors
/// One of `roots` does not run.
pub fn family(roots: &[u32]) -> Result<Vec<u32>> {
    let processes = running()?;
    for root in roots {
        processes.get(root).with_context(|| format!("process {root} has ended"))?;
    }
    let below = |id: &u32| roots.iter().any(|root| is_below(&processes, *id, *root));
    Ok(processes.keys().copied().filter(below).collect())
}

/// Length of a tick of `/proc/PID/stat`: `USER_HZ` is 100 on every Linux that we run on.
pub const TICK: Duration = Duration::from_millis(10);

/// User and system time so far of `root` and of every process below it that still runs.
///
/// # Errors
/// `root` does not run.
pub fn used(root: u32) -> Result<Duration> {
    let processes = running()?;
    processes.get(&root).with_context(|| format!("process {root} has ended"))?;
    let below = processes.iter().filter(|(id, _)| is_below(&processes, **id, root));
    Ok(TICK * below.map(|(_, stat)| stat.ticks).sum::<u32>())
}

fn running() -> Result<HashMap<u32, Stat>> {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // it may have ended since
        if let Some(stat) = fs::read_to_string(format!("/proc/{id}/stat")).ok().as_deref().and_then(Stat::read) {
            processes.insert(id, stat);
        }
    }
    Ok(processes)
}

/// Whether a process is `root` or was started by it, at however many removes.
fn is_below(processes: &HashMap<u32, Stat>, mut id: u32, root: u32) -> bool {
    loop {
        match processes.get(&id) {
            _ if id == root => return true,
            Some(stat) if stat.parent != 0 => id = stat.parent,
            _ => return false,
        }
    }
}

/// What counts of a line of `/proc/PID/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// `utime` and `stime`, all threads, those that have ended too.
    ticks: u32,
}

impl Stat {
    fn read(line: &str) -> Option<Self> {
        // the second field is a name in parentheses that may hold anything; what follows begins with the third
        let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let user: u32 = fields.nth(9)?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        Some(Self { parent, ticks: user.checked_add(system)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_whatever_the_process_is_called() {
        let line = "4711 (nginx: (worker) 1) S 4700 4700 1 0 -1 4194560 9 0 0 0 1203 788 11 12 20 0 1 0 99 8 1\n";
        assert_eq!(Stat::read(line), Some(Stat { parent: 4700, ticks: 1991 }));
        assert_eq!(Stat::read("4711 (cut short) S 4700"), None);
    }

    #[test]
    fn the_time_of_a_child_is_its_parents_too() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; read line";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 4];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let own = used(child.id()).unwrap();
        assert!(own > Duration::ZERO);
        assert!(used(std::process::id()).unwrap() >= own);
        let exact = spent(&[child.id()]).unwrap();
        assert!(exact > Duration::ZERO && spent(&[std::process::id()]).unwrap() >= exact);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(used(child.id()).is_err() && spent(&[child.id()]).is_err(), "what has ended uses nothing");
    }
}
