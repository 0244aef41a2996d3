//! What local applications reach peers by: listeners and sockets on the peers' virtual addresses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use holdfast_core::config::AllowRule;
use holdfast_core::types::{LinkId, Vip};

use super::Context;
use super::status::Protocol;
use super::tcp::spawn_listener;
use super::udp::UdpForwards;
use crate::clock::Clock;
use crate::net::Net;
use crate::spawn::{Spawn, Task};

/// The forwards of a node, as its configuration has them at the moment.
pub(super) struct Forwards<N: Net, C, S> {
    cx: Context<N, C, S>,
    udp: Rc<UdpForwards<N>>,
    rules: RefCell<Vec<AllowRule>>,
    listeners: RefCell<BTreeMap<(LinkId, u16), Task>>,
}

impl<N: Net, C: Clock, S: Spawn> Forwards<N, C, S> {
    /// Open them for every link.
    pub(super) fn new(
        cx: Context<N, C, S>,
        udp: Rc<UdpForwards<N>>,
        rules: Vec<AllowRule>,
    ) -> Rc<Forwards<N, C, S>> {
        let forwards = Rc::new(Forwards {
            cx,
            udp,
            rules: RefCell::new(rules),
            listeners: RefCell::default(),
        });
        for (link, vip) in forwards.links() {
            forwards.open(link, vip);
        }
        forwards
    }

    fn links(&self) -> Vec<(LinkId, Vip)> {
        let links = self.cx.links.borrow();
        links.iter().map(|(link, vip)| (*link, *vip)).collect()
    }

    /// Forward to a peer from now on.
    pub(super) fn open(&self, link: LinkId, vip: Vip) {
        for rule in self.rules.borrow().iter() {
            self.open_rule(link, vip, *rule);
        }
    }

    fn open_rule(&self, link: LinkId, vip: Vip, rule: AllowRule) {
        let addr = SocketAddr::new(vip.addr(), rule.port);
        let listener = spawn_listener(&self.cx, link, addr);
        let mut listeners = self.listeners.borrow_mut();
        listeners.insert((link, rule.port), listener);
        if rule.udp {
            self.udp.open_fixed(&self.cx, link, addr);
        }
    }

    /// No longer forward to a peer.
    pub(super) fn close(&self, link: LinkId, vip: Vip) {
        let mut listeners = self.listeners.borrow_mut();
        let of_link: Vec<_> = listeners.range((link, 0)..=(link, u16::MAX)).collect();
        let ports: Vec<u16> = of_link.into_iter().map(|((_, port), _)| *port).collect();
        for port in ports {
            listeners.remove(&(link, port));
            self.forget_clash(vip, port);
        }
        self.udp.close_link(link);
    }

    fn forget_clash(&self, vip: Vip, port: u16) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let addr = SocketAddr::new(vip.addr(), port);
            self.cx.node.forget_clash(addr, protocol);
        }
    }

    /// Forward these ports from now on. Those that stay are not touched.
    pub(super) fn set_rules(&self, rules: Vec<AllowRule>) {
        let before = std::mem::replace(&mut *self.rules.borrow_mut(), rules.clone());
        let of = |rules: &[AllowRule], port| rules.iter().find(|rule| rule.port == port).copied();
        for (link, vip) in self.links() {
            for old in &before {
                let new = of(&rules, old.port);
                if new.is_none() {
                    self.listeners.borrow_mut().remove(&(link, old.port));
                    self.forget_clash(vip, old.port);
                }
                if old.udp && !new.is_some_and(|new| new.udp) {
                    self.udp.close_fixed(link, old.port);
                }
            }
            for new in &rules {
                let addr = SocketAddr::new(vip.addr(), new.port);
                match of(&before, new.port) {
                    None => self.open_rule(link, vip, *new),
                    Some(old) if new.udp && !old.udp => {
                        self.udp.open_fixed(&self.cx, link, addr);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Accept no more connections.
    pub(super) fn stop_listening(&self) {
        self.listeners.borrow_mut().clear();
    }
}
