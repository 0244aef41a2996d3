//! dstack's guest agent, simulated: the same HTTP API on a unix socket or TCP, with faults.

use std::process::ExitCode;
use std::time::Duration;

use holdfast_bootstrap::tee::AgentEndpoint;
use holdfast_bootstrap::testing::{Agent, Script, refuse};

const USAGE: &str = "usage: agent-simulator ENDPOINT [--app-id HEX] [--instance-id HEX]
    [--compose-hash HEX] [--root HEX] [--refuse-ms N] [--fault FAULT]...

Answers Info, GetKey and GetQuote on unix:/path or http://host:port until it is ended. Keys are
the same for the same --app-id and --root (64 digits). An empty --instance-id is dstack's
no_instance_id. With --refuse-ms nobody listens for so long. Faults are used in their order, one
per call: cut, garbage, slow:<milliseconds>, a status, shape, huge.";

struct Arguments {
    endpoint: AgentEndpoint,
    script: Script,
    refuse_for: Duration,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let endpoint = words.next().ok_or("ENDPOINT is missing")?;
    let endpoint = endpoint.parse().map_err(|error| format!("{error}"))?;
    let mut arguments = Arguments {
        endpoint,
        script: Script::new(1, 1),
        refuse_for: Duration::ZERO,
    };
    let script = &mut arguments.script;
    while let Some(option) = words.next() {
        let value = words.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--app-id" => script.app_id = value,
            "--instance-id" => script.instance_id = value,
            "--compose-hash" => script.compose_hash = value,
            "--root" => script.root = root(&value)?,
            "--fault" => script.faults.push_back(value.parse()?),
            "--refuse-ms" => {
                let ms = value
                    .parse()
                    .map_err(|_| format!("{value:?} is no number"))?;
                arguments.refuse_for = Duration::from_millis(ms);
            }
            _ => return Err(format!("{option} is not known")),
        }
    }
    Ok(arguments)
}

fn root(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "--root: expected 64 hexadecimal digits".to_owned();
    let mut root = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    for (byte, digits) in root.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(root)
}

fn run(arguments: Arguments) -> std::io::Result<()> {
    if !arguments.refuse_for.is_zero() {
        if let AgentEndpoint::Unix(path) = &arguments.endpoint {
            let _ = std::fs::remove_file(path);
            refuse(path)?;
        }
        rest(arguments.refuse_for);
    }
    let agent = Agent::start(&arguments.endpoint, arguments.script)?;
    println!("listening on {}", agent.endpoint());
    loop {
        rest(Duration::from_secs(3600));
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a program of its own has real time"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("agent-simulator: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-simulator: {error}");
            ExitCode::FAILURE
        }
    }
}
