//! Which commit this is, and the seeds that derive from it.

use std::process::Command;

/// The commit that is checked out, short; with `+` when files differ from it. `None` without
/// git or outside of a repository.
pub fn short() -> Option<String> {
    let mut hash = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_some_and(|files| !files.is_empty()) {
        hash.push('+');
    }
    Some(hash)
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The first of the fresh seeds of a commit: far from the small ones of the budgets, and apart
/// from those of other commits. FNV-1a, cut so that it is short to type.
pub fn first_fresh_seed(commit: &str) -> u64 {
    let hash = commit
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    (1 + hash % 900_000) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commits_have_fresh_seeds_that_are_apart() {
        let [a, b] = ["3f2a91c", "3f2a91d"].map(first_fresh_seed);
        assert_ne!(a, b);
        assert!(a >= 1_000_000 && a % 1_000_000 == 0);
    }
}
