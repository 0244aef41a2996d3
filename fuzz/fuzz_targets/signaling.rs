//! Envelopes and snapshots: everything a broker may hand over.
#![no_main]

use holdfast_core::signal::envelope::Envelope;
use holdfast_core::signal::snapshot::Snapshot;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Envelope::parse(data);
    if let Ok(snapshot) = Snapshot::decode(data) {
        let again = Snapshot::decode(&snapshot.encode()).expect("what was read can be written");
        assert_eq!(again, snapshot);
    }
});
