//! One server, virtual time, and everything around it as plain collections.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_core::time::Now;
use holdfast_servers::turn::{
    Config, Credentials, Event, Input, Limits, Output, SharedSecret, TcpId, TurnMachine,
};
use stun_types::attribute::{AttributeType, ErrorCode, Nonce, Realm, Username, XorMappedAddress};
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageClass, MessageType,
    MessageWriteVec, Method,
};
use stun_types::prelude::{AttributeWrite, MessageWrite, MessageWriteExt};
use turn_types::attribute::{
    ChannelNumber, Data, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

pub const REALM: &str = "holdfast.test";
pub const RELAY_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn secret() -> SharedSecret {
    SharedSecret::new(b"correct horse battery staple".to_vec()).unwrap()
}

pub fn config() -> Config {
    Config {
        relay_ip: RELAY_IP,
        relay_ports: 50_000..=50_099,
        realm: REALM.to_owned(),
        secret: secret(),
        loopback_peers: false,
        limits: Limits::default(),
    }
}

pub struct World {
    pub now: Now,
    pub start: Instant,
    pub server: TurnMachine,
    /// Relay sockets that are open.
    pub relays: BTreeSet<u16>,
    /// Relay sockets whose opening fails.
    pub occupied: BTreeSet<u16>,
    pub to_clients: Vec<(SocketAddr, Vec<u8>)>,
    pub to_streams: Vec<(TcpId, Vec<u8>)>,
    pub to_peers: Vec<(u16, SocketAddr, Vec<u8>)>,
    pub closed: Vec<TcpId>,
    pub events: Vec<Event>,
}

impl World {
    pub fn new() -> World {
        World::with(config())
    }

    pub fn with(config: Config) -> World {
        let start = Instant::now();
        let now = Now {
            mono: start,
            unix: Duration::from_secs(1_700_000_000),
        };
        World {
            now,
            start,
            server: TurnMachine::new(config, Seed::new([5; 32]), now).unwrap(),
            relays: BTreeSet::new(),
            occupied: BTreeSet::new(),
            to_clients: Vec::new(),
            to_streams: Vec::new(),
            to_peers: Vec::new(),
            closed: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn input(&mut self, input: Input) {
        self.server.handle(self.now, input);
        self.carry_out();
    }

    pub fn datagram(&mut self, from: SocketAddr, data: Vec<u8>) {
        self.input(Input::Datagram { from, data });
    }

    /// Let time pass as a driver would: a wake-up at every deadline.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now.plus(by);
        while let Some((at, _)) = self.server.deadline().filter(|(at, _)| *at <= end.mono) {
            self.now = self.now.plus(at.saturating_duration_since(self.now.mono));
            self.server.handle_deadline(self.now);
            self.carry_out();
        }
        self.now = end;
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Datagram { to, data } => self.to_clients.push((to, data)),
                Output::PeerDatagram { port, to, data } => self.to_peers.push((port, to, data)),
                Output::TcpWrite { client, data } => self.to_streams.push((client, data)),
                Output::TcpClose { client } => self.closed.push(client),
                Output::OpenRelay { port } => {
                    let input = if self.occupied.contains(&port) {
                        Input::RelayFailed { port }
                    } else {
                        assert!(self.relays.insert(port), "port {port} opened twice");
                        Input::RelayOpened { port }
                    };
                    self.server.handle(self.now, input);
                }
                Output::CloseRelay { port } => {
                    self.relays.remove(&port);
                }
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// Credentials of the right secret that are good for a day.
    pub fn credentials(&self, name: &str) -> Credentials {
        secret().credentials(name, self.now.unix + Duration::from_secs(86_400))
    }

    /// A client whose requests are written by hand, with a fresh nonce.
    pub fn client(&mut self, from: &str, credentials: &Credentials) -> Client {
        let mut client = Client {
            from: addr(from),
            username: credentials.username.clone(),
            key: LongTermKeyCredentials::new(
                credentials.username.clone(),
                credentials.password.clone(),
                REALM.to_owned(),
            )
            .make_key(IntegrityAlgorithm::Sha1),
            nonce: String::new(),
            transactions: 0,
        };
        client.learn_nonce(self);
        client
    }

    /// The answer to the last request of a client.
    pub fn answer(&mut self, from: SocketAddr) -> Option<Answer> {
        let (to, data) = self.to_clients.pop()?;
        assert_eq!(to, from);
        Some(Answer::read(&data))
    }
}

/// What the tests look at in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: Option<u16>,
    pub nonce: Option<String>,
    pub relayed: Option<SocketAddr>,
    pub mapped: Option<SocketAddr>,
    pub lifetime: Option<u32>,
}

impl Answer {
    pub fn read(data: &[u8]) -> Answer {
        let msg = Message::from_bytes(data).unwrap();
        let id = msg.transaction_id();
        let code = msg.attribute::<ErrorCode>().ok().map(|e| e.code());
        assert_eq!(code.is_some(), msg.has_class(MessageClass::Error));
        Answer {
            code,
            nonce: msg.attribute::<Nonce>().ok().map(|n| n.nonce().to_owned()),
            relayed: msg
                .attribute::<XorRelayedAddress>()
                .ok()
                .map(|a| a.addr(id)),
            mapped: msg.attribute::<XorMappedAddress>().ok().map(|a| a.addr(id)),
            lifetime: msg.attribute::<Lifetime>().ok().map(|l| l.seconds()),
        }
    }

    pub fn ok(&self) -> bool {
        self.code.is_none()
    }
}

pub struct Client {
    pub from: SocketAddr,
    pub username: String,
    pub key: IntegrityKey,
    pub nonce: String,
    transactions: u128,
}

impl Client {
    pub fn learn_nonce(&mut self, world: &mut World) {
        let kind = MessageType::from_class_method(MessageClass::Request, ALLOCATE);
        let bare = Message::builder(kind, 1.into(), MessageWriteVec::new()).finish();
        world.datagram(self.from, bare);
        let answer = world.answer(self.from).unwrap();
        assert_eq!(answer.code, Some(401));
        self.nonce = answer.nonce.unwrap();
    }

    /// An authentic request with a transaction id of its own.
    pub fn request(&mut self, method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        self.transactions += 1;
        let transaction = (u128::from(self.from.port()) << 32) + self.transactions;
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut msg = Message::builder(kind, transaction.into(), MessageWriteVec::new());
        for attribute in attributes {
            msg.add_attribute(*attribute).unwrap();
        }
        msg.add_attribute(&Username::new(&self.username).unwrap())
            .unwrap();
        msg.add_attribute(&Realm::new(REALM).unwrap()).unwrap();
        msg.add_attribute(&Nonce::new(&self.nonce).unwrap())
            .unwrap();
        msg.add_message_integrity_with_key(&self.key, IntegrityAlgorithm::Sha1)
            .unwrap();
        msg.add_fingerprint().unwrap();
        msg.finish()
    }

    fn ask(&mut self, world: &mut World, request: Vec<u8>) -> Answer {
        world.datagram(self.from, request);
        world.answer(self.from).expect("every request is answered")
    }

    pub fn allocate_request(&mut self) -> Vec<u8> {
        self.request(
            ALLOCATE,
            &[&RequestedTransport::new(RequestedTransport::UDP)],
        )
    }

    pub fn allocate(&mut self, world: &mut World) -> Answer {
        let request = self.allocate_request();
        self.ask(world, request)
    }

    pub fn allocate_with(&mut self, world: &mut World, with: &[&dyn AttributeWrite]) -> Answer {
        let request = self.request(ALLOCATE, with);
        self.ask(world, request)
    }

    pub fn refresh(&mut self, world: &mut World, seconds: u32) -> Answer {
        let request = self.request(REFRESH, &[&Lifetime::new(seconds)]);
        self.ask(world, request)
    }

    pub fn permit(&mut self, world: &mut World, peer: SocketAddr) -> Answer {
        let transaction = (u128::from(self.from.port()) << 32) + self.transactions + 1;
        let peer = XorPeerAddress::new(peer, transaction.into());
        let request = self.request(CREATE_PERMISSION, &[&peer]);
        self.ask(world, request)
    }

    pub fn bind(&mut self, world: &mut World, number: u16, peer: SocketAddr) -> Answer {
        let transaction = (u128::from(self.from.port()) << 32) + self.transactions + 1;
        let peer = XorPeerAddress::new(peer, transaction.into());
        let request = self.request(CHANNEL_BIND, &[&ChannelNumber::new(number), &peer]);
        self.ask(world, request)
    }

    pub fn send(&self, world: &mut World, peer: SocketAddr, payload: &[u8]) {
        world.datagram(self.from, send_indication(peer, payload));
    }

    pub fn channel_data(&self, world: &mut World, number: u16, payload: &[u8]) {
        world.datagram(self.from, channel_data(number, payload));
    }
}

pub fn send_indication(peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Indication, SEND);
    let mut msg = Message::builder(kind, 7.into(), MessageWriteVec::new());
    msg.add_attribute(&XorPeerAddress::new(peer, 7.into()))
        .unwrap();
    msg.add_attribute(&Data::new(payload)).unwrap();
    msg.finish()
}

pub fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// An attribute that nobody knows and everybody must understand.
pub fn unknown_attribute() -> stun_types::attribute::RawAttribute<'static> {
    stun_types::attribute::RawAttribute::new(AttributeType::new(0x7abc), b"abcd")
}
