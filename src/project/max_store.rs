//! The limit of a store's size, as a setting says it.

use crate::project::units;

/// How much a store may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxStore {
    /// As much as there is.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
    /// A share of its file system, in percent, 1 to 100.
    Percent(u8),
}

impl MaxStore {
    /// Reads `20%`, `4GiB` or `unlimited`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let Some(share) = text.strip_suffix('%') else { return units::size(text).map(Self::Bytes) };
        let percent = share.trim().parse::<u8>().ok().filter(|n| (1..=100).contains(n));
        percent.map(Self::Percent).ok_or_else(|| format!("`{text}` is no share from 1% to 100%"))
    }

    /// In bytes, on a file system of `size` bytes; `None` without a limit.
    #[must_use]
    pub fn bytes(self, size: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => Some(u64::try_from(u128::from(size) * u128::from(percent) / 100).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_size_a_share_or_none() {
        assert_eq!(MaxStore::parse("20%"), Ok(MaxStore::Percent(20)));
        assert_eq!(MaxStore::parse("4GiB"), Ok(MaxStore::Bytes(4 << 30)));
        assert_eq!(MaxStore::parse("unlimited"), Ok(MaxStore::Unlimited));
        for wrong in ["0%", "101%", "-1%", "much", "20 %%", ""] {
            assert!(MaxStore::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(MaxStore::Percent(20).bytes(1000), Some(200));
        assert_eq!(MaxStore::Percent(100).bytes(u64::MAX), Some(u64::MAX));
        assert_eq!((MaxStore::Bytes(7).bytes(1), MaxStore::Unlimited.bytes(1)), (Some(7), None));
    }
}
