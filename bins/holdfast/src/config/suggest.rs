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
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, candidate)| candidate)
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

/// Edits (insertion, deletion, substitution) from one to the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_none() {
        let words = ["brokers", "peers", "path_loss_grace", "cluster_secret_file"];
        let find = |word| closest(word, words.into_iter());
        assert_eq!(find("broker"), Some("brokers"));
        assert_eq!(find("Brokres"), Some("brokers"));
        assert_eq!(find("path-loss-grace"), Some("path_loss_grace"));
        assert_eq!(find("cluster_secret"), Some("cluster_secret_file"));
        assert_eq!(find("password"), None);
    }
}
