//! Commands and their answers.

use crate::Failure;
use crate::shuttle::{Direction, Statistics};

/// The one-line answer to one command.
pub(crate) fn answer(command: &str, ab: &Direction, ba: &Direction) -> String {
    match obey(command, ab, ba) {
        Ok(answer) => answer,
        Err(Failure(reason)) => format!("error: {}", reason.replace('\n', " ")),
    }
}

fn obey(command: &str, ab: &Direction, ba: &Direction) -> Result<String, Failure> {
    match command.split_once(' ').unwrap_or((command, "")) {
        ("ab", text) => ab.set_config(text.parse()?),
        ("ba", text) => ba.set_config(text.parse()?),
        ("stats", "") => {
            let (ab, ba) = (json(&ab.statistics()), json(&ba.statistics()));
            return Ok(format!(r#"{{"ab":{ab},"ba":{ba}}}"#));
        }
        _ => {
            return Err(Failure(format!(
                "{command:?}: expected ab SPEC, ba SPEC or stats"
            )));
        }
    }
    Ok("ok".to_owned())
}

fn json(statistics: &Statistics) -> String {
    let Statistics {
        link,
        written,
        write_errors,
        overflow,
        held,
        held_bytes,
    } = statistics;
    let fields = [
        ("offered", link.offered),
        ("offered_bytes", link.offered_bytes),
        ("delivered", link.delivered),
        ("delivered_bytes", link.delivered_bytes),
        ("duplicated", link.duplicated),
        ("dropped_blackhole", link.dropped_blackhole),
        ("dropped_mtu", link.dropped_mtu),
        ("dropped_queue", link.dropped_queue),
        ("dropped_loss", link.dropped_loss),
        ("dropped_overflow", *overflow),
        ("written", *written),
        ("write_errors", *write_errors),
        ("held", *held),
        ("held_bytes", *held_bytes),
    ];
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!(r#""{name}":{value}"#))
        .collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_net_model::LinkConfig;
    use std::time::Instant;

    fn directions() -> [Direction; 2] {
        let start = Instant::now();
        [
            Direction::new(LinkConfig::IDEAL, start),
            Direction::new(LinkConfig::IDEAL, start),
        ]
    }

    #[test]
    fn a_spec_changes_only_its_own_direction() {
        let [ab, ba] = directions();
        assert_eq!(answer("ab blackhole", &ab, &ba), "ok");
        assert!(ab.config().blackhole);
        assert!(!ba.config().blackhole);
        assert_eq!(answer("ab none", &ab, &ba), "ok");
        assert!(!ab.config().blackhole);
    }

    #[test]
    fn a_wrong_command_is_refused_in_one_line_and_changes_nothing() {
        let [ab, ba] = directions();
        for command in ["", "ab", "ab loss=1%", "stats now", "stop", "AB none"] {
            let answer = answer(command, &ab, &ba);
            assert!(
                answer.starts_with("error: ") && !answer.contains('\n'),
                "{answer}"
            );
        }
        assert_eq!(ab.config(), LinkConfig::IDEAL);
    }

    #[test]
    fn statistics_are_one_line_of_json() {
        let [ab, ba] = directions();
        let answer = answer("stats", &ab, &ba);
        assert!(answer.starts_with(r#"{"ab":{"offered":0,"#), "{answer}");
        assert!(answer.ends_with(r#""held_bytes":0}}"#), "{answer}");
        assert!(!answer.contains('\n'));
    }
}
