//! Makes a failing case small enough to be read.

/// The smallest failing case that `budget` runs of `fails` find: elements are left out, many at a time and then one by one, and replaced by
/// the first of their `simpler` forms that still fails, until nothing helps any more. `case` itself must fail; it is not run again.
pub fn shrink<T: Clone>(case: &[T], simpler: impl Fn(&T) -> Vec<T>, mut fails: impl FnMut(&[T]) -> bool, mut budget: usize) -> Vec<T> {
    let mut case = case.to_vec();
    let mut attempt = |try_this: &[T]| {
        if budget == 0 {
            return false;
        }
        budget -= 1;
        fails(try_this)
    };
    loop {
        let mut smaller = false;
        let mut chunk = case.len().div_ceil(2).max(1);
        loop {
            // From the back: what a case ends with is most often what it does not need.
            let mut end = case.len();
            while end > 0 {
                let start = end.saturating_sub(chunk);
                let mut without = case[..start].to_vec();
                without.extend_from_slice(&case[end..]);
                if attempt(&without) {
                    case = without;
                    smaller = true;
                }
                end = start;
            }
            if chunk == 1 {
                break;
            }
            chunk = chunk.div_ceil(2);
        }
        for at in 0..case.len() {
            while let Some(simple) = simpler(&case[at]).into_iter().find_map(|form| {
                let mut with = case.clone();
                with[at] = form;
                attempt(&with).then_some(with)
            }) {
                case = simple;
                smaller = true;
            }
        }
        if !smaller {
            return case;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_left_with_what_makes_it_fail_in_its_simplest_form() {
        let case: Vec<u64> = (0..200).map(|n| n * 7).collect();
        let halves = |n: &u64| if *n > 1 { vec![n / 2, n - 2, n - 1] } else { Vec::new() };
        let fails = |case: &[u64]| case.iter().any(|n| *n >= 50) && case.iter().filter(|n| *n % 2 == 1).count() >= 2;
        let mut small = shrink(&case, halves, fails, 10_000);
        small.sort_unstable();
        assert_eq!(small, [1, 51]);
    }

    #[test]
    fn a_budget_ends_it_with_a_case_that_still_fails() {
        let case: Vec<u64> = (0..1000).collect();
        let mut runs = 0;
        let small = shrink(
            &case,
            |_| Vec::new(),
            |case| {
                runs += 1;
                case.contains(&500)
            },
            5,
        );
        assert!(small.contains(&500) && small.len() < 1000 && runs == 5);
    }
}
