//! One session of a link: its ICE agent, its QUIC connection and its streams, which live and
//! die together.

use std::time::{Duration, Instant};

use ring::hmac;
use zeroize::Zeroizing;

use super::Shared;
use crate::config::PeerConfig;
use crate::entropy::Seed;
use crate::ice::{Ice, Pair, RemoteKind};
use crate::mux::Mux;
use crate::quic::{FIRST_ID_LEN, HANDSHAKE_TIMEOUT, Quic, QuicConfig, Role};
use crate::signal::link_of_ufrag;
use crate::signal::snapshot::IceCredentials;
use crate::time::Now;
use crate::types::LinkId;

/// What runs between one run of ours and one of the peer's.
pub(super) struct Session {
    pub(super) ice: Ice,
    pub(super) quic: Quic,
    pub(super) mux: Mux,
    pub(super) epoch: u32,
    /// When the handshake began, until the peer's hello came.
    pub(super) handshake_since: Option<Instant>,
    pub(super) said_hello: bool,
    pub(super) confirmed: bool,
    pub(super) path: Option<Pair>,
    /// What its remote candidate is, as was told last.
    pub(super) remote_kind: Option<RemoteKind>,
    /// Whether it works, to the best of our knowledge.
    pub(super) connected: bool,
    /// Since when none works, after the session was up.
    pub(super) pathless_since: Option<Instant>,
    pub(super) path_changes: u32,
    /// We have closed the connection.
    pub(super) closed: bool,
}

impl Session {
    /// A session between (ours, the peer's) credentials, without candidates yet.
    pub(super) fn new(
        link: LinkId,
        peer: &PeerConfig,
        shared: &Shared,
        (own, remote): (IceCredentials, IceCredentials),
        epoch: u32,
        seed: &Seed,
        now: Now,
    ) -> Session {
        let role = shared.role_towards(peer);
        let first_id = match role {
            Role::Client => first_id(&own, &remote),
            Role::Server => first_id(&remote, &own),
        };
        let quic = QuicConfig {
            role,
            us: &shared.identity,
            peer: peer.key,
            link,
            first_id,
            congestion: shared.congestion,
            limits: shared.limits,
        };
        let controlling = role == Role::Client;
        Session {
            ice: Ice::new(own, remote, controlling, seed, now.mono),
            quic: Quic::new(&quic, seed),
            mux: Mux::new(shared.allow.clone(), shared.limits.datagram_buffer),
            epoch,
            handshake_since: None,
            said_hello: false,
            confirmed: false,
            path: None,
            remote_kind: None,
            connected: false,
            pathless_since: None,
            path_changes: 0,
            closed: false,
        }
    }

    /// QUIC's timers stand still while no path works: they could only back off further, and
    /// would then be late when one works again.
    pub(super) fn deadline(&mut self, grace: Duration) -> Option<(Instant, &'static str)> {
        let quic = match self.connected {
            true => self.quic.deadline().map(|at| (at, "QUIC timers")),
            false => None,
        };
        let handshake = self
            .handshake_since
            .map(|at| (at + HANDSHAKE_TIMEOUT, "the handshake must be done"));
        let pathless = self
            .pathless_since
            .filter(|_| !planted!(NeverExpireSession))
            .map(|at| (at + grace, "streams without a path are given up"));
        [self.ice.deadline(), quic, handshake, pathless]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// Note whether the path in use works. When it does again, QUIC makes up for lost time.
    /// Returns whether it has just died.
    pub(super) fn update_connected(&mut self, now: Instant) -> bool {
        let connected = self.ice.is_connected();
        if connected == self.connected {
            return false;
        }
        self.connected = connected;
        let was_up = self.confirmed;
        self.pathless_since = (was_up && !connected).then_some(now);
        if connected && self.path.is_some() {
            self.quic.path_changed(now);
            self.quic.handle_deadline(now);
        }
        !connected
    }
}

/// The destination id of the first QUIC packet of a session: the server's link, which its user
/// fragment names, and a tag that only who knows both ICE passwords can make.
fn first_id(client: &IceCredentials, server: &IceCredentials) -> [u8; FIRST_ID_LEN] {
    let key = [client.password.as_bytes(), server.password.as_bytes()].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &Zeroizing::new(key));
    let tag = hmac::sign(&key, b"holdfast/1 first packet");
    let link = link_of_ufrag(&server.ufrag).unwrap_or(LinkId(u16::MAX));
    let mut id = [0; FIRST_ID_LEN];
    let (head, rest) = id.split_at_mut(2);
    head.copy_from_slice(&link.0.to_be_bytes());
    rest.copy_from_slice(&tag.as_ref()[..FIRST_ID_LEN - 2]);
    id
}
