//! NAT behaviours in the terms of RFC 4787, and the nftables rules that give them.

use std::{
    fmt::{self, Write},
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::Error;

/// How many destination ports [`Nat::tcp_ports`] may list: more is a typing error.
pub const TCP_PORTS_MAX: usize = 64;

/// The default of `net.netfilter.nf_conntrack_udp_timeout`, seconds.
const UDP_TIMEOUT_S: u32 = 30;

/// The default of `net.netfilter.nf_conntrack_udp_timeout_stream`, seconds.
const UDP_STREAM_TIMEOUT_S: u32 = 120;

/// An hour: no NAT worth testing keeps a silent mapping longer.
const TIMEOUT_S_MAX: u32 = 3_600;

/// How the public endpoint of a flow depends on its destination (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mapping {
    /// Plain masquerade: the port is kept where it is free, else random, for each connection.
    #[default]
    Linux,
    /// Endpoint-independent, enforced; the first port is kept if it is free.
    Eim,
    /// Endpoint-independent, the first port random: local and public port differ, and a
    /// forgotten mapping comes back with another port.
    EimRand,
    /// Address-dependent: one port for each destination address.
    Adm,
    /// Address- and port-dependent, random: "symmetric".
    Apdm,
}

/// What may come in through a mapping (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filtering {
    /// Anything: "full cone" if the mapping is endpoint-independent.
    Eif,
    /// Whatever comes from an address that was sent to.
    Adf,
    /// Whatever comes from an address and port that was sent to.
    #[default]
    Apdf,
}

/// What the router does with packets to its own address that nobody asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unsolicited {
    /// Nothing is answered.
    #[default]
    Drop,
    /// An ICMP error is answered.
    Reject,
}

/// A TCP port of a node that the public network reaches at its router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    /// The port on the router's public address.
    pub(crate) port: u16,
    /// The node's own endpoint.
    pub(crate) to: SocketAddrV4,
}

/// A router's behaviour. The default is a plain Linux masquerade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nat {
    /// How public endpoints are chosen. Default: [`Mapping::Linux`].
    pub mapping: Mapping,
    /// What is let in. Default: [`Filtering::Apdf`].
    pub filtering: Filtering,
    /// Whether nodes behind it reach each other by the public address. Default: no.
    pub hairpin: bool,
    /// Whether nodes behind it cannot reach each other by their private addresses. Default: no.
    pub isolate: bool,
    /// Whether all UDP is dropped. Default: no.
    pub udp_blocked: bool,
    /// The only destination ports that TCP may go out to. Default: all.
    pub tcp_ports: Option<Vec<u16>>,
    /// What unsolicited packets get. Default: [`Unsolicited::Drop`].
    pub unsolicited: Unsolicited,
    /// How long a UDP flow without an answer is remembered, seconds. Default: 30.
    pub udp_timeout_s: u32,
    /// How long an answered UDP flow, or an enforced mapping, is remembered, seconds.
    /// Default: 120.
    pub udp_stream_timeout_s: u32,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            mapping: Mapping::default(),
            filtering: Filtering::default(),
            hairpin: false,
            isolate: false,
            udp_blocked: false,
            tcp_ports: None,
            unsolicited: Unsolicited::default(),
            udp_timeout_s: UDP_TIMEOUT_S,
            udp_stream_timeout_s: UDP_STREAM_TIMEOUT_S,
        }
    }
}

impl Nat {
    /// A NAT of these two behaviours, the rest as by default.
    #[must_use]
    pub fn new(mapping: Mapping, filtering: Filtering) -> Self {
        Self {
            mapping,
            filtering,
            ..Self::default()
        }
    }

    /// Endpoint-independent mapping and filtering: anybody may send to a mapping.
    #[must_use]
    pub fn full_cone() -> Self {
        Self::new(Mapping::Eim, Filtering::Eif)
    }

    /// Another random port for each destination: hole punching needs a peer that is easier.
    #[must_use]
    pub fn symmetric() -> Self {
        Self::new(Mapping::Apdm, Filtering::Apdf)
    }

    /// One public address for many machines that cannot reach each other in private, as a
    /// provider of virtual machines does it: traffic between them has to hairpin.
    #[must_use]
    pub fn hairpinning() -> Self {
        Self {
            hairpin: true,
            isolate: true,
            ..Self::full_cone()
        }
    }

    /// No UDP at all, and TCP only to the given ports.
    #[must_use]
    pub fn udp_blocked(tcp_ports: &[u16]) -> Self {
        Self {
            udp_blocked: true,
            tcp_ports: Some(tcp_ports.to_vec()),
            ..Self::default()
        }
    }

    /// Refuses what the kernel would not take, before anything is made.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let ports = self.tcp_ports.as_deref().unwrap_or_default();
        if ports.len() > TCP_PORTS_MAX {
            return Err(Error::TooMany {
                what: "allowed TCP ports",
                found: ports.len(),
                max: TCP_PORTS_MAX,
            });
        }
        for seconds in [self.udp_timeout_s, self.udp_stream_timeout_s] {
            if !(1..=TIMEOUT_S_MAX).contains(&seconds) {
                return Err(Error::Invalid {
                    what: "UDP timeout",
                    found: seconds.to_string(),
                    expected: format!("1 to {TIMEOUT_S_MAX} seconds"),
                });
            }
        }
        Ok(())
    }

    /// Whether plain conntrack is not enough, so that endpoints are tracked in nft maps.
    fn is_tracked(&self) -> bool {
        matches!(self.mapping, Mapping::Eim | Mapping::EimRand)
            || self.filtering != Filtering::Apdf
            || self.hairpin
    }

    /// Whether strangers come in without a flow of conntrack's.
    ///
    /// The answer to one whom a mapping merely let in is a packet to a new destination, which a
    /// dependent mapping gives another port (RFC 4787 section 4.1); conntrack would answer from
    /// the port that was reached. A hairpin packet needs conntrack for its sender.
    fn is_strict(&self) -> bool {
        let is_dependent = matches!(self.mapping, Mapping::Adm | Mapping::Apdm);
        is_dependent && self.filtering == Filtering::Eif && !self.hairpin
    }

    /// The nftables script for a router with the public address `wan` on `wan0` and its
    /// nodes on `l1`, `l2`, …, some of whose TCP ports are `published`.
    ///
    /// conntrack alone gives address- and port-dependent filtering and, as long as a port is
    /// free, endpoint-independent mapping. All else rests on two maps that a late
    /// postrouting chain keeps up to date from the translated packets: `public` (inside
    /// endpoint to public endpoint), which pins a mapping, and `inside` (public port to
    /// inside endpoint, also in two parts), which lets strangers in; and on two sets, `addresses` and
    /// `endpoints`, of those whom a public port has sent to.
    pub(crate) fn rules(&self, wan: Ipv4Addr, published: &[Published]) -> String {
        // Declaring the table lets the deletion succeed where there is none yet; the whole script
        // takes effect at once.
        let mut script = String::from("table ip lab\ndelete table ip lab\ntable ip lab {\n");
        if self.is_tracked() {
            script.push_str(&tracking(wan, self.udp_stream_timeout_s));
        }
        if self.is_strict() {
            script.push_str(&strangers(wan));
        }
        script.push_str(&self.inbound_translation(wan, published));
        if self.hairpin && self.filtering != Filtering::Eif {
            script.push_str(&hairpin_pinholes(wan));
        }
        script.push_str(&self.outbound_translation(wan));
        script.push_str(&self.firewall(wan));
        script.push_str("}\n");
        script
    }

    /// The scripts that make the router forget, before and after conntrack's own entries.
    ///
    /// Either memory would be restored from the other by a packet that passes between the two
    /// flushes, so no UDP passes from the first script to the second. The second flushes again
    /// for the packets that were on their way when the first took effect.
    pub(crate) fn flush_rules(&self) -> Option<[String; 2]> {
        const FLUSH: &str = "flush map ip lab public\nflush map ip lab inside\n\
             flush map ip lab inside_address\nflush map ip lab inside_port\n\
             flush set ip lab addresses\nflush set ip lab endpoints\n";
        self.is_tracked().then(|| {
            [
                format!(
                    "table ip lab {{\n{}}}\n{FLUSH}",
                    chain(
                        "hold",
                        "filter hook forward priority filter - 10",
                        "    meta l4proto udp drop\n"
                    )
                ),
                format!("{FLUSH}flush chain ip lab hold\ndelete chain ip lab hold\n"),
            ]
        })
    }

    fn inbound_translation(&self, wan: Ipv4Addr, published: &[Published]) -> String {
        let mut rules = String::new();
        // From inside as well, as a gateway of the provider's is reached from everywhere.
        for Published { port, to } in published {
            rule(
                &mut rules,
                format_args!("ip daddr {wan} tcp dport {port} dnat to {to}"),
            );
        }
        let to_inside = "dnat ip to udp dport map @inside";
        // From outside, the permission is keyed by who sends. A hairpin packet still has its
        // private source here, but comes from the router's own public address.
        match self.filtering {
            Filtering::Eif if self.is_strict() => {}
            Filtering::Eif => rule(
                &mut rules,
                format_args!("iifname \"wan0\" ip daddr {wan} meta l4proto udp {to_inside}"),
            ),
            Filtering::Adf => rule(
                &mut rules,
                format_args!(
                    "iifname \"wan0\" ip daddr {wan} udp dport . ip saddr @addresses {to_inside}"
                ),
            ),
            // conntrack's own matching is this filter.
            Filtering::Apdf => {}
        }
        if self.hairpin {
            let permitted = match self.filtering {
                Filtering::Eif => "meta l4proto udp",
                Filtering::Adf => "udp dport . ip daddr @addresses",
                Filtering::Apdf => "udp dport . ip daddr . udp sport @endpoints",
            };
            rule(
                &mut rules,
                format_args!("iifname \"l*\" ip daddr {wan} {permitted} {to_inside}"),
            );
        }
        chain(
            "translate_in",
            "nat hook prerouting priority dstnat",
            &rules,
        )
    }

    fn outbound_translation(&self, wan: Ipv4Addr) -> String {
        let random = match self.mapping {
            Mapping::EimRand | Mapping::Apdm => " fully-random",
            _ => "",
        };
        let mut rules = String::new();
        let to_the_internet = "oifname \"wan0\"";
        let hairpinned = "ip saddr 10.0.0.0/8 oifname \"l*\" ct status dnat";
        for selected in [to_the_internet, hairpinned] {
            match self.mapping {
                Mapping::Eim | Mapping::EimRand => rule(
                    &mut rules,
                    format_args!(
                        "{selected} meta l4proto udp snat ip to ip saddr . udp sport map @public"
                    ),
                ),
                // Any function of inside endpoint and destination address will do; the
                // original destination, since a hairpin packet's has been rewritten.
                Mapping::Adm => rule(
                    &mut rules,
                    format_args!(
                        "{selected} meta l4proto udp snat to {wan} : jhash \
                         ip saddr . udp sport . ct original ip daddr mod 28000 offset 32768"
                    ),
                ),
                Mapping::Linux | Mapping::Apdm => {}
            }
        }
        rule(
            &mut rules,
            format_args!("{to_the_internet} masquerade{random}"),
        );
        // Masquerade would take the address of `l*` here.
        rule(
            &mut rules,
            format_args!("{hairpinned} snat to {wan}{random}"),
        );
        chain(
            "translate_out",
            "nat hook postrouting priority srcnat",
            &rules,
        )
    }

    fn firewall(&self, wan: Ipv4Addr) -> String {
        let unsolicited = match self.unsolicited {
            Unsolicited::Drop => "drop",
            Unsolicited::Reject => "reject",
        };
        let mut input = String::new();
        rule(&mut input, "ct state established,related accept");
        // Never accepted: the router's own conntrack entry for such a packet would occupy the
        // tuple that the node's outgoing packet needs a moment later, and break hole punching.
        rule(
            &mut input,
            format_args!("iifname \"wan0\" meta l4proto {{ tcp, udp }} {unsolicited}"),
        );
        rule(
            &mut input,
            format_args!("iifname \"l*\" ip daddr {wan} meta l4proto {{ tcp, udp }} drop"),
        );
        let mut forward = String::new();
        if self.udp_blocked {
            rule(&mut forward, "meta l4proto udp drop");
        }
        if let Some(ports) = &self.tcp_ports {
            let condition = match ports.as_slice() {
                [] => String::new(),
                ports => format!(" tcp dport != {{ {} }}", join(ports)),
            };
            rule(
                &mut forward,
                // What answers from a published port goes to whatever port has asked.
                format_args!(
                    "iifname \"l*\" meta l4proto tcp ct direction original{condition} drop"
                ),
            );
        }
        if self.isolate {
            rule(
                &mut forward,
                "iifname \"l*\" oifname \"l*\" ct status & dnat == 0 drop",
            );
        }
        // A neighbour on the public network must not route into the private one.
        rule(
            &mut forward,
            "iifname \"wan0\" ct state new ct status & dnat == 0 drop",
        );
        chain("to_router", "filter hook input priority filter", &input)
            + &chain("through", "filter hook forward priority filter", &forward)
    }
}

/// The maps and sets of a tracked NAT, and the chain that fills them.
fn tracking(wan: Ipv4Addr, timeout_s: u32) -> String {
    let mut script = String::new();
    for (kind, name, types) in [
        (
            "map",
            "public",
            "ip saddr . udp sport : ip daddr . udp dport",
        ),
        ("map", "inside", "udp dport : ip daddr . udp dport"),
        // The same in two, as headers are rewritten field by field.
        ("map", "inside_address", "udp dport : ip daddr"),
        ("map", "inside_port", "udp dport : udp dport"),
        ("set", "addresses", "udp dport . ip saddr"),
        ("set", "endpoints", "udp dport . ip saddr . udp sport"),
    ] {
        let _ = writeln!(
            script,
            "  {kind} {name} {{ typeof {types}; size 65535; flags dynamic,timeout; timeout {timeout_s}s; }}"
        );
    }
    // Outgoing packets of a flow that began inside, and answers within one that began outside:
    // in both the translated source is our public endpoint.
    let flows = [
        (
            "ct direction original ct status snat",
            "original",
            "src",
            "dst",
        ),
        ("ct direction reply ct status dnat", "reply", "src", "dst"),
    ];
    let mut rules = String::new();
    for (selected, direction, source, destination) in flows {
        let from = format!("meta l4proto udp ip saddr {wan} {selected}");
        let inside = format!("ct {direction} ip saddr . ct {direction} proto-{source}");
        let peer = format!("ct {direction} ip daddr");
        let peer_port = format!("ct {direction} proto-{destination}");
        if direction == "original" {
            rule(
                &mut rules,
                format_args!("{from} update @public {{ {inside} : ip saddr . udp sport }}"),
            );
        }
        for update in [
            format!("@inside {{ udp sport : {inside} }}"),
            format!("@inside_address {{ udp sport : ct {direction} ip saddr }}"),
            format!("@inside_port {{ udp sport : ct {direction} proto-{source} }}"),
            format!("@addresses {{ udp sport . {peer} }}"),
            format!("@endpoints {{ udp sport . {peer} . {peer_port} }}"),
        ] {
            rule(&mut rules, format_args!("{from} update {update}"));
        }
    }
    script + &chain("track", "filter hook postrouting priority 110", &rules)
}

/// Lets in whom a mapping has not sent to, past conntrack. A lookup that finds nothing ends the
/// rule, and the packet goes the way of all that is unsolicited.
fn strangers(wan: Ipv4Addr) -> String {
    let mut rules = String::new();
    let inbound = format!("iifname \"wan0\" ip daddr {wan}");
    rule(
        &mut rules,
        format_args!("{inbound} udp dport . ip saddr . udp sport @endpoints accept"),
    );
    rule(
        &mut rules,
        format_args!(
            "{inbound} meta l4proto udp ip daddr set udp dport map @inside_address \
             udp dport set udp dport map @inside_port notrack"
        ),
    );
    chain("strangers", "filter hook prerouting priority raw", &rules)
}

/// A hairpin packet that is not let through must still open its sender's own pinhole, or two
/// nodes behind one router would wait for each other for ever. It never reaches postrouting, so
/// the public port is taken to be the local one, as the mappings that keep ports have it.
fn hairpin_pinholes(wan: Ipv4Addr) -> String {
    let mut rules = String::new();
    for update in [
        "@inside { udp sport : ip saddr . udp sport }",
        "@addresses { udp sport . ip daddr }",
        "@endpoints { udp sport . ip daddr . udp dport }",
    ] {
        rule(
            &mut rules,
            format_args!("iifname \"l*\" ip daddr {wan} meta l4proto udp update {update}"),
        );
    }
    chain("pinholes", "filter hook prerouting priority -110", &rules)
}

fn rule(rules: &mut String, rule: impl fmt::Display) {
    let _ = writeln!(rules, "    {rule}");
}

fn chain(name: &str, hook: &str, rules: &str) -> String {
    format!("  chain {name} {{\n    type {hook}; policy accept;\n{rules}  }}\n")
}

fn join(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

impl FromStr for Mapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "linux" => Self::Linux,
            "eim" => Self::Eim,
            "eimrand" => Self::EimRand,
            "adm" => Self::Adm,
            "apdm" | "symmetric" => Self::Apdm,
            _ => {
                return Err(Error::Invalid {
                    what: "NAT mapping",
                    found: text.to_owned(),
                    expected: "linux, eim, eimrand, adm or apdm".to_owned(),
                });
            }
        })
    }
}

impl FromStr for Filtering {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "eif" => Self::Eif,
            "adf" => Self::Adf,
            "apdf" => Self::Apdf,
            _ => {
                return Err(Error::Invalid {
                    what: "NAT filtering",
                    found: text.to_owned(),
                    expected: "eif, adf or apdf".to_owned(),
                });
            }
        })
    }
}
