//! One client's relayed transport address, and whom it may talk to through it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use stun_types::message::{IntegrityKey, TransactionId};

use super::ClientId;

/// Lifetime of a permission (RFC 8656 section 9).
pub const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// Lifetime of a channel binding (RFC 8656 section 12).
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// How far an allocation has come.
pub(super) enum Stage {
    /// Its socket is being opened.
    Opening {
        /// To sign the answer with.
        key: IntegrityKey,
        /// What the client will be told, in seconds.
        lifetime: u32,
        /// The client wants an even port.
        even: bool,
        /// Ports left to try.
        tries: u32,
        /// The request had a fingerprint, so the answer gets one.
        fingerprint: bool,
    },
    /// It relays. Holds the answer to the request, for when that was lost.
    Live { answer: Vec<u8> },
}

/// An allocation.
pub(super) struct Allocation {
    pub(super) client: ClientId,
    pub(super) from: SocketAddr,
    pub(super) user: String,
    pub(super) transaction: TransactionId,
    pub(super) stage: Stage,
    pub(super) expires: Instant,
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<u16, Channel>,
    numbers: BTreeMap<SocketAddr, u16>,
}

#[derive(Clone, Copy)]
struct Channel {
    peer: SocketAddr,
    expires: Instant,
}

/// A binding that contradicts another one, or one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbindable {
    /// The channel belongs to another peer, or the peer to another channel.
    Conflict,
    /// The limit is reached.
    Full,
}

impl Allocation {
    pub(super) fn new(
        client: ClientId,
        from: SocketAddr,
        user: String,
        transaction: TransactionId,
        stage: Stage,
        expires: Instant,
    ) -> Allocation {
        Allocation {
            client,
            from,
            user,
            transaction,
            stage,
            expires,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Whether it relays at all at this moment.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Live { .. }) && now < self.expires
    }

    /// Whether datagrams may pass between the client and `peer`.
    pub(super) fn permits(&self, now: Instant, peer: IpAddr) -> bool {
        self.permissions
            .get(&peer)
            .is_some_and(|expires| now < *expires)
    }

    /// The peer behind a channel number.
    pub(super) fn peer_of(&self, now: Instant, number: u16) -> Option<SocketAddr> {
        let channel = self.channels.get(&number)?;
        (now < channel.expires).then_some(channel.peer)
    }

    /// The channel number of a peer.
    pub(super) fn number_of(&self, now: Instant, peer: SocketAddr) -> Option<u16> {
        let number = *self.numbers.get(&peer)?;
        self.peer_of(now, number).map(|_| number)
    }

    /// Permit `peers`, or renew their permissions: all of them or none.
    pub(super) fn permit(
        &mut self,
        now: Instant,
        peers: &[IpAddr],
        permissions_max: usize,
    ) -> Result<(), Unbindable> {
        self.permissions.retain(|_, expires| now < *expires);
        let mut fresh: Vec<&IpAddr> = peers
            .iter()
            .filter(|peer| !self.permissions.contains_key(peer))
            .collect();
        fresh.sort();
        fresh.dedup();
        if self.permissions.len() + fresh.len() > permissions_max {
            return Err(Unbindable::Full);
        }
        for peer in peers {
            self.permissions.insert(*peer, now + PERMISSION_LIFETIME);
        }
        Ok(())
    }

    /// Bind a channel, or renew it, and its permission.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        number: u16,
        peer: SocketAddr,
        permissions_max: usize,
        channels_max: usize,
    ) -> Result<(), Unbindable> {
        self.channels.retain(|_, channel| now < channel.expires);
        let live = &self.channels;
        self.numbers.retain(|_, number| live.contains_key(number));
        let same_peer = self.channels.get(&number).is_none_or(|c| c.peer == peer);
        let same_number = self.numbers.get(&peer).is_none_or(|n| *n == number);
        if !same_peer || !same_number {
            return Err(Unbindable::Conflict);
        }
        if !self.channels.contains_key(&number) && self.channels.len() >= channels_max {
            return Err(Unbindable::Full);
        }
        self.permit(now, &[peer.ip()], permissions_max)?;
        let expires = now + CHANNEL_LIFETIME;
        self.channels.insert(number, Channel { peer, expires });
        self.numbers.insert(peer, number);
        Ok(())
    }
}
