//! A link emulator for kernels without netem: one TAP device in each of two network
//! namespaces, and between them the pipelines of the network model that the simulated
//! worlds use too.
//!
//! ```text
//! holdfast-wire NS_A IF_A NS_B IF_B [--ab SPEC] [--ba SPEC] [--seed N]
//! ```
//!
//! Namespaces are names under `/run/netns`. When both devices exist (down, without
//! addresses: those are the caller's business) it prints `ready`. Then it reads commands
//! from standard input and answers each with one line:
//!
//! * `ab SPEC`, `ba SPEC`: replaces what the direction does; `ok`, or `error: …`;
//! * `stats`: counters of both directions as JSON.
//!
//! It ends at the end of standard input or by a signal, and its devices with it. [`holdfast_net_model::spec`]
//! describes SPEC.
//!
//! TAP without offloads makes the kernel cut large segments first, so every impairment
//! meets packets of the device's MTU.

mod control;
mod draw;
mod shuttle;
mod tap;

use draw::SplitMix;
use holdfast_net_model::LinkConfig;
use shuttle::Direction;
use std::fmt;
use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use tap::Tap;

const USAGE: &str = "usage: holdfast-wire NS_A IF_A NS_B IF_B [--ab SPEC] [--ba SPEC] [--seed N]";

/// Longest command line read from standard input, in bytes: far above any SPEC.
const COMMAND_BYTES_MAX: u64 = 4096;

/// What went wrong, in words for the person at the terminal.
#[derive(Debug, PartialEq, Eq)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<holdfast_net_model::SpecError> for Failure {
    fn from(error: holdfast_net_model::SpecError) -> Failure {
        Failure(error.to_string())
    }
}

/// One end of the wire.
#[derive(Debug, PartialEq, Eq)]
struct End {
    namespace: String,
    interface: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    a: End,
    b: End,
    ab: LinkConfig,
    ba: LinkConfig,
    seed: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("holdfast-wire: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let Arguments { a, b, ab, ba, seed } = parse(std::env::args().skip(1))?;
    let a = Arc::new(Tap::create(&a.namespace, &a.interface)?);
    let b = Arc::new(Tap::create(&b.namespace, &b.interface)?);
    let start = Instant::now();
    let ab = Arc::new(Direction::new(ab, start));
    let ba = Arc::new(Direction::new(ba, start));
    let mut forks = SplitMix::new(seed);
    shuttle::start(
        "ab",
        Arc::clone(&ab),
        Arc::clone(&a),
        Arc::clone(&b),
        forks.fork(),
    )?;
    shuttle::start("ba", Arc::clone(&ba), b, a, forks.fork())?;
    println!("ready");
    serve(&ab, &ba)
}

/// Answers commands until standard input ends.
fn serve(ab: &Direction, ba: &Direction) -> Result<(), Failure> {
    use std::io::Read as _;
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    loop {
        line.clear();
        let read = (&mut input).take(COMMAND_BYTES_MAX).read_line(&mut line);
        match read.map_err(|error| Failure(format!("cannot read commands: {error}")))? {
            0 => return Ok(()),
            _ if !line.ends_with('\n') && line.len() as u64 == COMMAND_BYTES_MAX => {
                return Err(Failure(format!(
                    "a command exceeds {COMMAND_BYTES_MAX} bytes"
                )));
            }
            _ => {}
        }
        let answer = control::answer(line.trim(), ab, ba);
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}")
            .and_then(|()| output.flush())
            .map_err(|error| Failure(format!("cannot answer: {error}")))?;
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, Failure> {
    let mut positional = || arguments.next().ok_or_else(|| Failure(USAGE.to_owned()));
    let a = End {
        namespace: positional()?,
        interface: positional()?,
    };
    let b = End {
        namespace: positional()?,
        interface: positional()?,
    };
    let mut parsed = Arguments {
        a,
        b,
        ab: LinkConfig::IDEAL,
        ba: LinkConfig::IDEAL,
        seed: 0,
    };
    while let Some(flag) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| Failure(format!("{flag} needs a value\n{USAGE}")))
        };
        match flag.as_str() {
            "--ab" => parsed.ab = value()?.parse()?,
            "--ba" => parsed.ba = value()?.parse()?,
            "--seed" => {
                let text = value()?;
                parsed.seed = text
                    .parse()
                    .map_err(|_| Failure(format!("--seed {text}: not a number below 2^64")))?;
            }
            other => return Err(Failure(format!("{other} is unknown\n{USAGE}"))),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|failure| failure.0)
    }

    #[test]
    fn a_full_command_line_is_understood() {
        let got =
            parse_line("n1 eth0 n2 eth1 --ab delay=1ms --ba blackhole --seed 7").expect("valid");
        assert_eq!(
            (got.a.namespace.as_str(), got.b.interface.as_str()),
            ("n1", "eth1")
        );
        assert_eq!(got.ab.delay.as_millis(), 1);
        assert!(got.ba.blackhole);
        assert_eq!(got.seed, 7);
    }

    #[test]
    fn a_wrong_command_line_is_refused_with_its_reason() {
        for (line, reason) in [
            ("n1 eth0 n2", "usage"),
            ("n1 eth0 n2 eth1 --ab", "--ab needs a value"),
            ("n1 eth0 n2 eth1 --ab delay=1", "delay=1"),
            ("n1 eth0 n2 eth1 --seed x", "--seed x"),
            ("n1 eth0 n2 eth1 --fast", "--fast is unknown"),
        ] {
            let error = parse_line(line).expect_err(line);
            assert!(error.contains(reason), "{error}");
        }
    }
}
