//! A consistent view of all families.

use std::{fmt, sync::Arc};

use engine_traits::{Cf, IterBounds, KEY_BYTES_MAX, Result, Snapshot};
use fjall::{Iter, Readable};

use crate::{
    cursor::{FjallCursor, KeyRange},
    engine::Inner,
    errors::translate,
};

/// A [`Snapshot`] of a [`FjallEngine`](crate::FjallEngine). While it lives, compaction keeps the versions it sees.
#[derive(Clone)]
pub struct FjallSnapshot {
    shared: Arc<Shared>,
}

/// Behind an `Arc`, since a clone of fjall's snapshot goes through the table of open snapshots.
struct Shared {
    /// Before `inner`, which it must not outlive.
    view: fjall::Snapshot,
    inner: Arc<Inner>,
}

impl FjallSnapshot {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { shared: Arc::new(Shared { view: inner.db().snapshot(), inner }) }
    }

    /// The pairs of `cf` within `range`, lazily.
    pub(crate) fn range(&self, cf: Cf, range: &KeyRange<'_>) -> Iter {
        self.shared.view.range::<&[u8], _>(self.shared.inner.keyspace(cf), range.bounds())
    }
}

impl fmt::Debug for FjallSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallSnapshot").field("seqno", &self.shared.view.seqno()).finish_non_exhaustive()
    }
}

impl Snapshot for FjallSnapshot {
    type Iter = FjallCursor;

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Ok(None);
        }
        let found = self.shared.view.get(self.shared.inner.keyspace(cf), key);
        Ok(found.map_err(|error| translate("get", cf.name(), error))?.map(|value| value.to_vec()))
    }

    fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<FjallCursor> {
        Ok(FjallCursor::new(self.clone(), cf, bounds))
    }
}
