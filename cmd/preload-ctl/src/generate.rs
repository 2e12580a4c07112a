//! A log to measure `scan-logs` with.
//!
//! **Owns** lines of the kinds and lengths that a busy store writes, and where the panics between them are.
//!
//! **Invariants.** The same arguments give the same bytes.
//!
//! **Must not** be taken for what a TiKV writes: the texts are made up.

use std::io::{self, Write};

use time::{Duration, OffsetDateTime, macros::datetime, macros::format_description};

use crate::cli::GenerateLog;

const START: OffsetDateTime = datetime!(2024-12-23 0:00 UTC);
const PANIC: &str = include_str!("generate_panic.txt");

pub(crate) fn run(args: &GenerateLog, out: &mut dyn Write) -> io::Result<()> {
    let mut random = SplitMix(args.seed);
    let total = args.mib << 20;
    let (mut written, mut panics, mut time) = (0_u64, 0_u64, START);
    let format = format_description!(
        "[year]/[month]/[day] [hour]:[minute]:[second].[subsecond digits:3] [offset_hour sign:mandatory]:[offset_minute]"
    );
    while written < total {
        time += Duration::milliseconds(i64::try_from(random.below(40)).unwrap_or_default());
        let stamp = time.format(format).map_err(io::Error::other)?;
        let line = if panics * total < written * args.panics {
            panics += 1;
            format!("[{stamp}] {PANIC}")
        } else {
            format!("[{stamp}] {}\n", random.line())
        };
        out.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    Ok(())
}

/// Good enough for logs, and the same everywhere: splitmix64.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn line(&mut self) -> String {
        let (region, peer, other) = (self.below(90_000), self.below(900_000), self.below(1 << 40));
        match self.below(8) {
            0 => format!(
                "[INFO] [peer.rs:3211] [\"on leader change\"] [region_id={region}] [peer_id={peer}] [term={}]",
                other % 90
            ),
            1 => format!(
                "[INFO] [raft.rs:1177] [\"received votes response\"] [term={}] [type=MsgRequestVoteResponse] [approvals=2] [rejections=0] [from={peer}] [vote=true] [raft_id={peer}] [peer_id={peer}] [region_id={region}]",
                other % 90
            ),
            2 => format!(
                "[WARN] [endpoint.rs:780] [error-response] [err=\"Region error (will back off and retry) message: \\\"peer is not leader for region {region}, leader may Some(id: {peer} store_id: 5)\\\" not_leader {{ region_id: {region} leader {{ id: {peer} store_id: 5 }} }}\"]"
            ),
            3 => format!(
                "[INFO] [apply.rs:1639] [\"execute admin command\"] [command=\"cmd_type: CompactLog compact_log {{ compact_index: {other} compact_term: 7 }}\"] [index={other}] [term=7] [peer_id={peer}] [region_id={region}]"
            ),
            4 => format!(
                "[INFO] [pd.rs:1250] [\"try to transfer leader\"] [to_peers=\"[]\"] [to_peer=\"id: {peer} store_id: 4\"] [from_peer=\"id: {} store_id: 5\"] [region_id={region}]",
                peer + 1
            ),
            5 => format!(
                "[INFO] [split_observer.rs:148] [\"final split\"] [keys=\"[7480000000000000FF{other:016X}00000000FB]\"] [region_id={region}]"
            ),
            6 => format!(
                "[INFO] [scheduler.rs:596] [\"get snapshot failed\"] [err=\"Error(Request(message: \\\"EpochNotMatch current epoch of region {region} is conf_ver: 5 version: {}\\\"))\"] [cid={other}]",
                other % 999
            ),
            _ => format!(
                "[INFO] [region.rs:514] [\"preload region done, not cached before\"] [takes=\"{}ms\"] [region_id={region}]",
                other % 5_000
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_has_its_length_and_its_panics_and_is_the_same_again() {
        let args = GenerateLog { mib: 1, panics: 3, seed: 7 };
        let [first, second] = [(), ()].map(|()| {
            let mut log = Vec::new();
            run(&args, &mut log).unwrap();
            log
        });
        assert!(first == second && first.len() >= 1 << 20);
        assert_eq!(String::from_utf8(first).unwrap().matches("[FATAL]").count(), 3);
    }
}
