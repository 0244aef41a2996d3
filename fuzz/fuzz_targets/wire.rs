//! Stream headers, control frames, datagrams: everything a peer may write.
#![no_main]

use bytes::Bytes;
use holdfast_core::mux::wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = wire::parse_tcp_header(data);
    let _ = wire::parse_datagram(Bytes::copy_from_slice(data));
    let _ = wire::parse_large(Bytes::copy_from_slice(data));
    let mut frames = data.to_vec();
    while let Ok(Some(_)) = wire::Frame::decode(&mut frames) {}
});
