//! One allocation on a TURN server (RFC 8656), on `turn-client-proto`.
//!
//! ```text
//! Idle -> Connecting (TCP only) -> Allocating -> Ready -> Waiting -> Connecting ...
//! ```
//!
//! A relayed datagram normally travels as ChannelData: four bytes of header that the caller
//! writes itself, with the number that [`Turn::channel`] gives. Until a channel is bound it
//! travels as a Send indication.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use ring::hmac;
use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::prelude::{DelayedTransmitBuild, TurnClientApi};
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::stun::attribute::ErrorCode;
use turn_client_proto::types::stun::message::Message;
use turn_client_proto::types::{TransportType, TurnCredentials as LongTermCredentials};
use turn_client_proto::udp::TurnClientUdp;

use crate::config::{TurnCredentials, TurnServer, TurnTransport};
use crate::status::Queue;
use crate::time::Now;

/// Bytes that may wait to be written to the server over TCP. Beyond it datagrams are
/// dropped: TCP must not hide congestion from QUIC.
pub const TCP_UNSENT_MAX: usize = 256 * 1024;
/// Channels and permissions of one allocation: every peer has a handful of addresses.
const CHANNELS_MAX: usize = 1024;
/// A channel that the server refused is asked for again after this time.
const CHANNEL_RETRY: Duration = Duration::from_secs(5);
/// First wait after a failure; it doubles up to [`RETRY_LAST`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Time for the server to forget an allocation that was given back: until then it would
/// refuse another one from the same address (RFC 8656 section 7.2, 437).
const AFTER_DELETE: Duration = Duration::from_millis(150);
/// Longest wait after a failure.
const RETRY_LAST: Duration = Duration::from_secs(15);
/// A TCP connection that takes longer has failed. Requests have time limits of their own.
const SETUP_MAX: Duration = Duration::from_secs(8);
/// The peer's address is the problem, not our allocation (RFC 8656 section 19): Forbidden, Peer
/// Address Family Mismatch.
const FORBIDDEN: [u16; 2] = [403, 443];
/// The server knows no allocation of ours where the request comes from (RFC 8656 section 19).
const ALLOCATION_MISMATCH: u16 = 437;
/// Permissions for nobody that one allocation may get, to see that it is alive. They are
/// refreshed with the others, so there are few; when all are used, a refresh has to tell.
const VERIFICATIONS_MAX: u8 = 16;
/// Shortest life of derived credentials. They change with the day and not with every allocation:
/// coturn remembers which user an address spoke for, also one that it refused, and answers every
/// other user from there with 437, unsigned, for a minute or for the life of the allocation.
const CREDENTIAL_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Name part of derived user names.
const CREDENTIAL_NAME: &str = "holdfast";

/// Where the allocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnState {
    /// Not asked for.
    Idle,
    /// Waiting for the TCP connection.
    Connecting,
    /// Waiting for the server.
    Allocating,
    /// Usable.
    Ready,
    /// Failed; tried again later.
    Waiting,
}

/// Something to do.
#[derive(Debug)]
pub enum TurnOutput {
    /// Send a datagram to the server.
    Datagram(Vec<u8>),
    /// Open a TCP connection to the server.
    Connect,
    /// Write to it.
    Write(Bytes),
    /// Close it.
    Close,
    /// The relayed address is usable.
    Allocated(SocketAddr),
    /// It is no more.
    Lost(SocketAddr),
    /// The server refused, or did not answer.
    Failed(&'static str),
}

#[derive(Debug, Default)]
struct Channel {
    number: Option<u16>,
    asked_at: Option<Instant>,
}

/// A client of one TURN server.
#[derive(Debug)]
pub struct Turn {
    server: TurnServer,
    client: Option<TurnClient>,
    origin: Instant,
    local: SocketAddr,
    state: TurnState,
    until: Option<Instant>,
    retry: Duration,
    relayed: Option<SocketAddr>,
    permissions: BTreeSet<IpAddr>,
    channels: BTreeMap<SocketAddr, Channel>,
    peers: BTreeMap<u16, SocketAddr>,
    /// The error that the message at hand answers with (RFC 8489 section 14.8).
    error: Option<u16>,
    tcp_unsent: usize,
    tcp_unread: BytesMut,
    outputs: VecDeque<TurnOutput>,
}

impl Turn {
    /// A client that does nothing until [`Turn::start`].
    pub fn new(server: TurnServer, now: Now) -> Turn {
        let unspecified: IpAddr = match server.addr {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        Turn {
            server,
            client: None,
            origin: now.mono,
            // The server tells us apart by what it sees; this only has to stay the same.
            local: SocketAddr::new(unspecified, 0),
            state: TurnState::Idle,
            until: None,
            retry: RETRY_FIRST,
            relayed: None,
            permissions: BTreeSet::new(),
            channels: BTreeMap::new(),
            peers: BTreeMap::new(),
            error: None,
            tcp_unsent: 0,
            tcp_unread: BytesMut::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The server's address.
    pub fn server(&self) -> SocketAddr {
        self.server.addr
    }

    /// What it was made from.
    pub fn config(&self) -> &TurnServer {
        &self.server
    }

    /// How the server is reached.
    pub fn transport(&self) -> TurnTransport {
        self.server.transport
    }

    /// Where the allocation stands.
    pub fn state(&self) -> TurnState {
        self.state
    }

    /// The relayed address, while the allocation is usable.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// Bytes that wait to be written to the server over TCP.
    pub fn tcp_unsent(&self) -> usize {
        self.tcp_unsent
    }

    /// What can fill, and how full it is.
    pub fn queues(&self, queues: &mut Vec<Queue>) {
        let transport = match self.server.transport {
            TurnTransport::Udp => "udp",
            TurnTransport::Tcp => "tcp",
        };
        let (server, permissions) = (self.server.addr, self.permissions.len());
        let mut push = |what, len, max| {
            let name = format!("turn/{transport}/{server}/{what}");
            queues.push(Queue::new(name, len, max));
        };
        push("channels", self.channels.len(), CHANNELS_MAX);
        push("permissions", permissions, CHANNELS_MAX);
        if self.server.transport == TurnTransport::Tcp {
            push("unsent_bytes", self.tcp_unsent, TCP_UNSENT_MAX);
        }
    }

    /// Ask for an allocation, unless that was done.
    pub fn start(&mut self, now: Now) {
        if self.state != TurnState::Idle {
            return;
        }
        match self.server.transport {
            TurnTransport::Udp => self.allocate(now),
            TurnTransport::Tcp => {
                self.enter(TurnState::Connecting, Some(now.mono + SETUP_MAX));
                self.outputs.push_back(TurnOutput::Connect);
            }
        }
    }

    /// Start over: the server knows us by an address that is gone.
    pub fn restart(&mut self, now: Now) {
        if self.state == TurnState::Idle {
            return;
        }
        self.give_up(now, "our address changed");
        self.retry = RETRY_FIRST;
        self.until = Some(now.mono + AFTER_DELETE);
    }

    /// Give the allocation back.
    pub fn stop(&mut self, now: Now) {
        let at = self.at(now.mono);
        if let Some(client) = &mut self.client {
            // Without an allocation there is nothing to give back.
            let _ = client.delete(at);
        }
        self.pump(now);
        self.enter(TurnState::Idle, None);
    }

    /// The TCP connection is there.
    pub fn connected(&mut self, now: Now, local: SocketAddr) {
        if self.state == TurnState::Connecting {
            self.local = local;
            self.tcp_unsent = 0;
            self.tcp_unread.clear();
            self.allocate(now);
        }
    }

    /// The TCP connection ended.
    pub fn closed(&mut self, now: Now) {
        if self.server.transport == TurnTransport::Tcp
            && !matches!(self.state, TurnState::Idle | TurnState::Waiting)
        {
            self.give_up(now, "the connection to the server ended");
        }
    }

    /// Bytes of earlier writes have left.
    pub fn sent(&mut self, bytes: usize) {
        self.tcp_unsent = self.tcp_unsent.saturating_sub(bytes);
    }

    /// Bytes or a datagram from the server. Relayed datagrams go to `relayed`, each with the
    /// address that the server got it from.
    pub fn handle(
        &mut self,
        now: Now,
        data: BytesMut,
        relayed: &mut impl FnMut(SocketAddr, BytesMut),
    ) {
        match self.server.transport {
            TurnTransport::Udp => self.handle_message(now, data, relayed),
            TurnTransport::Tcp => {
                self.tcp_unread.unsplit(data);
                while let Some(len) = message_len(&self.tcp_unread)
                    && len <= self.tcp_unread.len()
                {
                    let message = self.tcp_unread.split_to(len);
                    self.handle_message(now, message, relayed);
                }
            }
        }
    }

    fn handle_message(
        &mut self,
        now: Now,
        mut data: BytesMut,
        relayed: &mut impl FnMut(SocketAddr, BytesMut),
    ) {
        if let Some((peer, len)) = self.channel_data(&data) {
            let _header = data.split_to(4);
            data.truncate(len);
            relayed(peer, data);
            return;
        }
        let message = Message::from_bytes(&data).ok();
        let error = message.and_then(|message| message.attribute::<ErrorCode>().ok());
        self.error = error.map(|error| error.code());
        let at = self.at(now.mono);
        let transport = match self.server.transport {
            TurnTransport::Udp => TransportType::Udp,
            TurnTransport::Tcp => TransportType::Tcp,
        };
        let Some(client) = &mut self.client else {
            return;
        };
        let transmit = Transmit::new(data, transport, self.server.addr, self.local);
        if let TurnRecvRet::PeerData(found) = client.recv(transmit, at) {
            relayed(found.peer, BytesMut::from(found.data()));
        }
        while let Some(found) = client.poll_recv(at) {
            relayed(found.peer, BytesMut::from(found.data()));
        }
        self.pump(now);
        self.error = None;
    }

    /// ChannelData (RFC 8656 section 12.4): the peer, and how many bytes follow the header.
    fn channel_data(&self, data: &[u8]) -> Option<(SocketAddr, usize)> {
        let (header, rest) = data.split_first_chunk::<4>()?;
        let number = u16::from_be_bytes([header[0], header[1]]);
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        (len <= rest.len()).then_some(())?;
        Some((*self.peers.get(&number)?, len))
    }

    /// Let the server pass on what comes from this address. Done ahead of the first check,
    /// so that it does not get lost.
    pub fn permit(&mut self, now: Now, ip: IpAddr) {
        if self.permissions.len() < CHANNELS_MAX {
            self.permissions.insert(ip);
        }
        let at = self.at(now.mono);
        if let (Some(client), Some(_)) = (&mut self.client, self.relayed)
            && !client.have_permission(TransportType::Udp, ip)
        {
            mark!("turn/permission-asked");
            // It may be on its way already, which is as good.
            let _ = client.create_permission(TransportType::Udp, ip, at);
            self.pump(now);
        }
    }

    /// A path died: perhaps the server was restarted, or sees us come from another address, and
    /// knows no allocation of ours. Then it refuses every request (RFC 8656 section 9.2), so
    /// one is made that nobody needs; and a server that failed is tried again soon.
    pub fn verify(&mut self, now: Now) {
        let soon = now.mono + self.retry / 4;
        if self.state == TurnState::Waiting {
            self.until = self.until.map(|until| until.min(soon));
        }
        if self.state != TurnState::Ready {
            return;
        }
        let at = self.at(now.mono);
        let Some(family) = self.relayed.map(|relayed| relayed.is_ipv4()) else {
            return;
        };
        let unused = (1..=VERIFICATIONS_MAX)
            .map(|n| nobody(family, n))
            .find(|ip| match &self.client {
                Some(client) => !client.have_permission(TransportType::Udp, *ip),
                None => false,
            });
        if let (Some(client), Some(ip)) = (&mut self.client, unused) {
            // One that is on its way already is as good.
            let _ = client.create_permission(TransportType::Udp, ip, at);
            self.pump(now);
        }
    }

    /// The channel to this peer, once bound; asks for one otherwise.
    pub fn channel(&mut self, now: Now, peer: SocketAddr) -> Option<u16> {
        if let Some(number) = self.channels.get(&peer).and_then(|channel| channel.number) {
            return Some(number);
        }
        if self.relayed.is_none()
            || (self.channels.len() >= CHANNELS_MAX && !self.channels.contains_key(&peer))
        {
            return None;
        }
        let at = self.at(now.mono);
        let channel = self.channels.entry(peer).or_default();
        let asked_lately = channel
            .asked_at
            .is_some_and(|asked| now.mono < asked + CHANNEL_RETRY);
        if !asked_lately && let Some(client) = &mut self.client {
            channel.asked_at = Some(now.mono);
            let _ = client.bind_channel(TransportType::Udp, peer, at);
            self.pump(now);
        }
        None
    }

    /// Wrap one datagram for `peer`, appended to `out`. False: it has to be dropped.
    pub fn wrap(&mut self, now: Now, peer: SocketAddr, data: &[u8], out: &mut Vec<u8>) -> bool {
        if let Some(number) = self.channel(now, peer) {
            let Ok(len) = u16::try_from(data.len()) else {
                return false;
            };
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(data);
            return true;
        }
        let at = self.at(now.mono);
        let Some(client) = &mut self.client else {
            return false;
        };
        match client.send_to(TransportType::Udp, peer, data, at) {
            Ok(Some(message)) => {
                out.extend_from_slice(&message.data.build());
                true
            }
            _ => {
                self.permit(now, peer.ip());
                false
            }
        }
    }

    /// Write what [`Turn::wrap`] made to the TCP connection. False: dropped, too much waits.
    pub fn write(&mut self, mut wrapped: Vec<u8>) -> bool {
        if self.tcp_unsent + wrapped.len() > TCP_UNSENT_MAX || self.relayed.is_none() {
            return false;
        }
        // Over TCP ChannelData is padded to four bytes (RFC 8656 section 12.5).
        wrapped.resize(wrapped.len().next_multiple_of(4), 0);
        self.push_write(wrapped);
        true
    }

    fn push_write(&mut self, bytes: Vec<u8>) {
        self.tcp_unsent += bytes.len();
        self.outputs.push_back(TurnOutput::Write(bytes.into()));
    }

    /// When to call [`Turn::handle_deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        match self.state {
            TurnState::Waiting if self.until.is_some_and(|until| until <= now.mono) => {
                self.enter(TurnState::Idle, None);
                self.start(now);
            }
            TurnState::Connecting if self.until.is_some_and(|until| until <= now.mono) => {
                self.give_up(now, "no connection to the server");
            }
            _ => self.pump(now),
        }
    }

    /// What to do.
    pub fn poll_output(&mut self) -> Option<TurnOutput> {
        self.outputs.pop_front()
    }

    fn enter(&mut self, state: TurnState, until: Option<Instant>) {
        self.state = state;
        self.until = until;
    }

    fn allocate(&mut self, now: Now) {
        let (username, password) = credentials(&self.server.credentials, now.unix);
        let mut config = TurnConfig::new(LongTermCredentials::new(&username, &password));
        // Lost requests are repeated soon; 250 + 500 + 1000 × 4 ms, then 1 s of patience.
        config.set_request_retransmits(
            Duration::from_millis(250),
            Duration::from_secs(1),
            6,
            Duration::from_secs(1),
        );
        let (local, server) = (self.local, self.server.addr);
        self.client = Some(match self.server.transport {
            TurnTransport::Udp => TurnClientUdp::allocate(local, server, config).into(),
            TurnTransport::Tcp => TurnClientTcp::allocate(local, server, config).into(),
        });
        self.enter(TurnState::Allocating, None);
        self.pump(now);
    }

    /// Move everything that the client has to say into outputs.
    fn pump(&mut self, now: Now) {
        let at = self.at(now.mono);
        let mut events = Vec::new();
        while let Some(client) = &mut self.client {
            let next = client.poll(at);
            let messages = std::iter::from_fn(|| client.poll_transmit(at));
            let messages: Vec<Vec<u8>> = messages.map(|message| message.data.to_vec()).collect();
            events.extend(std::iter::from_fn(|| client.poll_event()));
            if messages.is_empty() {
                self.wait_for(now, next);
                break;
            }
            for message in messages {
                match self.server.transport {
                    TurnTransport::Udp => self.outputs.push_back(TurnOutput::Datagram(message)),
                    TurnTransport::Tcp => self.push_write(message),
                }
            }
        }
        for event in events {
            self.on_event(now, event);
        }
    }

    fn wait_for(&mut self, now: Now, next: TurnPollRet) {
        match next {
            TurnPollRet::WaitUntil(until) => {
                self.until = Some(self.origin + Duration::from_nanos(until.as_nanos() as u64));
            }
            // What was given back has nothing more to wait for.
            TurnPollRet::Closed if self.state == TurnState::Idle => {
                self.client = None;
                self.until = None;
            }
            TurnPollRet::Closed => self.give_up(now, "the server does not answer"),
            _ => {}
        }
    }

    fn on_event(&mut self, now: Now, event: TurnEvent) {
        match event {
            TurnEvent::AllocationCreated(_, relayed) => {
                mark!("turn/allocated");
                if self.retry != RETRY_FIRST {
                    mark!("turn/allocated-again");
                }
                self.enter(TurnState::Ready, None);
                self.relayed = Some(relayed);
                self.retry = RETRY_FIRST;
                self.outputs.push_back(TurnOutput::Allocated(relayed));
                let permissions: Vec<IpAddr> = self.permissions.iter().copied().collect();
                for ip in permissions {
                    self.permit(now, ip);
                }
            }
            TurnEvent::AllocationCreateFailed(_) => {
                self.give_up(now, "the server refused an allocation");
            }
            TurnEvent::ChannelCreated(_, peer) => {
                mark!("turn/channel-bound");
                self.channel_bound(now, peer);
            }
            // The server no longer knows the allocation, or the NAT forgot us.
            TurnEvent::ChannelCreateFailed(..)
                if self.state == TurnState::Ready && self.error == Some(ALLOCATION_MISMATCH) =>
            {
                mark!("turn/channel-mismatch");
                self.give_up(now, "the server knows no allocation of ours");
            }
            TurnEvent::ChannelCreateFailed(_, peer) => self.channel_lost(now, peer),
            // The server no longer knows the allocation: it was restarted.
            TurnEvent::PermissionCreateFailed(_, ip)
                if self.state == TurnState::Ready && !self.merely_forbids(ip) =>
            {
                self.give_up(now, "the server refused a permission");
            }
            _ => {}
        }
    }

    /// Whether the server refused a permission for nobody as such (403, 443), and knows us.
    fn merely_forbids(&self, ip: IpAddr) -> bool {
        let for_nobody = (1..=VERIFICATIONS_MAX).any(|n| nobody(ip.is_ipv4(), n) == ip);
        for_nobody && self.error.is_some_and(|code| FORBIDDEN.contains(&code))
    }

    /// A channel was refused, expired or not refreshed: its number means nothing any more.
    fn channel_lost(&mut self, now: Now, peer: SocketAddr) {
        if let Some(channel) = self.channels.get_mut(&peer) {
            channel.asked_at = Some(now.mono);
            if let Some(number) = channel.number.take() {
                self.peers.remove(&number);
            }
        }
    }

    /// Learn the channel's number from the header of an empty message.
    fn channel_bound(&mut self, now: Now, peer: SocketAddr) {
        let at = self.at(now.mono);
        let Some(client) = &mut self.client else {
            return;
        };
        let empty: &[u8] = &[];
        let Ok(Some(message)) = client.send_to(TransportType::Udp, peer, empty, at) else {
            return;
        };
        if let [high, low, 0, 0] = message.data.build()[..] {
            let number = u16::from_be_bytes([high, low]);
            self.channels.entry(peer).or_default().number = Some(number);
            self.peers.insert(number, peer);
        }
    }

    fn give_up(&mut self, now: Now, why: &'static str) {
        self.give_back(now);
        if self.server.transport == TurnTransport::Tcp {
            self.outputs.push_back(TurnOutput::Close);
        }
        self.client = None;
        self.channels.clear();
        self.peers.clear();
        self.tcp_unsent = 0;
        self.enter(TurnState::Waiting, Some(now.mono + self.retry));
        self.retry = (self.retry * 2).min(RETRY_LAST);
        match self.relayed.take() {
            Some(relayed) => {
                mark!("turn/lost");
                self.outputs.push_back(TurnOutput::Lost(relayed));
            }
            None => self.outputs.push_back(TurnOutput::Failed(why)),
        }
    }

    /// Ask the server, if it still listens, to forget the allocation.
    fn give_back(&mut self, now: Now) {
        let at = self.at(now.mono);
        let udp = self.server.transport == TurnTransport::Udp;
        if let (true, Some(client), Some(_)) = (udp, &mut self.client, self.relayed)
            && client.delete(at).is_ok()
        {
            let _ = client.poll(at);
            while let Some(message) = client.poll_transmit(at) {
                self.outputs
                    .push_back(TurnOutput::Datagram(message.data.to_vec()));
            }
        }
    }

    fn at(&self, now: Instant) -> turn_client_proto::stun::Instant {
        let nanos = now.saturating_duration_since(self.origin).as_nanos();
        turn_client_proto::stun::Instant::from_nanos(nanos as i64)
    }
}

/// An address of the block for documentation (RFC 5737, RFC 3849): no peer has it.
fn nobody(is_ipv4: bool, n: u8) -> IpAddr {
    match is_ipv4 {
        true => IpAddr::from([192, 0, 2, n]),
        false => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]),
    }
}

/// Length of the first message in a TCP stream, once that is known: STUN by its header,
/// ChannelData with its padding (RFC 8656 section 12.5). We cut the stream ourselves because
/// `turn-client-proto` keeps the padding and then reads it as the next message.
fn message_len(stream: &[u8]) -> Option<usize> {
    let (header, _) = stream.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Some(match header[0] & 0xc0 {
        0x40 => 4 + len.next_multiple_of(4),
        _ => 20 + len,
    })
}

/// User name and password, derived from a shared secret where there is one.
fn credentials(credentials: &TurnCredentials, unix: Duration) -> (String, String) {
    match credentials {
        TurnCredentials::Static { username, password } => (username.clone(), password.to_string()),
        TurnCredentials::Shared { secret } => {
            let day = unix.as_secs() / CREDENTIAL_LIFETIME.as_secs();
            let expiry = day
                .saturating_add(2)
                .saturating_mul(CREDENTIAL_LIFETIME.as_secs());
            let username = format!("{expiry}:{CREDENTIAL_NAME}");
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
            let password = BASE64.encode(hmac::sign(&key, username.as_bytes()));
            (username, password)
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn derived_credentials_are_what_coturn_expects() {
        let shared = TurnCredentials::Shared {
            secret: Zeroizing::new("north".into()),
        };
        let (username, password) = credentials(&shared, Duration::from_secs(1_700_000_000));
        assert_eq!(username, "1700092800:holdfast");
        // openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(password, EXPECTED);
    }

    #[test]
    fn derived_credentials_stay_the_same_through_a_day_and_live_for_one_at_least() {
        let shared = TurnCredentials::Shared {
            secret: Zeroizing::new("north".into()),
        };
        let at = |seconds| credentials(&shared, Duration::from_secs(seconds)).0;
        assert_eq!(at(1_700_006_400), at(1_700_006_400 + 86_399));
        assert_ne!(at(1_700_006_399), at(1_700_006_400));
        assert_eq!(at(1_700_006_399), "1700092800:holdfast");
        let longest = credentials(&shared, Duration::MAX).0;
        assert!(longest.ends_with(":holdfast"), "{longest}");
    }

    const EXPECTED: &str = "wAAId9h8e6l4t3uuN7gVpXKjEJQ=";
}
