//! Each workload ended as the scenario expects.

use std::time::Duration;

use holdfast_plan::{Op, OpKind, Service, Side, StreamReport, What};

use super::{Case, FailureClass, Violation};
use crate::scenario::format::{ExpectWorkload, Outcome};

const WORKLOAD: (FailureClass, &str) = (FailureClass::Liveness, "workload");

/// Each workload ended as expected, in time, without a longer silence.
pub(super) fn workload(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, op) in case.ops() {
        let Some(expected) = case.expect.workload.iter().find(|w| w.name == op.name) else {
            continue;
        };
        let found = match op.kind {
            OpKind::Stream { .. } => stream(case, at, op, expected),
            OpKind::Datagrams { count, .. } => flow(case, at, op, expected, count),
        };
        violations.extend(found.into_iter().map(|(at, detail)| {
            let detail = format!("{:?}: {detail}", op.name);
            Violation::new(WORKLOAD, at, Some(op.from), detail)
        }));
    }
    violations
}

type Found = Vec<(Duration, String)>;

fn stream(case: &Case<'_>, at: Duration, op: &Op, expected: &ExpectWorkload) -> Found {
    let ended_at = case.journal.ended_at;
    let Some(report) = case.journal.client(op.id) else {
        return match expected.outcome {
            Outcome::Any => Vec::new(),
            _ => vec![(ended_at, "was never tried".to_owned())],
        };
    };
    let servers = || {
        let streams = case.journal.streams();
        streams.filter(|(_, other)| other.side == Side::Server && other.op == Some(op.id))
    };
    let reached = || servers().next().is_some();
    match expected.outcome {
        Outcome::Any => Vec::new(),
        Outcome::Refused => {
            let mut found = Vec::new();
            if report.complete || report.received > 0 || reached() {
                found.push((at, format!("expected no, and got {}", outcome(report))));
            } else if report.reset.is_none() && report.finished_at.is_none() {
                found.push((ended_at, "expected no, and got no answer".to_owned()));
            }
            found
        }
        Outcome::NeverOpen => match report.received > 0 || reached() {
            true => vec![(
                at,
                format!("expected no way through, and got {}", outcome(report)),
            )],
            false => Vec::new(),
        },
        Outcome::Complete => {
            let mut found = complete(at, ended_at, report, expected);
            // A sink says nothing: who is silent there is the one who sends.
            let received = match op.service {
                Service::Sink => servers().last().and_then(|(_, server)| server.gap_max),
                _ => report.gap_max,
            };
            silence(received, expected, &mut found);
            found
        }
    }
}

fn complete(
    at: Duration,
    ended_at: Duration,
    report: &StreamReport,
    expected: &ExpectWorkload,
) -> Found {
    let mut found = Vec::new();
    let due = expected.within.map(|within| at + within.0);
    match report.finished_at.filter(|_| report.complete) {
        None => {
            let at = due.unwrap_or(ended_at).min(ended_at);
            found.push((at, format!("did not complete: {}", outcome(report))));
        }
        Some(finished) if due.is_some_and(|due| finished > due) => {
            let (took, within) = (
                finished.saturating_sub(at),
                expected.within.unwrap_or_default(),
            );
            found.push((
                due.unwrap_or(at),
                format!("took {took:?}, expected {within}"),
            ));
        }
        Some(_) => {}
    }
    if expected.unbroken && report.attempts > 1 {
        found.push((
            at,
            format!("needed {} tries, expected one", report.attempts),
        ));
    }
    found
}

fn silence(gap: Option<(Duration, Duration)>, expected: &ExpectWorkload, found: &mut Found) {
    if let (Some((gap, since)), Some(max)) = (gap, expected.outage_max)
        && gap > max.0
    {
        found.push((
            since + max.0,
            format!("silent for {gap:?}, expected at most {max}"),
        ));
    }
}

fn flow(case: &Case<'_>, at: Duration, op: &Op, expected: &ExpectWorkload, count: u32) -> Found {
    let ended_at = case.journal.ended_at;
    let report = case
        .journal
        .entries
        .iter()
        .find_map(|entry| match &entry.what {
            What::Datagrams(report) if report.op == op.id => Some(report),
            _ => None,
        });
    let Some(report) = report else {
        return match expected.outcome {
            Outcome::Any => Vec::new(),
            _ => vec![(ended_at, "was never reported".to_owned())],
        };
    };
    let received = report.received;
    match expected.outcome {
        Outcome::Any => Vec::new(),
        Outcome::Refused | Outcome::NeverOpen => match received {
            0 => Vec::new(),
            _ => vec![(at, format!("expected none to arrive, and {received} did"))],
        },
        Outcome::Complete => {
            let mut found = Vec::new();
            let (num, den) = match expected.received_min {
                Some(share) => (u64::from(share.0.num()), u64::from(share.0.den())),
                None => (0, 1),
            };
            // Without a share it is enough that it worked at all.
            if received == 0 || received * den < u64::from(count) * num {
                found.push((ended_at, format!("{received} of {count} arrived")));
            }
            silence(report.gap_max, expected, &mut found);
            found
        }
    }
}

fn outcome(report: &StreamReport) -> String {
    let (received, attempts) = (report.received, report.attempts);
    let how = match (report.complete, report.reset.as_deref()) {
        (true, _) => "complete".to_owned(),
        (false, Some(why)) => format!("reset ({why})"),
        (false, None) => "no end".to_owned(),
    };
    format!("{how}, {received} bytes, {attempts} tries")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stage, client, flow as flow_report, server};
    use super::*;
    use crate::scenario::values::{Share, Time};
    use holdfast_net_model::Ratio;

    const SECOND: Duration = Duration::from_secs(1);

    fn expected(name: &str, outcome: Outcome) -> ExpectWorkload {
        ExpectWorkload {
            name: name.to_owned(),
            outcome,
            within: None,
            outage_max: None,
            unbroken: false,
            received_min: None,
        }
    }

    #[test]
    fn a_stream_that_does_not_complete_in_time_or_at_once_is_seen() {
        let mut stage = Stage::new();
        let op = stage.op("bulk", 0, 1, Service::Echo, 5_000);
        stage.client(client(op, 5_000, true));
        stage
            .expect
            .workload
            .push(expected("bulk", Outcome::Complete));
        assert_eq!(stage.judged(workload), [""; 0]);
        stage.expect.workload[0].within = Some(Time(SECOND / 2));
        assert_eq!(
            stage.judged(workload),
            ["\"bulk\": took 1s, expected 500ms"]
        );
        let mut report = client(op, 5_000, true);
        (report.attempts, report.gap_max) = (2, Some((SECOND * 3, SECOND)));
        stage.client(report);
        stage.expect.workload[0].within = None;
        stage.expect.workload[0].unbroken = true;
        stage.expect.workload[0].outage_max = Some(Time(SECOND * 2));
        assert_eq!(
            stage.judged(workload),
            [
                "\"bulk\": needed 2 tries, expected one",
                "\"bulk\": silent for 3s, expected at most 2s"
            ]
        );
        stage.client(client(op, 100, false));
        assert_eq!(stage.judged(workload).len(), 1);
    }

    #[test]
    fn an_answer_where_no_was_expected_is_seen() {
        for outcome in [Outcome::Refused, Outcome::NeverOpen] {
            let mut stage = Stage::new();
            let op = stage.op("closed", 0, 1, Service::Closed, 1_000);
            stage.expect.workload.push(expected("closed", outcome));
            let mut report = client(op, 0, false);
            report.reset = Some("refused".to_owned());
            stage.client(report);
            assert_eq!(stage.judged(workload), [""; 0]);
            stage.note(1, What::Stream(server(op, 5)));
            assert_eq!(stage.judged(workload).len(), 1);
        }
    }

    #[test]
    fn a_flow_that_loses_too_much_is_seen() {
        let mut stage = Stage::new();
        let op = stage.op("flow", 0, 1, Service::Sink, 0);
        stage
            .expect
            .workload
            .push(expected("flow", Outcome::Complete));
        stage.expect.workload[0].received_min = Some(Share(Ratio::of(90, 100)));
        assert_eq!(stage.judged(workload), ["\"flow\": was never reported"]);
        stage.note(1, What::Datagrams(flow_report(op, 10, 9)));
        assert_eq!(stage.judged(workload), [""; 0]);
        stage.journal.entries.clear();
        stage.note(1, What::Datagrams(flow_report(op, 10, 8)));
        assert_eq!(stage.judged(workload), ["\"flow\": 8 of 10 arrived"]);
    }
}
