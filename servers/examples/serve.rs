//! Broker, STUN and TURN on one address, to try other implementations against:
//!
//! ```text
//! serve 127.0.0.1:7000 127.0.0.1:3478 <secret>
//! ```
//!
//! Prints credentials that are good for a day. Peers on loopback are allowed.

use std::error::Error;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on, os_seed};
use holdfast_servers::broker::BrokerLimits;
use holdfast_servers::relay::TurnOptions;
use holdfast_servers::rendezvous::{RendezvousOptions, run_rendezvous};
use holdfast_servers::turn::SharedSecret;

/// How long the printed credentials last.
const DAY: Duration = Duration::from_secs(86_400);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [broker, turn, secret] = args.as_slice() else {
        return Err("usage: serve <broker address> <TURN address> <secret>".into());
    };
    let secret = SharedSecret::new(secret.clone().into_bytes())?;
    let credentials = secret.credentials("try", RealClock.now().unix + DAY);
    println!("{} {}", credentials.username, credentials.password);
    let mut turn = TurnOptions::on(turn.parse()?, secret);
    turn.loopback_peers = true;
    let options = RendezvousOptions {
        listen: broker.parse()?,
        limits: BrokerLimits::default(),
        turn: Some(turn),
    };
    let (_never, stop) = Stop::new();
    let seed = os_seed()?;
    block_on(run_rendezvous(
        options, RealNet, RealClock, RealSpawn, seed, stop,
    ))??;
    Ok(())
}
