//! What no schema can say of a drill.

use std::path::Path;
use std::time::Duration;

use holdfast_core::types::PEER_ID_LEN_MAX;
use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Blow, Synchronous};

use super::format::{BlowKind, BlowTable, DrillFile};
use super::stats::SPANS;
use crate::scenario::Finding;
use crate::scenario::values::Time;

/// Patroni clamps what is lower (Patroni 4, `config_generator` and `validator`).
const TTL_MIN: Duration = Duration::from_secs(20);
const LOOP_WAIT_MIN: Duration = Duration::from_secs(1);
const RETRY_TIMEOUT_MIN: Duration = Duration::from_secs(3);
/// The most data: more is copied for longer than anybody waits for a drill.
const FILL_MAX: u64 = 10_000_000_000;
/// The most of PostgreSQL's parameters.
const PARAMETERS_MAX: usize = 50;
/// The longest of each.
const PARAMETER_LEN_MAX: usize = 200;

struct Checker<'a> {
    file: &'a DrillFile,
    findings: Vec<Finding>,
}

/// Everything that is wrong with a file of the right shape.
pub(super) fn check(file: &DrillFile, file_name: &str) -> Vec<Finding> {
    let findings = Vec::new();
    let mut checker = Checker { file, findings };
    checker.whole(file_name);
    checker.database();
    checker.drill();
    checker.expect();
    checker.findings
}

impl Checker<'_> {
    fn wrong(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding::new(key, message));
    }

    fn whole(&mut self, file_name: &str) {
        let file = self.file;
        let path = Path::new(file_name);
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|ending| ending == "toml") && stem != Some(&file.name) {
            let stem = stem.unwrap_or_default();
            let message = format!("found {:?}, expected the file's name, {stem:?}", file.name);
            self.wrong("name", message);
        }
        let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let name = &file.name;
        if name.is_empty() || name.len() > PEER_ID_LEN_MAX || !name.chars().all(usable) {
            let message = format!("expected 1 to {PEER_ID_LEN_MAX} of a-z, 0-9 and -");
            self.wrong("name", message);
        }
        if file.description.trim().is_empty() {
            self.wrong("description", "found nothing, expected a sentence");
        }
        if file.worlds.is_empty() {
            self.wrong("worlds", "found none, expected core or kernel");
        }
        for (n, world) in file.worlds.iter().enumerate() {
            if file.worlds[..n].contains(world) {
                self.wrong(format!("worlds[{n}]"), format!("{world} is there twice"));
            }
        }
        let budgets = [
            (WorldKind::Core, file.seeds.core),
            (WorldKind::Kernel, file.seeds.kernel),
        ];
        for (world, budget) in budgets {
            if budget.is_some() && !file.worlds.contains(&world) {
                let message = format!("rounds for {world}, which is not among `worlds`");
                self.wrong(format!("seeds.{world}"), message);
            }
        }
    }

    fn database(&mut self) {
        let database = &self.file.database;
        let least = [
            ("ttl", database.ttl, TTL_MIN),
            ("loop_wait", database.loop_wait, LOOP_WAIT_MIN),
            ("retry_timeout", database.retry_timeout, RETRY_TIMEOUT_MIN),
        ];
        for (key, found, min) in least {
            if found.0 < min || found.0.subsec_nanos() != 0 {
                let min = Time(min);
                let message = format!("found {found}, expected whole seconds, at least {min}");
                self.wrong(format!("database.{key}"), message);
            }
        }
        let needed = database.loop_wait.0 + 2 * database.retry_timeout.0;
        if needed > database.ttl.0 {
            let (ttl, needed) = (database.ttl, Time(needed));
            let message = format!(
                "found {ttl}, expected at least loop_wait and twice retry_timeout, {needed}"
            );
            self.wrong("database.ttl", message);
        }
        if database.fill.0 > FILL_MAX {
            self.wrong("database.fill", "expected at most 10GB");
        }
        if database.parameters.len() > PARAMETERS_MAX {
            let message = format!("expected at most {PARAMETERS_MAX}");
            self.wrong("database.parameters", message);
        }
        for (name, value) in &database.parameters {
            let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let named = !name.is_empty() && name.len() <= 64 && name.chars().all(usable);
            let valued = value.len() <= PARAMETER_LEN_MAX && !value.chars().any(char::is_control);
            if !named || !valued {
                let message = "expected a parameter of PostgreSQL and a line of text";
                self.wrong("database.parameters", message);
            }
        }
    }

    fn drill(&mut self) {
        let drill = &self.file.drill;
        let positive = [
            ("every", drill.every),
            ("deadline", drill.deadline),
            ("write_bound", drill.write_bound),
            ("whole_bound", drill.whole_bound),
        ];
        for (key, time) in positive {
            if time.0 < Duration::from_millis(1) {
                self.wrong(format!("drill.{key}"), "expected at least 1ms");
            }
        }
        if drill.heal_after.is_some() && drill.heal_after_write.is_some() {
            let message = "contradicts `heal_after`, expected one of them";
            self.wrong("drill.heal_after_write", message);
        }
        let heals_itself = !matches!(
            drill.blow.kind,
            BlowKind::Kill
                | BlowKind::Freeze
                | BlowKind::Partition
                | BlowKind::Wipe
                | BlowKind::CancelWait
        );
        let says_when = drill.heal_after.is_some() || drill.heal_after_write.is_some();
        if !heals_itself && !says_when {
            let message = "nothing says when it is mended, expected `heal_after` or \
                           `heal_after_write`";
            self.wrong("drill", message);
        }
        self.keys_of_blow();
        match blow(&drill.blow) {
            Err((key, message)) => self.wrong(key, message),
            Ok(Blow::Kill {
                with_kv_leader: true,
                ..
            }) if drill.coordinators < 3 => {
                let message = "expected at least 3, so that the KV outlives its leader";
                self.wrong("drill.coordinators", message);
            }
            Ok(_) => {}
        }
    }

    /// Keys that a kind does not have.
    fn keys_of_blow(&mut self) {
        let blow = &self.file.drill.blow;
        let allowed: &[&str] = match blow.kind {
            BlowKind::Kill => &["target", "what", "with_kv_leader"],
            BlowKind::Freeze => &["target", "with_line"],
            BlowKind::Partition | BlowKind::Wipe => &["target"],
            BlowKind::Copy => &["link"],
            BlowKind::DiskStall => &["target", "for"],
            BlowKind::Switchover
            | BlowKind::Pause
            | BlowKind::RollingRestart
            | BlowKind::CancelWait
            | BlowKind::ForceFailover => &[],
        };
        let given = [
            ("target", blow.target.is_some()),
            ("what", blow.what.is_some()),
            ("with_kv_leader", blow.with_kv_leader.is_some()),
            ("with_line", blow.with_line.is_some()),
            ("link", blow.link.is_some()),
            ("for", blow.lasts.is_some()),
        ];
        let wrong = given
            .into_iter()
            .filter(|(key, given)| *given && !allowed.contains(key));
        for (key, _) in wrong {
            let message = match allowed {
                [] => "this kind has no other key".to_owned(),
                allowed => format!("this kind has {} and nothing else", allowed.join(", ")),
            };
            self.wrong(format!("drill.blow.{key}"), message);
        }
    }

    fn expect(&mut self) {
        let file = self.file;
        let expect = &file.expect;
        for (n, kind) in expect.rejoin.iter().enumerate() {
            if expect.rejoin[..n].contains(kind) {
                self.wrong(format!("expect.rejoin[{n}]"), "it is there twice");
            }
        }
        for (n, outside) in expect.outside.iter().enumerate() {
            if expect.outside[..n].contains(outside) {
                self.wrong(format!("expect.outside[{n}]"), "it is there twice");
            }
        }
        if expect.lost_max.is_some_and(|lost| lost > 0) && expect.outside.is_empty() {
            let message = "a loss is only expected outside of the claim: say in `outside` why";
            self.wrong("expect.lost_max", message);
        }
        for (n, span) in expect.apart.iter().enumerate() {
            let mut compared = SPANS.iter().filter(|span| span.calibrated);
            if !compared.any(|compared| compared.name == span) {
                let message = format!("{span:?} is no span that is compared");
                self.wrong(format!("expect.apart[{n}]"), message);
            }
            if expect.apart[..n].contains(span) {
                self.wrong(format!("expect.apart[{n}]"), "it is there twice");
            }
        }
        if expect
            .by_loopback_max
            .is_some_and(|max| !(1.0..=10.0).contains(&max))
        {
            self.wrong("expect.by_loopback_max", "expected 1 to 10");
        }
        let asynchronous = file.database.synchronous == Synchronous::Off;
        if asynchronous && expect.outside.is_empty() {
            let message = "\"off\" is outside of the claim, expected `outside = [\"weak-commit\"]`";
            self.wrong("database.synchronous", message);
        }
        // A pause is for work by hand, which takes two turns of the loop and a restart.
        let by_hand = match file.drill.blow.kind {
            BlowKind::Pause => file.database.loop_wait.0,
            _ => Duration::ZERO,
        };
        let longest = file.database.ttl.0 + by_hand;
        if expect.failovers == Some(0) && expect.write_gap.is_some_and(|gap| gap.0 > longest) {
            let message = "without a failover nobody waits for longer than the ttl";
            self.wrong("expect.write_gap", message);
        }
        if file.drill.write_bound.0 < expect.write_gap.unwrap_or_default().0 {
            let message = "longer than `drill.write_bound`, after which nobody looks";
            self.wrong("expect.write_gap", message);
        }
    }
}

/// The blow that a table describes, or the key that it lacks.
pub(super) fn blow(table: &BlowTable) -> Result<Blow, (&'static str, String)> {
    let target = || {
        let lacks = "is missing, expected \"leader\", \"standby\" or \"turn\"";
        table.target.ok_or(("drill.blow.target", lacks.to_owned()))
    };
    Ok(match table.kind {
        BlowKind::Kill => {
            let lacks = "is missing, expected \"postmaster\", \"database\", \"machine\" or \
                         \"agent\"";
            Blow::Kill {
                target: target()?,
                what: table.what.ok_or(("drill.blow.what", lacks.to_owned()))?,
                with_kv_leader: table.with_kv_leader.unwrap_or(false),
            }
        }
        BlowKind::Freeze => Blow::Freeze {
            target: target()?,
            with_line: table.with_line.unwrap_or(true),
        },
        BlowKind::Partition => Blow::Partition { target: target()? },
        BlowKind::Switchover => Blow::Switchover,
        BlowKind::Wipe => Blow::Wipe { target: target()? },
        BlowKind::Pause => Blow::Pause,
        BlowKind::RollingRestart => Blow::RollingRestart,
        BlowKind::Copy => {
            let lacks = "is missing, expected a link like \"delay=5ms\"";
            let link = table.link.ok_or(("drill.blow.link", lacks.to_owned()))?;
            Blow::Copy {
                link: link.to_string(),
            }
        }
        BlowKind::DiskStall => {
            let lacks = "is missing, expected a time like \"3s\"";
            let lasts = table.lasts.ok_or(("drill.blow.for", lacks.to_owned()))?;
            Blow::DiskStall {
                target: target()?,
                for_ms: u64::try_from(lasts.0.as_millis()).unwrap_or(u64::MAX),
            }
        }
        BlowKind::CancelWait => Blow::CancelWait,
        BlowKind::ForceFailover => Blow::ForceFailover,
    })
}
