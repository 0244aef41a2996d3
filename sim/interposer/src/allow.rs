//! Whom a backtrace belongs to.
//!
//! The only stable form of a backtrace is its text: a line with the function's path, then
//! one with its source file. With full debug information the function line names the crate
//! (`rand::rngs::…`); with line tables only it is a bare name, and the crate shows in the
//! path of its source (`…/rand-0.9.2/src/…`). Both are looked at.

/// Where `std` draws the keys of its hash maps.
const HASH_KEYS: &[&str] = &[
    "hashmap_random_keys",
    "std::hash::random::",
    "std/src/hash/random.rs",
];

/// Whether an entropy read with this backtrace may be served.
pub(crate) fn is_entropy_allowed(trace: &str, crates: &[String]) -> bool {
    trace.lines().any(|line| {
        HASH_KEYS.iter().any(|key| line.contains(key))
            || crates.iter().any(|name| names_crate(line, name))
    })
}

fn names_crate(line: &str, name: &str) -> bool {
    match line.trim_start().strip_prefix("at ") {
        Some(path) => path.split('/').any(|part| is_source_of(part, name)),
        None => is_function_of(line, name),
    }
}

/// `rand-0.9.2` is a source of `rand`, `turn-types-1.0` one of `turn_*`.
fn is_source_of(part: &str, name: &str) -> bool {
    let Some((package, version)) = part.rsplit_once('-') else {
        return false;
    };
    version.starts_with(|c: char| c.is_ascii_digit()) && matches(&package.replace('-', "_"), name)
}

/// Whether a path in the line starts with the crate: `<rand::rngs::ThreadRng as …>::new`.
fn is_function_of(line: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("::").any(|(end, _)| {
        let start = line[..end].rfind(|c| !is_word(c)).map_or(0, |i| i + 1);
        let is_root = !line[..start].ends_with("::");
        is_root && start < end && matches(&line[start..end], name)
    })
}

fn matches(word: &str, name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => word.starts_with(prefix),
        None => word == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(line: &str, name: &str) -> bool {
        is_entropy_allowed(line, &[name.to_owned()])
    }

    #[test]
    fn a_crate_is_recognised_by_function_or_source() {
        assert!(allowed("   3: rand::rngs::thread::rng", "rand"));
        assert!(allowed(
            "   3: <rand::rngs::ThreadRng as Default>::default",
            "rand"
        ));
        assert!(allowed(
            "             at /r/src/i-1/rand-0.9.2/src/rngs/thread.rs:1:2",
            "rand"
        ));
        assert!(allowed(
            "             at /r/stun-types-1.0.3/src/lib.rs:1:2",
            "stun_types"
        ));
        assert!(allowed("   9: turn_client_proto::udp::new", "turn_*"));
        assert!(allowed(
            "             at /r/turn-types-0.5.0/src/lib.rs:1:2",
            "turn_*"
        ));
    }

    #[test]
    fn a_crate_is_not_recognised_by_a_part_of_its_name_or_a_module() {
        assert!(!allowed("   3: fastrand::global_rng", "rand"));
        assert!(!allowed("   3: rand_core::os::fill", "rand"));
        assert!(!allowed("   3: mine::rand::draw", "rand"));
        assert!(!allowed(
            "             at /r/rand_core-0.9.2/src/os.rs:1:2",
            "rand"
        ));
        assert!(!allowed(
            "             at /r/fastrand-2.3.0/src/lib.rs:1:2",
            "rand"
        ));
        assert!(!allowed("             at ./rand/src/lib.rs:1:2", "rand"));
    }

    #[test]
    fn hash_keys_are_always_allowed() {
        assert!(is_entropy_allowed(
            "   4: std::sys::random::hashmap_random_keys",
            &[]
        ));
        assert!(!is_entropy_allowed("   4: getrandom::fill", &[]));
    }
}
