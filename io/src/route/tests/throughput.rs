//! What an endpoint costs: `cargo test -p holdfast-io --lib route -- --ignored --nocapture`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "client and server are the operating system's, on threads of their own"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::stage::{Server, Stage};
use super::*;
use crate::real::block_on;

/// Bytes of one run.
const LEN: usize = 2 << 30;
/// Questions of one byte, each answered, of one run.
const TURNS: u32 = 20_000;

fn serve_for_ever(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                // What comes in pieces of one byte is answered.
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if len == 1 && stream.write_all(&buffer[..1]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Processor time of this process until now, in ticks of 10 ms: on a busy machine it says more
/// than the time on the wall.
fn ticks() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name is the second field, and ends with the last parenthesis (proc(5)).
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let field = |nth: usize| fields[nth - 3].parse::<f64>().unwrap();
    field(14) + field(15)
}

/// Gbit/s, and processor time per GiB.
fn throughput(addr: SocketAddr) -> (f64, Duration) {
    let mut stream = TcpStream::connect(addr).unwrap();
    let chunk = vec![7; 256 << 10];
    let (began, used) = (Instant::now(), ticks());
    for _ in 0..LEN / chunk.len() {
        stream.write_all(&chunk).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    let gbit = LEN as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9;
    let gib = (LEN >> 30) as f64;
    (
        gbit,
        Duration::from_secs_f64((ticks() - used) / 100.0 / gib),
    )
}

fn round_trip(addr: SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let began = Instant::now();
    for _ in 0..TURNS {
        stream.write_all(&[7]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    began.elapsed() / TURNS
}

#[test]
#[ignore = "a measurement"]
fn throughput_and_round_trip_against_a_direct_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let direct = listener.local_addr().unwrap();
    serve_for_ever(listener);
    block_on(async {
        let mut server = Server::start("a").await;
        server.backend.addr = direct;
        let mut stage = Stage::new(&[&server]);
        stage.say(&[("a", leads(1))], &["a"], &["a"]).await;
        let through = stage.address(Pool::Exclusive).await;
        let measured = tokio::task::spawn_blocking(move || {
            for _ in 0..3 {
                let ((alone, cheap), (led, dear)) = (throughput(direct), throughput(through));
                println!(
                    "{alone:.1} Gbit/s direct, {led:.1} through: {:.2}",
                    led / alone
                );
                let part = cheap.as_secs_f64() / dear.as_secs_f64();
                println!("{cheap:?} per GiB direct, {dear:?} through: {part:.2}");
                let (alone, led) = (round_trip(direct), round_trip(through));
                println!("{alone:?} direct, {led:?} through for a question and its answer");
            }
        });
        measured.await.unwrap();
    })
    .unwrap();
}
