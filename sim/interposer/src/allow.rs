//! Whom a backtrace belongs to.
//!
//! The only stable form of a backtrace is its text: a line with the function's path, then
//! one with its source file. With full debug information the function line names the crate
//! (`rand::rngs::…`); with line tables only it is a bare name, and the crate shows in the
//! path of its source (`…/rand-0.9.2/src/…`), with a version when it comes from a registry.
//! Both are looked at, so with line tables only a crate of this workspace is not recognised.

/// Where `std` draws the keys of its hash maps.
const HASH_KEYS: [&str; 2] = ["hashmap_random_keys", "std/src/hash/random.rs"];

/// Whether an entropy read with this backtrace may be served.
pub(crate) fn is_entropy_allowed(trace: &str, allowed: &[String]) -> bool {
    let hash_keys = |line: &str| HASH_KEYS.iter().any(|key| line.contains(key));
    trace.lines().any(hash_keys) || is_allowed(trace, allowed)
}

/// Whether one of these crates, or of these places in their sources, is in the backtrace.
pub(crate) fn is_allowed(trace: &str, allowed: &[String]) -> bool {
    trace
        .lines()
        .any(|line| allowed.iter().any(|name| names(line, name)))
}

fn names(line: &str, name: &str) -> bool {
    if name.contains('/') {
        return line.contains(name);
    }
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

/// Whether the function's path starts with the crate: `3: <rand::rngs::ThreadRng as …>::new`.
/// Only its start counts: type parameters name crates that a function merely works for.
fn is_function_of(line: &str, name: &str) -> bool {
    let path = line.trim_start_matches(|c: char| c.is_ascii_digit() || " :<&".contains(c));
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    path.split_once("::")
        .is_some_and(|(root, _)| matches(root, name))
}

fn matches(word: &str, name: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => word.starts_with(prefix) && word.chars().all(is_word),
        None => word == name,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
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
        assert!(!allowed("   3: mine::fill<rand::rngs::OsRng>", "rand"));
        assert!(!allowed("   3: fill<rand::rngs::OsRng>", "rand"));
        assert!(!allowed("   3: turn_over<mine::Page>::new", "turn_*"));
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
        assert!(is_entropy_allowed(
            "   at /rustc/1/library/std/src/hash/random.rs:1:2",
            &[]
        ));
        assert!(!is_entropy_allowed("   4: getrandom::fill", &[]));
        assert!(!is_entropy_allowed(
            "   4: mine::new<std::hash::random::RandomState>",
            &[]
        ));
    }
}
