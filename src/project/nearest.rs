//! "Did you mean ...?": the known word nearest to one that is not known.

/// The candidate nearest to `word`, if one is near enough to be a slip of the hand (at most a third of its characters).
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| {
            // `[log] sync-interval` written without its section is one slip, not four.
            let short = c.rsplit('.').next().unwrap_or(c);
            (distance(word, c).min(distance(word, short)), c)
        })
        // Of one letter nothing is left when it is another.
        .filter(|(d, c)| d * 3 <= c.chars().count().max(3) && *d < c.chars().count())
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Edit distance with swapped neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    // A hostile key may be long; nothing beyond this is near anything.
    let a: Vec<char> = a.chars().take(80).collect();
    let b: Vec<char> = b.chars().take(80).collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_near_and_another_word_is_not() {
        let known = ["group.idle", "log.segment-size", "p"];
        for (word, near) in [
            ("group.idel", Some("group.idle")),
            ("idle", Some("group.idle")),
            ("log.segmentsize", Some("log.segment-size")),
            ("colour", None),
            ("q", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), near, "{word}");
        }
    }
}
