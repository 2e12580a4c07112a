//! Column families.

use std::fmt;

pub const CF_DEFAULT: &str = "default";
pub const CF_LOCK: &str = "lock";
pub const CF_WRITE: &str = "write";
pub const CF_RAFT: &str = "raft";

/// A column family. Data is in `Default`, `Lock` and `Write`; `Raft` holds the store's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cf {
    Default,
    Lock,
    Write,
    Raft,
}

impl Cf {
    pub const ALL: [Cf; 4] = [Cf::Default, Cf::Lock, Cf::Write, Cf::Raft];
    /// The families that hold users' data, in the order in which snapshots carry them.
    pub const DATA: [Cf; 3] = [Cf::Default, Cf::Lock, Cf::Write];

    pub const fn name(self) -> &'static str {
        match self {
            Cf::Default => CF_DEFAULT,
            Cf::Lock => CF_LOCK,
            Cf::Write => CF_WRITE,
            Cf::Raft => CF_RAFT,
        }
    }

    /// The family called `name` on the wire, where an empty name stands for `default`.
    pub fn from_name(name: &str) -> Option<Cf> {
        match name {
            "" => Some(Cf::Default),
            name => Cf::ALL.into_iter().find(|cf| cf.name() == name),
        }
    }

    /// Position in [`Cf::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Cf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_found_by_its_name() {
        for (index, cf) in Cf::ALL.into_iter().enumerate() {
            assert_eq!(Cf::from_name(cf.name()), Some(cf));
            assert_eq!(cf.index(), index);
        }
        assert_eq!(Cf::from_name(""), Some(Cf::Default));
        assert_eq!(Cf::from_name("writ"), None);
    }
}
