//! How long things take, and where the figure is from: the one file that calibrating edits.
//!
//! `measured` is what stock Patroni 4.1.5 with PostgreSQL 15 and Consul 1.20 did on one machine of
//! two cores, three members, on loopback or over the mesh, of late under the load of other work
//! ([the page](../../../docs/patroni-model.md) has the tables; `scenarios/measured/` the rounds).
//! `source` is Patroni's, Consul's or PostgreSQL's own constant. `assumed` is neither, and small
//! beside the time that it is part of.

use holdfast_net_model::Ratio;
use holdfast_plan::drill::Transport;

use crate::draw::Spread;

/// Of what takes its time on loopback and over the mesh, which counts.
pub(crate) const fn of(transport: Transport, both: [Spread; 2]) -> Spread {
    match transport {
        Transport::Loopback => both[0],
        Transport::Mesh => both[1],
    }
}

/// When Consul ends a session, in percent of its TTL since the last renewal: least and most.
/// Its promise is 100 to 200; its servers take 200 (source: `SessionTTLMultiplier`), and measured
/// failovers of 21.5 to 29.1 s with a TTL of 15 s, renewed every 10 s, agree with nothing else.
pub(crate) const SESSION_LIFE_PERCENT: (u32, u32) = (200, 200);
/// What Consul takes for a TTL at least (source: `session_ttl_min`).
pub(crate) const SESSION_TTL_LEAST: u64 = 10_000_000;
/// After a session ended, its locks stay locked (source: Patroni's `lock_delay`).
pub(crate) const LOCK_DELAY: u64 = 1_000;
/// Asking the agent and it its leader, beside the line's own delay, there and back (assumed).
pub(crate) const KV_ANSWER: Spread = Spread::us(1_500, 3_000, 9_000);
/// A blocking query is answered so long after the change (measured: about 20 ms).
pub(crate) const KV_NOTICE: Spread = Spread::ms(8, 20, 35);
/// Until Consul has a new leader (measured through a worker's write, `raft_multiplier` 1: 2.8 to
/// 6.2 s, of which a client's retry is a second).
pub(crate) const KV_ELECTION: Spread = Spread::ms(1_800, 3_400, 5_600);
/// Consul's autopilot removes a dead server, and with it the sessions of its node (measured: the
/// failover was over 12.5 to 13.5 s after the servers' leader died on the same machine).
pub(crate) const KV_SERVER_REMOVED: Spread = Spread::ms(12_000, 12_500, 13_000);

/// A turn of Patroni's loop, beside what it waits for others (assumed: some ten queries in Python).
pub(crate) const LOOP_BODY: Spread = Spread::ms(8, 18, 60);
/// Answering on Patroni's REST port (measured: from a free key to a taken one a median of 80 ms).
pub(crate) const REST_ANSWER: Spread = Spread::ms(8, 35, 250);
/// The same to an endpoint's check, and what it takes the sidecar to act on it (measured: the first
/// endpoint follows a promotion a median of 0.26 s later, of which a check's turn is half).
pub(crate) const CHECK_ANSWER: Spread = Spread::ms(30, 150, 450);
/// How long the leader race waits for another member's answer (source: hard-coded).
pub(crate) const REST_PATIENCE: u64 = 2_000_000;
/// Patroni's own polls: of a promotion, a start, a stop (source: 1 s each).
pub(crate) const POLL: u64 = 1_000_000;
/// Patroni sleeps when PostgreSQL is shut down, before it gives the key away (source).
pub(crate) const BEFORE_RELEASE: u64 = 1_000_000;
/// Patroni sleeps when it gave the key away, so that somebody takes it (source).
pub(crate) const AFTER_RELEASE: u64 = 2_000_000;
/// Patroni sleeps when it changed who is synchronous, until it looks (source: 2 s for named
/// standbys, 1 s for a quorum, and 0.1 s for PostgreSQL to read its settings).
pub(crate) const SYNC_NAMED_SETTLES: u64 = 2_000_000;
/// As before, with a quorum.
pub(crate) const SYNC_QUORUM_SETTLES: u64 = 1_000_000;
/// As before: PostgreSQL reads its settings.
pub(crate) const RELOAD: u64 = 100_000;
/// Starting Patroni: Python, imports, the first look at the KV: alone (assumed), and by a sidecar
/// that asks for its version first (measured: 2.7 to 6.6 s until it looks at the crash).
pub(crate) const PATRONI_START: [Spread; 2] =
    [Spread::ms(400, 600, 1_500), Spread::ms(2_700, 4_200, 6_600)];
/// What a worker that boots starts before that: sidecar, mesh, slot, Consul's agent (assumed: a
/// machine is back 1.6 s later than a database, in the median).
pub(crate) const MACHINE_START: Spread = Spread::ms(1_500, 2_500, 5_000);

/// From the signal to the end of recovery (measured: 42 to 536 ms, a median of 0.11 s).
pub(crate) const PROMOTION: Spread = Spread::ms(45, 110, 450);
/// How many promotions take [`WALRECEIVER_AGAIN`] longer (measured: 18 of 69, in PostgreSQL's log).
///
/// Patroni's reload before a promotion ends the startup process's sleep, a walreceiver starts, and
/// the request finds it in the streaming state: the startup process counts that as a failure, and
/// sleeps the whole interval since the last one before it looks again (source:
/// `WaitForWALToBecomeAvailable` in `xlogrecovery.c`). A switchover is no exception: the old leader
/// has stopped a second before its key is free, so its standby's walreceiver has ended by then, and
/// the startup process sleeps as it does after a kill.
pub(crate) const PROMOTION_SLEEPS: Ratio = Ratio::of(18, 69);
/// From `postgres` being started until it takes connections, as a standby: loopback and mesh
/// (measured: from "starting as a secondary" until it streams 1.2 to 3.9 s, and 1.0 to 8.2 s, the
/// longer ones under load).
pub(crate) const POSTGRES_START: [Spread; 2] = [
    Spread::ms(1_100, 1_700, 3_000),
    Spread::ms(1_000, 2_400, 5_500),
];
/// The same by hand: nobody waits for Patroni (assumed).
pub(crate) const POSTGRES_START_BY_HAND: Spread = Spread::ms(200, 500, 1_500);
/// Recovering alone after a crash, in single-user mode, and its checkpoint: loopback and mesh
/// (measured: 0.6 to 2.1 s, and 1.2 to 4.9 s until `pg_rewind`).
pub(crate) const CRASH_RECOVERY: [Spread; 2] = [
    Spread::ms(600, 1_200, 2_100),
    Spread::ms(1_100, 1_900, 4_000),
];
/// Replaying what a crash left, as a standby that starts: no checkpoint follows (assumed).
pub(crate) const CRASH_REPLAY: Spread = Spread::ms(100, 300, 800);
/// Stopping in a hurry or with a checkpoint (measured within the switchover's 2.4 s).
pub(crate) const POSTGRES_STOP: Spread = Spread::ms(120, 200, 450);
/// The checkpoint after a promotion (assumed).
pub(crate) const CHECKPOINT: Spread = Spread::ms(50, 150, 600);
/// `pg_rewind` of a small divergence: loopback and mesh (measured: 4.0 to 8.9 s, and 3.9 to 12.2 s;
/// it reads and writes every file that changed, and syncs the directory).
pub(crate) const REWIND: [Spread; 2] = [
    Spread::ms(3_800, 5_000, 8_500),
    Spread::ms(3_800, 6_300, 12_000),
];
/// A base backup beside the copying: its checkpoint, slots (measured: 140 MB in 2.3 to 3.3 s until it
/// streams, the start among it; 87 to 151 MB in 4.2 to 5.8 s elsewhere).
pub(crate) const BACKUP_FIXED: Spread = Spread::ms(50, 100, 300);
/// What a base backup copies in a second on loopback, bytes (measured: 514 MB/s on a machine with
/// nothing else to do).
pub(crate) const BACKUP_LOOPBACK_BYTES_PER_S: u64 = 500_000_000;
/// The same through the mesh, bytes (measured: 0.1 s more for 140 MB on a machine with nothing else to
/// do, and seconds beside a build).
pub(crate) const BACKUP_MESH_BYTES_PER_S: u64 = 110_000_000;
/// What a shaped line carries of its rate, percent (issue 6 asks for 60 at 5 % loss).
pub(crate) const LINE_GOODPUT_PERCENT: u64 = 85;
/// A segment of WAL, bytes (source: `initdb`'s default).
pub(crate) const SEGMENT: u64 = 16 << 20;
/// An empty cluster and its WAL, bytes (measured: PostgreSQL 15 after `initdb`).
pub(crate) const EMPTY_CLUSTER_BYTES: u64 = 40_000_000;

/// Writing a commit to disk (assumed: the machine's disk is a file in memory's reach).
pub(crate) const FLUSH: Spread = Spread::us(150, 400, 2_500);
/// A statement's way from a client to PostgreSQL on the same worker (measured: tens of µs raw, two
/// pumps).
pub(crate) const SQL_WAY: Spread = Spread::us(80, 150, 600);
/// One way between two workers, beside their lines: loopback.
pub(crate) const WAY_LOOPBACK: Spread = Spread::us(20, 35, 150);
/// The same through the mesh (measured: 182 to 343 µs there and back between two NATs).
pub(crate) const WAY_MESH: Spread = Spread::us(80, 110, 250);
/// A lost packet is sent again so much later, beside the way back (assumed: QUIC's probe).
pub(crate) const RESEND: Spread = Spread::ms(10, 25, 60);
/// A connection to PostgreSQL until it takes statements: fork, SCRAM (measured: the first write
/// comes a median of 0.2 s after the first endpoint's change, on a machine under load).
pub(crate) const CONNECT: Spread = Spread::ms(20, 140, 450);
/// A walreceiver's way from being told to streaming (measured, as above).
pub(crate) const WALRECEIVER_START: Spread = Spread::ms(40, 200, 600);
/// A walreceiver tries again (source: `wal_retrieve_retry_interval`).
pub(crate) const WALRECEIVER_AGAIN: u64 = 5_000_000;
/// PostgreSQL gives up a replication connection that says nothing (source: `wal_sender_timeout`,
/// `wal_receiver_timeout`, which the product sets).
pub(crate) const REPLICATION_PATIENCE: u64 = 30_000_000;

/// How often an endpoint asks each member (source: `docs/postgres.md`).
pub(crate) const CHECK_EVERY: u64 = 500_000;
/// How long it waits (source: the same).
pub(crate) const CHECK_PATIENCE: u64 = 1_000_000;
/// So many bad answers in a row, and a server is down (source: the same).
pub(crate) const CHECK_FALL: u8 = 2;
/// How long a client gives a connect, which is less than an endpoint holds it (source: the writers
/// of the kernel world).
pub(crate) const CONNECT_WITHIN: u64 = 1_000_000;
/// The register is used so much less often than rows are written (source: the same).
pub(crate) const REGISTER_PAUSE: u64 = 5;
/// Waits for standbys are cancelled so often, where they are (source: the same).
pub(crate) const CANCEL_EVERY: u64 = 200_000;
/// A client that was refused asks again after (source: the writers' `BACKOFF`).
pub(crate) const CLIENT_AGAIN: u64 = 50_000;
/// A child that died is started again by its sidecar after (source: the sidecar's first backoff,
/// and the agent's joining; assumed).
pub(crate) const AGENT_START: Spread = Spread::ms(1_200, 1_800, 3_000);
/// Connections over a line that carries nothing are silent so long, new ones too; then the mesh
/// resets them, and refuses new ones at once (measured: of keys that expired 20.1 to 20.2 s after a
/// line went dark every one was taken at 21.0 to 21.2 s, when the race was told that nobody answers,
/// and of those that expired later all at once; source: `docs/architecture.md`, up to 1.5 s until
/// the path counts as dark, and `limits.path_loss_grace` of 20 s).
pub(crate) const LINK_GRACE_MESH: u64 = 21_050_000;
/// An agent that was cut off for longer than its gossip waits knows no server any more: until it
/// has met one again (measured: 6.5 s after its line was back; source: serf's turns of
/// reconnecting).
pub(crate) const AGENT_REJOINS: Spread = Spread::ms(1_500, 6_000, 11_000);
/// From the silence of a line until an agent's gossip counts all of its servers as failed (measured:
/// not after 22 s, and after 34 s; source: memberlist probes one member after the other, and
/// suspects each for a while).
pub(crate) const AGENT_FORGETS: u64 = 28_000_000;
/// An operator's `pg_ctl`, until its signal comes (measured: a write or two are acknowledged
/// meanwhile).
pub(crate) const BY_HAND: Spread = Spread::ms(20, 60, 150);
/// How long a queue a link's bulk keeps (source: the headroom of its congestion control, and machines
/// that wake up some milliseconds late).
pub(crate) const BULK_QUEUE: u64 = 25_000;
/// An agent that thawed asks its servers again (assumed: its gossip and its connections timed out;
/// thawed leaders went on for 8 to 295 acknowledged writes).
pub(crate) const AGENT_THAWS: Spread = Spread::ms(5, 120, 600);
/// A line that carries again is noticed by what waits for it (assumed: a repeated packet).
pub(crate) const LINE_BACK: Spread = Spread::ms(100, 400, 1_200);
