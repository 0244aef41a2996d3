//! Datagrams from strangers: garbage, and what looks like STUN, ChannelData or QUIC.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::Context;

/// Sent at once; then the node gets its time.
const BURST: u32 = 64;
/// Between two bursts.
const PAUSE: Duration = Duration::from_millis(1);
/// STUN's magic cookie, RFC 8489 section 5.
const COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
/// The longest datagram.
const LEN_MAX: usize = 1_400;

/// SplitMix64: enough for garbage.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Send that many to the node's socket.
pub async fn knock(cx: Context, count: u32, seed: u64) {
    // Before its first page a node is as good as not there.
    let Some(port) = cx.port.get() else { return };
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else {
        return;
    };
    let mut draw = Draw(seed);
    for n in 0..count {
        // A node that does not run gets nothing.
        let _ = socket
            .send_to(&datagram(n, &mut draw), (cx.address, port))
            .await;
        if n % BURST == BURST - 1 {
            sleep(PAUSE).await;
        }
    }
}

fn datagram(n: u32, draw: &mut Draw) -> Vec<u8> {
    let len = draw.next() as usize % LEN_MAX + 1;
    let mut bytes: Vec<u8> = (0..len).map(|_| draw.next() as u8).collect();
    match n % 4 {
        // A STUN Binding request, RFC 8489 section 5; every other with a length that fits.
        1 if len >= 20 => {
            let body = if n % 8 == 1 {
                len - 20
            } else {
                draw.next() as usize
            };
            bytes[..2].copy_from_slice(&[0, 1]);
            bytes[2..4].copy_from_slice(&(body as u16).to_be_bytes());
            bytes[4..8].copy_from_slice(&COOKIE);
        }
        // A QUIC short header, RFC 9000 section 17.3.
        2 => bytes[0] = bytes[0] & 0x3f | 0x40,
        // A QUIC Initial of version 1, RFC 9000 section 17.2.2.
        3 if len >= 5 => bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]),
        _ => {}
    }
    bytes
}
