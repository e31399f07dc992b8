//! Exit codes. They are a promise: scripts branch on them.

use crate::error::Class;

/// The exit code of a failure; success is 0.
#[must_use]
pub const fn code(class: Class) -> u8 {
    match class {
        Class::Failed => 1,
        Class::Usage => 2,
        Class::NotFound => 3,
        Class::TornTail => 4,
        Class::Damage => 5,
        Class::Io => 6,
        Class::Busy => 7,
        Class::Full => 8,
        Class::Refused => 9,
        Class::DaemonGone => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_were_promised() {
        use Class::{Busy, DaemonGone, Damage, Failed, Full, Io, NotFound, Refused, TornTail, Usage};
        let order = [Failed, Usage, NotFound, TornTail, Damage, Io, Busy, Full, Refused, DaemonGone];
        assert_eq!(order.map(code), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }
}
