//! Mappings that are not used die, at the same time on both grounds.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use holdfast_kernel_world::stage::can_run;
use holdfast_net_model::NatConfig;
use holdfast_plan::SERVERS;

use crate::ground::{
    End, Ground, Host, Kernel, Model, REFLECTOR, behaviours, config, figure, label, topology,
};

/// The kernel counts in seconds; long enough that a busy machine does not take as long to ask.
const EXPIRY: Duration = Duration::from_secs(3);
/// A shorter silence than that.
const SHORT: Duration = Duration::from_millis(2_000);
/// A longer one.
const LONG: Duration = Duration::from_millis(3_600);
/// Between two packets that come in, when only such packets do.
const PACE: Duration = Duration::from_millis(1_200);
/// How many of them: longer than a mapping lives.
const PACES: u32 = 4;

/// What is done with a socket of each node after it has talked with the reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// The reflector sends after a short silence.
    Short = 1,
    /// The reflector sends after a long one.
    Long = 2,
    /// The node sends after half of a short silence, the reflector a short one later.
    Refreshed = 3,
    /// The reflector sends at its pace, the node never again.
    Inbound = 4,
}

const SOCKETS: [Socket; 4] = [
    Socket::Short,
    Socket::Long,
    Socket::Refreshed,
    Socket::Inbound,
];

/// Which sockets of which nodes heard the reflector at the end of their silence.
type Alive = BTreeMap<(u16, u16), bool>;

struct Silence<'a> {
    ground: &'a mut dyn Ground,
    nodes: u16,
    public: BTreeMap<u32, SocketAddrV4>,
}

fn tag(node: u16, socket: Socket) -> u32 {
    u32::from(node) * 10 + socket as u32
}

impl Silence<'_> {
    fn end(node: u16, socket: Socket) -> End {
        End {
            host: Host::Node(node),
            port: 11_000 + socket as u16,
        }
    }

    /// That socket of every node sends to the reflector.
    fn ask(&mut self, sockets: &[Socket]) {
        let reflector = SocketAddrV4::new(SERVERS[0], REFLECTOR.port);
        for node in 0..self.nodes {
            for socket in sockets {
                let end = Self::end(node, *socket);
                self.ground.send(end, reflector, tag(node, *socket));
            }
        }
        for heard in self.ground.settle() {
            if heard.at == REFLECTOR {
                self.public.insert(heard.tag, heard.from);
            }
        }
    }

    /// The reflector sends to that socket of every node; which nodes heard it.
    fn tell(&mut self, socket: Socket) -> Vec<bool> {
        for node in 0..self.nodes {
            let to = self.public[&tag(node, socket)];
            self.ground.send(REFLECTOR, to, tag(node, socket));
        }
        let heard = self.ground.settle();
        let at = |node| heard.iter().any(|h| h.at == Self::end(node, socket));
        (0..self.nodes).map(at).collect()
    }

    fn run(mut self) -> Alive {
        let mut alive = Alive::new();
        let mut note = |socket: Socket, heard: Vec<bool>| {
            for (node, heard) in (0..).zip(heard) {
                alive.insert((node, socket as u16), heard);
            }
        };
        // Opens the reflector's socket.
        let nobody = SocketAddrV4::new(SERVERS[0], 1);
        self.ground.send(REFLECTOR, nobody, 0);
        self.ask(&SOCKETS);
        for socket in SOCKETS {
            assert_eq!(self.tell(socket), vec![true; self.nodes.into()]);
        }
        let began = self.ground.now();
        let mut inbound = (1..=PACES).map(|n| began + PACE * n).peekable();
        let mut events = vec![
            (began + SHORT / 2, Socket::Refreshed, true),
            (began + SHORT, Socket::Short, false),
            (began + SHORT / 2 + SHORT, Socket::Refreshed, false),
            (began + LONG, Socket::Long, false),
        ];
        events.extend(inbound.by_ref().map(|at| (at, Socket::Inbound, false)));
        events.sort_by_key(|(at, ..)| *at);
        for (at, socket, outbound) in events {
            self.ground.pass(at);
            match outbound {
                true => self.ask(&[socket]),
                false => {
                    let heard = self.tell(socket);
                    note(socket, heard);
                }
            }
        }
        alive
    }
}

fn silence(ground: &mut dyn Ground, nodes: u16) -> Alive {
    let silence = Silence {
        ground,
        nodes,
        public: BTreeMap::new(),
    };
    silence.run()
}

#[test]
fn mappings_live_as_long_in_the_model_as_in_the_kernel() {
    if !can_run() {
        return;
    }
    let with_expiry = |config: NatConfig| NatConfig {
        mapping_expiry: EXPIRY,
        // As conntrack does.
        inbound_refresh: true,
        ..config
    };
    let kinds: Vec<_> = behaviours()
        .into_iter()
        .map(config)
        .map(with_expiry)
        .collect();
    let nodes = kinds.len() as u16;
    let topology = topology(&kinds, 1);
    let told = silence(&mut Model::new(&topology), nodes);
    let truth = silence(&mut Kernel::new(&topology), nodes);
    for ((node, socket), told) in told {
        let kind = label(&kinds[usize::from(node)]);
        let truth = truth[&(node, socket)];
        let socket = SOCKETS[usize::from(socket) - 1];
        assert_eq!(
            told, truth,
            "{kind} {socket:?}: model {told}, kernel {truth}"
        );
        assert_eq!(truth, socket != Socket::Long, "{kind} {socket:?}");
    }
    // A model's NAT whose mappings live by what goes out alone is stricter than the kernel.
    let strict = kinds.iter().map(|kind| NatConfig {
        inbound_refresh: false,
        ..*kind
    });
    let strict = crate::ground::topology(&strict.collect::<Vec<_>>(), 1);
    for ((_, socket), alive) in silence(&mut Model::new(&strict), nodes) {
        let kept = [Socket::Short as u16, Socket::Refreshed as u16];
        assert_eq!(alive, kept.contains(&socket), "{socket}");
    }
    figure(&format!(
        "a mapping of {EXPIRY:?} is alive after {SHORT:?} and dead after {LONG:?}, on both grounds"
    ));
}
