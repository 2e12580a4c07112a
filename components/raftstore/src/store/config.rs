//! What can be set about a store.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tikv_util::config::{ReadableDuration, ReadableSize};

/// Settings of a store. None can be changed while it runs.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Time between two Raft ticks; more than 0. The other Raft times are multiples of it.
    ///
    /// Default 100 ms: with 10 ticks to an election, a follower waits 1–2 s, long enough that a slow fsync does not
    /// cost a leader its leadership.
    pub raft_base_tick_interval: ReadableDuration,
    /// Ticks between two heartbeats of a leader; at least 1. Default 2.
    pub raft_heartbeat_ticks: usize,
    /// Ticks without a leader after which a follower may campaign; more than `raft-heartbeat-ticks`. Default 10.
    pub raft_election_timeout_ticks: usize,
    /// Election timeouts are drawn from this many ticks on and below twice as many. When set, each is exactly so many
    /// ticks instead: a simulation gives every store another number, because raft-rs draws from the thread's own
    /// randomness. At least `raft-election-timeout-ticks`. Default none.
    pub raft_exact_election_timeout_ticks: Option<usize>,
    /// Entries in one append message together have at most this size, unless a single one exceeds it. Default 1 MiB.
    pub raft_max_size_per_msg: ReadableSize,
    /// Append messages that a leader sends to a follower without waiting for an answer; at least 1. Default 256.
    pub raft_max_inflight_msgs: usize,
    /// A larger command is refused. Default 8 MiB, as in TiKV: one entry must not stall a follower for long.
    pub raft_entry_max_size: ReadableSize,
    /// Ticks without a word of its leader after which a peer asks the others whether it is still a member; more than
    /// `raft-election-timeout-ticks`. Default 50: a few elections have had the time to fail.
    pub raft_stale_peer_check_ticks: usize,
    /// Ticks between two looks at whether logs can be shortened; at least 1. Default 30: every 3 s.
    pub raft_log_gc_ticks: usize,
    /// Fewer entries than this are not worth a compaction; at least 1. Default 50, as in TiKV.
    pub raft_log_gc_threshold: u64,
    /// A log of so many entries is shortened although a peer still needs them; at least `raft-log-gc-threshold`. The peer
    /// gets a snapshot instead. Default 10,000: some ten times what a peer misses during a restart under load.
    pub raft_log_gc_count_limit: u64,
    /// Commands of one region that may wait for being applied; more are refused as busy. Default 4096.
    pub max_pending_commands: usize,
    /// Snapshots that are sent at a time, each by a thread of its own; 1 to 64. Default 2: one that waits for its receiver
    /// does not hold up all others, and two already fill a disk or a network.
    pub concurrent_send_snap_limit: usize,
    /// Snapshots that arrive at a time; further senders are told to try later. At least 1. Default 8: the memory of each
    /// is one message, so this bounds how far what arrives is spread over the disk, and how much waits to be applied.
    pub concurrent_recv_snap_limit: usize,
    /// For how long a transferee may hold back its acknowledgement of an offered leadership while an observer says
    /// "not yet". The longer of this and half an election timeout counts. Default 3 s.
    pub transfer_leader_hold_timeout: ReadableDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            raft_base_tick_interval: ReadableDuration::millis(100),
            raft_heartbeat_ticks: 2,
            raft_election_timeout_ticks: 10,
            raft_exact_election_timeout_ticks: None,
            raft_max_size_per_msg: ReadableSize::mb(1),
            raft_max_inflight_msgs: 256,
            raft_entry_max_size: ReadableSize::mb(8),
            raft_stale_peer_check_ticks: 50,
            raft_log_gc_ticks: 30,
            raft_log_gc_threshold: 50,
            raft_log_gc_count_limit: 10_000,
            max_pending_commands: 4096,
            concurrent_send_snap_limit: 2,
            concurrent_recv_snap_limit: 8,
            transfer_leader_hold_timeout: ReadableDuration::secs(3),
        }
    }
}

/// Two settings that do not go together, or one out of its range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("raftstore.{key} = {value} must be {allowed}")]
pub struct ConfigError {
    key: &'static str,
    value: String,
    allowed: String,
}

impl ConfigError {
    /// The key to change.
    pub fn key(&self) -> &'static str {
        self.key
    }
}

impl Config {
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, key, value: String, allowed: String| {
            if ok { Ok(()) } else { Err(ConfigError { key, value, allowed }) }
        };
        let tick = self.raft_base_tick_interval;
        check(tick.0 >= Duration::from_millis(1), "raft-base-tick-interval", tick.to_string(), "at least 1ms".into())?;
        let heartbeat = self.raft_heartbeat_ticks;
        check(heartbeat >= 1, "raft-heartbeat-ticks", heartbeat.to_string(), "at least 1".into())?;
        let election = self.raft_election_timeout_ticks;
        check(
            election > heartbeat,
            "raft-election-timeout-ticks",
            election.to_string(),
            format!("more than raft-heartbeat-ticks = {heartbeat}"),
        )?;
        if let Some(exact) = self.raft_exact_election_timeout_ticks {
            check(
                exact >= election,
                "raft-exact-election-timeout-ticks",
                exact.to_string(),
                format!("at least raft-election-timeout-ticks = {election}"),
            )?;
        }
        let stale = self.raft_stale_peer_check_ticks;
        check(
            stale > election,
            "raft-stale-peer-check-ticks",
            stale.to_string(),
            format!("more than raft-election-timeout-ticks = {election}"),
        )?;
        let inflight = self.raft_max_inflight_msgs;
        check(inflight >= 1, "raft-max-inflight-msgs", inflight.to_string(), "at least 1".into())?;
        let entry = self.raft_entry_max_size;
        check(entry.0 >= 1024, "raft-entry-max-size", entry.to_string(), "at least 1KiB".into())?;
        let ticks = self.raft_log_gc_ticks;
        check(ticks >= 1, "raft-log-gc-ticks", ticks.to_string(), "at least 1".into())?;
        let threshold = self.raft_log_gc_threshold;
        check(threshold >= 1, "raft-log-gc-threshold", threshold.to_string(), "at least 1".into())?;
        let limit = self.raft_log_gc_count_limit;
        let allowed = format!("at least raft-log-gc-threshold = {threshold}");
        check(limit >= threshold, "raft-log-gc-count-limit", limit.to_string(), allowed)?;
        let sent = self.concurrent_send_snap_limit;
        check((1..=64).contains(&sent), "concurrent-send-snap-limit", sent.to_string(), "1 to 64".into())?;
        let received = self.concurrent_recv_snap_limit;
        check(received >= 1, "concurrent-recv-snap-limit", received.to_string(), "at least 1".into())?;
        let commands = self.max_pending_commands;
        check(commands >= 1, "max-pending-commands", commands.to_string(), "at least 1".into())
    }

    /// Ticks for which a transferee may hold its acknowledgement back.
    pub(crate) fn hold_ticks_max(&self) -> usize {
        let tick = self.raft_base_tick_interval.0.as_millis().max(1);
        let hold = self.transfer_leader_hold_timeout.0.as_millis().div_ceil(tick);
        usize::try_from(hold).unwrap_or(usize::MAX).max(self.raft_election_timeout_ticks / 2)
    }

    pub(crate) fn raft_config(&self, peer_id: u64, applied: u64) -> raft::Config {
        // 0 stands for raft-rs's own range.
        let (min_election_tick, max_election_tick) =
            self.raft_exact_election_timeout_ticks.map_or((0, 0), |exact| (exact, exact + 1));
        raft::Config {
            id: peer_id,
            min_election_tick,
            max_election_tick,
            election_tick: self.raft_election_timeout_ticks,
            heartbeat_tick: self.raft_heartbeat_ticks,
            applied,
            max_size_per_msg: self.raft_max_size_per_msg.0,
            max_inflight_msgs: self.raft_max_inflight_msgs,
            check_quorum: true,
            pre_vote: true,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_both_keys_and_values() {
        let config = Config { raft_election_timeout_ticks: 2, ..Config::default() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "raftstore.raft-election-timeout-ticks = 2 must be more than raft-heartbeat-ticks = 2"
        );
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn transferee_holds_back_at_least_half_an_election_timeout() {
        let mut config = Config::default();
        assert_eq!(config.hold_ticks_max(), 30);
        config.transfer_leader_hold_timeout = ReadableDuration::millis(1);
        assert_eq!(config.hold_ticks_max(), 5);
    }
}
