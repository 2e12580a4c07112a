//! A consistent view of all families.

use std::{fmt, sync::Arc};

use engine_traits::{Cf, IterBounds, Result, Snapshot};
use rocksdb::{ColumnFamily, ReadOptions};

use crate::{
    RocksCursor,
    database::{View, Walk},
    engine::Inner,
    errors::translate,
};

/// A [`Snapshot`] of a [`RocksEngine`](crate::RocksEngine). While it lives, compaction keeps the versions it sees.
#[derive(Clone)]
pub struct RocksSnapshot {
    view: Arc<View>,
}

impl RocksSnapshot {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { view: Arc::new(View::new(inner, |inner| inner.db().snapshot())) }
    }

    /// An iterator over `cf`, not positioned yet.
    pub(crate) fn walk(&self, cf: Cf, options: ReadOptions) -> Walk {
        Walk::new(self.clone(), |snapshot| {
            snapshot.view.borrow_dependent().raw_iterator_cf_opt(snapshot.family(cf), options)
        })
    }

    fn family(&self, cf: Cf) -> &ColumnFamily {
        self.view.borrow_owner().family(cf)
    }
}

impl fmt::Debug for RocksSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seqno = self.view.borrow_dependent().sequence_number();
        f.debug_struct("RocksSnapshot").field("seqno", &seqno).finish_non_exhaustive()
    }
}

impl Snapshot for RocksSnapshot {
    type Iter = RocksCursor;

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.view.borrow_dependent().get_cf(self.family(cf), key);
        found.map_err(|error| translate("get", cf.name(), error))
    }

    fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<RocksCursor> {
        Ok(RocksCursor::new(self, cf, bounds))
    }
}
