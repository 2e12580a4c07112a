//! A log of any length, in a buffer of fixed length.
//!
//! **Owns** the walk over the bytes of one input: what is counted, where the prefilter looks, and which part of the log
//! surrounds a place where it found something.
//!
//! **How it works.** 1. The buffer is filled. 2. The prefilter runs over it up to a *horizon*, which leaves room for the
//! longest record after each hit. 3. Each hit is examined within its window, `back` bytes before it and `forward` after.
//! 4. What lies more than `back` before the horizon is thrown away, and it begins again from there.
//!
//! **Invariants.** The window of a hit depends on the log alone, never on where the buffer was filled: the result is the
//! same for all sizes of reads and buffers. Memory is [`Bounds::buffer_bytes`]. Time is linear: what was examined
//! is not examined again.
//!
//! **Must not** parse a line that the prefilter did not find, except for the time of the first and the last one, which are looked
//! for from the two ends.

use std::io::{self, ErrorKind, Read};

use memchr::memchr_iter;
use time::OffsetDateTime;

use super::{
    record::{HEADER_MAX_BYTES, first_header, last_header},
    signatures::{Examined, Found, Signatures},
};

/// Sizes of the buffer's parts.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) chunk_bytes: usize,
    /// How far before a hit its record may begin. A header and a message are shorter by far.
    pub(super) back_bytes: usize,
    /// How far after a hit its record is read. TiKV's backtraces take 5 to 50 KiB.
    pub(super) forward_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        // 1 MiB was as fast as 4 MiB and stays within a core's cache.
        Bounds { chunk_bytes: 1 << 20, back_bytes: 64 << 10, forward_bytes: 256 << 10 }
    }
}

impl Bounds {
    pub(super) fn buffer_bytes(self) -> usize {
        self.back_bytes + self.chunk_bytes + self.forward_bytes
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// After decompression.
    pub(super) bytes: u64,
    pub(super) lines: u64,
    /// From the time of the first line that has one to that of the last, and further if a finding is outside: a log need not be
    /// in the order of time.
    pub(super) first_time: Option<OffsetDateTime>,
    pub(super) last_time: Option<OffsetDateTime>,
}

impl Totals {
    pub(super) fn include(&mut self, first: Option<OffsetDateTime>, last: Option<OffsetDateTime>) {
        self.first_time = [self.first_time, first].into_iter().flatten().min();
        self.last_time = self.last_time.max(last);
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Finding {
        found: Box<Found>,
        /// Of the record, in bytes from the beginning of the (decompressed) log.
        offset: u64,
        /// Counted from 1.
        line: u64,
    },
    Store(String),
}

/// Walks over `input` to its end, or to the first error; what came before it counts either way.
pub(super) fn scan(
    input: &mut dyn Read,
    signatures: &Signatures,
    bounds: Bounds,
    sink: &mut dyn FnMut(Event),
) -> (Totals, io::Result<()>) {
    let mut walk = Walk::new(signatures, bounds);
    loop {
        let filled = walk.fill(input);
        // An error ends the input: the last record is then examined with what is there of it.
        let is_end = !matches!(filled, Ok(false));
        walk.advance(is_end, sink);
        if is_end {
            return (walk.totals(), filled.map(drop));
        }
    }
}

struct Walk<'a> {
    signatures: &'a Signatures,
    bounds: Bounds,
    buffer: Vec<u8>,
    /// How much of the buffer is the log's.
    len: usize,
    /// Everything before it was counted and searched.
    horizon: usize,
    /// The next hit may begin here; behind `horizon` when a record reaches beyond it.
    next: usize,
    /// Where in the log the buffer begins.
    base: u64,
    /// Line breaks before a place in the buffer, so that they are not counted again for each finding.
    counted: (usize, u64),
    ends_with_line_break: bool,
    /// The times of the first and the last line so far.
    first_line: Option<OffsetDateTime>,
    last_line: Option<OffsetDateTime>,
    /// Its span of time is that of the findings.
    totals: Totals,
}

impl<'a> Walk<'a> {
    fn new(signatures: &'a Signatures, bounds: Bounds) -> Self {
        Walk {
            signatures,
            bounds,
            buffer: vec![0; bounds.buffer_bytes()],
            len: 0,
            horizon: 0,
            next: 0,
            base: 0,
            counted: (0, 0),
            ends_with_line_break: true,
            first_line: None,
            last_line: None,
            totals: Totals::default(),
        }
    }

    /// Fills the buffer; true at the end of the input.
    fn fill(&mut self, input: &mut dyn Read) -> io::Result<bool> {
        while self.len < self.buffer.len() {
            match input.read(&mut self.buffer[self.len..]) {
                Ok(0) => return Ok(true),
                Ok(read) => self.len += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn advance(&mut self, is_end: bool, sink: &mut dyn FnMut(Event)) {
        let horizon = if is_end { self.len } else { self.len.saturating_sub(self.bounds.forward_bytes) };
        self.count(horizon, is_end);
        self.search(horizon, sink);
        self.horizon = horizon;

        let gone = horizon.saturating_sub(self.bounds.back_bytes);
        self.counted = (gone, self.line_breaks_before(gone));
        self.buffer.copy_within(gone..self.len, 0);
        self.base += gone as u64;
        self.len -= gone;
        self.horizon -= gone;
        self.next = self.next.saturating_sub(gone);
        self.counted.0 = 0;
    }

    fn count(&mut self, horizon: usize, is_end: bool) {
        let new = &self.buffer[self.horizon..horizon];
        self.totals.bytes += new.len() as u64;
        self.totals.lines += memchr_iter(b'\n', new).count() as u64;
        if let Some(last) = new.last() {
            self.ends_with_line_break = *last == b'\n';
        }
        if is_end && !self.ends_with_line_break {
            self.totals.lines += 1;
        }
        // Headers that begin before the horizon are whole: the room behind it is longer than they are.
        debug_assert!(self.bounds.forward_bytes > HEADER_MAX_BYTES);
        let reach = &self.buffer[self.horizon..(horizon + HEADER_MAX_BYTES).min(self.len)];
        if self.first_line.is_none() {
            self.first_line = first_header(reach).map(|header| header.time);
        }
        if let Some(last) = last_header(reach) {
            self.last_line = Some(last.time);
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = self.totals;
        totals.include(self.first_line, self.last_line);
        totals
    }

    fn search(&mut self, horizon: usize, sink: &mut dyn FnMut(Event)) {
        let prefilter = self.signatures.prefilter();
        let end = (horizon + prefilter.max_pattern_len()).min(self.len);
        while self.next < horizon {
            let Some(hit) = prefilter.find(&self.buffer[self.next..end]) else { break };
            let hit = self.next + hit.start()..self.next + hit.end();
            if hit.start >= horizon {
                break;
            }
            let from = hit.start.saturating_sub(self.bounds.back_bytes);
            let window = &self.buffer[from..(hit.start + self.bounds.forward_bytes).min(self.len)];
            let (place, examined) = self.signatures.examine(window, hit.start - from..hit.end - from);
            self.next = (from + place.end).max(hit.end);
            match examined {
                Examined::Finding(found) => {
                    self.totals.include(found.time, found.time);
                    let start = from + place.start;
                    let line = self.line_breaks_before(start) + 1;
                    sink(Event::Finding { found, offset: self.base + start as u64, line });
                }
                Examined::Store(store) => sink(Event::Store(store)),
                Examined::Nothing => {}
            }
        }
        self.next = self.next.max(horizon);
    }

    fn line_breaks_before(&mut self, place: usize) -> u64 {
        let (from, counted) = self.counted;
        if place < from {
            // A record that begins before one that was found already: rare, and only just before it.
            return counted - memchr_iter(b'\n', &self.buffer[place..from]).count() as u64;
        }
        let total = counted + memchr_iter(b'\n', &self.buffer[from..place]).count() as u64;
        self.counted = (place, total);
        total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FATAL: &str = "[2024/12/23 15:03:27.079 +00:00] [FATAL] [lib.rs:480] [\"assertion failed: !region.get_peers().is_empty()\"] [backtrace=\"   0: keys::enc_start_key\\n   1: a::load_region\\n\"] [location=a.rs:1] [thread_name=raftstore-6-1]\n";
    const INFO: &str = "[2024/12/23 15:03:26.000 +00:00] [INFO] [a.rs:1] [hello] [region_id=7]\n";
    const STORE: &str = "[2024/12/23 15:03:25.000 +00:00] [INFO] [a.rs:1] [\"store started\"] [store_id=7]\n";

    /// Small enough that a short log crosses many borders, and still longer than any of the records above.
    const SMALL: Bounds = Bounds { chunk_bytes: 64, back_bytes: 300, forward_bytes: 400 };
    const WIDE: Bounds = Bounds { chunk_bytes: 1 << 16, ..SMALL };

    /// Gives out as many bytes per read as `sizes` says, in turns.
    struct Dribble<'a> {
        log: &'a [u8],
        sizes: &'a [usize],
        turn: usize,
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes[self.turn % self.sizes.len()].max(1);
            self.turn += 1;
            let limit = buffer.len().min(size);
            self.log.read(&mut buffer[..limit])
        }
    }

    fn run(log: &[u8], bounds: Bounds, sizes: &[usize]) -> (Vec<Event>, Totals) {
        let mut events = Vec::new();
        let mut input = Dribble { log, sizes, turn: 0 };
        let (totals, result) = scan(&mut input, &Signatures::embedded(), bounds, &mut |event| events.push(event));
        result.unwrap();
        (events, totals)
    }

    /// Pieces of logs, whole and broken, that are put together in any order.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let cut = |text: &'static str| (0..text.len()).prop_map(move |at| text.as_bytes()[..at].to_vec());
        let tail = |text: &'static str| (0..text.len()).prop_map(move |at| text.as_bytes()[at..].to_vec());
        prop_oneof![
            Just(FATAL.into()),
            Just(INFO.into()),
            Just(STORE.into()),
            cut(FATAL),
            tail(FATAL),
            cut(INFO),
            Just(b"assertion failed: !region.get_peers().is_empty()".to_vec()),
            Just(b"thread 'store-1' panicked at a.rs:1:2:\n".to_vec()),
            Just(b"   0: in_memory_engine::x\n             at a/b.rs:1\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r\n\0\0\0".to_vec()),
            Just(b"\xff\xfe[".to_vec()),
            prop::collection::vec(any::<u8>(), 0..200),
            Just(vec![b'x'; 900]),
        ]
    }

    fn log() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(piece(), 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn result_depends_on_no_border(log in log(), chunk in 1_usize..500, sizes in prop::collection::vec(1_usize..700, 1..4)) {
            let bounds = Bounds { chunk_bytes: chunk, ..SMALL };
            prop_assert_eq!(run(&log, bounds, &sizes), run(&log, WIDE, &[usize::MAX]));
        }

        #[test]
        fn line_that_is_inserted_anywhere_is_found(log in log(), at in any::<prop::sample::Index>()) {
            let at = at.index(log.len() + 1);
            let with = [&log[..at], FATAL.as_bytes(), &log[at..]].concat();
            let (events, _) = run(&with, SMALL, &[usize::MAX]);
            let found = events.iter().any(|event| matches!(event, Event::Finding { found, offset, .. }
                if *offset == at as u64 && found.signature == 1 && found.store.as_deref() == Some("6")));
            prop_assert!(found, "{events:?}");
        }

        #[test]
        fn bytes_and_lines_are_counted(log in log(), chunk in 1_usize..500) {
            let (events, totals) = run(&log, Bounds { chunk_bytes: chunk, ..SMALL }, &[usize::MAX]);
            prop_assert_eq!(totals.bytes, log.len() as u64);
            let lines = log.split_inclusive(|byte| *byte == b'\n').count();
            prop_assert_eq!(totals.lines, lines as u64);
            for event in events {
                if let Event::Finding { found, offset, line } = event {
                    let is_within = |time| totals.first_time <= Some(time) && Some(time) <= totals.last_time;
                    prop_assert!(found.time.is_none_or(is_within), "{found:?} {totals:?}");
                    let before = log[..usize::try_from(offset).unwrap()].iter().filter(|byte| **byte == b'\n').count();
                    prop_assert_eq!(line, before as u64 + 1);
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(log in prop::collection::vec(any::<u8>(), 0..3000)) {
            run(&log, SMALL, &[usize::MAX]);
            run(&log, Bounds::default(), &[usize::MAX]);
        }
    }

    #[test]
    fn time_span_is_that_of_lines_with_a_header() {
        let log = format!("cut\n{STORE}{}{FATAL}junk\n", INFO.repeat(50));
        let (_, totals) = run(log.as_bytes(), SMALL, &[usize::MAX]);
        assert_eq!(totals.first_time.unwrap(), time::macros::datetime!(2024-12-23 15:03:25 +0));
        assert_eq!(totals.last_time.unwrap(), time::macros::datetime!(2024-12-23 15:03:27.079 +0));
    }

    #[test]
    fn time_span_includes_findings_and_the_last_line_wherever_they_are_on_their_lines_and_in_time() {
        let (first, fatal) =
            (time::macros::datetime!(2024-12-23 15:03:25 +0), time::macros::datetime!(2024-12-23 15:03:27.079 +0));
        let wrapped = |line: &str| format!("{{\"log\":{}}}\n", serde_json::to_string(line).unwrap());
        for log in [
            // A line that was cut off runs into the next one.
            format!("{STORE}{}{}{FATAL}", INFO.repeat(50), &INFO[..50]),
            // The clock was set back.
            format!("{STORE}{FATAL}{}", INFO.repeat(50)),
            format!("{INFO}{FATAL}{STORE}{INFO}"),
            // As container runtimes write them.
            [STORE, INFO, FATAL].map(wrapped).concat(),
        ] {
            for bounds in [SMALL, WIDE] {
                let (events, totals) = run(log.as_bytes(), bounds, &[usize::MAX]);
                let times: Vec<_> = events
                    .iter()
                    .filter_map(|event| match event {
                        Event::Finding { found, .. } => Some(found.time.unwrap()),
                        Event::Store(_) => None,
                    })
                    .collect();
                assert_eq!(times, [fatal], "{log}");
                assert_eq!(totals.last_time, Some(fatal), "{log}");
                assert!(totals.first_time >= Some(first) && totals.first_time < totals.last_time, "{log}");
            }
        }
        let late = INFO.replace("15:03:26.000", "15:09:00.000");
        let (_, totals) = run(format!("{FATAL}{}{late}", INFO.repeat(50)).as_bytes(), SMALL, &[usize::MAX]);
        assert_eq!(totals.last_time.unwrap(), time::macros::datetime!(2024-12-23 15:09:00 +0));
    }

    #[test]
    fn error_ends_the_log_and_keeps_what_was_found() {
        struct Broken<'a>(&'a [u8]);
        impl Read for Broken<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer) {
                    Ok(0) => Err(io::Error::other("truncated")),
                    read => read,
                }
            }
        }
        let mut events = Vec::new();
        let signatures = Signatures::embedded();
        let (totals, result) = scan(&mut Broken(FATAL.as_bytes()), &signatures, SMALL, &mut |event| events.push(event));
        assert!(result.is_err());
        assert_eq!((events.len(), totals.lines), (1, 1));
    }

    #[test]
    fn line_that_exceeds_every_bound_is_survived_and_the_next_one_found() {
        let log = format!("{}{}\n{FATAL}", &INFO[..60], "x".repeat(10_000));
        let (events, _) = run(log.as_bytes(), SMALL, &[usize::MAX]);
        assert_eq!(events.len(), 1);
    }

    /// Each line would cost a window if the next one were looked for behind the literal only.
    #[test]
    fn many_literals_that_are_nothing_are_passed_over_together() {
        let log = "in_memory_engine::x\n".repeat(200_000);
        let (events, totals) = run(log.as_bytes(), Bounds::default(), &[usize::MAX]);
        assert_eq!((events.len(), totals.lines), (0, 200_000));
    }
}
