//! Writes until it is killed, for the test that kills it.
//!
//! **Owns** the writes in flight, and the line that says that one was acknowledged.
//!
//! **How it works.** Three stores on a directory. Key `i` is written with its own bytes as the value, several keys at a
//! time so that the stores have something to commit in groups. When the leader has answered, `ack i` is printed.
//!
//! **Invariants.** `ack i` is printed after the write was acknowledged, never before.
//!
//! **Must not** end on its own, unless a store cannot go on.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use engine_traits::Cf;
use kvproto::raft_cmdpb::RaftCmdResponse;
use raftstore::store::Config;
use test_raftstore::{Cluster, ClusterConfig, REGION_ID, requests};
use tikv_util::{config::ReadableDuration, logger::Level};

use crate::{
    cli::WriteLoadArgs,
    error::{Error, Result},
    logging, waiting,
};

/// Writes in flight.
const WINDOW: u64 = 16;

pub(crate) fn run(args: &WriteLoadArgs) -> Result<ExitCode> {
    logging::to_stderr(Level::Critical)?;
    let config = ClusterConfig {
        // As in the demo.
        raftstore: Config { raft_base_tick_interval: ReadableDuration::millis(50), ..Config::default() },
        data_dir: Some(args.data_dir.clone()),
        ..ClusterConfig::default()
    };
    let cluster = Cluster::start(config).map_err(Error::store("start the stores"))?;
    let load = Load { cluster, answers: unbounded() };
    let mut next = args.first + WINDOW;
    (args.first..next).try_for_each(|key| load.write(key))?;
    loop {
        let (key, response) = load.next_answer()?;
        if response.get_header().has_error() {
            // Not the leader any more: whoever leads now gets it again.
            load.write(key)?;
            continue;
        }
        writeln!(io::stdout(), "ack {key}").map_err(Error::io("print"))?;
        load.write(next)?;
        next += 1;
    }
}

/// A key, and the answer to its write.
type Answer = (u64, RaftCmdResponse);

struct Load {
    cluster: Cluster,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Load {
    /// Starts to write `key`.
    fn write(&self, key: u64) -> Result<()> {
        let leader = waiting::until_some("a leader of the region", || self.cluster.leader(REGION_ID))?;
        let bytes = key.to_be_bytes();
        let command = requests::write(&leader.status.region, vec![requests::put(Cf::Default, &bytes, &bytes)]);
        let answers = self.answers.0.clone();
        // Sending fails when nobody waits any more.
        let callback = Box::new(move |response| drop(answers.send((key, response))));
        self.cluster.store(leader.store_id).command(command, callback).map_err(Error::store("write through Raft"))
    }

    fn next_answer(&self) -> Result<Answer> {
        let deadline = waiting::DEADLINE;
        let answer = self.answers.1.recv_timeout(deadline);
        answer.map_err(|_| Error::TimedOut { what: "the answer to a write".into(), deadline })
    }
}
