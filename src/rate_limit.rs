//! Keeps one kind of log line from flooding the log.
//!
//! **Owns** how many lines of a kind are logged in a window of time.
//!
//! **How it works.** The first [`LINES_MAX`] lines of a kind in a window are logged, the others are counted. The first line of
//! the next window says how many there were.
//!
//! **Invariants.** Constant memory: one window for each kind.
//!
//! **Must not** read a clock.

use std::time::Duration;

/// A store that goes down moves thousands of leaders within seconds; the first few tell what happens, metrics how often.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// The lines that are logged above `debug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Parked,
    SnapshotVoid,
    UninitializedDestroyed,
    MalformedMetadata,
    AskRefused,
    AskExpired,
    TransferCold,
    AckCold,
}

const LINES: usize = Line::AckCold as usize + 1;

/// Whether a line is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Log it, and how many of the last window were left out.
    Log {
        left_out: u64,
    },
    LeaveOut,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    ends_at: Duration,
    lines: u32,
    left_out: u64,
}

#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    windows: [Window; LINES],
}

impl RateLimit {
    pub(crate) fn permit(&mut self, line: Line, now: Duration) -> Permit {
        let window = &mut self.windows[line as usize];
        let mut left_out = 0;
        if now >= window.ends_at {
            left_out = window.left_out;
            *window = Window { ends_at: now.saturating_add(WINDOW), ..Window::default() };
        }
        if window.lines < LINES_MAX {
            window.lines += 1;
            Permit::Log { left_out }
        } else {
            window.left_out = window.left_out.saturating_add(1);
            Permit::LeaveOut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_are_counted_and_told_in_the_next_window() {
        let mut limit = RateLimit::default();
        let now = Duration::from_secs(1);
        let permits: Vec<_> = (0..LINES_MAX + 7).map(|_| limit.permit(Line::AckCold, now)).collect();
        let (logged, left_out) = permits.split_at(LINES_MAX as usize);
        assert!(logged.iter().all(|permit| *permit == Permit::Log { left_out: 0 }));
        assert_eq!(left_out, [Permit::LeaveOut; 7]);
        assert_eq!(limit.permit(Line::Parked, now), Permit::Log { left_out: 0 }, "kinds do not share a window");
        assert_eq!(limit.permit(Line::AckCold, now + WINDOW), Permit::Log { left_out: 7 });
        assert_eq!(limit.permit(Line::AckCold, now + WINDOW), Permit::Log { left_out: 0 });
    }
}
