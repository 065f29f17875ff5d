//! Standard input and output as one stream that can be waited for: each is carried by a thread of its own, so that neither
//! keeps the process from ending.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Socket;

use anyhow::{Context, Result};
use portcullis_config::limits::STANDARD_INPUT_BYTES;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Standard input and output.
pub struct Standard {
    /// What comes in is read here, and what is written here goes out.
    pub stream: UnixStream,
    gone_out: oneshot::Receiver<()>,
}

impl Standard {
    /// Begins to carry.
    ///
    /// # Errors
    /// The system refuses.
    pub fn begin() -> Result<Self> {
        let (here, there) = Socket::pair().context("no pair of sockets")?;
        here.set_nonblocking(true)?;
        let stream = UnixStream::from_std(here)?;
        let (into, out_of) = (there.try_clone()?, there);
        // as they are, without the buffers of the library
        let input = File::from(io::stdin().as_fd().try_clone_to_owned().context("no standard input")?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned().context("no standard output")?);
        std::thread::spawn(move || {
            carry(input, &into);
            // nobody may read any more
            let _ = into.shutdown(Shutdown::Write);
        });
        let (done, gone_out) = oneshot::channel();
        std::thread::spawn(move || {
            carry(&out_of, output);
            // who writes on finds that nobody reads
            let _ = out_of.shutdown(Shutdown::Read);
            let _ = done.send(());
        });
        Ok(Self { stream, gone_out })
    }

    /// Waits until all that was written has gone out.
    pub async fn finish(self) {
        let Self { stream, gone_out } = self;
        drop(stream);
        // a thread that is gone has nothing more to write
        let _ = gone_out.await;
    }
}

/// Until there is no more, or nobody takes it.
fn carry(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; STANDARD_INPUT_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                if to.write_all(buffer.get(..read).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
