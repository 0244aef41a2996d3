//! The file's format, key by key. `docs/testing.md` has an example of every key; the JSON schema
//! derives from here.

use std::net::Ipv4Addr;

use holdfast_net_model::{Filtering, Mapping};
use holdfast_plan::{Attack, PathClass, Service, Transport, WorldKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{LinkText, Offset, Share, Size, Start, Time, When};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The file's name without its ending.
    pub name: String,
    /// What it is about, in a sentence.
    pub description: String,
    /// Where it is played.
    #[schemars(with = "Vec<WorldName>")]
    pub worlds: Vec<WorldKind>,
    /// How long at most. A run ends when everything is done.
    pub duration: Time,
    /// … or only after the duration.
    #[serde(default, skip_serializing_if = "is_default")]
    pub full_length: bool,
    /// More than 120 s or 20 MB, on purpose.
    #[serde(default, skip_serializing_if = "is_default")]
    pub long: bool,
    /// Only this seed, instead of a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many seeds are played in each world.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seeds: Seeds,
    /// What brokers, STUN and TURN are reached by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: Servers,
    /// Nodes are instances that claim slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// NATs, each after the one that it is behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nat: Vec<Nat>,
    /// Nodes.
    pub node: Vec<Node>,
    /// Who talks to whom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workload: Vec<Workload>,
    /// Faults that every seed has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<Fault>,
    /// Faults that each seed draws for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<Swarm>,
    /// What must hold, beside what always must.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expect: Expect,
}

/// A world, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum WorldName {
    Core,
    Turmoil,
    Kernel,
}

/// Budgets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    /// In the core world; 200 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub core: Option<u64>,
    /// In the turmoil world; 5 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub turmoil: Option<u64>,
    /// In the kernel world; 1 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub kernel: Option<u64>,
}

/// The claim of slots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// How many slots there are: the ordinals from 1 on.
    #[schemars(range(min = 1, max = 254))]
    pub slots: u16,
    /// How long an owner lives who cannot renew; 10 minutes unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Time>,
    /// By how many parts in a thousand nodes take clocks to differ in rate; 10 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub drift_per_mille: Option<u32>,
    /// Whether an owner runs a mesh under the peer id of its slot, `worker-N`, as long as it owns
    /// it; it does unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<bool>,
    /// Each seed draws how much faster or slower a clock runs that says nothing of it, up to so
    /// many parts in a million; 0 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub clocks_ppm: Option<u32>,
}

/// A NAT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Its name.
    pub name: String,
    /// What it is like; single keys change that.
    pub kind: NatKind,
    /// The NAT that it is behind, declared above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Its outside address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its uplink; ideal unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkText>,
    /// Which packets share a mapping (RFC 4787 section 4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Behaviour>,
    /// Which packets a mapping admits (RFC 4787 section 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtering: Option<Behaviour>,
    /// Uses the internal port outside too when it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_preservation: Option<bool>,
    /// Lets two hosts inside talk through their public addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpinning: Option<bool>,
    /// Keeps hosts inside from reaching each other directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Drops all UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_blocked: Option<bool>,
    /// Inbound packets refresh a mapping too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_refresh: Option<bool>,
    /// A UDP mapping dies this long after its last refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping_expiry: Option<Time>,
    /// The same for TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping_expiry_tcp: Option<Time>,
    /// Most mappings per protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30_000))]
    pub mapping_count_max: Option<usize>,
}

/// What a NAT is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// The common home router.
    Home,
    /// Address-and-port-dependent in mapping and filtering.
    Symmetric,
    /// Endpoint-independent in mapping and filtering.
    FullCone,
    /// A home router that hairpins.
    Hairpin,
}

/// What a mapping or a filter depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// Nothing.
    EndpointIndependent,
    /// The remote address.
    AddressDependent,
    /// The remote address and port.
    AddressAndPortDependent,
}

impl From<Behaviour> for Mapping {
    fn from(behaviour: Behaviour) -> Mapping {
        match behaviour {
            Behaviour::EndpointIndependent => Mapping::EndpointIndependent,
            Behaviour::AddressDependent => Mapping::AddressDependent,
            Behaviour::AddressAndPortDependent => Mapping::AddressAndPortDependent,
        }
    }
}

impl From<Behaviour> for Filtering {
    fn from(behaviour: Behaviour) -> Filtering {
        match behaviour {
            Behaviour::EndpointIndependent => Filtering::EndpointIndependent,
            Behaviour::AddressDependent => Filtering::AddressDependent,
            Behaviour::AddressAndPortDependent => Filtering::AddressAndPortDependent,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name and peer id.
    pub name: String,
    /// The NAT that it is behind; public without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Its address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its interface; a delay of 5 ms unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkText>,
    /// How it may reach the TURN server; both unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Vec<TurnTransport>>,
    /// Whether it knows the STUN server; it does unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stun: Option<bool>,
    /// When it starts; at once unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// How its clocks differ.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clock: Clock,
    /// Whose secret an intruder holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Whom an intruder claims to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poses_as: Option<String>,
    /// With `[membership]`: so many of them, called `name-1` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<u16>,
    /// With `[membership]`: where its instance id comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// With `[membership]`: it owns this slot, with or without a KV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ordinal: Option<u16>,
}

/// Where an instance id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// A file, which a loss of the disk takes along.
    Disk,
    /// The TEE, which tells the same after it.
    Tee,
}

/// How TURN is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TurnTransport {
    /// Over UDP.
    Udp,
    /// Over TCP.
    Tcp,
}

impl From<TurnTransport> for Transport {
    fn from(transport: TurnTransport) -> Transport {
        match transport {
            TurnTransport::Udp => Transport::Udp,
            TurnTransport::Tcp => Transport::Tcp,
        }
    }
}

/// How a node's clocks differ from the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Its wall clock is ahead by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// Both its clocks run faster by this, in parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -10_000, max = 10_000))]
    pub drift_ppm: Option<i32>,
}

/// The servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Servers {
    /// How many brokers; one unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2))]
    pub brokers: Option<u8>,
    /// The link of each; a delay of 5 ms unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkText>,
}

/// Somebody talks to somebody: by a stream of `bytes`, or by `datagrams`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name, for expectations.
    pub name: String,
    /// Who begins.
    pub from: String,
    /// Who serves.
    pub to: String,
    /// What is served.
    #[schemars(with = "ServiceName")]
    pub service: Service,
    /// When it begins; at once unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at: When,
    /// So many times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub repeat: Option<u32>,
    /// One each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Time>,
    /// A stream of so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// How long to try again after a reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<Time>,
    /// So many datagrams,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub datagrams: Option<u32>,
    /// one each,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Time>,
    /// so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<Size>,
}

/// A service, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum ServiceName {
    Echo,
    Sink,
    Stopped,
    Closed,
    Forbidden,
}

/// Something goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What to call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it begins.
    pub at: When,
    /// Undone after that; without it, never.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<When>,
    /// What it is; which of the other keys it has depends on that.
    pub kind: FaultKind,
    /// Whose packets vanish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// … on the way to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between: Option<[String; 2]>,
    /// A node, a NAT, `server-1` or `server-2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What its link is like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkText>,
    /// A NAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
    /// A new address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// A node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its new NAT; public without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// How far a clock jumps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Offset>,
    /// Which broker, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2))]
    pub broker: Option<u8>,
    /// How much of what is posted is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lose: Option<Share>,
    /// How much of it comes twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Share>,
    /// How much happens after its caller gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Share>,
    /// What an outsider writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<AttackName>")]
    pub attack: Option<Attack>,
    /// How many datagrams from strangers; 100 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub count: Option<u32>,
}

/// An attack, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
enum AttackName {
    Replay,
    Corrupt,
    Foreign,
    Garbage,
}

/// Kinds of faults.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Packets from one node to another vanish.
    Cut,
    /// A link has other properties.
    Link,
    /// A NAT forgets its mappings.
    Flush,
    /// A NAT gets another address.
    Renumber,
    /// A NAT drops all UDP.
    UdpBlocked,
    /// A node is somewhere else.
    Move,
    /// A node's process is killed.
    Crash,
    /// A node is told to stop.
    Stop,
    /// A node stands still.
    Pause,
    /// A node's wall clock jumps.
    ClockStep,
    /// A broker is gone, with what it kept.
    Broker,
    /// All brokers lose and repeat.
    BrokerLoss,
    /// The TURN server is gone.
    Turn,
    /// An outsider writes into a node's mailbox.
    Attack,
    /// Datagrams from strangers arrive at a node.
    Strangers,
    /// The KV's leader is gone, and there is another one after a while.
    KvLeader,
    /// A node does not reach the KV, or nobody does.
    KvCut,
    /// Requests to the KV are lost, or their answers, or they happen late.
    KvLoss,
    /// A node's process is killed, and its disk is gone.
    Wipe,
    /// A node gives its slot back and ends.
    Retire,
}

/// Faults that each seed draws for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Swarm {
    /// Which there may be; each seed uses some of them.
    pub kinds: Vec<SwarmKind>,
    /// They begin and end in it.
    pub window: [Time; 2],
    /// How many at most.
    #[schemars(range(min = 1, max = 1_000))]
    pub faults_max: u32,
    /// Never more nodes down, paused, cut off or away at once; one unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub down_max: Option<u32>,
    /// Nodes that nothing is done to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spare: Vec<String>,
}

/// Kinds of faults that are drawn.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum SwarmKind {
    /// Two nodes do not reach each other, one way or both.
    Cut,
    /// A node's link loses packets.
    Loss,
    /// A node's link is slower, and jitters.
    Delay,
    /// A node's link is dark.
    Blackhole,
    /// A NAT forgets its mappings.
    Flush,
    /// A NAT has another address for a while.
    Renumber,
    /// A node is killed, and comes back.
    Crash,
    /// A node is told to stop, and comes back at once.
    Restart,
    /// A node stands still for a while.
    Pause,
    /// A node is somewhere else for a while.
    Roam,
    /// A broker is gone for a while.
    Broker,
    /// All brokers lose and repeat for a while.
    BrokerLoss,
    /// The TURN server is gone for a while.
    Turn,
    /// A NAT drops all UDP for a while.
    UdpBlocked,
    /// A node's wall clock jumps.
    ClockStep,
    /// An outsider writes into a node's mailbox.
    Attack,
    /// Datagrams from strangers arrive at a node.
    Strangers,
    /// The KV's leader is gone, and there is another one after a while.
    KvLeader,
    /// A node does not reach the KV for a while, or nobody does.
    KvCut,
    /// Requests to the KV are lost for a while, or their answers, or they happen late.
    KvLoss,
    /// A node's process is killed, its disk is gone, and it comes back.
    Wipe,
    /// A node gives its slot back, and comes back.
    Retire,
}

/// What must hold, beside what always must.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// After the last fault, every link is up, on its path, with bytes both ways; 30 s unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converge_within: Option<Time>,
    /// All links between members, classes from the topology; the default unless some are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Links>,
    /// Texts of log lines at ERROR that are expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// How often a link may leave the state up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaps_max: Option<u32>,
    /// With `[membership]`: how often a slot may be lost, by all instances together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses_max: Option<u32>,
    /// Single links.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<ExpectLink>,
    /// Workloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workload: Vec<ExpectWorkload>,
}

/// Which links are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Links {
    /// All that the topology makes possible.
    Oracle,
}

/// A link that is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectLink {
    /// Its ends.
    pub between: [String; 2],
    /// The class of its path; any unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub class: Class,
}

/// The class of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// From host to host.
    Direct,
    /// Through a TURN server.
    Relay,
    /// Either.
    #[default]
    Any,
}

impl Class {
    /// As plans have it.
    #[must_use]
    pub const fn wanted(self) -> Option<PathClass> {
        match self {
            Class::Direct => Some(PathClass::Direct),
            Class::Relay => Some(PathClass::Relay),
            Class::Any => None,
        }
    }
}

/// How a workload ends. One that is not listed may end as it likes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectWorkload {
    /// Its name.
    pub name: String,
    /// How it ends; complete unless said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outcome: Outcome,
    /// From its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Time>,
    /// The longest silence while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_max: Option<Time>,
    /// Without a second try.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unbroken: bool,
    /// How much of a datagram flow arrives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_min: Option<Share>,
}

/// How a workload ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything arrived.
    #[default]
    Complete,
    /// The far end said no.
    Refused,
    /// Nothing of it reached the far end.
    NeverOpen,
    /// However.
    Any,
}
