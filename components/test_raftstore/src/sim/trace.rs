//! What happened in a run, as lines and as one hash.
//!
//! # What it owns
//! The hash over all lines, and the lines themselves when they are to be read.
//!
//! # How it works
//! A line is formatted straight into the hash (FNV-1a); it becomes a string only when the run is recorded. So the hash
//! of a fast run is that of the log which a replay prints.
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
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(is_recorded: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: is_recorded.then(Vec::new) }
    }

    pub(super) fn line(&mut self, now: Duration, line: fmt::Arguments<'_>) {
        let micros = now.as_micros() as u64;
        micros.to_le_bytes().iter().for_each(|byte| self.add(*byte));
        // Adding to a hash cannot fail.
        let _ = self.write_fmt(line);
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>5}.{:06} {line}", micros / 1_000_000, micros % 1_000_000));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }

    fn add(&mut self, byte: u8) {
        self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.add(byte));
        Ok(())
    }
}
