//! An operator brings one region, or the two of a merge, where they are wanted, step by step.
//!
//! # Invariants
//! - An operator acts on a region only as of the epoch that its own steps have led to. If anything else has changed the
//!   region, it ends and says so: what it was decided on is no longer true.
//! - Replicas are added before others are removed. A region keeps two voters, unless [`Keep::OneVoter`] was asked for.
//!
//! # What it must not do
//! Undo what it has done when it fails. A learner that is left behind is the scheduler's to remove.

use std::time::Duration;

use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::RaftCmdRequest,
};

use crate::{
    Directory, Error, RegionHeartbeat, Result, Step,
    directory::version,
    step::{Look, is_split, look_at_merge},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(pub u64);

impl std::fmt::Display for OperatorId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How many voters removing one must leave.
///
/// One of two voters that is removed is gone as soon as it has heard that its removal is committed. If the other one
/// loses power before that is durable, it waits for the vote of a peer that is no more, and the region is lost until
/// somebody repairs it by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    TwoVoters,
    /// Takes the risk.
    OneVoter,
}

impl Keep {
    /// # Errors
    /// When `peer` must not be removed.
    pub(crate) fn check(self, known: &RegionHeartbeat, peer: &Peer) -> Result<()> {
        let is_other = |voter: &&Peer| voter.get_id() != peer.get_id();
        let (voters, left) = (known.voters().count(), known.voters().filter(is_other).count());
        let least = if self == Keep::OneVoter { 1 } else { 2 };
        if left == voters || left >= least {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "removing peer {} would leave region {} with {left} voters, {least} are to be kept",
            peer.get_id(),
            known.region.get_id()
        )))
    }
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Adds a voter.
    AddPeer {
        region_id: u64,
        store_id: u64,
    },
    RemovePeer {
        region_id: u64,
        store_id: u64,
        keep: Keep,
    },
    /// A new voter on one store instead of the peer on another.
    ReplacePeer {
        region_id: u64,
        from_store: u64,
        to_store: u64,
        keep: Keep,
    },
    TransferLeader {
        region_id: u64,
        to_store: u64,
    },
    /// At keys in ascending order; what is behind the last one keeps the region's id.
    Split {
        region_id: u64,
        keys: Vec<Vec<u8>>,
    },
    /// Brings the source's peers to the target's stores first.
    Merge {
        source_id: u64,
        target_id: u64,
        keep: Keep,
    },
}

impl Request {
    /// The region that is acted on, and the one that must not change meanwhile.
    pub fn regions(&self) -> (u64, Option<u64>) {
        match *self {
            Request::Merge { source_id, target_id, .. } => (source_id, Some(target_id)),
            Request::AddPeer { region_id, .. }
            | Request::RemovePeer { region_id, .. }
            | Request::ReplacePeer { region_id, .. }
            | Request::TransferLeader { region_id, .. }
            | Request::Split { region_id, .. } => (region_id, None),
        }
    }
}

/// A request on its way.
pub struct Operator {
    pub(crate) id: OperatorId,
    pub(crate) request: Request,
    steps: Vec<Step>,
    /// Steps that are finished.
    finished: usize,
    /// (conf_ver, version) that the finished steps have led to.
    epoch: (u64, u64),
    deadline: Duration,
    timeout: Duration,
    /// Until when a command that was sent may still show an effect.
    sent_until: Option<Duration>,
    waiting_for: String,
    /// Why the leader has refused the step's last command.
    refusal: Option<String>,
}

/// Where an operator stands.
pub(crate) enum Progress {
    Waiting,
    /// To be sent to the region's leader.
    Command(Box<RaftCmdRequest>),
    Ended(Result<()>),
}

impl Operator {
    /// An operator that has until `now + timeout`.
    pub(crate) fn new(
        id: OperatorId,
        request: Request,
        region: &Region,
        steps: Vec<Step>,
        now: Duration,
        timeout: Duration,
    ) -> Self {
        let epoch = epoch_of(region);
        Self {
            id,
            request,
            steps,
            finished: 0,
            epoch,
            deadline: now + timeout,
            timeout,
            sent_until: None,
            waiting_for: String::new(),
            refusal: None,
        }
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Number of steps that are finished.
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// What it waits for now.
    pub fn waiting_for(&self) -> &str {
        self.refusal.as_deref().unwrap_or(&self.waiting_for)
    }

    /// The step that it is in, and what it waits for there.
    pub fn standing(&self) -> String {
        let step = self.steps.get(self.finished).map(Step::to_string).unwrap_or_default();
        let (number, steps) = (self.finished + 1, self.steps.len());
        format!("in step {number} of {steps} \"{step}\": waiting for {}", self.waiting_for())
    }

    /// A command of the operator was refused: it need not wait for an effect.
    pub(crate) fn on_refused(&mut self, reason: &str) {
        self.sent_until = None;
        self.refusal = Some(format!("the leader, which refuses: {reason}"));
    }

    /// Looks at what is known now. A command that was sent is not sent again within `retry_after`.
    pub(crate) fn drive(&mut self, directory: &Directory, now: Duration, retry_after: Duration) -> Progress {
        let region_id = self.request.regions().0;
        let look = loop {
            let Some(step) = self.steps.get(self.finished) else { return Progress::Ended(Ok(())) };
            let known = directory.region(region_id);
            let look = match (step, known) {
                (Step::Merge { source, target }, _) => look_at_merge(source, target, directory),
                (Step::Split { region, pieces }, _) if is_split(region, pieces, directory) => Look::Finished,
                // The new regions may be heard first; all together they take the place of this one.
                (Step::Split { .. }, None) => Look::Waiting("the split region to be heard".into()),
                (_, None) => Look::Failed(Error::RegionGone { region_id, step: step.to_string() }),
                (_, Some(known)) if step.is_finished(known) => Look::Finished,
                (Step::Split { pieces, .. }, Some(known))
                    if epoch_of(&known.region) == self.epoch_after(step)
                        && pieces.last().is_some_and(|piece| piece.split_key == known.region.get_start_key()) =>
                {
                    Look::Waiting("the new regions to be heard".into())
                }
                (_, Some(known)) if epoch_of(&known.region) != self.epoch => self.changed(step, known),
                (_, Some(known)) => step.look(known, directory),
            };
            if !matches!(look, Look::Finished) {
                break look;
            }
            self.epoch = self.epoch_after(step);
            self.finished += 1;
            self.sent_until = None;
            self.refusal = None;
        };
        match look {
            Look::Failed(error) => return Progress::Ended(Err(error)),
            _ if now >= self.deadline => {
                return Progress::Ended(Err(Error::TimedOut { timeout: self.timeout, standing: self.standing() }));
            }
            Look::Waiting(what) => {
                self.waiting_for = what;
                self.refusal = None;
            }
            Look::Command(command) if self.sent_until.is_none_or(|until| now >= until) => {
                self.waiting_for = "the command to take effect".into();
                self.sent_until = Some(now + retry_after);
                return Progress::Command(command);
            }
            Look::Command(_) | Look::Finished => {}
        }
        Progress::Waiting
    }

    fn epoch_after(&self, step: &Step) -> (u64, u64) {
        let (conf_ver, version) = step.epoch_gain();
        (self.epoch.0 + conf_ver, self.epoch.1 + version)
    }

    fn changed(&self, step: &Step, known: &RegionHeartbeat) -> Look {
        let (region_id, step) = (known.region.get_id(), step.to_string());
        Look::Failed(Error::EpochChanged { region_id, step, expected: self.epoch, found: epoch_of(&known.region) })
    }
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(Step::to_string).collect();
        write!(f, "operator {} on region {}: {}", self.id, self.request.regions().0, steps.join(", "))
    }
}

fn epoch_of(region: &Region) -> (u64, u64) {
    (region.get_region_epoch().get_conf_ver(), version(region))
}
