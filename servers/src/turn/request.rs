//! What a client may ask for, and what it is told.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use holdfast_core::time::Now;
use stun_types::AddressFamily;
use stun_types::attribute::{
    AttributeType, ErrorCode, Fingerprint, MessageIntegrity, Nonce, Realm, Username,
    XorMappedAddress,
};
use stun_types::message::{BINDING, Message, TransactionId};
use stun_types::prelude::{Attribute, AttributeFromRaw, AttributeStaticType};
use turn_types::attribute::{
    ChannelNumber, Data, DontFragment, EvenPort, Lifetime, RequestedAddressFamily,
    RequestedTransport, ReservationToken, XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};

use super::allocation::{Allocation, Stage, Unbindable};
use super::auth::{Denial, User};
use super::reply::Asked;
use super::{ClientId, Event, Expiry, Output, PAYLOAD_LEN_MAX, TurnMachine};

/// Lifetime of an allocation that asks for none, or for less (RFC 8656 section 7.2).
const LIFETIME_DEFAULT_S: u32 = 600;
/// Longest lifetime of an allocation.
const LIFETIME_MAX_S: u32 = 3600;
/// How long a driver may take to open a socket before its allocation is dropped.
const OPENING_MAX: Duration = Duration::from_secs(10);
/// Ports tried for one allocation: others on this host may use some of the range.
const PORT_TRIES: u32 = 8;
/// Channel numbers. RFC 8656 ends them at 0x4FFF, but older clients use all that
/// RFC 5766 gave them.
const CHANNEL_NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x7FFE;
/// Attributes that the checks before a request's own handling have dealt with.
const COMMON: [AttributeType; 5] = [
    Username::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    MessageIntegrity::TYPE,
    Fingerprint::TYPE,
];

/// A refusal: an error code.
type Refused = u16;

/// A request whose sender is known.
struct Request<'a> {
    msg: &'a Message<'a>,
    asked: Asked,
    client: ClientId,
    from: SocketAddr,
    user: User,
}

impl Request<'_> {
    fn get<'m, A: AttributeFromRaw<'m> + AttributeStaticType>(
        msg: &'m Message<'_>,
    ) -> Result<Option<A>, Refused> {
        match msg.raw_attribute(A::TYPE) {
            None => Ok(None),
            Some(_) => msg
                .attribute::<A>()
                .map(Some)
                .map_err(|_| ErrorCode::BAD_REQUEST),
        }
    }
}

impl TurnMachine {
    /// Answer a request.
    pub(super) fn request(
        &mut self,
        now: Now,
        client: ClientId,
        from: SocketAddr,
        msg: &Message<'_>,
    ) {
        match msg.method() {
            BINDING => self.binding(client, from, msg),
            ALLOCATE | REFRESH | CREATE_PERMISSION | CHANNEL_BIND => {
                match self.auth.check(now, from, msg) {
                    Ok(user) => self.authentic(now, client, from, msg, user),
                    Err(denial) => self.deny(now, client, from, msg, denial),
                }
            }
            // Methods that are not supported are discarded (RFC 8489 section 6.3).
            _ => self.counters.malformed += 1,
        }
    }

    fn binding(&mut self, client: ClientId, from: SocketAddr, msg: &Message<'_>) {
        let asked = Asked::of(msg);
        let unknown = unknown_attributes(msg, &[]);
        let answer = if unknown.is_empty() {
            self.counters.bindings += 1;
            asked.success(None, &[&mapped(from, asked.transaction)])
        } else {
            asked.unknown(None, &unknown)
        };
        self.answer(client, answer);
    }

    fn deny(
        &mut self,
        now: Now,
        client: ClientId,
        from: SocketAddr,
        msg: &Message<'_>,
        denial: Denial,
    ) {
        let (counter, code, reason) = match denial {
            Denial::Missing => (&mut self.counters.challenges, ErrorCode::UNAUTHORIZED, None),
            Denial::StaleNonce => (
                &mut self.counters.nonces_stale,
                ErrorCode::STALE_NONCE,
                None,
            ),
            Denial::Incomplete => (&mut self.counters.malformed, ErrorCode::BAD_REQUEST, None),
            Denial::Wrong => (
                &mut self.counters.credentials_wrong,
                ErrorCode::UNAUTHORIZED,
                Some("wrong credentials"),
            ),
            Denial::Expired => (
                &mut self.counters.credentials_expired,
                ErrorCode::UNAUTHORIZED,
                Some("expired credentials"),
            ),
        };
        *counter += 1;
        let asked = Asked::of(msg);
        let answer = if code == ErrorCode::BAD_REQUEST {
            asked.error(None, code)
        } else {
            let nonce = self.auth.nonce(now, from, msg);
            asked.challenge(code, self.auth.realm(), &nonce)
        };
        self.answer(client, answer);
        if let Some(reason) = reason {
            self.refusal(from, reason);
        }
    }

    fn authentic(
        &mut self,
        now: Now,
        client: ClientId,
        from: SocketAddr,
        msg: &Message<'_>,
        user: User,
    ) {
        let request = Request {
            msg,
            asked: Asked::of(msg),
            client,
            from,
            user,
        };
        let known: &[AttributeType] = match msg.method() {
            ALLOCATE => &[
                RequestedTransport::TYPE,
                Lifetime::TYPE,
                RequestedAddressFamily::TYPE,
                DontFragment::TYPE,
                EvenPort::TYPE,
                ReservationToken::TYPE,
            ],
            REFRESH => &[Lifetime::TYPE, RequestedAddressFamily::TYPE],
            CREATE_PERMISSION => &[XorPeerAddress::TYPE],
            _ => &[XorPeerAddress::TYPE, ChannelNumber::TYPE],
        };
        let unknown = unknown_attributes(msg, known);
        if !unknown.is_empty() {
            let answer = request.asked.unknown(Some(&request.user.key), &unknown);
            return self.answer(client, answer);
        }
        let outcome = match msg.method() {
            ALLOCATE => self.allocate(now, &request),
            REFRESH => self.refresh(now, &request).map(Some),
            CREATE_PERMISSION => self.create_permission(now, &request).map(Some),
            _ => self.channel_bind(now, &request).map(Some),
        };
        match outcome {
            Ok(Some(answer)) => self.answer(client, answer),
            Ok(None) => {}
            Err(code) => self.refuse(&request, code),
        }
    }

    fn refuse(&mut self, request: &Request<'_>, code: Refused) {
        let answer = request.asked.error(Some(&request.user.key), code);
        self.answer(request.client, answer);
        match code {
            ErrorCode::ALLOCATION_QUOTA_REACHED | ErrorCode::INSUFFICIENT_CAPACITY => {
                self.counters.limit_refusals += 1;
                self.refusal(request.from, "limit reached");
            }
            ErrorCode::FORBIDDEN => self.refusal(request.from, "forbidden peer"),
            ErrorCode::WRONG_CREDENTIALS => self.refusal(request.from, "another user's allocation"),
            _ => {}
        }
    }

    fn refusal(&mut self, client: SocketAddr, reason: &'static str) {
        let refused = Event::Refused { client, reason };
        self.outputs.push_back(Output::Event(refused));
    }

    /// RFC 8656 section 7.2. The answer follows when the relay socket is open.
    fn allocate(&mut self, now: Now, request: &Request<'_>) -> Result<Option<Vec<u8>>, Refused> {
        if let Some(existing) = self.own_allocation(request) {
            if existing.transaction != request.asked.transaction {
                return Err(ErrorCode::ALLOCATION_MISMATCH);
            }
            // The answer was lost, or is still to come.
            return Ok(match &existing.stage {
                Stage::Live { answer } => Some(answer.clone()),
                Stage::Opening { .. } => None,
            });
        }
        let even = self.check_allocate(request.msg)?;
        let lifetime = Request::get::<Lifetime>(request.msg)?;
        let stage = Stage::Opening {
            key: request.user.key.clone(),
            lifetime: lifetime.map_or(LIFETIME_DEFAULT_S, |l| {
                l.seconds().clamp(LIFETIME_DEFAULT_S, LIFETIME_MAX_S)
            }),
            even,
            tries: PORT_TRIES,
            fingerprint: request.asked.fingerprint,
        };
        let limits = self.config.limits;
        let source = request.from.ip();
        let usage = self.sources.get(&source).copied().unwrap_or_default();
        if usage.allocations >= limits.allocations_per_source_max {
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED);
        }
        if self.allocations.len() >= limits.allocations_max {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let port = self
            .free_port(even)
            .ok_or(ErrorCode::INSUFFICIENT_CAPACITY)?;
        self.sources.entry(source).or_default().allocations += 1;
        let allocation = Allocation::new(
            request.client,
            request.from,
            request.user.name.clone(),
            request.asked.transaction,
            stage,
            now.mono + OPENING_MAX,
        );
        self.open(port, allocation);
        if let ClientId::Tcp(client) = request.client {
            self.set_idle(client, None);
        }
        Ok(None)
    }

    /// Whether the attributes of an Allocate request can be granted; gives whether the port
    /// must be even.
    fn check_allocate(&self, msg: &Message<'_>) -> Result<bool, Refused> {
        let transport = Request::get::<RequestedTransport>(msg)?.ok_or(ErrorCode::BAD_REQUEST)?;
        if transport.protocol() != RequestedTransport::UDP {
            return Err(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL);
        }
        let family = Request::get::<RequestedAddressFamily>(msg)?;
        let family = family.map_or(AddressFamily::IPV4, |f| f.family());
        if family != family_of(self.config.relay_ip) {
            return Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED);
        }
        let even = Request::get::<EvenPort>(msg)?;
        let reserves = even.as_ref().is_some_and(EvenPort::requested);
        if reserves || msg.raw_attribute(ReservationToken::TYPE).is_some() {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        Ok(even.is_some())
    }

    fn open(&mut self, port: u16, allocation: Allocation) {
        self.ports.insert(allocation.client, port);
        self.expiries
            .insert((allocation.expires, Expiry::Allocation(port)));
        self.allocations.insert(port, allocation);
        self.outputs.push_back(Output::OpenRelay { port });
    }

    /// A port that no allocation has, drawn at random so that strangers cannot guess it
    /// (RFC 8656 section 7.2).
    fn free_port(&mut self, even: bool) -> Option<u16> {
        let (first, last) = (
            *self.config.relay_ports.start(),
            *self.config.relay_ports.end(),
        );
        let count = u64::from(last - first) + 1;
        let offset = self.entropy.below(count) as u16;
        let rotated =
            (first.saturating_add(offset)..=last).chain(first..first.saturating_add(offset));
        rotated
            .filter(|port| !even || port.is_multiple_of(2))
            .find(|port| !self.allocations.contains_key(port))
    }

    /// A relay socket is open: the client is told.
    pub(super) fn relay_opened(&mut self, now: Now, port: u16) {
        let Some(allocation) = self.allocations.get_mut(&port) else {
            // Its client has left in the meantime.
            return self.outputs.push_back(Output::CloseRelay { port });
        };
        let Stage::Opening {
            key,
            lifetime,
            fingerprint,
            ..
        } = &allocation.stage
        else {
            return;
        };
        let (transaction, lifetime) = (allocation.transaction, *lifetime);
        let asked = Asked {
            method: ALLOCATE,
            transaction,
            fingerprint: *fingerprint,
        };
        let relayed = SocketAddr::new(self.config.relay_ip, port);
        let answer = asked.success(
            Some(key),
            &[
                &XorRelayedAddress::new(relayed, transaction),
                &Lifetime::new(lifetime),
                &mapped(allocation.from, transaction),
            ],
        );
        allocation.stage = Stage::Live {
            answer: answer.clone(),
        };
        let (client, from, user) = (allocation.client, allocation.from, allocation.user.clone());
        self.extend(now, port, lifetime);
        self.counters.allocations += 1;
        self.answer(client, answer);
        let allocated = Event::Allocated {
            client: from,
            user,
            port,
        };
        self.outputs.push_back(Output::Event(allocated));
    }

    /// A relay socket could not be opened: another port, or a refusal.
    pub(super) fn relay_failed(&mut self, now: Now, port: u16) {
        let opening = self
            .allocations
            .get(&port)
            .is_some_and(|a| matches!(a.stage, Stage::Opening { .. }));
        if !opening {
            return;
        }
        let allocation = self.allocations.get_mut(&port).expect("just looked at");
        let Stage::Opening {
            key,
            even,
            tries,
            fingerprint,
            ..
        } = &mut allocation.stage
        else {
            return;
        };
        *tries -= 1;
        let (exhausted, even) = (*tries == 0, *even);
        let asked = Asked {
            method: ALLOCATE,
            transaction: allocation.transaction,
            fingerprint: *fingerprint,
        };
        let refusal = asked.error(Some(key), ErrorCode::INSUFFICIENT_CAPACITY);
        let client = allocation.client;
        let next = if exhausted {
            None
        } else {
            self.free_port(even)
        };
        let Some(next) = next else {
            self.counters.limit_refusals += 1;
            self.release(now, port, "no relay port could be opened");
            return self.answer(client, refusal);
        };
        let allocation = self.allocations.remove(&port).expect("just looked at");
        self.expiries
            .remove(&(allocation.expires, Expiry::Allocation(port)));
        self.open(next, allocation);
    }

    fn extend(&mut self, now: Now, port: u16, lifetime: u32) {
        let Some(allocation) = self.allocations.get_mut(&port) else {
            return;
        };
        let expires = now.mono + Duration::from_secs(lifetime.into());
        let old = std::mem::replace(&mut allocation.expires, expires);
        self.expiries.remove(&(old, Expiry::Allocation(port)));
        self.expiries.insert((expires, Expiry::Allocation(port)));
    }

    fn own_allocation(&self, request: &Request<'_>) -> Option<&Allocation> {
        self.allocations.get(self.ports.get(&request.client)?)
    }

    /// The port of the sender's live allocation.
    fn live_port(&self, now: Now, request: &Request<'_>) -> Result<u16, Refused> {
        let allocation = self
            .own_allocation(request)
            .filter(|allocation| allocation.is_live(now.mono))
            .ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        if allocation.user != request.user.name {
            return Err(ErrorCode::WRONG_CREDENTIALS);
        }
        let port = self.ports.get(&request.client).copied();
        port.ok_or(ErrorCode::ALLOCATION_MISMATCH)
    }

    /// RFC 8656 section 8.
    fn refresh(&mut self, now: Now, request: &Request<'_>) -> Result<Vec<u8>, Refused> {
        let port = self.live_port(now, request)?;
        let family = Request::get::<RequestedAddressFamily>(request.msg)?;
        if family.is_some_and(|f| f.family() != family_of(self.config.relay_ip)) {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
        }
        let asked = Request::get::<Lifetime>(request.msg)?.map(|l| l.seconds());
        let lifetime = match asked {
            Some(0) => 0,
            Some(seconds) => seconds.clamp(LIFETIME_DEFAULT_S, LIFETIME_MAX_S),
            None => LIFETIME_DEFAULT_S,
        };
        if lifetime == 0 {
            self.release(now, port, "its client gave it back");
        } else {
            self.extend(now, port, lifetime);
        }
        let answer = &Lifetime::new(lifetime);
        Ok(request.asked.success(Some(&request.user.key), &[answer]))
    }

    /// RFC 8656 section 10.2.
    fn create_permission(&mut self, now: Now, request: &Request<'_>) -> Result<Vec<u8>, Refused> {
        let port = self.live_port(now, request)?;
        let mut peers = Vec::new();
        for (_, raw) in request.msg.iter_attributes() {
            if raw.get_type() == XorPeerAddress::TYPE {
                let peer = XorPeerAddress::from_raw(raw).map_err(|_| ErrorCode::BAD_REQUEST)?;
                let peer = peer.addr(request.asked.transaction);
                self.check_peer(peer.ip())?;
                peers.push(peer.ip());
            }
        }
        if peers.is_empty() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let permissions_max = self.config.limits.permissions_max;
        let allocation = self.allocations.get_mut(&port);
        allocation.ok_or(ErrorCode::ALLOCATION_MISMATCH)?.permit(
            now.mono,
            &peers,
            permissions_max,
        )?;
        Ok(request.asked.success(Some(&request.user.key), &[]))
    }

    /// RFC 8656 section 12.2.
    fn channel_bind(&mut self, now: Now, request: &Request<'_>) -> Result<Vec<u8>, Refused> {
        let port = self.live_port(now, request)?;
        let number = Request::get::<ChannelNumber>(request.msg)?;
        let peer = Request::get::<XorPeerAddress>(request.msg)?;
        let (Some(number), Some(peer)) = (number, peer) else {
            return Err(ErrorCode::BAD_REQUEST);
        };
        let peer = peer.addr(request.asked.transaction);
        if !CHANNEL_NUMBERS.contains(&number.channel()) || peer.port() == 0 {
            return Err(ErrorCode::BAD_REQUEST);
        }
        self.check_peer(peer.ip())?;
        let limits = self.config.limits;
        let allocation = self.allocations.get_mut(&port);
        allocation.ok_or(ErrorCode::ALLOCATION_MISMATCH)?.bind(
            now.mono,
            number.channel(),
            peer,
            limits.permissions_max,
            limits.channels_max,
        )?;
        Ok(request.asked.success(Some(&request.user.key), &[]))
    }

    /// Whether a client may talk to this peer at all.
    fn check_peer(&self, peer: IpAddr) -> Result<(), Refused> {
        if family_of(peer) != family_of(self.config.relay_ip) {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
        }
        let mapped_loopback = peer.to_canonical().is_loopback();
        let broadcast = matches!(peer, IpAddr::V4(ip) if ip.is_broadcast());
        if peer.to_canonical().is_unspecified()
            || peer.is_multicast()
            || broadcast
            || (mapped_loopback && !self.config.loopback_peers)
        {
            return Err(ErrorCode::FORBIDDEN);
        }
        Ok(())
    }

    /// RFC 8656 section 11.2: the relay port, the peer, and where the payload lies.
    pub(super) fn send_indication(
        &mut self,
        now: Now,
        client: ClientId,
        msg: &Message<'_>,
    ) -> Option<(u16, SocketAddr, Range<usize>)> {
        let known = [XorPeerAddress::TYPE, Data::TYPE, DontFragment::TYPE];
        let peer = msg.attribute::<XorPeerAddress>();
        let data = msg.raw_attribute_and_offset(Data::TYPE);
        let (Ok(peer), Some((offset, data)), []) =
            (peer, data, unknown_attributes(msg, &known).as_slice())
        else {
            self.counters.malformed += 1;
            return None;
        };
        let peer = peer.addr(msg.transaction_id());
        let len = usize::from(data.length());
        // An attribute starts with its type and its length, of two bytes each.
        let range = offset + 4..offset + 4 + len;
        let port = self.ports.get(&client).copied();
        let permitted = port
            .and_then(|port| self.allocations.get(&port))
            .filter(|a| a.is_live(now.mono) && a.permits(now.mono, peer.ip()));
        let Some(port) =
            port.filter(|_| permitted.is_some() && peer.port() != 0 && len <= PAYLOAD_LEN_MAX)
        else {
            self.counters.strangers += 1;
            return None;
        };
        Some((port, peer, range))
    }
}

impl From<Unbindable> for Refused {
    fn from(unbindable: Unbindable) -> Refused {
        match unbindable {
            Unbindable::Conflict => ErrorCode::BAD_REQUEST,
            Unbindable::Full => ErrorCode::INSUFFICIENT_CAPACITY,
        }
    }
}

/// The reflexive address as an attribute. An IPv4 client of an IPv6 socket is shown its
/// IPv4 address.
fn mapped(from: SocketAddr, transaction: TransactionId) -> XorMappedAddress {
    let shown = SocketAddr::new(from.ip().to_canonical(), from.port());
    XorMappedAddress::new(shown, transaction)
}

fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::IPV4,
        IpAddr::V6(_) => AddressFamily::IPV6,
    }
}

/// Attributes that must be understood (RFC 8489 section 14) and are not in `known`.
fn unknown_attributes(msg: &Message<'_>, known: &[AttributeType]) -> Vec<AttributeType> {
    msg.iter_attributes()
        .map(|(_, raw)| raw.get_type())
        .filter(|kind| kind.comprehension_required())
        .filter(|kind| !COMMON.contains(kind) && !known.contains(kind))
        .collect()
}
