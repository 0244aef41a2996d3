//! Connections that end, and clients that go on elsewhere.

use holdfast_workload::Outcome;

use crate::world::World;

impl World {
    /// A connection is gone, and its client knows.
    fn broken(&mut self, index: usize, why: &'static str) {
        let client = &mut self.clients.list[index];
        client.connection = None;
        if client
            .operation
            .is_some_and(|operation| operation.sent.is_some())
        {
            self.ends(index, Outcome::Unknown, why);
        }
    }

    /// Its statement came to a server that does not know its connection.
    pub(crate) fn connection_gone(&mut self, index: usize, serial: u32) {
        if self.clients.list[index].serial == serial {
            self.broken(index, "connection reset by peer");
        }
    }

    /// The worker's endpoint reads again from connections that its kernel took.
    pub(crate) fn clients_go_on(&mut self, worker: usize) {
        for index in 0..self.clients.list.len() {
            if self.clients.list[index].worker == worker {
                self.go_on(index);
            }
        }
    }

    /// PostgreSQL has closed all connections.
    pub(crate) fn server_closed(&mut self, member: usize, why: &'static str) {
        for index in 0..self.clients.list.len() {
            let client = &self.clients.list[index];
            let there = client
                .connection
                .is_some_and(|connection| connection.member == member);
            let heard = self.reach(member, client.worker) && !self.hosts[client.worker].frozen;
            if there && heard {
                self.broken(index, why);
            }
        }
    }

    /// An endpoint leads elsewhere: sessions to others end, and who waits goes on.
    pub(crate) fn endpoint_moved(&mut self, endpoint: usize, before: Option<usize>) {
        let led = self.endpoints[endpoint].led;
        for index in 0..self.clients.list.len() {
            let client = &mut self.clients.list[index];
            if client.worker != endpoint {
                continue;
            }
            let stale = client
                .connecting
                .is_none_or(|member| Some(member) == before);
            if client
                .connection
                .is_some_and(|connection| Some(connection.member) != led)
            {
                self.broken(index, "the endpoint closed the connection");
            } else if client.connection.is_none() && stale {
                client.connecting = None;
                self.go_on(index);
            }
        }
    }

    /// The worker's endpoints are gone, and with them their connections.
    pub(crate) fn endpoint_dies(&mut self, endpoint: usize) {
        self.endpoints[endpoint].led = None;
        for index in 0..self.clients.list.len() {
            if self.clients.list[index].worker == endpoint {
                self.broken(index, "connection reset by peer");
            }
        }
    }
}
