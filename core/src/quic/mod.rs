//! One QUIC connection per link, on `quinn-proto`.
//!
//! QUIC sees one fixed virtual address for its peer; which real candidate pair carries the
//! packets is the path's business, so a change of path is no migration (RFC 9000 section 9)
//! and breaks no stream. What a new path does change, congestion and round-trip estimates,
//! is reset through [`Quic::path_changed`].

mod bbr;
mod tls;
mod window;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use quinn_proto::congestion::{ControllerFactory, CubicConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent,
    EcnCodepoint, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
};
use ring::{hkdf, hmac};

use crate::config::{Congestion, Limits};
use crate::entropy::{Entropy, Seed};
use crate::identity::{Identity, PublicKey};
use crate::types::LinkId;
use bbr::BbrFactory;
use tls::EntropyScope;
use window::{Room, Roomy};

pub use quinn_proto::{
    ConnectionError, Dir, Event, FinishError, ReadError, ReadableError, SendDatagramError,
    StreamEvent, StreamId, WriteError,
};

/// Length of our connection ids: two bytes name the link, six are random.
pub const CONNECTION_ID_LEN: usize = 8;
/// Length of the destination id of a first packet: two bytes name the server's link.
pub const FIRST_ID_LEN: usize = 16;
/// QUIC's own probe of a silent peer. Candidate pairs are watched far more closely; this
/// only keeps the idle timeout away while a path works.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Control streams, and datagrams that are too large for a packet.
pub const UNI_STREAMS_MAX: u32 = 256;
/// Round-trip time assumed before one was measured. RFC 9002 section 6.2.2 has 333 ms, for
/// paths that nobody has tried; ours were checked a moment ago, and a lost first flight
/// costs three times this.
const INITIAL_RTT: Duration = Duration::from_millis(60);
/// How long an acknowledgement may be held back (RFC 9000 section 18.2, the default).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// How long a handshake may take before it is given up and signaling starts over.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether we start the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We do: our name is the lexicographically smaller one.
    Client,
    /// The peer does.
    Server,
}

/// The QUIC end of one session of a link.
pub struct Quic {
    role: Role,
    first_id: ConnectionId,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    client: Option<ClientConfig>,
    /// Lent to TLS for the length of a call, which a box makes cheap.
    entropy: Option<Box<Entropy>>,
    room: Room,
    in_flight_max: u64,
    /// When the next acknowledgement gets room beyond the window.
    ack_room_at: Option<Instant>,
    scratch: Vec<u8>,
}

/// What the QUIC end is made of.
pub struct QuicConfig<'a> {
    /// Which end this is.
    pub role: Role,
    /// Our key.
    pub us: &'a Identity,
    /// The only key that is accepted.
    pub peer: PublicKey,
    /// Named in our connection ids.
    pub link: LinkId,
    /// The destination id of the first packet (RFC 9000 section 7.2), which both ends derive
    /// from the session's secrets: nobody else can start a handshake, or disturb one.
    pub first_id: [u8; FIRST_ID_LEN],
    /// Congestion control.
    pub congestion: Congestion,
    /// Windows and buffers.
    pub limits: Limits,
}

impl Quic {
    /// An end without a connection yet.
    pub fn new(config: &QuicConfig<'_>, seed: &Seed) -> Quic {
        let room = Room::default();
        let transport = Arc::new(transport(config, room.clone()));
        let mut entropy = seed.fork("quic").rng();
        let server = (config.role == Role::Server).then(|| {
            let key = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &entropy.bytes::<32>());
            let crypto = tls::server(config.us, config.peer);
            let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(key));
            server
                .transport_config(transport.clone())
                .migration(false)
                .time_source(Arc::new(NoTime))
                .max_incoming(4);
            server.validation_token.sent(0);
            Arc::new(server)
        });
        let client = (config.role == Role::Client).then(|| {
            let mut client = ClientConfig::new(Arc::new(tls::client(config.us, config.peer)));
            let first = ConnectionId::new(&config.first_id);
            client
                .transport_config(transport)
                .initial_dst_cid_provider(Arc::new(move || first));
            client
        });
        Quic {
            role: config.role,
            first_id: ConnectionId::new(&config.first_id),
            endpoint: Endpoint::new(
                Arc::new(endpoint_config(config, &mut entropy)),
                server,
                // Path MTU discovery: sockets set the don't-fragment bit.
                true,
                Some(entropy.bytes()),
            ),
            connection: None,
            client,
            entropy: Some(Box::new(entropy)),
            room,
            in_flight_max: in_flight_max(&config.limits),
            ack_room_at: None,
            scratch: Vec::new(),
        }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Start the handshake, once. The client calls it when a path is there: dropping the
    /// first flight for want of one would cost a second.
    pub fn connect(&mut self, now: Instant) {
        let Some(client) = self.client.take() else {
            return;
        };
        let _scope = EntropyScope::enter(&mut self.entropy);
        let connection = self
            .endpoint
            .connect(now, client, virtual_address(), tls::SERVER_NAME)
            .expect("a fixed address and configuration are valid");
        self.connection = Some(connection);
    }

    /// The connection, once there is one.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut().map(|(_, connection)| connection)
    }

    /// The connection, to look at.
    pub fn peek(&self) -> Option<&Connection> {
        self.connection.as_ref().map(|(_, connection)| connection)
    }

    /// A packet of this link arrived. Returns whether QUIC took it for one.
    pub fn handle_packet(&mut self, now: Instant, data: BytesMut, ecn: u8) -> bool {
        let _scope = EntropyScope::enter(&mut self.entropy);
        self.scratch.clear();
        let ecn = EcnCodepoint::from_bits(ecn);
        let event =
            self.endpoint
                .handle(now, virtual_address(), None, ecn, data, &mut self.scratch);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                match &mut self.connection {
                    Some((ours, connection)) if *ours == handle => connection.handle_event(event),
                    _ => return false,
                }
                if self.ack_room_at.is_none_or(|at| at <= now) {
                    self.ack_room_at = Some(now + MAX_ACK_DELAY);
                    self.room.ack_is_due();
                }
                true
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let expected = *incoming.orig_dst_cid() == self.first_id;
                if !expected || self.connection.is_some() {
                    self.endpoint.ignore(incoming);
                    return expected;
                }
                let accepted = self.endpoint.accept(incoming, now, &mut self.scratch, None);
                self.connection = accepted.ok();
                self.connection.is_some()
            }
            // Strangers get no answer: no resets, no version negotiation.
            Some(DatagramEvent::Response(_)) | None => false,
        }
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Instant) {
        let _scope = EntropyScope::enter(&mut self.entropy);
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(now);
        }
    }

    /// When to call [`Quic::handle_deadline`].
    pub fn deadline(&mut self) -> Option<Instant> {
        self.connection()?.poll_timeout()
    }

    /// The next packets, appended to `buf`: their total length, the segment size when there
    /// are several, and the ECN bits.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        segments_max: usize,
        buf: &mut Vec<u8>,
    ) -> Option<(usize, Option<usize>, u8)> {
        let _scope = EntropyScope::enter(&mut self.entropy);
        let (_, connection) = self.connection.as_mut()?;
        let before = self.room.in_flight();
        let transmit = connection.poll_transmit(now, segments_max, buf)?;
        if self.room.in_flight() == before {
            // A probe of the path's MTU, or a packet before a datagram that did not fit in beside it:
            // no controller is told.
            self.room.sent(transmit.size as u64);
        }
        let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
        Some((transmit.size, transmit.segment_size, ecn))
    }

    /// What happened on the connection.
    pub fn poll_event(&mut self) -> Option<Event> {
        let _scope = EntropyScope::enter(&mut self.entropy);
        let (handle, connection) = self.connection.as_mut()?;
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        connection.poll()
    }

    /// Packets take another path from now on: forget what was learned of the old one, and
    /// make the peer answer, so that losses are noticed by acknowledgement and not by timer.
    pub fn path_changed(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection {
            self.room.path_left(self.in_flight_max);
            connection.path_changed(now);
            connection.ping();
        }
    }

    /// Close the connection; the peer is told with the next packets.
    pub fn close(&mut self, now: Instant, code: u32, reason: &'static [u8]) {
        let _scope = EntropyScope::enter(&mut self.entropy);
        if let Some((_, connection)) = &mut self.connection {
            connection.close(now, VarInt::from_u32(code), Bytes::from_static(reason));
        }
    }
}

/// What QUIC takes for its peer's address. Each end has one peer, so one will do.
fn virtual_address() -> SocketAddr {
    (Ipv6Addr::LOCALHOST, 1).into()
}

/// Bytes of packets that may be in flight: what streams and datagrams may send, and as much again for
/// headers and probes.
fn in_flight_max(limits: &Limits) -> u64 {
    let datagrams = u64::try_from(limits.datagram_buffer).unwrap_or(u64::MAX);
    limits
        .send_window
        .saturating_add(datagrams)
        .saturating_mul(2)
}

fn transport(config: &QuicConfig<'_>, room: Room) -> TransportConfig {
    let limits = &config.limits;
    let window = u64::from(limits.stream_window) * u64::from(limits.streams_per_link);
    let grace = limits.path_loss_grace.max(HANDSHAKE_TIMEOUT);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(limits.mtu_max);
    let inner: Arc<dyn ControllerFactory + Send + Sync> = match config.congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrFactory),
    };
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.streams_per_link.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(limits.stream_window.into())
        // Streams × window: however many readers stop, the next stream still has credit.
        .receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX))
        .send_window(limits.send_window)
        .datagram_receive_buffer_size(Some(limits.datagram_buffer))
        .datagram_send_buffer_size(limits.datagram_buffer)
        .max_idle_timeout(Some(
            grace.try_into().expect("a grace of minutes fits a VarInt"),
        ))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(Roomy { inner, room }));
    transport
}

fn endpoint_config(config: &QuicConfig<'_>, entropy: &mut Entropy) -> EndpointConfig {
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &entropy.bytes::<32>());
    let ids = Seed::new(entropy.bytes());
    let link = config.link;
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint
        .cid_generator(move || {
            Box::new(LinkIds {
                link,
                entropy: ids.rng(),
            })
        })
        .max_udp_payload_size(config.limits.mtu_max.max(1472))
        .expect("above the least that RFC 9000 section 14 asks for")
        .supported_versions(vec![1])
        // STUN shares the socket and is told apart by the first two bits (RFC 7983).
        .grease_quic_bit(false)
        .rng_seed(Some(entropy.bytes()));
    endpoint
}

/// Connection ids that name their link.
struct LinkIds {
    link: LinkId,
    entropy: Entropy,
}

impl ConnectionIdGenerator for LinkIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_LEN];
        let (link, random) = id.split_at_mut(2);
        link.copy_from_slice(&self.link.0.to_be_bytes());
        self.entropy.fill(random);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The link that a packet is for: two bytes of its destination id, in short headers
/// (RFC 9000 section 17.3) and in long ones (section 17.2), where its length comes first.
pub fn link_of_packet(packet: &[u8]) -> Option<LinkId> {
    let (id, len) = match packet {
        [first, id @ ..] if first & 0x80 == 0 => (id, CONNECTION_ID_LEN),
        [_, _, _, _, _, len, id @ ..] => (id, usize::from(*len)),
        _ => return None,
    };
    let ours = matches!(len, CONNECTION_ID_LEN | FIRST_ID_LEN) && id.len() > len;
    ours.then(|| LinkId(u16::from_be_bytes([id[0], id[1]])))
}

/// Address validation tokens carry a time; none are sent, so any will do.
struct NoTime;

impl quinn_proto::TimeSource for NoTime {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}
