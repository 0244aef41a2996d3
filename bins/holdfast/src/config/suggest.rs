//! "Did you mean …?"

/// The candidate that `found` was probably meant to be.
pub fn closest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(found);
    // A third of the letters: further away it is another word.
    let tolerance = (folded.len() / 3).max(1);
    candidates
        .map(|candidate| {
            let target = fold(candidate);
            let affix = folded.len() >= 4
                && (target.starts_with(&folded)
                    || folded.starts_with(&target)
                    || target.ends_with(&folded));
            let distance = match affix {
                true => 1,
                false => distance(&folded, &target),
            };
            // Of two that begin alike, the one that is less far in length.
            (distance, target.len().abs_diff(folded.len()), candidate)
        })
        .filter(|(distance, ..)| *distance <= tolerance)
        .min()
        .map(|(.., candidate)| candidate)
}

/// Case and separators are what one gets wrong first.
fn fold(text: &str) -> Vec<char> {
    text.chars()
        .take(80)
        .map(|c| match c {
            '-' | '.' => '_',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

/// Edits from one to the other: insertion, deletion, substitution, a swap of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    let best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    match swapped {
                        true => best.min(rows[i - 2][j - 2] + 1),
                        false => best,
                    }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_none() {
        let words = [
            "brokers",
            "cluster",
            "cluster_secret_file",
            "path_loss_grace",
            "peers",
        ];
        let find = |word| closest(word, words.into_iter());
        assert_eq!(find("broker"), Some("brokers"));
        assert_eq!(find("Brokres"), Some("brokers"));
        assert_eq!(find("peesr"), Some("peers"));
        assert_eq!(find("path-loss-grace"), Some("path_loss_grace"));
        assert_eq!(find("cluster_secret"), Some("cluster_secret_file"));
        assert_eq!(find("password"), None);
    }
}
