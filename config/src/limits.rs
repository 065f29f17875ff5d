//! Every bound of the product in one place: sizes in bytes, times as durations, counts as numbers.

use std::time::Duration;

/// Largest configuration file.
pub const CONFIG_BYTES: u64 = 16 * 1024 * 1024;
/// Deepest nesting of a configuration file.
pub const CONFIG_DEPTH: usize = 32;
/// Most values of a configuration file, those that aliases repeat included.
pub const CONFIG_VALUES: usize = 1_000_000;
/// Most problems of one configuration that are shown at once.
pub const CONFIG_PROBLEMS: usize = 1000;
/// Longest key name repeated in a problem, in characters.
pub const CONFIG_KEY_SHOWN: usize = 64;
/// Largest file that holds a secret, key or connection string.
pub const SECRET_FILE_BYTES: u64 = 64 * 1024;
/// Deepest path of a `claim/…` criterion.
pub const CLAIM_DEPTH: usize = 5;

/// Longest regular expression of a route, as it is written and once it is compiled.
pub const PATTERN_BYTES: usize = 4 * 1024;
/// See [`PATTERN_BYTES`].
pub const PATTERN_COMPILED_BYTES: usize = 1024 * 1024;
/// Largest set that regular expressions with the same beginning are tried as at once.
pub const PATTERN_SET_BYTES: usize = 64 * 1024 * 1024;
/// Largest body of a `response`.
pub const DIRECT_RESPONSE_BYTES: usize = 64 * 1024;
/// Longest `id` of a route.
pub const ROUTE_ID_BYTES: usize = 64;
/// Largest file of authorities that issue certificates to clients.
pub const CLIENT_CA_BYTES: u64 = 1024 * 1024;
/// Largest file of revocation lists.
pub const CRL_BYTES: u64 = 16 * 1024 * 1024;
/// Most authorities above a client's certificate.
pub const VERIFY_DEPTH: usize = 16;
/// Most proxies in front of us that add to `X-Forwarded-For`.
pub const TRUSTED_HOPS: usize = 100;

/// How often the configuration file is looked at; it is read when it looks the same twice.
pub const CONFIG_POLL: Duration = Duration::from_millis(500);
/// How long compiling a configuration that was read again may take.
pub const ENFORCE_DEADLINE: Duration = Duration::from_secs(60);
/// Routes that requests are counted for one by one; those beyond are counted together.
pub const METRIC_ROUTES: usize = 10_000;
/// Largest `metrics_basic_auth`, decoded.
pub const BASIC_AUTH_BYTES: usize = 1024;

/// Largest request head (HTTP/1.1) or header list (HTTP/2).
pub const REQUEST_HEAD_BYTES: usize = 128 * 1024;
/// Most header lines in a request.
pub const REQUEST_HEADERS: usize = 200;
/// Longest request target.
pub const TARGET_BYTES: usize = 16 * 1024;
/// Longest target of the sign-in page: it carries a URL with its target and host, each of whose bytes may be escaped to
/// three, beside a few parameters of our own.
pub const SIGN_IN_TARGET_BYTES: usize = 3 * (TARGET_BYTES + 512) + 1024;
/// How long a client may take for a request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may say nothing between two requests where `timeout_idle` is 0: longer than any process runs.
pub const IDLE_FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Most bytes of a body that are read from a client at once.
pub const CLIENT_READ: usize = 64 * 1024;
/// Most bytes of a body that nobody asked for and that are still read, so that its connection may go on.
pub const UNREAD_BODY: usize = 64 * 1024;
/// Longest line of a chunk's size and extensions, or of a trailer field.
pub const CHUNK_LINE_BYTES: usize = 4096;
/// Most bytes of extensions of chunks in one body: nobody reads them.
pub const CHUNK_EXTENSION_BYTES: usize = 16 * 1024;
/// Most bytes of a body's trailer fields (HTTP/1.1).
pub const CHUNK_TRAILER_BYTES: usize = 16 * 1024;
/// Connections on their way to one worker.
pub const ON_THEIR_WAY: usize = 256;
/// How long what a client still sends is read and forgotten before its connection closes.
pub const LINGER: Duration = Duration::from_secs(1);
/// How long whoever is in front of us may take for the header of the PROXY protocol.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest header of the PROXY protocol, with what it says beside the addresses.
pub const PROXY_HEADER_BYTES: usize = 4 * 1024;
/// How long nothing is accepted after the system had no room for another connection.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the system holds for us until we accept them.
pub const BACKLOG: i32 = 4096;
/// TLS 1.3 tickets that a client gets: one is enough to come back with, and each costs a sealing and some hundred bytes.
pub const TLS_TICKETS: usize = 1;
/// Before a certificate ends, it is warned of for this long.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Most names in a client's certificate that are looked at.
pub const CERTIFICATE_NAMES: usize = 100;
/// How long is waited for the rest of what may be the first bytes of HTTP/2.
pub const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// How long a client may take for the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams a client may have open on one HTTP/2 connection.
pub const H2_STREAMS: u32 = 100;
/// Resets a client may cause on one HTTP/2 connection before it is closed.
pub const H2_PENDING_RESETS: usize = 20;
/// Control frames of an HTTP/2 client that nothing else goes on beside, and within how long.
pub const H2_CONTROL_FRAMES: (usize, Duration) = (1000, Duration::from_secs(10));
/// Largest body of a request to our own pages.
pub const OWN_BODY_BYTES: usize = 256 * 1024;
/// How long the body of a request to our own pages may take.
pub const OWN_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may go on whose permit was lost meanwhile, counted from its beginning.
pub const CUT_GRACE: Duration = Duration::from_secs(1);
/// How often everything open is asked about without a word: whatever was not said, or comes with time, is found then.
pub const RECONSIDER: Duration = Duration::from_secs(10);
/// How long the client of a WebSocket that is cut may take for the frame that says so.
pub const LAST_FRAME: Duration = Duration::from_millis(500);
/// How long a peer may take nothing of what lies ready for it. A slow one takes it in large pieces, as the system's
/// buffers drain.
pub const WRITE_STALL: Duration = Duration::from_secs(120);
/// When a silent TCP connection is probed, how often then, and how many probes may fail.
pub const TCP_PROBE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);
/// How long a tunnel may stay open of which one side has ended.
pub const TUNNEL_HALF_CLOSED: Duration = Duration::from_secs(10);
/// How long a tunnel of TCP may be silent of which one side has ended.
pub const TUNNEL_SILENT: Duration = Duration::from_secs(60 * 60);
/// Least bytes of a request's body, and within how long, while its upstream waits for more of it.
pub const UPLOAD_FLOOR: (usize, Duration) = (1024, Duration::from_secs(30));
/// Requests that one worker has under way for one session to one route; more of them wait. WebSockets and tunnels are
/// counted apart, by the same number.
pub const SESSION_BUDGET: usize = 64;
/// The same for an address from which nobody is signed in.
pub const ADDRESS_BUDGET: usize = 128;
/// Longest time that a `rate_limit` counts over.
pub const RATE_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Callers that one `rate_limit` tells apart; those beyond are counted together.
pub const RATE_CALLERS: usize = 1_000_000;
/// Client connections beyond `max_connections` and `max_connections_per_client` that are still told so: this part of the
/// bound, and so many more. Whoever comes then is not heard.
pub const CROWD_MARGIN: (usize, usize) = (16, 16);
/// How long a connection lives that is one too many.
pub const CROWD_LIFE: Duration = Duration::from_secs(5);
/// Open files that are kept for other things than clients and their upstreams.
pub const FILES_RESERVED: usize = 512;
/// How long a request waits for others of its client to end.
pub const BUDGET_WAIT: Duration = Duration::from_secs(10);
/// How often a silent HTTP/2 client is asked for a sign of life, and how long it may take to give one.
pub const H2_PING: Duration = Duration::from_secs(20);

/// How long `portcullis tcp` waits for a connection to its gateway.
pub const TUNNEL_CONNECT: Duration = Duration::from_secs(15);
/// How long it waits for an answer: the gateway itself may wait for the upstream, and for its own log.
pub const TUNNEL_ANSWER: Duration = Duration::from_secs(60);
/// Longest answer that it reads.
pub const TUNNEL_ANSWER_BYTES: usize = 64 * 1024;
/// How long it stays around after a sign-in to tell the browser that all is well.
pub const TUNNEL_FAREWELL: Duration = Duration::from_secs(10);
/// Longest handle that it takes.
pub const HANDLE_BYTES: usize = 4 * 1024;
/// How often a process that waits for another one's sign-in looks whether it is over.
pub const HANDLE_LOCK_LOOK: Duration = Duration::from_millis(200);
/// Bytes that `portcullis tcp` takes from standard input at once.
pub const STANDARD_INPUT_BYTES: usize = 64 * 1024;

/// How long connecting to an upstream may take.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(10);
/// How long an upstream may take to begin its answer where no `timeout` is set.
pub const UPSTREAM_RESPONSE: Duration = Duration::from_secs(30);
/// How long nothing may move on a connection or in an exchange where no `timeout_idle` is set.
pub const TIMEOUT_IDLE: Duration = Duration::from_secs(5 * 60);
/// Bytes that an upstream may send before its answer begins, and with its head: interim answers have no number.
pub const UPSTREAM_HEAD_BYTES: usize = 1024 * 1024;
/// Largest head of an upstream's answer, and most header lines in it.
pub const UPSTREAM_HEADERS: (usize, usize) = (256 * 1024, 256);
/// Idle upstream connections that a worker keeps for one upstream.
pub const UPSTREAM_IDLE_CONNECTIONS: usize = 64;
/// How long an idle upstream connection is kept.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(60);

/// Largest file of certificates of upstreams and their authorities: a system's whole bundle fits.
pub const CA_FILE_BYTES: usize = 2 * 1024 * 1024;
/// Largest weight of an upstream.
pub const UPSTREAM_WEIGHT: u32 = 1_000_000;
/// Least time between two look-ups of a name.
pub const DNS_REFRESH: Duration = Duration::from_secs(1);
/// Words about the members of one cluster that wait to be heard.
pub const UPSTREAM_REPORTS: usize = 1024;
/// Members that a request which reached none of them is tried at.
pub const UPSTREAM_ATTEMPTS: usize = 3;
/// Streams on one HTTP/2 connection to an upstream; fewer where it says so.
pub const UPSTREAM_STREAMS: usize = 250;
/// HTTP/2 windows towards upstreams: of a stream, and of a connection.
pub const UPSTREAM_WINDOWS: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Largest answer to an active check that is read.
pub const HEALTH_ANSWER_BYTES: usize = 64 * 1024;
/// Most active checks of one route.
pub const HEALTH_CHECKS: usize = 8;

/// Life of a signed URL.
pub const SIGNED_URL_LIFE: Duration = Duration::from_secs(5 * 60);
/// How far clocks of two nodes may differ.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(60);
/// Life of a sign-in: its start cookie and its state cookie.
pub const SIGN_IN_LIFE: Duration = Duration::from_secs(10 * 60);
/// Start or state cookies of one browser and one name that are looked at.
pub const SIGN_IN_COOKIES: usize = 16;
/// Longest value of one of our cookies: with its name, below the 4096 bytes that browsers take (RFC 6265bis §5.6).
pub const COOKIE_BYTES: usize = 3800;
/// Most cookies that one sign-in is kept in: enough for the longest request target.
pub const KEEPSAKE_COOKIES: usize = 8;
/// State cookies that a browser keeps from earlier sign-ins when it begins a new one, in bytes.
pub const SIGN_IN_COOKIES_BYTES: usize = 32 * 1024;
/// Longest redirect URL; a larger hand-over travels in a form.
pub const REDIRECT_BYTES: usize = 4 * 1024;

/// Largest answer of an identity provider.
pub const IDP_ANSWER_BYTES: usize = 512 * 1024;
/// Largest ID, access or refresh token.
pub const IDP_TOKEN_BYTES: usize = 32 * 1024;
/// Largest JSON of a person's claims: with the tokens, sealed, they fit into [`OWN_BODY_BYTES`].
pub const IDP_CLAIMS_BYTES: usize = 64 * 1024;
/// Most groups of one person: their differences fit into one [`EVENT_BYTES`].
pub const IDP_GROUPS: usize = 1000;
/// Deepest nesting of an identity provider's JSON.
pub const IDP_JSON_DEPTH: usize = 16;
/// How long a call to an identity provider may take.
pub const IDP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all the calls of one sign-in may take together.
pub const IDP_SIGN_IN: Duration = Duration::from_secs(20);
/// Age of a logout token that is still taken.
pub const LOGOUT_TOKEN_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long a provider's logout may take: its keys, the log, and every session that it ends.
pub const LOGOUT_DEADLINE: Duration = Duration::from_secs(55);
/// Longest `jti` or `sid` of a logout token.
pub const LOGOUT_NAME_BYTES: usize = 255;
/// Sessions of one logout that are ended at once.
pub const LOGOUT_IN_FLIGHT: usize = 64;
/// Tokens under way to the provider's revocation endpoint; those of further sign-outs are not sent.
pub const REVOCATIONS_IN_FLIGHT: usize = 64;
/// Least time between two fetches of the same keys for the sake of a key that we do not know.
pub const JWKS_REFETCH: Duration = Duration::from_secs(60);
/// Most keys in a key set.
pub const JWKS_KEYS: usize = 64;
/// How long discovery and keys are trusted without asking again.
pub const DISCOVERY_LIFE: Duration = Duration::from_secs(60 * 60);
/// Least time between two attempts at a discovery document that could not be had.
pub const DISCOVERY_RETRY: Duration = Duration::from_secs(3);
/// Longest `sub` (OpenID Connect Core §2).
pub const SUBJECT_BYTES: usize = 255;

/// A refresh begins this long before the access token ends, or with a quarter of its life left if that is later.
pub const REFRESH_LEAD: Duration = Duration::from_secs(60);
/// Least time between two refreshes of one session: a provider whose access tokens end sooner fills no log.
pub const REFRESH_LEAST: Duration = Duration::from_secs(10);
/// How often it is looked what is owed to sessions because of their tokens.
pub const REFRESH_LOOK: Duration = Duration::from_secs(5);
/// Sessions that one look takes up at most.
pub const REFRESH_BATCH: usize = 1000;
/// Sessions that are looked at for what is owed to them before something else gets its turn.
pub const REFRESH_STEP: usize = 500;
/// How often a node makes itself known to the others, and after how long a silence it is gone: some beats may be lost.
pub const NODE_BEAT: Duration = Duration::from_secs(2);
/// See [`NODE_BEAT`].
pub const NODE_GONE: Duration = Duration::from_secs(7);
/// Most other nodes that a node knows of.
pub const NODES: usize = 1000;
/// Refreshes and questions for user info under way at one time.
pub const REFRESH_IN_FLIGHT: usize = 64;
/// Calls to one identity provider a second on behalf of sessions, and how many of them may come at once.
pub const REFRESH_RATE: (u32, u32) = (100, 500);
/// What fell due while a node was away is spread over this time.
pub const REFRESH_SPREAD: Duration = Duration::from_secs(60);
/// How long the answer to a refresh is waited for: what was sent once is not sent again.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after an intent its outcome is waited for before it is settled: longer than [`REFRESH_TIMEOUT`].
pub const REFRESH_DEADLINE: Duration = Duration::from_secs(60);
/// How long an answer that cannot be put into the vault is kept and tried again.
pub const REFRESH_KEPT: Duration = Duration::from_secs(10 * 60);
/// Least and longest pause before a refresh that failed is tried again.
pub const REFRESH_PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5 * 60));
/// The longest wait that a provider may ask for before a refresh that it did not take is tried again.
pub const RETRY_AFTER_MOST: Duration = Duration::from_secs(15 * 60);
/// Times that what became of a refresh is offered to a log that does not answer.
pub const REFRESH_APPENDS: usize = 3;
/// How long somebody else's intent without an outcome is known before it is settled: whoever wrote it, and knows that
/// nobody was asked, has two looks to say so.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than the first of them another node waits before it does what is owed.
pub const REFRESH_TAKEOVER: Duration = Duration::from_secs(20);
/// How often user info is asked for while a session lives.
pub const USER_INFO_EVERY: Duration = Duration::from_secs(10 * 60);

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
/// How long databroker may take for a whole hand-over: vault, tokens, groups, session.
pub const HAND_OVER_DEADLINE: Duration = Duration::from_secs(30);
/// How long deciding on a request may take where authorize runs apart.
pub const CHECK_DEADLINE: Duration = Duration::from_millis(250);
/// After this the same question goes to authorize once more: whoever had it may have died.
pub const CHECK_ATTEMPT: Duration = Duration::from_millis(120);
/// How long authorize in another process waits for a session that was begun a moment ago before it says so; the proxy
/// asks again, for [`READ_YOUR_WRITES`] in all.
pub const CHECK_PATIENCE: Duration = Duration::from_millis(80);
/// How long one attempt of a question to another component may take that may be asked again.
pub const ROLE_ATTEMPT: Duration = Duration::from_secs(6);
/// How long a process that may begin no consumer waits for one of databroker's; its tail stands still meanwhile.
pub const LEND_DEADLINE: Duration = Duration::from_millis(500);
/// How long after a component was found missing it is looked for again.
pub const ROLE_PAUSE: Duration = Duration::from_millis(20);
/// How often a component apart is asked whether it is there, and how long it may take to say so.
pub const ROLE_PING: Duration = Duration::from_secs(1);
/// How long a subject that was denied is left alone before it is tried again.
pub const ROLE_DENIED_PAUSE: Duration = Duration::from_secs(5);
/// Largest message between components, sealed.
pub const ROLE_MESSAGE_BYTES: usize = 900 * 1024;
/// Permits that are asked about at once where authorize runs apart, and bytes of their requests.
pub const ASK_AGAIN_BATCH: (usize, usize) = (256, 256 * 1024);
/// How often it is looked which permits are to be asked about again where authorize runs apart.
pub const ASK_AGAIN_LOOK: Duration = Duration::from_millis(500);
/// How long an answer to that may take.
pub const ASK_AGAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Questions under way at one component.
pub const ASKS_IN_FLIGHT: usize = 1024;
/// How long authenticate may take for a step of a sign-in: discovery, token, keys and user info one after another.
pub const SIGN_IN_DEADLINE: Duration = Duration::from_secs(45);
/// How long a request waits for the log position in its handle.
pub const READ_YOUR_WRITES: Duration = Duration::from_secs(2);
/// How often the log's head is asked for: several times within [`STRICT_STALENESS`].
pub const HEAD_POLL: Duration = Duration::from_millis(500);
/// Without a fresh head for this long, the node says that it is stale.
pub const HEAD_STALE: Duration = Duration::from_secs(10);
/// How far the clock may go back between two looks at it before what it said earlier means nothing.
pub const CLOCK_SET_BACK: Duration = Duration::from_secs(1);
/// The least time between two such questions: more are asked when that proves more.
pub const HEAD_POLL_LEAST: Duration = Duration::from_millis(100);
/// Replicas of a stream give their leader a sign of life so often, and it takes its time to arrive.
pub const QUORUM_BEAT: Duration = Duration::from_millis(1050);
/// A leader that has not heard from more than half of its stream's replicas for this long proves nothing: another one
/// may have been elected. (Servers give each other a sign of life every second.)
pub const QUORUM_HEARD: Duration = Duration::from_secs(3);
/// Questions in a row that may go without a good answer before another server is tried: this one may be cut off from
/// the others. Also how often it is left again where luck leads back to it.
pub const SERVER_PATIENCE: u32 = 3;
/// The longest name of JetStream's API in an account that imports it.
pub const NATS_PREFIX_BYTES: usize = 64;
/// Records that are asked of a log's leader at a time where there is no consumer to bring them.
pub const LEADER_READS: u64 = 64;
/// How long a question to the authority of a log or vault may take.
pub const STORE_REQUEST: Duration = Duration::from_secs(2);
/// Least and longest pause between two attempts of the same write.
pub const APPEND_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Least and longest pause between two attempts to reach a server.
pub const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a denial of the server explains why something does not come.
pub const OBJECTION_FRESH: Duration = Duration::from_secs(5);
/// How often a silent server is asked for a sign of life; two that fail end the connection.
pub const SERVER_PING: Duration = Duration::from_secs(5);
/// Writes to a file that share one commit.
pub const GROUP_COMMIT: usize = 1024;
/// How long a file that another process has locked is waited for.
pub const FILE_BUSY: Duration = Duration::from_secs(5);
/// Records that a tail fetches at once when it follows, and when it is far behind.
pub const TAIL_BATCH: (usize, usize) = (500, 5000);
/// Bytes that a tail of a file fetches at once.
pub const TAIL_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often a server that has nothing new for a tail says so.
pub const TAIL_HEARTBEAT: Duration = Duration::from_millis(500);
/// How long one fetch of a tail stays open at the server.
pub const TAIL_FETCH: Duration = Duration::from_secs(2);
/// How long a server keeps the consumer of a tail that is silent.
pub const TAIL_INACTIVE: Duration = Duration::from_secs(20);
/// Without progress towards a known head for this long, a tail begins anew where it stands.
pub const TAIL_STALL: Duration = Duration::from_secs(1);
/// How long a tail waits before it asks again whether something is really wrong with the log.
pub const TAIL_CONFIRM: Duration = Duration::from_millis(300);
/// Consumers that a tail begins in one go to get one at the log's leader: which server gets one, is the servers' choice.
pub const TAIL_SEEKS: u32 = 4;
/// Least and longest pause between two goes.
pub const TAIL_SEEK_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Largest value in the vault.
pub const VALUE_BYTES: usize = 256 * 1024;
/// How often it is looked whether the vault is there and as it must be.
pub const VAULT_LOOK: Duration = Duration::from_secs(5);
/// How long after the start of a node the vault is swept first, and how often then.
pub const VAULT_SWEEP_FIRST: Duration = Duration::from_secs(60);
/// See [`VAULT_SWEEP_FIRST`].
pub const VAULT_SWEEP: Duration = Duration::from_secs(15 * 60);
/// Values that one sweep forgets at most.
pub const VAULT_SWEPT: usize = 1000;
/// Sessions that a sweep asks for at once.
pub const VAULT_STEP: usize = 500;
/// How long tokens lie in the vault without a session, unchanged, before nobody is coming for them: longer than
/// [`HAND_OVER_DEADLINE`] by far; and how long those of a session stay that has ended by itself.
pub const VAULT_ORPHANED: Duration = Duration::from_secs(10 * 60);
/// Revoked sessions whose tokens wait to be given back; those of others stay for the sweep.
pub const REVOCATIONS_WAITING: usize = 4096;
/// How long reading a whole shelf of the vault may take.
pub const SCAN_DEADLINE: Duration = Duration::from_secs(60);

/// Past this without the log's authority, nobody with a session is served (the default of `max_staleness`).
pub const MAX_STALENESS: Duration = Duration::from_secs(5 * 60);
/// Least time between two notes on the log that a session is in use.
pub const SEEN_LEAST: Duration = Duration::from_secs(1);
/// The log is told of a session in use at most this many times within `session_idle_timeout`.
pub const SEEN_PARTS: u32 = 4;
/// Least and longest pause between two looks at what the log is to be told of sessions in use.
pub const SEEN_LOOK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Notes that sessions are in use, under way at once.
pub const SEEN_IN_FLIGHT: usize = 64;
/// The same for `max_staleness: strict`, and the least that may be asked for.
pub const STRICT_STALENESS: Duration = Duration::from_secs(2);
/// How long a request waits for the log's authority where its last sign of life has just become too old: with the
/// replicas' own pace in a stream at rest, and some of its messages late.
pub const FRESHENS: Duration = Duration::from_millis(500);
/// So many sessions or keys are gone through where they are met; more of them away from the threads that must not wait.
pub const FEW: usize = 1000;
/// How often ended sessions are swept from the views.
pub const SWEEP: Duration = Duration::from_secs(60);
/// Steps in which the fold is swept, so that no step takes long.
pub const SWEEP_STEPS: u32 = 64;
/// How long after its own end a session is forgotten but for that it ended: longer than clocks of nodes ever differ.
pub const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);
/// How often it is looked whether a snapshot is due.
pub const SNAPSHOT_CHECK: Duration = Duration::from_secs(10);
/// Events after which a snapshot is due.
pub const SNAPSHOT_EVENTS: u64 = 50_000;
/// Time after which a snapshot is due if anything happened at all.
pub const SNAPSHOT_AGE: Duration = Duration::from_secs(15 * 60);
/// Snapshots that a node keeps of a log.
pub const SNAPSHOTS_KEPT: usize = 2;
/// Snapshots that nodes keep together.
pub const SNAPSHOTS_SHARED: usize = 3;
/// How long an orderly stop waits for its last snapshot.
pub const SNAPSHOT_CLOSE: Duration = Duration::from_secs(2);
/// How long reaching the shared snapshots may take, and one of their files.
pub const SNAPSHOT_SHARE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// Changed and ended sessions that a slow listener may lag behind before it must look at all of its connections.
pub const ENDED_BACKLOG: usize = 4096;
/// Pause between attempts to reach a log or vault that is away.
pub const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// How long a command on sessions may take to read the log.
pub const SESSIONS_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// Longest reason of a revocation, in characters.
pub const REASON_CHARS: usize = 200;

/// Life of an assertion.
pub const ASSERTION_LIFE: Duration = Duration::from_secs(5 * 60);
/// An assertion with less life left than this is signed anew.
pub const ASSERTION_REUSE: Duration = Duration::from_secs(2 * 60);
/// Longest header made of one claim.
pub const CLAIM_HEADER_BYTES: usize = 16 * 1024;
/// Assertions that a worker keeps.
pub const ASSERTION_CACHE: usize = 100_000;

/// How long an orderly stop may take before what is open is cut.
pub const DRAIN: Duration = Duration::from_millis(1200);
/// How long workers have for the last lines of the request log: longer than they collect lines.
pub const LAST_LINES: Duration = Duration::from_millis(200);
/// How long an orderly stop waits, when what was open has been cut, for commands under way and for its own threads.
pub const CLOSE: Duration = Duration::from_millis(350);
/// Log lines waiting to be written, in batches.
pub const LINE_BATCHES: usize = 1024;

/// Life of an authorization code of the demo's provider (RFC 6749 §4.1.2 allows ten minutes).
pub const DEMO_CODE_LIFE: Duration = Duration::from_secs(60);
/// Life of an access token and of an ID token of the demo's provider.
pub const DEMO_TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);
/// Life of a login at the demo's provider, and of the refresh tokens that come from it.
pub const DEMO_LOGIN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a form of the demo's provider may lie open.
pub const DEMO_FORM_LIFE: Duration = Duration::from_secs(30 * 60);
/// Codes, grants and ended logins that the demo's provider remembers, each.
pub const DEMO_REMEMBERED: usize = 10_000;
/// Largest request body of the demo's provider.
pub const DEMO_BODY_BYTES: usize = 64 * 1024;
/// How long the demo's upstream waits for the gateway's keys.
pub const DEMO_JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the demo's upstream trusts keys without asking again.
pub const DEMO_JWKS_LIFE: Duration = Duration::from_secs(60);
/// Largest WebSocket message that the demo's upstream echoes.
pub const DEMO_MESSAGE_BYTES: usize = 1024 * 1024;
/// The longest that the demo's upstream may be asked to be slow.
pub const DEMO_SLOWEST: Duration = Duration::from_secs(120);
/// Life of the demo's certificate: the longest that browsers accept is 398 days.
pub const DEMO_CERTIFICATE_LIFE: Duration = Duration::from_secs(397 * 24 * 60 * 60);
/// The demo's certificate is made again when it has less life left.
pub const DEMO_CERTIFICATE_RENEWAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Life of the demo's certificate authority: longer than anybody keeps a demo.
pub const DEMO_AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
