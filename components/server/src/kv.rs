//! Reads and writes of keys, wherever they are.
//!
//! # What it owns
//! The way of a key to its region's leader, and the layout of a write.
//!
//! # How it works
//! A write is a transaction of one key that commits in one step: one Raft command holds its write record, and its value
//! if that is too long to be kept in the record. A read takes a timestamp, waits for the writes below it
//! ([`crate::in_flight`]), and reads a snapshot of the leader, from memory or from disk.
//!
//! What fails because the region has moved is tried again until the deadline.
//!
//! # Invariants
//! - A write is repeated only when the attempt before has certainly no effect. When that is not known,
//!   [`KvError::Unknown`] says so.
//! - A read at a timestamp gives the same answer whenever it is repeated.
//!
//! # What it must not do
//! Block the thread that polls it: what reads an engine runs on a thread for that.

use std::{io, time::Duration};

use engine_traits::{Cf, ReadSource, Snapshot as _};
use hybrid_engine::mvcc::{Found, ScanOptions, Scanner};
use kvproto::{
    errorpb,
    metapb::Region,
    raft_cmdpb::{CmdType, RaftCmdRequest, Request},
};
use placement::{PlacementHandle, RegionHeartbeat, commands};
use raftstore::store::{RegionSnapshot, StoreHandle};
use tokio::{sync::oneshot, task, time};
use txn_types::{Key, SHORT_VALUE_MAX_LEN, TimeStamp, Write, WriteType};

use crate::{
    engine::DiskEngine,
    in_flight::{Guard, InFlight},
    network::Network,
    store::Kv,
    timestamps::Timestamps,
};

/// Between two attempts; about what an election in a small cluster takes to be noticed.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// A scan returns no more than this of keys and values at once, and says that there is more.
const SCAN_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The request makes no sense; do not repeat it.
    #[error("{0}")]
    Refused(String),
    /// Try again later; nothing has happened.
    #[error("{0}")]
    Unavailable(String),
    /// The write may or may not take effect.
    #[error("no answer within {0:?}; the write may still take effect")]
    Unknown(Duration),
    #[error("the data cannot be read")]
    Corrupt(#[from] hybrid_engine::mvcc::Error),
    #[error("no timestamp can be handed out")]
    Timestamp(#[from] io::Error),
}

type Result<T> = std::result::Result<T, KvError>;

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    pub commit_ts: TimeStamp,
    pub region_id: u64,
}

/// Where a part of a read was served.
#[derive(Clone, Copy, Debug)]
pub struct ServedBy {
    pub region_id: u64,
    pub store_id: u64,
    pub source: ReadSource,
}

/// A version that a reader sees.
#[derive(Clone, Debug)]
pub struct Version {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub commit_ts: TimeStamp,
}

#[derive(Clone, Debug)]
pub struct Got {
    pub ts: TimeStamp,
    pub version: Option<Version>,
    pub served_by: ServedBy,
}

#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// User keys; empty is the end of the key space.
    pub start: Vec<u8>,
    pub end: Vec<u8>,
    pub limit: usize,
    pub ts: Option<TimeStamp>,
    pub reverse: bool,
}

#[derive(Clone, Debug)]
pub struct Scanned {
    pub ts: TimeStamp,
    pub rows: Vec<Version>,
    pub served_by: Vec<ServedBy>,
    /// The range may hold more rows.
    pub more: bool,
}

/// See the [module](self).
pub struct KeyValues<D: DiskEngine> {
    pub(crate) network: Network<Kv<D>>,
    pub(crate) placement: PlacementHandle,
    pub(crate) timestamps: std::sync::Arc<Timestamps>,
    pub(crate) in_flight: InFlight,
}

impl<D: DiskEngine> KeyValues<D> {
    /// # Errors
    /// See [`KvError`].
    pub async fn put(&self, key: &[u8], value: Vec<u8>, timeout: Duration) -> Result<Committed> {
        self.write(key, WriteType::Put, Some(value), timeout).await
    }

    /// # Errors
    /// See [`KvError`].
    pub async fn delete(&self, key: &[u8], timeout: Duration) -> Result<Committed> {
        self.write(key, WriteType::Delete, None, timeout).await
    }

    /// The version that is visible at `ts`, or the newest one.
    ///
    /// # Errors
    /// See [`KvError`].
    pub async fn get(&self, key: &[u8], ts: Option<TimeStamp>, timeout: Duration) -> Result<Got> {
        let ts = self.read_ts(ts)?;
        let encoded = Key::from_raw(key).into_encoded();
        // The smallest key behind.
        let end = [key, &[0]].concat();
        let read = async {
            self.in_flight.settled(ts).await;
            let (store_id, found) = self.snapshot(Position::At(&encoded), ts).await;
            let (region_id, source) = (found.region.get_id(), found.snapshot.source());
            let start = key.to_vec();
            let rows = read_rows::<D>(found, (start, end), ts, 1, false).await?;
            Ok(Got { ts, version: rows.into_iter().next(), served_by: ServedBy { region_id, store_id, source } })
        };
        time::timeout(timeout, read).await.unwrap_or_else(|_| Err(unavailable(timeout)))
    }

    /// # Errors
    /// See [`KvError`].
    pub async fn scan(&self, request: ScanRequest, timeout: Duration) -> Result<Scanned> {
        let ts = self.read_ts(request.ts)?;
        let scan = async {
            self.in_flight.settled(ts).await;
            self.scan_at(request, ts).await
        };
        time::timeout(timeout, scan).await.unwrap_or_else(|_| Err(unavailable(timeout)))
    }

    /// Region by region.
    async fn scan_at(&self, request: ScanRequest, ts: TimeStamp) -> Result<Scanned> {
        let ScanRequest { mut start, mut end, limit, reverse, .. } = request;
        let mut scanned = Scanned { ts, rows: Vec::new(), served_by: Vec::new(), more: false };
        if !end.is_empty() && start >= end {
            return Ok(scanned);
        }
        let mut bytes = 0;
        loop {
            let encoded = Key::from_raw(if reverse { &end } else { &start }).into_encoded();
            let position = match (reverse, end.is_empty()) {
                (false, _) if start.is_empty() => Position::At(&[]),
                (true, true) => Position::Last,
                (true, false) => Position::Before(&encoded),
                (false, _) => Position::At(&encoded),
            };
            let (store_id, found) = self.snapshot(position, ts).await;
            let (region_start, region_end) =
                (raw_bound(found.region.get_start_key())?, raw_bound(found.region.get_end_key())?);
            let (region_id, source) = (found.region.get_id(), found.snapshot.source());
            let from = start.clone().max(region_start.clone());
            let to = match (end.is_empty(), region_end.is_empty()) {
                (true, _) => region_end.clone(),
                (_, true) => end.clone(),
                _ => end.clone().min(region_end.clone()),
            };
            let left = limit - scanned.rows.len();
            let rows = read_rows::<D>(found, (from, to.clone()), ts, left, reverse).await?;
            bytes += rows.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>();
            let is_full = rows.len() == left || bytes >= SCAN_BYTES_MAX;
            scanned.rows.extend(rows);
            scanned.served_by.push(ServedBy { region_id, store_id, source });
            let is_last = if reverse {
                region_start.is_empty() || region_start <= start
            } else {
                region_end.is_empty() || (!end.is_empty() && region_end >= end)
            };
            if is_full || is_last {
                scanned.more = is_full;
                return Ok(scanned);
            }
            if reverse {
                end = region_start;
            } else {
                start = region_end;
            }
        }
    }

    /// A timestamp of the reader's, if nothing can be written at or below it any more; otherwise a new one.
    fn read_ts(&self, ts: Option<TimeStamp>) -> Result<TimeStamp> {
        let Some(ts) = ts else { return Ok(self.in_flight.read_ts(&self.timestamps)?) };
        let last = self.timestamps.next()?;
        if ts > last {
            return Err(KvError::Refused(format!("ts = {ts} is in the future, the newest timestamp is {last}")));
        }
        Ok(ts)
    }

    /// A snapshot of the region at `position` from its leader, however long that takes, and the leader's store.
    async fn snapshot(&self, position: Position<'_>, ts: TimeStamp) -> (u64, Snapshot<D>) {
        loop {
            if let Some((known, store)) = self.leader_of(&position) {
                let (answer, answered) = oneshot::channel();
                let callback = Box::new(move |result| drop(answer.send(result)));
                let header = commands::header(&known.region);
                if store.read(header, ts.into_inner(), callback).is_ok()
                    && let Ok(Ok(found)) = answered.await
                {
                    return (store.store_id(), found);
                }
            }
            time::sleep(RETRY_AFTER).await;
        }
    }

    fn leader_of(&self, position: &Position<'_>) -> Option<(RegionHeartbeat, StoreHandle<Kv<D>>)> {
        let find = |placement: &mut placement::Placement| {
            let directory = placement.directory();
            match position {
                Position::At(key) => directory.region_at(key).cloned(),
                Position::Before(key) => {
                    // No key is between the region that ends there and the one that begins there.
                    directory.regions().take_while(|known| known.region.get_start_key() < *key).last().cloned()
                }
                Position::Last => directory.regions().last().cloned(),
            }
        };
        let known = self.placement.with(find).ok()??;
        let store = self.network.store(known.leader.get_store_id())?;
        Some((known, store))
    }

    async fn write(
        &self,
        key: &[u8],
        write_type: WriteType,
        value: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Committed> {
        let encoded = Key::from_raw(key);
        let deadline = time::Instant::now() + timeout;
        let mut last_error = "the region has no leader that is known".to_owned();
        while time::Instant::now() < deadline {
            if let Some((known, store)) = self.leader_of(&Position::At(encoded.as_encoded())) {
                let start_ts = self.timestamps.next()?;
                let (commit_ts, guard) = self.in_flight.enter(&self.timestamps)?;
                let requests = requests_of(&encoded, write_type, value.as_deref(), start_ts, commit_ts);
                let answer = propose(&store, &known.region, requests, guard);
                match time::timeout_at(deadline, answer).await {
                    Ok(Outcome::Done) => return Ok(Committed { commit_ts, region_id: known.region.get_id() }),
                    Ok(Outcome::Refused(error)) if is_temporary(&error) => last_error = error.get_message().to_owned(),
                    Ok(Outcome::Refused(error)) => return Err(KvError::Refused(error.get_message().to_owned())),
                    // It was dropped uncalled: the store stops.
                    Ok(Outcome::Unknown) | Err(_) => return Err(KvError::Unknown(timeout)),
                    Ok(Outcome::NotSent) => last_error = "the store is stopped".into(),
                }
            }
            time::sleep(RETRY_AFTER).await;
        }
        Err(KvError::Unavailable(format!("not possible within {timeout:?}: {last_error}")))
    }
}

type Snapshot<D> = RegionSnapshot<<Kv<D> as engine_traits::KvEngine>::Snapshot>;

/// Which region is wanted, by an encoded user key.
enum Position<'a> {
    At(&'a [u8]),
    /// The one with the last key before.
    Before(&'a [u8]),
    Last,
}

enum Outcome {
    Done,
    Refused(Box<errorpb::Error>),
    Unknown,
    NotSent,
}

async fn propose<D: DiskEngine>(
    store: &StoreHandle<Kv<D>>,
    region: &Region,
    requests: Vec<Request>,
    guard: Guard,
) -> Outcome {
    let mut command = RaftCmdRequest::default();
    command.set_header(commands::header(region));
    command.set_requests(requests.into());
    let (answer, answered) = oneshot::channel();
    let callback = Box::new(move |response| {
        // Readers may go on, and the client hears of it, in this order.
        drop(guard);
        drop(answer.send(response));
    });
    if store.command(command, callback).is_err() {
        return Outcome::NotSent;
    }
    match answered.await {
        Ok(mut response) if response.get_header().has_error() => {
            Outcome::Refused(Box::new(response.mut_header().take_error()))
        }
        Ok(_) => Outcome::Done,
        Err(_) => Outcome::Unknown,
    }
}

/// Whether another attempt may succeed. None of these has any effect: a command that another leader has overtaken never
/// will be applied.
fn is_temporary(error: &errorpb::Error) -> bool {
    error.has_not_leader()
        || error.has_epoch_not_match()
        || error.has_key_not_in_region()
        || error.has_server_is_busy()
        || error.has_stale_command()
        || error.has_region_not_found()
        || error.has_region_not_initialized()
        || error.has_proposal_in_merging_mode()
}

/// A transaction of one key, committed: its record, and its value where the record has no room for it.
fn requests_of(
    key: &Key,
    write_type: WriteType,
    value: Option<&[u8]>,
    start_ts: TimeStamp,
    commit_ts: TimeStamp,
) -> Vec<Request> {
    let mut write = Write::new(write_type, start_ts, None);
    let mut requests = Vec::with_capacity(2);
    match value {
        Some(value) if value.len() <= SHORT_VALUE_MAX_LEN => write.short_value = Some(value.to_vec()),
        Some(value) => {
            requests.push(put(Cf::Default, key.clone().append_ts(start_ts).into_encoded(), value.to_vec()));
        }
        None => {}
    }
    requests.push(put(Cf::Write, key.clone().append_ts(commit_ts).into_encoded(), write.to_bytes()));
    requests
}

fn put(cf: Cf, key: Vec<u8>, value: Vec<u8>) -> Request {
    let mut request = Request::default();
    request.set_cmd_type(CmdType::Put);
    request.mut_put().set_cf(cf.name().to_owned());
    request.mut_put().set_key(key);
    request.mut_put().set_value(value);
    request
}

/// The rows of a region's snapshot within `range`, which is within the region.
async fn read_rows<D: DiskEngine>(
    found: Snapshot<D>,
    range: (Vec<u8>, Vec<u8>),
    ts: TimeStamp,
    limit: usize,
    reverse: bool,
) -> Result<Vec<Version>> {
    let read = move || {
        let options = ScanOptions { reverse, ..ScanOptions::default() };
        let mut scanner = Scanner::new(&found.snapshot, &range.0, &range.1, ts, options)?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < limit
            && bytes < SCAN_BYTES_MAX
            && let Some(row) = scanner.next()?
        {
            let key = Key::from_encoded(row.key.to_vec()).into_raw().map_err(hybrid_engine::mvcc::Error::from)?;
            let commit_ts = row.commit_ts;
            match row.found {
                Found::Value(value) => {
                    bytes += key.len() + value.len();
                    rows.push(Version { key, value: value.to_vec(), commit_ts });
                }
                Found::Locked(_) => {
                    return Err(KvError::Unavailable("a transaction that has not ended holds a lock there".into()));
                }
            }
        }
        Ok(rows)
    };
    task::spawn_blocking(read).await.unwrap_or_else(|_| Err(KvError::Unavailable("the node is stopping".into())))
}

/// A region's bound as a user key; empty stays empty.
fn raw_bound(bound: &[u8]) -> Result<Vec<u8>> {
    if bound.is_empty() {
        return Ok(Vec::new());
    }
    Key::from_encoded(bound.to_vec()).into_raw().map_err(|error| hybrid_engine::mvcc::Error::from(error).into())
}

fn unavailable(timeout: Duration) -> KvError {
    KvError::Unavailable(format!("no leader has answered within {timeout:?}"))
}
