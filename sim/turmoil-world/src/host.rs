//! One simulated host: its addresses, sockets and clocks, whatever runs on it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use holdfast_net_model::HostId;
use holdfast_plan::ClockSpec;

use crate::clock::HostClock;
use crate::fabric::Ports;
use crate::loopback::Loopback;
use crate::wire::Wires;

/// A host.
pub struct Host {
    /// Its position in the world.
    pub number: usize,
    /// Its name, for traces.
    pub name: String,
    /// What it is in the network model; `None` for hosts that only speak TCP.
    pub model: Option<HostId>,
    /// What it is in turmoil, where every host has one address for ever.
    pub turmoil_ip: Ipv4Addr,
    /// Its sockets for local programs.
    pub loopback: Rc<Loopback>,
    /// Its UDP ports.
    pub ports: Ports,
    /// Its TCP connections.
    pub wires: Wires,
    /// Its clocks.
    pub clock: Rc<HostClock>,
    address: Cell<Ipv4Addr>,
}

impl Host {
    /// A host; `address` is the one that it sees on its interface.
    pub fn new(
        number: usize,
        name: &str,
        model: Option<HostId>,
        [turmoil_ip, address]: [Ipv4Addr; 2],
        clock: ClockSpec,
    ) -> Rc<Host> {
        Rc::new(Host {
            number,
            name: name.to_owned(),
            model,
            turmoil_ip,
            loopback: Rc::default(),
            ports: Ports::default(),
            wires: Wires::default(),
            clock: HostClock::new(clock),
            address: Cell::new(address),
        })
    }

    /// Its address now.
    pub fn address(&self) -> IpAddr {
        self.address.get().into()
    }

    /// It has another address from now on.
    pub fn set_address(&self, address: Ipv4Addr) {
        self.address.set(address);
    }
}
