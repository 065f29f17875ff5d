//! A program under test: started, listened to, signalled, and gone when the test is.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How often something outside this process is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A running program. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts `command`; its stdin is empty.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = Lines::read(child.stdout.take().context("no stdout")?);
        let stderr = Lines::read(child.stderr.take().context("no stderr")?);
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// What it wrote to stdout.
    #[must_use]
    pub fn stdout(&self) -> &Lines {
        &self.stdout
    }

    /// What it wrote to stderr.
    #[must_use]
    pub fn stderr(&self) -> &Lines {
        &self.stderr
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as the kernel or a power cut would.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill_9(&mut self) -> Result<()> {
        // it may have ended by itself
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Sends it SIGINT, as Ctrl-C does.
    ///
    /// # Errors
    /// It has ended already.
    pub fn interrupt(&mut self) -> Result<()> {
        self.signal("INT")
    }

    /// Sends it a signal by name, without `SIG`.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended ({status}):\n{}", self.name, self.stderr.text());
        }
        let id = self.child.id().to_string();
        // the shell's own `kill`: there may be no other
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &id]).status()?;
        if !sent.success() {
            bail!("cannot signal {}", self.name);
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                bail!("{} still runs after {deadline:?}:\n{}", self.name, self.stderr.text());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, as they come.
#[derive(Clone)]
pub struct Lines {
    lines: watch::Receiver<Vec<String>>,
}

impl Lines {
    fn read(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = watch::channel(Vec::new());
        // a thread, not a task: what a program says is wanted whatever becomes of the test's runtime
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                sender.send_modify(|lines: &mut Vec<String>| lines.push(text));
                line.clear();
            }
        });
        Self { lines }
    }

    /// All lines so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }

    /// All lines so far, as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.borrow().join("\n")
    }

    /// Waits for the first line, past or to come, that `read` makes something of.
    ///
    /// # Errors
    /// There is none within `deadline`, or before the stream ended; the error holds what there was.
    pub async fn find<T>(&self, deadline: Duration, read: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut lines = self.lines.clone();
        let found = |lines: &Vec<String>| lines.iter().find_map(|line| read(line));
        match timeout(deadline, lines.wait_for(|lines| found(lines).is_some())).await {
            Ok(Ok(lines)) => found(&lines).ok_or_else(|| anyhow!("the line is gone")),
            Ok(Err(_)) => bail!("the stream ended without the line:\n{}", self.text()),
            Err(_) => bail!("no such line within {deadline:?}:\n{}", self.text()),
        }
    }

    /// Waits until the stream has ended, and gives all of its lines.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn to_end(&self, deadline: Duration) -> Result<Vec<String>> {
        let mut lines = self.lines.clone();
        let end = async { while lines.changed().await.is_ok() {} };
        timeout(deadline, end).await.with_context(|| format!("the stream is open after {deadline:?}"))?;
        Ok(self.all())
    }
}

/// Looks again and again until `look` finds something.
///
/// # Errors
/// The deadline passed; the error says `what` was waited for, and the last error of `look`.
pub async fn eventually<T, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let until = Instant::now() + deadline;
    loop {
        let last = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= until {
            let why = last.map_or_else(String::new, |error| format!(": {error:#}"));
            bail!("not within {deadline:?}: {what}{why}");
        }
        sleep(LOOK_AGAIN).await;
    }
}
