//! Faults and swarms.

use std::time::Duration;

use holdfast_plan::{Action, Attack, KvFault, NatIndex, NetworkFault, NodeIndex, Place};
use std::net::Ipv4Addr;

use super::{Checker, FAULTS_MAX};
use crate::plan::schedule;
use crate::scenario::format::{Fault, FaultKind, Swarm, SwarmKind};
use crate::scenario::values::{Start, Time};

impl FaultKind {
    /// The keys that this kind needs, and those that it may have.
    const fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            FaultKind::Cut => (&[], &["from", "to", "between", "for"]),
            FaultKind::Link => (&["device", "link"], &["for"]),
            FaultKind::Flush => (&["nat"], &[]),
            FaultKind::Renumber => (&["nat", "address"], &["for"]),
            FaultKind::UdpBlocked => (&["nat"], &["for"]),
            FaultKind::Move => (&["node"], &["behind", "address", "for"]),
            FaultKind::Crash | FaultKind::Stop | FaultKind::Pause => (&["node"], &["for"]),
            FaultKind::ClockStep => (&["node", "by"], &[]),
            FaultKind::Broker => (&[], &["broker", "for"]),
            FaultKind::BrokerLoss => (&[], &["lose", "repeat", "for"]),
            FaultKind::Turn => (&[], &["for"]),
            FaultKind::Attack => (&["node", "attack"], &[]),
            FaultKind::Strangers => (&["node"], &["count"]),
            FaultKind::KvLeader => (&["for"], &[]),
            FaultKind::KvCut => (&["for"], &["node"]),
            FaultKind::KvLoss => (&[], &["lose", "late", "for"]),
            FaultKind::Wipe | FaultKind::Retire => (&["node"], &["for"]),
        }
    }

    /// Whether it needs `[membership]`; `None` when it may be there without and with.
    const fn of_membership(self) -> Option<bool> {
        use FaultKind as K;
        match self {
            K::Crash | K::Stop | K::Pause | K::ClockStep => None,
            K::KvLeader | K::KvCut | K::KvLoss | K::Wipe | K::Retire => Some(true),
            _ => Some(false),
        }
    }

    fn name(self) -> String {
        let json = serde_json::to_value(self).expect("a name is JSON");
        json.as_str().unwrap_or_default().to_owned()
    }
}

/// The keys that a fault has beside those that every kind has.
fn given(fault: &Fault) -> Vec<&'static str> {
    let all = [
        ("for", fault.lasts.is_some()),
        ("from", fault.from.is_some()),
        ("to", fault.to.is_some()),
        ("between", fault.between.is_some()),
        ("device", fault.device.is_some()),
        ("link", fault.link.is_some()),
        ("nat", fault.nat.is_some()),
        ("address", fault.address.is_some()),
        ("node", fault.node.is_some()),
        ("behind", fault.behind.is_some()),
        ("by", fault.by.is_some()),
        ("broker", fault.broker.is_some()),
        ("lose", fault.lose.is_some()),
        ("repeat", fault.repeat.is_some()),
        ("late", fault.late.is_some()),
        ("attack", fault.attack.is_some()),
        ("count", fault.count.is_some()),
    ];
    let given = all.into_iter().filter(|(_, given)| *given);
    given.map(|(name, _)| name).collect()
}

impl Checker<'_> {
    pub(super) fn faults(&mut self) {
        let file = self.file;
        if file.fault.len() > FAULTS_MAX {
            let found = file.fault.len();
            self.wrong(
                "fault",
                format!("found {found}, expected at most {FAULTS_MAX}"),
            );
        }
        let named: Vec<(usize, &str)> = file
            .fault
            .iter()
            .enumerate()
            .filter_map(|(n, fault)| Some((n, fault.name.as_deref()?)))
            .collect();
        for (at, (n, name)) in named.iter().enumerate() {
            self.title(&format!("fault[{n}].name"), name);
            if let Some((other, _)) = named[..at].iter().find(|(_, other)| other == name) {
                let message = format!("{name:?} is the name of fault[{other}] already");
                self.wrong(format!("fault[{n}].name"), message);
            }
        }
        for (n, fault) in file.fault.iter().enumerate() {
            self.fault(n, fault);
        }
        if file.fault.len() <= FAULTS_MAX {
            self.overlaps();
        }
    }

    fn fault(&mut self, n: usize, fault: &Fault) {
        let key = |name: &str| format!("fault[{n}].{name}");
        let before = self.findings.len();
        let (needed, allowed) = fault.kind.keys();
        let (kind, given) = (fault.kind.name(), given(fault));
        for name in needed.iter().filter(|name| !given.contains(name)) {
            self.wrong(format!("fault[{n}]"), format!("a {kind} without `{name}`"));
        }
        for name in &given {
            if !needed.contains(name) && !allowed.contains(name) {
                let keys = [needed, allowed].concat().join(", ");
                let message = match *name {
                    "for" => format!("a {kind} is over at once, expected no `for`"),
                    _ => format!("not for a {kind}, expected {keys}"),
                };
                self.wrong(key(name), message);
            }
        }
        self.references(n, fault);
        self.role(
            &key("kind"),
            &format!("a {kind}"),
            fault.kind.of_membership(),
        );
        self.times(n, fault);
        if self.findings.len() > before {
            return;
        }
        let Some(effect) = schedule::effect(fault, self.topology) else {
            return self.wrong(format!("fault[{n}]"), "names what is not there");
        };
        for world in self.file.worlds.clone() {
            let all = effect.begin.iter().chain(&effect.undo);
            let obstacle = all.filter_map(|action| action.obstacle(world)).next();
            if let Some(what) = obstacle {
                let message = format!("{what}: the {world} world, among `worlds`, cannot do that");
                self.wrong(key("kind"), message);
            }
        }
        self.new_address(n, fault);
    }

    fn references(&mut self, n: usize, fault: &Fault) {
        let key = |name: &str| format!("fault[{n}].{name}");
        let nodes = [
            ("from", &fault.from),
            ("to", &fault.to),
            ("node", &fault.node),
        ];
        for (name, node) in nodes {
            if let Some(node) = node {
                self.node_exists(&key(name), node);
            }
        }
        for (at, node) in fault.between.iter().flatten().enumerate() {
            self.node_exists(&format!("fault[{n}].between[{at}]"), node);
        }
        for (name, nat) in [("nat", &fault.nat), ("behind", &fault.behind)] {
            if let Some(nat) = nat {
                self.nat_exists(&key(name), nat);
            }
        }
        if let Some(device) = &fault.device {
            self.device_exists(&key("device"), device);
        }
        if let Some(broker) = fault.broker
            && broker > self.topology.servers.brokers
        {
            let brokers = self.topology.servers.brokers;
            self.wrong(
                key("broker"),
                format!("found {broker}, and there are {brokers}"),
            );
        }
        if fault.kind == FaultKind::Cut {
            match (&fault.between, &fault.from, &fault.to) {
                (Some([a, b]), None, None) if a == b => {
                    self.wrong(key("between"), "expected two nodes");
                }
                (None, Some(a), Some(b)) if a == b => self.wrong(key("to"), "is `from` too"),
                (Some(_), None, None) | (None, Some(_), Some(_)) => {}
                _ => {
                    let message = "a cut has `from` and `to`, or `between` for both ways";
                    self.wrong(format!("fault[{n}]"), message);
                }
            }
        }
        if fault.kind == FaultKind::KvLoss && fault.lose.is_none() && fault.late.is_none() {
            let message = "a kv-loss without `lose` and without `late`";
            self.wrong(format!("fault[{n}]"), message);
        }
        if fault.kind == FaultKind::BrokerLoss && fault.lose.is_none() && fault.repeat.is_none() {
            let message = "a broker-loss without `lose` and without `repeat`";
            self.wrong(format!("fault[{n}]"), message);
        }
    }

    fn times(&mut self, n: usize, fault: &Fault) {
        let key = |name: &str| format!("fault[{n}].{name}");
        let before = self.findings.len();
        self.when(&key("at"), fault.at);
        let Some(lasts) = fault.lasts else { return };
        self.when(&key("for"), lasts);
        let end = self.file.duration;
        if self.findings.len() == before && fault.at.to() + lasts.to() > end.0 {
            let over = Time(fault.at.to() + lasts.to());
            let message = format!("lasts until {over}, and the run ends at {end}");
            self.wrong(key("for"), message);
        }
        let node = fault
            .node
            .as_deref()
            .and_then(|name| self.topology.find(name));
        let is_process = schedule::is_process(fault.kind);
        if let Some(node) = node.filter(|_| is_process) {
            let starts = match self.file.node[node.index()].start {
                Some(Start::When(start)) => start.to(),
                Some(Start::Never(_)) | None => Duration::ZERO,
            };
            if starts > fault.at.from() {
                let starts = Time(starts);
                let message = format!("the node may not run yet: it starts up to {starts}");
                self.wrong(key("at"), message);
            }
        }
    }

    /// A new address that nothing has on its segment, whatever else has moved by then.
    fn new_address(&mut self, n: usize, fault: &Fault) {
        let Some(address) = fault.address else { return };
        let key = format!("fault[{n}].address");
        self.usable_address(&key, address);
        let topology = self.topology;
        let (segment, itself): (Option<&str>, &str) = match fault.kind {
            FaultKind::Move => {
                let node = fault.node.as_deref().unwrap_or_default();
                (fault.behind.as_deref(), node)
            }
            _ => {
                let nat = fault.nat.as_deref().unwrap_or_default();
                let known = self.file.nat.iter().find(|other| other.name == nat);
                (known.and_then(|nat| nat.behind.as_deref()), nat)
            }
        };
        let is_on = |place: Place| match place {
            Place::Public => segment.is_none(),
            Place::Behind(nat) => segment == Some(&topology.nats[nat.index()].name),
        };
        let nodes = topology.nodes.iter().map(|n| (&n.name, n.place, n.address));
        let nats = topology
            .nats
            .iter()
            .map(|n| (&n.name, n.place, n.config.public_ip));
        let taken = nodes
            .chain(nats)
            .find(|(name, place, other)| *other == address && is_on(*place) && *name != itself);
        let is_server = segment.is_none() && holdfast_plan::SERVERS.contains(&address);
        if let Some((name, ..)) = taken {
            self.wrong(key, format!("{address} is the address of {name} already"));
        } else if is_server {
            self.wrong(key, format!("{address} is the address of a server already"));
        }
    }

    /// What holds one thing at a time would be undone by the end of another.
    fn overlaps(&mut self) {
        let mut held = Vec::new();
        for (n, fault) in self.file.fault.iter().enumerate() {
            let (from, to) = schedule::span(fault);
            for hold in schedule::holds(fault, self.topology) {
                let clash = held.iter().find(|(other, _, (since, until))| {
                    *other == hold && from < *until && *since < to
                });
                if let Some((_, other, (since, until))) = clash {
                    let until = match *until {
                        Duration::MAX => "the end".to_owned(),
                        until => Time(until).to_string(),
                    };
                    let since = Time(*since);
                    let message = format!(
                        "may overlap fault[{other}], which has the same thing from {since} to {until}"
                    );
                    self.wrong(format!("fault[{n}].at"), message);
                    break;
                }
                held.push((hold, n, (from, to)));
            }
        }
    }

    pub(super) fn swarm(&mut self) {
        let Some(swarm) = &self.file.swarm else {
            return;
        };
        let [from, to] = swarm.window;
        if from >= to {
            let message = format!("from {from} to {to}, expected a beginning before the end");
            self.wrong("swarm.window", message);
        } else if to > self.file.duration {
            let end = self.file.duration;
            self.wrong("swarm.window[1]", format!("{to} is after the end at {end}"));
        }
        if swarm.kinds.is_empty() {
            self.wrong("swarm.kinds", "found none, expected at least one");
        }
        for (n, name) in swarm.spare.iter().enumerate() {
            self.node_exists(&format!("swarm.spare[{n}]"), name);
        }
        for (n, kind) in swarm.kinds.iter().enumerate() {
            let key = format!("swarm.kinds[{n}]");
            if swarm.kinds[..n].contains(kind) {
                self.wrong(&key, "is there twice");
            }
            self.swarm_kind(&key, *kind, swarm);
        }
    }

    fn swarm_kind(&mut self, key: &str, kind: SwarmKind, swarm: &Swarm) {
        let of_membership = match kind {
            SwarmKind::Crash | SwarmKind::Restart | SwarmKind::Pause | SwarmKind::ClockStep => None,
            SwarmKind::KvLeader
            | SwarmKind::KvCut
            | SwarmKind::KvLoss
            | SwarmKind::Wipe
            | SwarmKind::Retire => Some(true),
            _ => Some(false),
        };
        self.role(key, "a fault of this kind", of_membership);
        for world in self.file.worlds.clone() {
            if let Some(what) = sample(kind).and_then(|action| action.obstacle(world)) {
                let message = format!("{what}: the {world} world, among `worlds`, cannot do that");
                self.wrong(key, message);
            }
        }
        let needs_nat = matches!(
            kind,
            SwarmKind::Flush | SwarmKind::Renumber | SwarmKind::UdpBlocked
        );
        if needs_nat && self.file.nat.is_empty() {
            self.wrong(key, "there is no NAT for it");
        }
        let downs = matches!(
            kind,
            SwarmKind::Crash
                | SwarmKind::Restart
                | SwarmKind::Pause
                | SwarmKind::Roam
                | SwarmKind::Blackhole
                | SwarmKind::Wipe
                | SwarmKind::Retire
        );
        if downs && swarm.down_max == Some(0) {
            self.wrong(key, "never happens with down_max = 0");
        }
    }
}

/// An action of that kind, to ask worlds whether they can do it.
fn sample(kind: SwarmKind) -> Option<Action> {
    let node = NodeIndex(0);
    let network = match kind {
        SwarmKind::Cut => NetworkFault::Cut {
            from: node,
            to: node,
        },
        SwarmKind::Renumber => NetworkFault::Renumber {
            nat: NatIndex(0),
            public_ip: Ipv4Addr::UNSPECIFIED,
        },
        SwarmKind::Roam => NetworkFault::Move {
            node,
            place: Place::Public,
            address: Ipv4Addr::UNSPECIFIED,
        },
        SwarmKind::Pause => return Some(Action::Pause(node)),
        SwarmKind::ClockStep => return Some(Action::ClockStep { node, by_ms: 0 }),
        SwarmKind::BrokerLoss => {
            let never = holdfast_net_model::Ratio::NEVER;
            return Some(Action::BrokerLoss {
                lose: never,
                repeat: never,
            });
        }
        SwarmKind::Attack => {
            let attack = Attack::Garbage;
            return Some(Action::Attack { node, attack });
        }
        SwarmKind::Strangers => return Some(Action::Strangers { node, count: 0 }),
        SwarmKind::Crash => return Some(Action::Crash(node)),
        SwarmKind::Wipe => return Some(Action::Wipe(node)),
        SwarmKind::Retire => return Some(Action::Retire(node)),
        SwarmKind::KvLeader => {
            let after = Duration::ZERO;
            return Some(Action::Kv(KvFault::Leader { after }));
        }
        SwarmKind::KvCut => return Some(Action::Kv(KvFault::Cut { node, on: true })),
        SwarmKind::KvLoss => {
            let never = holdfast_net_model::Ratio::NEVER;
            return Some(Action::Kv(KvFault::Loss {
                lose: never,
                late: never,
            }));
        }
        SwarmKind::Restart => return Some(Action::Stop(node)),
        SwarmKind::Broker => {
            return Some(Action::Broker {
                broker: 0,
                up: false,
            });
        }
        SwarmKind::Turn => return Some(Action::Turn { up: false }),
        SwarmKind::Flush => NetworkFault::Flush(NatIndex(0)),
        SwarmKind::UdpBlocked => NetworkFault::UdpBlocked {
            nat: NatIndex(0),
            on: true,
        },
        SwarmKind::Loss | SwarmKind::Delay | SwarmKind::Blackhole => return None,
    };
    Some(Action::Network(network))
}
