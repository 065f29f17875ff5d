//! Every bound of the product in one place: sizes in bytes, times as durations, counts as numbers.

use std::time::Duration;

/// Largest configuration file.
pub const CONFIG_BYTES: u64 = 16 * 1024 * 1024;
/// Deepest nesting of a configuration file.
pub const CONFIG_DEPTH: usize = 32;

/// Largest request head (HTTP/1.1) or header list (HTTP/2).
pub const REQUEST_HEAD_BYTES: usize = 128 * 1024;
/// Most header lines in a request.
pub const REQUEST_HEADERS: usize = 200;
/// Longest request target.
pub const TARGET_BYTES: usize = 16 * 1024;
/// How long a client may take for a request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams a client may have open on one HTTP/2 connection.
pub const H2_STREAMS: u32 = 100;
/// Resets a client may cause on one HTTP/2 connection before it is closed.
pub const H2_PENDING_RESETS: usize = 20;
/// Largest body of a request to our own pages.
pub const OWN_BODY_BYTES: usize = 256 * 1024;

/// How long connecting to an upstream may take.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(10);
/// How long an upstream may take to begin its answer (`timeout`, 30 s in Pomerium).
pub const UPSTREAM_RESPONSE: Duration = Duration::from_secs(30);
/// Idle upstream connections that a worker keeps for one upstream.
pub const UPSTREAM_IDLE_CONNECTIONS: usize = 64;
/// How long an idle upstream connection is kept.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(60);

/// Life of a signed URL.
pub const SIGNED_URL_LIFE: Duration = Duration::from_secs(5 * 60);
/// How far clocks of two nodes may differ.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(60);
/// Life of a sign-in: its start cookie and its state cookie.
pub const SIGN_IN_LIFE: Duration = Duration::from_secs(10 * 60);
/// Start or state cookies of one browser that are looked at.
pub const SIGN_IN_COOKIES: usize = 16;
/// Longest redirect URL; a larger hand-over travels in a form.
pub const REDIRECT_BYTES: usize = 4 * 1024;
/// Largest sealed hand-over.
pub const HAND_OVER_BYTES: usize = 128 * 1024;

/// Largest answer of an identity provider.
pub const IDP_ANSWER_BYTES: usize = 512 * 1024;
/// How long a call to an identity provider may take.
pub const IDP_TIMEOUT: Duration = Duration::from_secs(10);
/// Least time between two fetches of the same keys.
pub const JWKS_REFETCH: Duration = Duration::from_secs(60);
/// How long discovery and keys are trusted without asking again.
pub const DISCOVERY_LIFE: Duration = Duration::from_secs(60 * 60);

/// Largest event.
pub const EVENT_BYTES: usize = 256 * 1024;
/// Commands in flight in the journal over all aggregates.
pub const JOURNAL_IN_FLIGHT: usize = 1024;
/// Times a command is decided again after a lost race.
pub const JOURNAL_ATTEMPTS: usize = 8;
/// How long an append may take, its retries included.
pub const APPEND_DEADLINE: Duration = Duration::from_secs(10);
/// How long one attempt of an append may take.
pub const APPEND_ATTEMPT: Duration = Duration::from_secs(1);
/// How long a command to databroker may take.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(12);
/// How long a request waits for the log position in its handle.
pub const READ_YOUR_WRITES: Duration = Duration::from_secs(2);
/// How often the log's head is asked for.
pub const HEAD_POLL: Duration = Duration::from_secs(1);
/// Without a fresh head for this long, the node says that it is stale.
pub const HEAD_STALE: Duration = Duration::from_secs(10);

/// Past this without the log's authority, nobody with a session is served (`max_staleness`).
pub const MAX_STALENESS: Duration = Duration::from_secs(5 * 60);
/// How often ended sessions are swept from the views.
pub const SWEEP: Duration = Duration::from_secs(60);
/// Ended sessions that a slow listener may lag behind before it must look at all of its connections.
pub const ENDED_BACKLOG: usize = 4096;
/// Pause between attempts to reach a log or vault that is away.
pub const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// Life of an assertion.
pub const ASSERTION_LIFE: Duration = Duration::from_secs(5 * 60);
/// An assertion with less life left than this is signed anew.
pub const ASSERTION_REUSE: Duration = Duration::from_secs(2 * 60);
/// Assertions that a worker keeps.
pub const ASSERTION_CACHE: usize = 100_000;

/// How long an orderly stop may take before what is open is cut.
pub const DRAIN: Duration = Duration::from_millis(1500);
/// Log lines waiting to be written, in batches.
pub const LINE_BATCHES: usize = 1024;
