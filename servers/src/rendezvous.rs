//! Broker and TURN server together, as one command starts them.

use std::io;
use std::net::SocketAddr;

use holdfast_core::entropy::Seed;
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::net::{Listener, Net};
use holdfast_io::spawn::Spawn;

use crate::broker::{BrokerLimits, serve_broker};
use crate::relay::{TurnError, TurnOptions, TurnServer};

/// How to serve nodes that look for each other.
#[derive(Clone, Debug)]
pub struct RendezvousOptions {
    /// Where the broker listens.
    pub listen: SocketAddr,
    /// What the broker allows its clients.
    pub limits: BrokerLimits,
    /// STUN and TURN, when they are wanted too.
    pub turn: Option<TurnOptions>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// The broker's socket could not be opened.
    #[error("the broker cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The TURN server could not start.
    #[error(transparent)]
    Turn(#[from] TurnError),
}

/// A broker, and perhaps a TURN server, whose sockets are open.
pub struct Rendezvous<N: Net, C: Clock, S: Spawn> {
    listener: N::Listener,
    limits: BrokerLimits,
    turn: Option<TurnServer<N, C, S>>,
    clock: C,
    spawn: S,
    seed: Seed,
}

impl<N: Net, C: Clock, S: Spawn> Rendezvous<N, C, S> {
    /// Open all listening sockets.
    pub async fn bind(
        options: RendezvousOptions,
        net: N,
        clock: C,
        spawn: S,
        seed: Seed,
    ) -> Result<Rendezvous<N, C, S>, RendezvousError> {
        let addr = options.listen;
        let listener = net.listen(addr).await;
        let listener = listener.map_err(|source| RendezvousError::Listen { addr, source })?;
        let turn = match options.turn {
            Some(turn) => {
                let seed = seed.fork("rendezvous/turn");
                let (clock, spawn) = (clock.clone(), spawn.clone());
                Some(TurnServer::bind(turn, net, clock, spawn, seed).await?)
            }
            None => None,
        };
        Ok(Rendezvous {
            listener,
            limits: options.limits,
            turn,
            clock,
            spawn,
            seed: seed.fork("rendezvous/broker"),
        })
    }

    /// Where the broker listens.
    pub fn broker_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The TURN server.
    pub fn turn(&self) -> Option<&TurnServer<N, C, S>> {
        self.turn.as_ref()
    }

    /// Serve until `stop`, then let requests in flight finish for a moment.
    pub async fn run(self, stop: Stop) {
        if let Ok(addr) = self.broker_addr() {
            tracing::info!(%addr, "broker serves");
        }
        let monitor = self.turn.as_ref().map(TurnServer::monitor);
        if let Some(turn) = &self.turn {
            let (udp, tcp) = (turn.udp_addr(), turn.tcp_addr());
            tracing::info!(?udp, ?tcp, "TURN serves");
        }
        let relaying = run_turn(self.turn, stop.clone());
        let (clock, spawn) = (self.clock, self.spawn);
        let brokering = serve_broker(
            self.listener,
            self.limits,
            monitor,
            clock,
            spawn,
            self.seed,
            stop,
        );
        tokio::join!(relaying, brokering);
        tracing::info!("broker stopped");
    }
}

async fn run_turn<N: Net, C: Clock, S: Spawn>(turn: Option<TurnServer<N, C, S>>, stop: Stop) {
    if let Some(turn) = turn {
        turn.run(stop).await;
    }
}

/// Open the sockets and serve until `stop`.
pub async fn run_rendezvous<N: Net, C: Clock, S: Spawn>(
    options: RendezvousOptions,
    net: N,
    clock: C,
    spawn: S,
    seed: Seed,
    stop: Stop,
) -> Result<(), RendezvousError> {
    let rendezvous = Rendezvous::bind(options, net, clock, spawn, seed).await?;
    rendezvous.run(stop).await;
    Ok(())
}
