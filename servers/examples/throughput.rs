//! How much the server relays in each direction, with clients and peers in the same process:
//!
//! ```text
//! throughput [payload bytes] [seconds] [external]
//! ```
//!
//! With `external`, whatever listens on 127.0.0.1:34780 with the secret `secret` is measured
//! instead. Otherwise the server runs on a thread of its own, as does each sender and each receiver. A sender
//! keeps a bounded number of datagrams in flight, so that what is measured is the relay and
//! not how fast datagrams can be dropped.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_servers::relay::{TurnOptions, TurnServer};
use holdfast_servers::turn::SharedSecret;
use stun_proto::agent::Transmit;
use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent};
use turn_client_proto::udp::TurnClientUdp;
use turn_types::{TransportType, TurnCredentials};

/// Datagrams in flight: well within the socket buffers.
const WINDOW: u64 = 64;
/// Where the server listens; the channel is the first that the client binds.
const SERVER: &str = "127.0.0.1:34780";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let (payload, seconds) = (number(0, 1200)?, number(1, 3)?);
    let server: SocketAddr = SERVER.parse()?;
    let secret = SharedSecret::new(b"secret".to_vec())?;
    let mut options = TurnOptions::on(server, secret.clone());
    options.loopback_peers = true;
    if args.get(2).is_none() {
        std::thread::spawn(move || serve(options).expect("the server starts"));
    }
    std::thread::sleep(Duration::from_millis(200));

    let (client, peer) = (socket()?, socket()?);
    let (relayed, channel) = allocate(&client, server, &secret, peer.local_addr()?)?;
    let mut framed = channel.to_be_bytes().to_vec();
    framed.extend_from_slice(&(payload as u16).to_be_bytes());
    framed.resize(4 + payload, 7);
    let for_ = Duration::from_secs(seconds as u64);
    report(
        "client to peer",
        &client,
        server,
        &framed,
        &peer,
        payload,
        for_,
    )?;
    report(
        "peer to client",
        &peer,
        relayed,
        &framed[4..],
        &client,
        payload,
        for_,
    )?;
    Ok(())
}

fn serve(options: TurnOptions) -> Result<(), String> {
    let serving = async {
        let seed = Seed::new([9; 32]);
        let server = TurnServer::bind(options, RealNet, RealClock, RealSpawn, seed).await;
        let (_never, stop) = Stop::new();
        server.map_err(|e| e.to_string())?.run(stop).await;
        Ok(())
    };
    block_on(serving).map_err(|e| e.to_string())?
}

fn socket() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

/// Set up an allocation with a channel to `peer`: its relayed address and channel number.
fn allocate(
    socket: &UdpSocket,
    server: SocketAddr,
    secret: &SharedSecret,
    peer: SocketAddr,
) -> Result<(SocketAddr, u16), Box<dyn Error>> {
    let expires = RealClock.now().unix + Duration::from_secs(3600);
    let made = secret.credentials("bench", expires);
    let credentials = TurnCredentials::new(&made.username, &made.password);
    let local = socket.local_addr()?;
    let mut client = TurnClientUdp::allocate(local, server, TurnConfig::new(credentials));
    let started = Instant::now();
    let mut relayed = None;
    while started.elapsed() < Duration::from_secs(5) {
        let now = stun_proto::Instant::from_nanos(started.elapsed().as_nanos() as i64);
        client.poll(now);
        while let Some(transmit) = client.poll_transmit(now) {
            socket.send_to(transmit.data.as_ref(), server)?;
        }
        let mut buf = [0; 2048];
        if let Ok((len, from)) = socket.recv_from(&mut buf) {
            let data = buf[..len].to_vec();
            client.recv(Transmit::new(data, TransportType::Udp, from, local), now);
        }
        match client.poll_event() {
            Some(TurnEvent::AllocationCreated(_, addr)) => {
                relayed = Some(addr);
                client.bind_channel(TransportType::Udp, peer, now)?;
            }
            Some(TurnEvent::ChannelCreated(..)) => {
                return Ok((relayed.ok_or("no allocation")?, 0x4000));
            }
            _ => {}
        }
    }
    Err("no channel within 5 s".into())
}

fn report(
    name: &str,
    from: &UdpSocket,
    to: SocketAddr,
    datagram: &[u8],
    sink: &UdpSocket,
    payload: usize,
    for_: Duration,
) -> Result<(), Box<dyn Error>> {
    let received = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let (counter, flag, sink) = (received.clone(), over.clone(), sink.try_clone()?);
    let receiving = std::thread::spawn(move || {
        let mut buf = [0; 65_536];
        while !flag.load(Ordering::Relaxed) {
            if sink.recv_from(&mut buf).is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let (started, mut sent, mut lost) = (Instant::now(), 0u64, 0u64);
    let mut progress = (0, Instant::now());
    while started.elapsed() < for_ {
        let arrived = received.load(Ordering::Relaxed);
        if arrived != progress.0 {
            progress = (arrived, Instant::now());
        }
        if sent - arrived - lost < WINDOW {
            from.send_to(datagram, to)?;
            sent += 1;
        } else if progress.1.elapsed() > Duration::from_millis(50) {
            lost = sent - arrived;
        } else {
            std::thread::yield_now();
        }
    }
    let (elapsed, arrived) = (
        started.elapsed().as_secs_f64(),
        received.load(Ordering::Relaxed),
    );
    over.store(true, Ordering::Relaxed);
    receiving.join().map_err(|_| "the receiver panicked")?;
    let mbit = arrived as f64 * payload as f64 * 8.0 / elapsed / 1e6;
    let rate = arrived as f64 / elapsed;
    println!("{name}: {payload} bytes, {mbit:.0} Mbit/s, {rate:.0} datagrams/s, lost {lost}");
    Ok(())
}
