//! The cases for `KvEngine`.

mod concurrency;
mod cursor;
mod durability;
mod model;
mod replace;
mod snapshot;
mod write;

pub use concurrency::*;
pub use cursor::*;
pub use durability::*;
use engine_traits::{Cf, IterBounds, Iterator, KvEngine, Snapshot, WriteBatch};
pub use model::*;
pub use replace::*;
pub use snapshot::*;
pub use write::*;

use super::KvFactory;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn open<F: KvFactory>(factory: &F) -> F::Engine {
    factory.open(&factory.dir().join("kv")).expect("a new engine opens")
}

/// Writes one batch.
fn write<E: KvEngine>(engine: &E, fill: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::new();
    fill(&mut batch);
    engine.write(&batch).expect("the batch is written");
}

/// Puts `keys` into the default family, each with itself as value.
fn put_keys<E: KvEngine>(engine: &E, keys: &[&str]) {
    write(engine, |batch| keys.iter().for_each(|key| batch.put(Cf::Default, key.as_bytes(), key.as_bytes())));
}

fn get<E: KvEngine>(engine: &E, cf: Cf, key: &[u8]) -> Option<Vec<u8>> {
    engine.get_value(cf, key).expect("the key is read")
}

fn bounds(lower: Option<&[u8]>, upper: Option<&[u8]>) -> IterBounds {
    IterBounds { lower: lower.map(<[u8]>::to_vec), upper: upper.map(<[u8]>::to_vec) }
}

/// All pairs of `cf` in order, by walking forward.
fn scan<S: Snapshot>(snapshot: &S, cf: Cf) -> Pairs {
    let mut cursor = snapshot.iter(cf, IterBounds::default()).expect("a cursor opens");
    collect(&mut cursor)
}

/// All pairs that `cursor` can see, by walking forward.
fn collect<I: Iterator>(cursor: &mut I) -> Pairs {
    let mut pairs = Vec::new();
    let mut valid = cursor.seek_to_first().expect("the cursor moves");
    while valid {
        pairs.push((cursor.key().to_vec(), cursor.value().to_vec()));
        valid = cursor.next().expect("the cursor moves");
    }
    pairs
}

/// The keys of the default family as text, by walking forward.
fn keys<E: KvEngine>(engine: &E) -> String {
    let pairs = scan(&engine.snapshot(), Cf::Default);
    pairs.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>().join(" ")
}
