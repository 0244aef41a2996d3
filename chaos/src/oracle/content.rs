//! What arrived is what was sent.

use holdfast_plan::{OpKind, Service, Side, What};

use super::{Case, FailureClass, Violation};

const BYTES: (FailureClass, &str) = (FailureClass::Correctness, "bytes");
const DATAGRAMS: (FailureClass, &str) = (FailureClass::Correctness, "datagrams");

/// What arrived over a stream is a prefix of what was sent, in order, and a clean end is at the
/// end. A stream may break: then it says so.
pub(super) fn bytes(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (entry, report) in case.journal.streams() {
        let op = report.op.and_then(|id| case.plan.op(id));
        let name = op.map_or("a stream without a header", |op| &op.name);
        let mut wrong = |detail: String| {
            violations.push(Violation::new(BYTES, entry.at, entry.node, detail));
        };
        if let Some(at) = report.altered_at {
            let side = report.side;
            wrong(format!(
                "{name:?}, {side:?}: byte {at} is not what was sent"
            ));
        }
        let total = op.and_then(|op| match op.kind {
            OpKind::Stream { bytes, .. } => Some(bytes),
            OpKind::Datagrams { .. } => None,
        });
        if total.is_some_and(|total| report.received > total) {
            let (received, total) = (report.received, total.unwrap_or_default());
            wrong(format!("{name:?}: {received} bytes of {total} arrived"));
        }
        // A client that got nothing was not promised anything yet: a refusal may look like that.
        let answers = op.is_some_and(|op| match report.side {
            Side::Server => matches!(op.service, Service::Echo | Service::Sink),
            Side::Client => op.service == Service::Echo && report.received > 0,
        });
        let ended = report.finished_at.is_some() && report.reset.is_none();
        if answers && ended && !report.complete && report.altered_at.is_none() {
            let (side, received) = (report.side, report.received);
            wrong(format!(
                "{name:?}, {side:?}: a clean end after {received} bytes, too early"
            ));
        }
    }
    violations
}

/// No datagram was altered, invented, delivered twice or where it does not belong.
pub(super) fn datagrams(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in &case.journal.entries {
        let mut wrong = |detail: String| {
            violations.push(Violation::new(DATAGRAMS, entry.at, entry.node, detail));
        };
        match &entry.what {
            What::StrangeDatagram { from, len } => {
                let from = from.map_or("an unknown address", |node| case.name(node));
                wrong(format!(
                    "{len} bytes from {from} that nobody sent like that"
                ));
            }
            What::Datagrams(report) => {
                let name = case.plan.op(report.op).map_or("unknown", |op| &op.name);
                if report.received > report.sent {
                    let (received, sent) = (report.received, report.sent);
                    wrong(format!("{name:?}: {received} arrived of {sent}"));
                }
                if report.repeated > 0 {
                    let repeated = report.repeated;
                    wrong(format!("{name:?}: {repeated} arrived a second time"));
                }
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stage, client, flow};
    use super::*;
    use holdfast_plan::NodeIndex;
    use std::time::Duration;

    #[test]
    fn an_altered_byte_is_seen() {
        let mut stage = Stage::new();
        let op = stage.op("bulk", 0, 1, Service::Echo, 5_000);
        stage.client(client(op, 5_000, true));
        assert_eq!(stage.judged(bytes), [""; 0]);
        stage.journal.entries.clear();
        let mut report = client(op, 5_000, false);
        report.altered_at = Some(77);
        stage.client(report);
        assert_eq!(
            stage.judged(bytes),
            ["\"bulk\", Client: byte 77 is not what was sent"]
        );
    }

    #[test]
    fn a_clean_end_that_comes_too_early_is_seen_and_a_reset_is_not() {
        let mut stage = Stage::new();
        let op = stage.op("bulk", 0, 1, Service::Echo, 5_000);
        let mut report = client(op, 4_999, false);
        report.reset = Some("the peer restarted".to_owned());
        stage.client(report.clone());
        assert_eq!(stage.judged(bytes), [""; 0]);
        report.reset = None;
        report.finished_at = Some(Duration::from_secs(3));
        stage.client(report);
        assert_eq!(stage.judged(bytes).len(), 1);
    }

    #[test]
    fn a_datagram_that_nobody_sent_or_that_comes_twice_is_seen() {
        let mut stage = Stage::new();
        let op = stage.op("flow", 0, 1, Service::Sink, 0);
        stage.note(1, What::Datagrams(flow(op, 10, 9)));
        assert_eq!(stage.judged(datagrams), [""; 0]);
        let mut twice = flow(op, 10, 10);
        twice.repeated = 1;
        stage.note(1, What::Datagrams(twice));
        stage.note(1, What::Datagrams(flow(op, 10, 11)));
        let from = Some(NodeIndex(0));
        stage.note(0, What::StrangeDatagram { from, len: 3 });
        assert_eq!(stage.judged(datagrams).len(), 3);
    }
}
