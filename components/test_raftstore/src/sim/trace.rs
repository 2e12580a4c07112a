//! What happened in a run, as lines and as one hash.
//!
//! # What it owns
//! The hash over all lines, the one over the host's lines, and the lines themselves when they are to be read.
//!
//! # How it works
//! A line is formatted straight into the hash (FNV-1a); it becomes a string only when the run is recorded. So the hash
//! of a fast run is that of the log which a replay prints. What the plugin and the cache do is said *aside*: the host's
//! lines are the others, by which runs with and without a plugin are compared.
//!
//! # Invariants
//! Recording changes nothing about a run.
//!
//! # What it must not do
//! See anything that differs between two runs of one seed: addresses, wall-clock time, the order of a hash map.

use std::{
    fmt::{self, Write},
    time::Duration,
};

pub(super) struct Trace {
    hash: Fnv,
    host_hash: Fnv,
    lines: Option<Vec<Line>>,
}

pub(super) struct Line {
    pub(super) is_aside: bool,
    pub(super) text: String,
}

struct Fnv(u64);

impl Trace {
    pub(super) fn new(is_recorded: bool) -> Self {
        Self { hash: Fnv::new(), host_hash: Fnv::new(), lines: is_recorded.then(Vec::new) }
    }

    pub(super) fn line(&mut self, now: Duration, is_aside: bool, line: fmt::Arguments<'_>) {
        let micros = now.as_micros() as u64;
        self.hash.add_line(micros, line);
        if !is_aside {
            self.host_hash.add_line(micros, line);
        }
        if let Some(lines) = &mut self.lines {
            let text = format!("{:>5}.{:06} {line}", micros / 1_000_000, micros % 1_000_000);
            lines.push(Line { is_aside, text });
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.0
    }

    pub(super) fn host_hash(&self) -> u64 {
        self.host_hash.0
    }

    pub(super) fn take_lines(&mut self) -> Vec<Line> {
        self.lines.take().unwrap_or_default()
    }
}

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }

    fn add_line(&mut self, micros: u64, line: fmt::Arguments<'_>) {
        micros.to_le_bytes().iter().for_each(|byte| self.add(*byte));
        // Adding to a hash cannot fail.
        let _ = self.write_fmt(line);
    }
}

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.add(byte));
        Ok(())
    }
}
