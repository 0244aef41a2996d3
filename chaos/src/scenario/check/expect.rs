//! Expectations, and whether they contradict the rest.

use std::time::Duration;

use holdfast_plan::{NodeIndex, PathClass, Step};

use super::Checker;
use crate::plan::wanted;
use crate::scenario::format::{Class, ExpectWorkload, Outcome, Workload};
use crate::scenario::values::{Start, Time};

impl Checker<'_> {
    pub(super) fn expect(&mut self) {
        let file = self.file;
        for (n, text) in file.expect.errors.iter().enumerate() {
            if text.is_empty() {
                let message = "found nothing, which is in every line: expected a text";
                self.wrong(format!("expect.errors[{n}]"), message);
            }
        }
        let mut seen: Vec<[&str; 2]> = Vec::new();
        for (n, link) in file.expect.link.iter().enumerate() {
            let key = format!("expect.link[{n}].between");
            for (at, name) in link.between.iter().enumerate() {
                self.node_exists(&format!("{key}[{at}]"), name);
            }
            let mut ends = link.between.each_ref().map(String::as_str);
            ends.sort_unstable();
            if ends[0] == ends[1] {
                self.wrong(&key, "expected two nodes");
            }
            if seen.contains(&ends) {
                self.wrong(&key, "this link is there already");
            }
            seen.push(ends);
        }
        self.unique(
            "expect.workload",
            file.expect.workload.iter().map(|w| w.name.as_str()),
        );
        for (n, expected) in file.expect.workload.iter().enumerate() {
            let known = file.workload.iter().find(|w| w.name == expected.name);
            match known {
                Some(workload) => self.outcome(n, expected, workload),
                None => {
                    let key = format!("expect.workload[{n}].name");
                    let names = file.workload.iter().map(|w| w.name.as_str());
                    self.unknown(&key, "workload", &expected.name, names);
                }
            }
        }
        self.time_to_converge();
    }

    fn outcome(&mut self, n: usize, expected: &ExpectWorkload, workload: &Workload) {
        let key = |name: &str| format!("expect.workload[{n}].{name}");
        let service = workload.service;
        let answers = !matches!(
            service,
            holdfast_plan::Service::Closed | holdfast_plan::Service::Forbidden
        );
        match expected.outcome {
            Outcome::Refused if answers => {
                let message = format!(
                    "refused, and {} is allowed and served",
                    workload_service(workload)
                );
                self.wrong(key("outcome"), message);
            }
            Outcome::Complete if !answers => {
                let message = format!("complete, and {} never answers", workload_service(workload));
                self.wrong(key("outcome"), message);
            }
            Outcome::Complete if service == holdfast_plan::Service::Stopped => {
                let message = "complete, and a stopped service never reads to the end";
                self.wrong(key("outcome"), message);
            }
            _ => {}
        }
        let is_stream = workload.bytes.is_some();
        let given = [
            ("within", expected.within.is_some(), true),
            ("unbroken", expected.unbroken, true),
            ("received_min", expected.received_min.is_some(), false),
        ];
        for (name, _, for_stream) in given.into_iter().filter(|(_, given, _)| *given) {
            if for_stream != is_stream {
                let message = match for_stream {
                    true => "is for streams, and the workload is a flow of datagrams",
                    false => "is for flows of datagrams, and the workload is a stream",
                };
                self.wrong(key(name), message);
            }
        }
        let demands = given.iter().any(|(_, given, _)| *given) || expected.outage_max.is_some();
        if demands && expected.outcome != Outcome::Complete {
            let message = "contradicts `within`, `outage_max`, `unbroken` or `received_min`, \
                           which say that it completes";
            self.wrong(key("outcome"), message);
        }
        let end = self.file.duration;
        if let Some(within) = expected.within
            && workload.at.to().saturating_add(within.0) > end.0
        {
            let over = Time(workload.at.to().saturating_add(within.0));
            self.wrong(key("within"), format!("{over} is after the end at {end}"));
        }
    }

    /// The run is long enough to see it converge.
    fn time_to_converge(&mut self) {
        let file = self.file;
        let fault = file.fault.iter().map(|fault| {
            let lasts = fault.lasts.map_or(Duration::ZERO, |lasts| lasts.to());
            fault.at.to().saturating_add(lasts)
        });
        let swarm = file.swarm.as_ref().map(|swarm| swarm.window[1].0);
        let starts = file.node.iter().filter_map(|node| match node.start {
            Some(Start::When(start)) => Some(start.to()),
            _ => None,
        });
        let last = fault.chain(swarm).chain(starts).max().unwrap_or_default();
        let within = self.scenario.converge_within();
        if last.saturating_add(within) > file.duration.0 {
            let (last, within, end) = (Time(last), Time(within), file.duration);
            let message = format!(
                "the last fault may be over at {last}, {within} later is after the end at {end}"
            );
            self.wrong("expect.converge_within", message);
        }
    }

    /// Classes of paths that the topology does not allow at the end.
    pub(super) fn contradictions(&mut self) {
        // With ranges at their beginnings: only what is never undone counts, and in what order.
        let plan = self.scenario.earliest();
        self.expects_something(&plan);
        let possible = wanted::possible(self.topology, &plan);
        for (n, link) in self.file.expect.link.iter().enumerate() {
            let Some(wanted) = link.class.wanted() else {
                continue;
            };
            let find = |name: &str| self.topology.find(name);
            let ends = find(&link.between[0]).zip(find(&link.between[1]));
            let Some((a, b)) = ends.map(|(a, b): (NodeIndex, NodeIndex)| (a.min(b), a.max(b)))
            else {
                continue;
            };
            let found = possible.iter().find(|w| wanted::ends(w) == (a, b));
            let class = found.and_then(|found| found.class);
            if class != Some(wanted) {
                let message = match (link.class, class) {
                    (_, None) => "no path is possible between them at the end",
                    (Class::Direct, Some(PathClass::Relay)) => {
                        "direct, and the NATs between them only allow relay"
                    }
                    _ => "relay, and a direct path is possible, which is always preferred",
                };
                self.wrong(format!("expect.link[{n}].class"), message);
            }
        }
    }
}

impl Checker<'_> {
    /// A run that holds whatever happens says nothing.
    fn expects_something(&mut self, plan: &[Step]) {
        let expect = &self.file.expect;
        let demands = |w: &ExpectWorkload| w.outcome != Outcome::Any;
        let workloads = expect.workload.iter().any(demands);
        let links = !wanted::wanted(self.topology, expect, plan).is_empty();
        let slots = self.file.membership.is_some();
        if !workloads && !links && !slots && expect.flaps_max.is_none() {
            let message = "nothing is expected: no link can be up at the end, no workload has to \
                           end in some way";
            self.wrong("expect", message);
        }
    }
}

fn workload_service(workload: &Workload) -> String {
    format!("{:?}", workload.service).to_lowercase()
}
