//! Workloads.

use holdfast_plan::traffic::{DATAGRAM_HEADER_LEN, HEADER_LEN};

use super::{Checker, OPS_MAX, USUAL_BYTES, WORKLOADS_MAX};
use crate::plan::PROBE;
use crate::scenario::format::Workload;
use crate::scenario::values::Size;

/// The longest datagram, bytes: what UDP over IPv4 carries.
const DATAGRAM_LEN_MAX: u64 = 65_507;

impl Checker<'_> {
    pub(super) fn work(&mut self) {
        let file = self.file;
        if file.workload.len() > WORKLOADS_MAX {
            let found = file.workload.len();
            let message = format!("found {found}, expected at most {WORKLOADS_MAX}");
            self.wrong("workload", message);
        }
        self.unique("workload", file.workload.iter().map(|w| w.name.as_str()));
        let (mut bytes, mut ops) = (0u64, 0u64);
        for (n, workload) in file.workload.iter().enumerate() {
            self.workload(n, workload);
            let times = u64::from(workload.repeat.unwrap_or(1));
            let len = workload.length.map_or(0, |length| length.0);
            let count = u64::from(workload.datagrams.unwrap_or(0));
            let once = workload
                .bytes
                .map_or(len.saturating_mul(count), |size| size.0);
            bytes = bytes.saturating_add(once.saturating_mul(times));
            ops += times;
        }
        if bytes > USUAL_BYTES && !file.long {
            let message = format!(
                "found {} in all, expected at most {}, or long = true",
                Size(bytes),
                Size(USUAL_BYTES)
            );
            self.wrong("workload", message);
        }
        if ops > OPS_MAX {
            let message = format!("found {ops} operations, expected at most {OPS_MAX}");
            self.wrong("workload", message);
        }
    }

    fn workload(&mut self, n: usize, workload: &Workload) {
        let key = |name: &str| format!("workload[{n}].{name}");
        self.title(&key("name"), &workload.name);
        if workload.name.starts_with(PROBE) {
            let message = format!("begins with {PROBE:?}, which is for the harness");
            self.wrong(key("name"), message);
        }
        self.node_exists(&key("from"), &workload.from);
        let known = self.node_exists(&key("to"), &workload.to);
        if known && workload.from == workload.to {
            self.wrong(key("to"), "is `from` too, expected another node");
        }
        self.when(&key("at"), workload.at);
        match (workload.bytes, workload.datagrams) {
            (Some(_), Some(_)) => {
                let message = "a stream of `bytes` too, expected one of them";
                self.wrong(key("datagrams"), message);
            }
            (None, None) => {
                let message = "expected `bytes`, or `datagrams`, `every` and `length`";
                self.wrong(format!("workload[{n}]"), message);
            }
            (Some(bytes), None) => self.stream(n, bytes, workload),
            (None, Some(count)) => self.flow(n, count, workload),
        }
        match (workload.repeat, workload.interval) {
            (Some(_), None) => self.wrong(key("repeat"), "expected `interval` too"),
            (None, Some(_)) => self.wrong(key("interval"), "expected `repeat` too"),
            (Some(repeat), Some(interval)) => {
                let last = interval.0.saturating_mul(repeat.saturating_sub(1));
                if workload.at.to().saturating_add(last) > self.file.duration.0 {
                    let end = self.file.duration;
                    self.wrong(
                        key("repeat"),
                        format!("the last begins after the end at {end}"),
                    );
                }
            }
            (None, None) => {}
        }
    }

    fn stream(&mut self, n: usize, bytes: Size, workload: &Workload) {
        if bytes.0 < HEADER_LEN as u64 {
            let message = format!("found {bytes}, expected at least {HEADER_LEN}B, the header");
            self.wrong(format!("workload[{n}].bytes"), message);
        }
        let others = [
            ("every", workload.every.is_some()),
            ("length", workload.length.is_some()),
        ];
        for (name, _) in others.iter().filter(|(_, given)| *given) {
            let key = format!("workload[{n}].{name}");
            self.wrong(key, "is for `datagrams`, and this is a stream");
        }
    }

    fn flow(&mut self, n: usize, count: u32, workload: &Workload) {
        let key = |name: &str| format!("workload[{n}].{name}");
        if workload.patience.is_some() {
            self.wrong(
                key("patience"),
                "is for streams of `bytes`, and these are datagrams",
            );
        }
        match workload.length {
            None => self.wrong(format!("workload[{n}]"), "datagrams without `length`"),
            Some(Size(len)) if len < DATAGRAM_HEADER_LEN as u64 || len > DATAGRAM_LEN_MAX => {
                let range = format!("{DATAGRAM_HEADER_LEN}B to {DATAGRAM_LEN_MAX}B");
                self.wrong(
                    key("length"),
                    format!("found {}, expected {range}", Size(len)),
                );
            }
            Some(_) => {}
        }
        match workload.every {
            None => self.wrong(format!("workload[{n}]"), "datagrams without `every`"),
            Some(every) => {
                let last = every.0.saturating_mul(count - 1);
                if workload.at.to().saturating_add(last) > self.file.duration.0 {
                    let end = self.file.duration;
                    let message = format!("the last leaves after the end at {end}");
                    self.wrong(key("datagrams"), message);
                }
            }
        }
    }
}
