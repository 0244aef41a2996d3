//! What a machine reads on its way to a member: entries that anybody may have written where slots
//! are, answers of the guest agent, the list of services.
#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_bootstrap::tee::answers;
use holdfast_core::entropy::Seed;
use holdfast_core::kv::{Entry, Response};
use holdfast_core::slots::{Config, Input, LEASE, Output, Slots};
use holdfast_core::time::Now;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = answers::info(data);
    let _ = answers::key(data);
    let _ = answers::quote(data, &[0; 64]);
    let _ = answers::detail(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = holdfast_sidecar::services::parse(text);
    }
    claim(data);
});

/// A claim among entries with this value, at a few turns of which time passes.
fn claim(value: &[u8]) {
    let config = Config {
        cluster: "fuzz".to_owned(),
        instance: "i-1".to_owned(),
        slots: vec![1, 2],
        pinned: None,
        lease: LEASE,
        drift_per_mille: 5,
    };
    let mut now = Now {
        mono: Instant::now(),
        unix: Duration::ZERO,
    };
    let mut slots =
        Slots::new(config, Seed::new([1; 32]), now).expect("the configuration is valid");
    for turn in 1..6 {
        while let Some(output) = slots.poll_output() {
            let Output::Call { call, request } = output else {
                continue;
            };
            let entry = |slot| Entry {
                key: format!("cluster/fuzz/slots/{slot}"),
                value: Bytes::copy_from_slice(value),
                create_index: 1,
                modify_index: turn,
                lock_index: 0,
                session: None,
            };
            let result = Ok(match request.is_read() {
                true => Response::Entries {
                    index: turn,
                    entries: vec![entry(1), entry(2)],
                },
                false => Response::Done(turn % 2 == 0),
            });
            slots.handle(now, Input::Answer { call, result });
        }
        now = now.plus(LEASE);
        slots.handle_deadline(now);
    }
}
