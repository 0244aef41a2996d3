//! What must hold, one sentence each.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{Client, Server, Stage};
use super::*;
use crate::clock::Clock;
use crate::net::{Listener, Stream};
use crate::real::{RealNet, RealSpawn, block_on, raise_file_limit};

#[test]
fn a_session_goes_to_the_one_that_leads_and_replicas_take_turns() {
    block_on(async {
        let servers = [
            Server::start("a").await,
            Server::start("b").await,
            Server::start("c").await,
        ];
        let mut stage = Stage::new(&servers.each_ref());
        let answers = [("a", leads(1)), ("b", follows()), ("c", follows())];
        stage.say(&answers, &["a"], &["b", "c"]).await;
        let mut client = stage.connect(Pool::Exclusive).await;
        assert_eq!(client.greeting().await.unwrap(), "a");
        assert!(client.echoes(b"select 1").await);
        let mut turns = Vec::new();
        for _ in 0..4 {
            let mut client = stage.connect(Pool::Shared).await;
            turns.push(client.greeting().await.unwrap());
        }
        turns.sort();
        assert_eq!(turns, ["b", "b", "c", "c"]);
    })
    .unwrap();
}

#[test]
fn a_switch_resets_the_old_sessions_and_new_ones_go_to_the_new_leader() {
    block_on(async {
        let servers = [Server::start("a").await, Server::start("b").await];
        let mut stage = Stage::new(&servers.each_ref());
        stage
            .say(&[("a", leads(1)), ("b", follows())], &["a"], &["b"])
            .await;
        let mut old = stage.connect(Pool::Exclusive).await;
        assert_eq!(old.greeting().await.unwrap(), "a");
        let mut idle = stage.connect(Pool::Exclusive).await;
        assert_eq!(idle.greeting().await.unwrap(), "a");
        // The old one still says that it leads.
        stage.say(&[("b", leads(2))], &["b"], &["b"]).await;
        assert!(old.is_reset().await);
        assert!(idle.is_reset().await);
        let mut new = stage.connect(Pool::Exclusive).await;
        assert_eq!(new.greeting().await.unwrap(), "b");
        assert_eq!(stage.view.borrow().route.exclusive.resets, 2);
    })
    .unwrap();
}

#[test]
fn the_server_sees_the_reset_as_well() {
    block_on(async {
        let listener = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut server = Server::start("a").await;
        server.backend.addr = listener.local_addr().unwrap();
        let mut stage = Stage::new(&[&server]);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let client = stage.connect(Pool::Exclusive).await;
        let (stream, _) = soon(listener.accept()).await.unwrap();
        stage.say(&[("a", None)], &[], &[]).await;
        assert!(Client(stream).is_reset().await);
        drop(client);
    })
    .unwrap();
}

#[test]
fn a_session_waits_for_a_leader() {
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::new(&[&server]);
        let mut clients = Vec::new();
        // Less, and more, than is read of a client that waits.
        for len in [5, 5000] {
            let mut client = stage.connect(Pool::Exclusive).await;
            client.0.write_all(&vec![7; len]).await.unwrap();
            clients.push((client, len));
        }
        stage.until(|view| view.route.exclusive.waiting == 2).await;
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        for (mut client, len) in clients {
            assert_eq!(client.greeting().await.unwrap(), "a");
            let mut early = vec![0; len];
            soon(client.0.read_exact(&mut early)).await.unwrap();
            assert_eq!(early, vec![7; len]);
            assert!(client.echoes(b"and more").await);
        }
    })
    .unwrap();
}

#[test]
fn a_client_that_loses_patience_makes_room_for_another() {
    block_on(async {
        let mut stage = Stage::with(&[], |options| options.config.sessions_max = 1);
        for _ in 0..3 {
            let mut client = stage.connect(Pool::Exclusive).await;
            stage.until(|view| view.route.exclusive.waiting == 1).await;
            client.0.write_all(b"let me in").await.unwrap();
            drop(client);
            stage.until(|view| view.route.exclusive.waiting == 0).await;
        }
        assert_eq!(stage.view.borrow().route.exclusive.refused, 0);
    })
    .unwrap();
}

#[test]
fn a_session_that_finds_no_leader_is_closed_after_the_hold() {
    block_on(async {
        let hold = Duration::from_millis(50);
        let mut stage = Stage::with(&[], |options| options.config.hold = hold);
        stage.address(Pool::Exclusive).await;
        let before = RealClock.now().mono;
        let mut client = stage.connect(Pool::Exclusive).await;
        assert!(client.is_reset().await);
        assert!(RealClock.now().mono - before >= hold);
        stage.until(|view| view.route.exclusive.refused == 1).await;
    })
    .unwrap();
}

#[test]
fn a_thousand_sessions_at_once_all_go_on_and_one_more_than_may_be_is_closed() {
    const SESSIONS: usize = 1000;
    raise_file_limit().unwrap();
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::with(&[&server], |options| {
            options.config.sessions_max = SESSIONS;
        });
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let mut clients = Vec::new();
        for _ in 0..SESSIONS {
            clients.push(stage.connect(Pool::Exclusive).await);
        }
        for client in &mut clients {
            assert_eq!(client.greeting().await.unwrap(), "a");
        }
        let all = |view: &EndpointsView| view.route.exclusive.sessions == SESSIONS;
        stage.until(all).await;
        let mut more = stage.connect(Pool::Exclusive).await;
        assert!(more.end().await.is_err() || more.greeting().await.is_err());
        for (nth, client) in clients.iter_mut().enumerate() {
            let text = nth.to_be_bytes();
            client.0.write_all(&text).await.unwrap();
        }
        for (nth, client) in clients.iter_mut().enumerate() {
            let mut back = [0; 8];
            soon(client.0.read_exact(&mut back)).await.unwrap();
            assert_eq!(back, nth.to_be_bytes());
        }
        drop(clients);
        stage.until(|view| view.route.exclusive.sessions == 0).await;
        assert_eq!(server.accepted.get(), SESSIONS);
    })
    .unwrap();
}

#[test]
fn a_server_that_takes_no_connection_is_left_for_another() {
    block_on(async {
        let servers = [Server::start("a").await, Server::start("b").await];
        let mut stage = Stage::with(&servers.each_ref(), |options| {
            options.connect_timeout = Duration::from_millis(20);
        });
        stage.net.swallow(servers[0].backend.addr);
        stage
            .say(&[("a", follows()), ("b", follows())], &[], &["a", "b"])
            .await;
        for _ in 0..3 {
            let mut client = stage.connect(Pool::Shared).await;
            assert_eq!(client.greeting().await.unwrap(), "b");
        }
    })
    .unwrap();
}

#[test]
fn the_only_server_that_takes_no_connection_holds_nobody_longer_than_the_hold() {
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::with(&[&server], |options| {
            options.config.hold = Duration::from_millis(50);
        });
        stage.net.swallow(server.backend.addr);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let mut client = stage.connect(Pool::Exclusive).await;
        assert!(client.is_reset().await);
    })
    .unwrap();
}

#[test]
fn a_client_that_has_said_everything_still_hears_everything() {
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::new(&[&server]);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let client = stage.connect(Pool::Exclusive).await;
        // More than sockets and buffers hold.
        const LEN: usize = 20 << 20;
        let (mut from, mut to) = tokio::io::split(client.0);
        let said = RealSpawn.spawn("client", async move {
            to.write_all(&vec![7; LEN]).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        soon(from.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard.len(), "a\n".len() + LEN);
        drop(said);
        stage.until(|view| view.route.exclusive.sessions == 0).await;
    })
    .unwrap();
}

#[test]
fn a_server_that_resets_is_seen_as_a_reset_and_one_that_ends_as_an_end() {
    block_on(async {
        let listener = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut server = Server::start("a").await;
        server.backend.addr = listener.local_addr().unwrap();
        let mut stage = Stage::new(&[&server]);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        for reset in [true, false] {
            let mut client = stage.connect(Pool::Exclusive).await;
            let (stream, _) = soon(listener.accept()).await.unwrap();
            // Not before the endpoint knows that it is connected: that would be a failed connect.
            stage.until(|view| view.route.exclusive.sessions == 1).await;
            if reset {
                stream.reset_on_drop().unwrap();
            }
            drop(stream);
            assert_eq!(client.end().await.is_err(), reset);
            drop(client);
            stage.until(|view| view.route.exclusive.sessions == 0).await;
        }
    })
    .unwrap();
}

#[test]
fn an_address_that_is_taken_is_named_stops_nothing_else_and_is_had_when_it_is_free() {
    block_on(async {
        let server = Server::start("a").await;
        let taken = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let mut stage = Stage::with(&[&server], |options| options.listen[0].addr = addr);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        stage
            .until(|view| view.listeners[0].problem.is_some())
            .await;
        let problem = stage.view.borrow().listeners[0].problem.clone().unwrap();
        assert!(problem.contains(&addr.to_string()), "{problem}");
        let mut client = stage.connect(Pool::Shared).await;
        assert_eq!(client.greeting().await.unwrap(), "a");
        drop(taken);
        let mut client = stage.connect(Pool::Exclusive).await;
        assert_eq!(client.greeting().await.unwrap(), "a");
        assert_eq!(stage.view.borrow().listeners[0].problem, None);
    })
    .unwrap();
}

#[test]
fn a_stop_closes_the_addresses_and_lets_sessions_end() {
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::with(&[&server], |options| options.drain = 100 * PATIENCE);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let addr = stage.address(Pool::Exclusive).await;
        let mut client = stage.connect(Pool::Exclusive).await;
        assert_eq!(client.greeting().await.unwrap(), "a");
        stage.stop.send(true).unwrap();
        let refused = async {
            while RealNet.connect(None, addr).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        soon(refused).await;
        assert!(client.echoes(b"in flight").await);
        client.0.shutdown().await.unwrap();
        assert!(client.end().await.is_ok());
        stage.ended().await;
    })
    .unwrap();
}

#[test]
fn sessions_that_do_not_end_after_a_stop_are_reset() {
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::with(&[&server], |options| {
            options.drain = Duration::from_millis(10);
        });
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let mut client = stage.connect(Pool::Exclusive).await;
        assert_eq!(client.greeting().await.unwrap(), "a");
        stage.stop.send(true).unwrap();
        assert!(client.is_reset().await);
        stage.ended().await;
    })
    .unwrap();
}

#[test]
fn a_stop_without_sessions_does_not_wait() {
    block_on(async {
        let mut stage = Stage::with(&[], |options| options.drain = 100 * PATIENCE);
        stage.address(Pool::Exclusive).await;
        stage.stop.send(true).unwrap();
        stage.ended().await;
    })
    .unwrap();
}

#[test]
fn endpoints_that_are_dropped_leave_nothing_behind() {
    block_on(async {
        let server = Server::start("a").await;
        let mut stage = Stage::new(&[&server]);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let addr = stage.address(Pool::Exclusive).await;
        let mut client = stage.connect(Pool::Exclusive).await;
        assert_eq!(client.greeting().await.unwrap(), "a");
        stage.task = None;
        let _ = client.end().await;
        let refused = RealNet.connect(None, addr).await;
        assert!(refused.is_err());
    })
    .unwrap();
}

#[test]
fn other_servers_are_led_to_without_a_word_to_the_sessions_of_those_that_stay() {
    block_on(async {
        let servers = [
            Server::start("a").await,
            Server::start("b").await,
            Server::start("c").await,
        ];
        let mut stage = Stage::new(&[&servers[0], &servers[1]]);
        stage
            .say(&[("a", leads(1)), ("b", follows())], &["a"], &["b"])
            .await;
        let mut stays = stage.connect(Pool::Exclusive).await;
        let mut goes = stage.connect(Pool::Shared).await;
        assert_eq!(stays.greeting().await.unwrap(), "a");
        assert_eq!(goes.greeting().await.unwrap(), "b");
        let others = [&servers[0], &servers[2]].map(|server| server.backend.clone());
        stage.backends.send(others.to_vec()).unwrap();
        stage.say(&[("c", follows())], &["a"], &["c"]).await;
        assert!(goes.is_reset().await);
        assert!(stays.echoes(b"still here").await);
        // At another address it is another.
        let mut moved = others.to_vec();
        moved[0].addr = servers[1].backend.addr;
        stage.backends.send(moved.clone()).unwrap();
        assert!(stays.is_reset().await);
        let mut client = stage.connect(Pool::Exclusive).await;
        assert_eq!(client.greeting().await.unwrap(), "b");
        // One that cannot be changes nothing.
        stage
            .backends
            .send([moved.clone(), moved].concat())
            .unwrap();
        assert!(client.echoes(b"and here").await);
    })
    .unwrap();
}
