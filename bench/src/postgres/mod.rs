//! PostgreSQL through the mesh: a primary at the second node, a synchronous standby and the client
//! at the first, next to the same over plain TCP and on loopback.

mod backup;
mod cluster;
mod pgbench;

use anyhow::Context;

use crate::{
    measure::Bench,
    report::Figure,
    world::{NODE_1, NODE_2, POSTGRES_PORT, Topology, World, vip},
};
use cluster::{Binaries, Route};

/// One-way delays at which transactions are measured, ms.
const DELAYS_MS: [u32; 2] = [0, 10];
/// Loss on the shaped lines, per cent.
const SHAPED_LOSSES: [u32; 2] = [0, 5];

impl Bench {
    /// Transactions per second, and base backups, of the real PostgreSQL.
    ///
    /// # Errors
    /// If PostgreSQL is missing, a world cannot be made, or a server or program fails.
    pub fn postgres(&self, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let binaries = Binaries::find(self.postgres_bin.as_deref())?;
        for ms in DELAYS_MS {
            let topology = match ms {
                0 => Topology::TwoNats,
                ms => Topology::Delayed(ms),
            };
            let world = World::linked(topology, &self.programs)?;
            self.transactions(&world, &binaries, ms, figures)
                .with_context(|| format!("transactions at {ms} ms each way"))?;
        }
        self.base_backup(&binaries, Topology::TwoNats, figures)?;
        for percent in SHAPED_LOSSES {
            self.base_backup(&binaries, Topology::Lossy(percent), figures)?;
        }
        Ok(())
    }
}

/// Through the mesh.
fn mesh() -> Route {
    Route {
        name: "mesh",
        node: NODE_1,
        host: vip(NODE_2, POSTGRES_PORT).ip(),
    }
}

/// Plain TCP through the same NATs and over the same line.
fn plain(world: &World) -> anyhow::Result<Route> {
    Ok(Route {
        name: "plain",
        node: NODE_1,
        host: world.raw_address(POSTGRES_PORT)?.ip(),
    })
}

/// Client, standby and primary on one loopback interface.
fn loopback() -> Route {
    Route {
        name: "loopback",
        node: NODE_2,
        host: std::net::Ipv4Addr::LOCALHOST.into(),
    }
}
