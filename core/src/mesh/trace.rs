//! What of a node's inputs and outputs goes into the flight recorder: names, addresses and
//! lengths, never content.

use crate::mesh::{Input, Output, TcpAction, TcpEvent};
use crate::recorder::{Record, Recorder};
use crate::time::Now;

/// Something went in.
pub(super) fn input(recorder: &mut Recorder, now: Now, input: &Input) {
    let what = match input {
        Input::LocalAddresses(addresses) => format!("addresses {addresses:?}"),
        Input::Servers { stun, turn } => {
            format!("{} more STUN and {} TURN servers", stun.len(), turn.len())
        }
        Input::Signal(envelope) => {
            format!(
                "signal {} bytes {:x}",
                envelope.len(),
                recorder.hash(envelope)
            )
        }
        Input::TurnTcp { conn, event } => match event {
            TcpEvent::Bytes(bytes) => format!("turn tcp {conn} {} bytes", bytes.len()),
            other => format!("turn tcp {conn} {other:?}"),
        },
        Input::IncomingRefused { stream } => format!("refused {stream:?}"),
        Input::UdpRefused { to, .. } => format!("udp refused {to}"),
        Input::Goodbye => "goodbye".into(),
        Input::Stop => "stop".into(),
    };
    recorder.record(now.mono, Record::Input { what });
}

/// Something came out.
pub(super) fn output(recorder: &mut Recorder, now: Now, output: &Output) {
    let what = match output {
        Output::Signal { to, envelope } => {
            let hash = recorder.hash(envelope);
            format!("signal to {to} {} bytes {hash:x}", envelope.len())
        }
        Output::TurnTcp { conn, action } => match action {
            TcpAction::Write(bytes) => format!("turn tcp {conn} write {} bytes", bytes.len()),
            other => format!("turn tcp {conn} {other:?}"),
        },
        Output::Incoming { stream, to, .. } => format!("incoming {stream:?} to {}", to[0]),
        // The hot path leaves its trace in datagrams.
        Output::Readable(_) | Output::Writable(_) => return,
        Output::Reset { stream, reason } => format!("reset {stream:?} {reason:?}"),
        Output::Udp { to, payload, .. } => {
            recorder.record_udp(now.mono, *to, payload.len());
            return;
        }
        Output::NetworkChanged => "network changed".into(),
        Output::Event(event) => format!("{event:?}"),
    };
    recorder.record(now.mono, Record::Output { what });
}
