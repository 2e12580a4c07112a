//! What borrows from the database, together with what it borrows from.
//!
//! # What it owns
//! RocksDB's handles: the database and its families, a snapshot, an iterator.
//!
//! # How it works
//! In RocksDB's interface a family and a snapshot borrow from the database, and an iterator from its snapshot, while
//! ours hands out snapshots and cursors that live as long as they like. Each pair is therefore one value in which the
//! borrower is dropped first (`self_cell`): iterator in snapshot in database.
//!
//! # Invariants
//! - The database is closed after the last snapshot and iterator were freed; RocksDB relies on that.
//!
//! # What it must not do
//! Know what is read or written.

use std::sync::Arc;

use engine_traits::Cf;
use rocksdb::{ColumnFamily, DB, DBRawIterator, Snapshot};
use self_cell::self_cell;

use crate::{RocksSnapshot, engine::Inner};

/// By [`Cf::index`].
pub(crate) type Families<'a> = [&'a ColumnFamily; Cf::ALL.len()];

self_cell!(
    /// A database that is open, and its families.
    pub(crate) struct Database {
        owner: DB,
        #[covariant]
        dependent: Families,
    }
);

self_cell!(
    /// A snapshot of an engine's database.
    pub(crate) struct View {
        owner: Arc<Inner>,
        #[covariant]
        dependent: Snapshot,
    }
);

self_cell!(
    /// An iterator over a snapshot.
    pub(crate) struct Walk {
        owner: RocksSnapshot,
        #[covariant]
        dependent: DBRawIterator,
    }
);

impl Database {
    pub(crate) fn db(&self) -> &DB {
        self.borrow_owner()
    }

    pub(crate) fn family(&self, cf: Cf) -> &ColumnFamily {
        self.borrow_dependent()[cf.index()]
    }
}
