//! Which local application a peer's datagram is for.
//!
//! The socket bound to a peer's VIP and port stands for that port of the peer. When a local
//! application sends to it, the answer goes back to that application; a datagram that nobody
//! here asked for must go to an allowed port.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::AllowRule;
use crate::types::Vip;

/// Most conversations of one link. Beyond it the one that was quiet longest is forgotten.
pub const FLOWS_MAX: usize = 4096;
/// A conversation that was quiet this long is over (RFC 4787 REQ-5 asks NATs for 2 minutes).
pub const FLOW_IDLE: Duration = Duration::from_secs(120);
/// How long a port that was refused on the VIP is looked for on 127.0.0.1 instead.
const LOOPBACK_FOR: Duration = Duration::from_secs(60);

/// The peer's port and the local port of a conversation.
type Key = (u16, u16);

#[derive(Debug)]
struct Flow {
    local: SocketAddr,
    used_at: Instant,
}

/// The conversations of one link.
#[derive(Debug, Default)]
pub struct Flows {
    flows: BTreeMap<Key, Flow>,
    loopback: BTreeMap<u16, Instant>,
}

impl Flows {
    /// How many conversations are remembered.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A local application at `local` sent to the peer's `port`.
    pub fn sent(&mut self, now: Instant, port: u16, local: SocketAddr) {
        let key = (port, local.port());
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(&key) {
            self.make_room(now);
        }
        let used_at = now;
        self.flows.insert(key, Flow { local, used_at });
        assert!(self.flows.len() <= FLOWS_MAX);
    }

    /// Where a datagram from the peer's `source` to our `port` goes, if it may.
    pub fn target(
        &mut self,
        now: Instant,
        source: u16,
        port: u16,
        vip: Vip,
        allow: &[AllowRule],
    ) -> Option<SocketAddr> {
        if let Some(flow) = self.flows.get_mut(&(source, port))
            && now < flow.used_at + FLOW_IDLE
        {
            flow.used_at = now;
            return Some(flow.local);
        }
        let allowed = allow.iter().any(|rule| rule.port == port && rule.udp);
        if !allowed && !planted!(SkipAllowlist) {
            mark!("datagram/not-allowed");
            return None;
        }
        let on_loopback = self.loopback.get(&port).is_some_and(|until| now < *until);
        let ip = if on_loopback {
            Ipv4Addr::LOCALHOST.into()
        } else {
            vip.addr()
        };
        Some(SocketAddr::new(ip, port))
    }

    /// Nothing listens at `to`: forget the conversation, and try the other address next.
    pub fn refused(&mut self, now: Instant, source: u16, to: SocketAddr, vip: Vip) {
        if self
            .flows
            .get(&(source, to.port()))
            .is_some_and(|flow| flow.local == to)
        {
            self.flows.remove(&(source, to.port()));
        }
        if to.ip() == vip.addr() {
            self.loopback.insert(to.port(), now + LOOPBACK_FOR);
        } else {
            self.loopback.remove(&to.port());
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.flows.retain(|_, flow| now < flow.used_at + FLOW_IDLE);
        if self.flows.len() >= FLOWS_MAX {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used_at);
            let oldest = *oldest.expect("a full table has an oldest entry").0;
            self.flows.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    const ALLOW: [AllowRule; 2] = [
        AllowRule {
            port: 53,
            udp: true,
        },
        AllowRule {
            port: 80,
            udp: false,
        },
    ];

    #[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn vip() -> Vip {
        Vip::new(7).unwrap()
    }

    #[test]
    fn an_answer_goes_to_the_application_that_asked() {
        let (mut flows, now) = (Flows::default(), start());
        let app = "127.0.0.1:40000".parse().unwrap();
        flows.sent(now, 53, app);
        assert_eq!(flows.target(now, 53, 40000, vip(), &ALLOW), Some(app));
        let later = now + FLOW_IDLE;
        assert_eq!(
            flows.target(later, 53, 40000, vip(), &ALLOW),
            None,
            "the conversation is over"
        );
    }

    #[test]
    fn an_unasked_datagram_reaches_allowed_udp_ports_only() {
        let (mut flows, now) = (Flows::default(), start());
        let expected = Some("127.50.0.7:53".parse().unwrap());
        assert_eq!(flows.target(now, 9, 53, vip(), &ALLOW), expected);
        assert_eq!(flows.target(now, 9, 80, vip(), &ALLOW), None, "TCP only");
        assert_eq!(flows.target(now, 9, 81, vip(), &ALLOW), None);
    }

    #[test]
    fn a_service_that_listens_on_loopback_only_is_found_after_a_refusal() {
        let (mut flows, now) = (Flows::default(), start());
        let on_vip = flows.target(now, 9, 53, vip(), &ALLOW).unwrap();
        flows.refused(now, 9, on_vip, vip());
        let on_loopback = flows.target(now, 9, 53, vip(), &ALLOW).unwrap();
        assert_eq!(on_loopback, "127.0.0.1:53".parse().unwrap());
        flows.refused(now, 9, on_loopback, vip());
        assert_eq!(flows.target(now, 9, 53, vip(), &ALLOW), Some(on_vip));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_latest() {
        let (mut flows, now) = (Flows::default(), start());
        for n in 0..FLOWS_MAX as u32 + 10 {
            let app = SocketAddr::from(([127, 0, 0, 1], 1 + n as u16));
            flows.sent(now + Duration::from_micros(n.into()), 53, app);
        }
        assert_eq!(flows.flows.len(), FLOWS_MAX);
        assert!(
            flows
                .target(now, 53, FLOWS_MAX as u16 + 10, vip(), &[])
                .is_some()
        );
        assert!(flows.target(now, 53, 1, vip(), &[]).is_none());
    }
}
