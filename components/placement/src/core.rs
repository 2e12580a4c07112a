//! The placement as a state machine: heartbeats in, effects out.
//!
//! # What it owns
//! The directory, the ids, the operators that run, and which stores are to lead nothing.
//!
//! # How it works
//! 1. Heartbeats update the [`Directory`]. A region's heartbeat drives the operator of the region.
//! 2. [`Placement::tick`] lets time pass, drives all operators, moves leaders away from stores that are to lead nothing,
//!    and asks the [`Scheduler`] what else is to be done.
//! 3. What comes out are [`Effect`]s: commands for leaders, ends of operators, word for peers that were removed.
//!
//! # Invariants
//! - One operator at a time acts on a region, or counts on it as a merge does on its target.
//! - Each operator ends exactly once, at the latest at its deadline.
//!
//! # What it must not do
//! Read a clock, draw random numbers but the scheduler's from its seed, send, or wait. It reserves ids through
//! [`IdStorage`](crate::IdStorage), some hundred operators at a time.

mod evict;

use std::{collections::BTreeMap, time::Duration};

use kvproto::{raft_cmdpb::RaftCmdRequest, raft_serverpb::RaftMessage};
use raftstore::store::{PeerStatus, new_peer};
use tikv_util::{info, warn};

use crate::{
    Directory, Error, Ids, NewRegion, Operator, OperatorId, PeerVerdict, RegionHeartbeat, Request, Result, Scheduler,
    SchedulerConfig, Step, StoreState, operator::Progress, plan::plan,
};

/// Settings of the placement.
#[derive(Clone, Debug)]
pub struct Config {
    /// An operator that is not done by then fails. Default 60 s: a snapshot of a large region takes some of it.
    pub operator_timeout: Duration,
    /// A command that shows no effect is sent again after this. Default 500 ms: about an election in a cluster of tests.
    pub retry_after: Duration,
    /// A store that was not heard for so long is down. Default 10 s.
    pub store_down_after: Duration,
    pub scheduler: SchedulerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            operator_timeout: Duration::from_secs(60),
            retry_after: Duration::from_millis(500),
            store_down_after: Duration::from_secs(10),
            scheduler: SchedulerConfig::default(),
        }
    }
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a command to the store. A refusal is reported by [`Placement::on_refused`].
    Command { operator: OperatorId, store_id: u64, request: Box<RaftCmdRequest> },
    /// Deliver a message to a peer that was removed, as a member of its region would.
    Tell(Box<RaftMessage>),
    /// The operator has ended.
    Ended { operator: OperatorId, outcome: Result<()> },
}

/// See the [module](self).
pub struct Placement {
    config: Config,
    directory: Directory,
    ids: Ids,
    operators: BTreeMap<OperatorId, Operator>,
    /// Regions that operators act or count on.
    busy: BTreeMap<u64, OperatorId>,
    evictions: BTreeMap<u64, evict::Eviction>,
    scheduler: Scheduler,
    last_operator: u64,
    now: Duration,
    effects: Vec<Effect>,
}

impl Placement {
    pub fn new(config: Config, ids: Ids) -> Self {
        Self {
            directory: Directory::new(config.store_down_after),
            scheduler: Scheduler::new(config.scheduler.clone()),
            config,
            ids,
            operators: BTreeMap::new(),
            busy: BTreeMap::new(),
            evictions: BTreeMap::new(),
            last_operator: 0,
            now: Duration::ZERO,
            effects: Vec::new(),
        }
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Operators that run.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.operators.values()
    }

    pub fn operator(&self, id: OperatorId) -> Option<&Operator> {
        self.operators.get(&id)
    }

    /// All effects since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A leader reports its region. What is older than what is known is ignored.
    pub fn on_region_heartbeat(&mut self, heartbeat: RegionHeartbeat) {
        let region_id = heartbeat.region.get_id();
        self.ids.observe(region_id);
        heartbeat.region.get_peers().iter().for_each(|peer| self.ids.observe(peer.get_id()));
        if self.directory.on_region_heartbeat(heartbeat).is_ok()
            && let Some(operator) = self.busy.get(&region_id)
        {
            self.drive(*operator);
        }
    }

    /// A store reports that it runs, and its peers. Those that were removed from their regions are told so.
    pub fn on_store_heartbeat(&mut self, now: Duration, store_id: u64, peers: &[PeerStatus]) {
        self.advance_to(now);
        self.directory.on_store_heartbeat(store_id);
        for status in peers {
            let (region_id, epoch) = (status.region.get_id(), status.region.get_region_epoch());
            if let PeerVerdict::Removed(region) = self.directory.judge_peer(region_id, status.peer_id, epoch)
                && let Some(member) = region.get_peers().first()
            {
                let mut message = RaftMessage::default();
                message.set_region_id(region_id);
                message.set_from_peer(member.clone());
                message.set_to_peer(new_peer(store_id, status.peer_id));
                message.set_region_epoch(region.get_region_epoch().clone());
                message.set_is_tombstone(true);
                self.effects.push(Effect::Tell(Box::new(message)));
            }
        }
    }

    /// A command of the operator was refused.
    pub fn on_refused(&mut self, operator: OperatorId, reason: &str) {
        if let Some(operator) = self.operators.get_mut(&operator) {
            operator.on_refused(reason);
        }
    }

    pub fn tick(&mut self, now: Duration) {
        self.advance_to(now);
        let running: Vec<OperatorId> = self.operators.keys().copied().collect();
        running.into_iter().for_each(|operator| self.drive(operator));
        self.evict();
        let idle = |region_id: u64| !self.busy.contains_key(&region_id);
        for request in self.scheduler.next(&self.directory, idle, self.operators.len()) {
            if let Err(error) = self.start(request.clone()) {
                warn!("scheduler asks for what cannot be"; "request" => ?request, "err" => %error);
            }
        }
    }

    /// Starts an operator; [`Effect::Ended`] says how it ends.
    ///
    /// # Errors
    /// When it makes no sense, or cannot be started now.
    pub fn start(&mut self, request: Request) -> Result<OperatorId> {
        let (region_id, other) = request.regions();
        for region_id in std::iter::once(region_id).chain(other) {
            if let Some(operator) = self.busy.get(&region_id) {
                return Err(Error::RegionIsBusy { region_id, operator: *operator });
            }
        }
        let steps = plan(&request, &self.directory, &mut self.ids)?;
        let id = self.next_operator();
        let known = self.directory.region(region_id).ok_or(Error::RegionNotFound { region_id })?;
        let operator = Operator::new(id, request, &known.region, steps, self.now, self.config.operator_timeout);
        info!("operator started"; "operator" => %operator);
        self.busy.extend(std::iter::once(region_id).chain(other).map(|region_id| (region_id, id)));
        self.operators.insert(id, operator);
        self.drive(id);
        Ok(id)
    }

    /// The regions that a split makes; empty for another operator.
    pub fn new_regions(&self, operator: OperatorId) -> &[NewRegion] {
        match self.operators.get(&operator).and_then(|operator| operator.steps().first()) {
            Some(Step::Split { pieces, .. }) => pieces,
            _ => &[],
        }
    }

    /// Ends an operator that runs where it stands. What it has proposed may still happen.
    pub fn cancel(&mut self, operator: OperatorId, reason: &str) {
        self.end(operator, Err(Error::Cancelled(reason.to_owned())));
    }

    pub fn set_store_state(&mut self, store_id: u64, state: StoreState) {
        self.directory.set_store_state(store_id, state);
    }

    fn advance_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.directory.advance_to(self.now);
    }

    fn next_operator(&mut self) -> OperatorId {
        self.last_operator += 1;
        OperatorId(self.last_operator)
    }

    fn drive(&mut self, id: OperatorId) {
        let Some(operator) = self.operators.get_mut(&id) else { return };
        let region_id = operator.request.regions().0;
        match operator.drive(&self.directory, self.now, self.config.retry_after) {
            Progress::Waiting => {}
            Progress::Command(mut request) => {
                let Some(known) = self.directory.region(region_id) else { return };
                request.mut_header().set_peer(known.leader.clone());
                let store_id = known.leader.get_store_id();
                self.effects.push(Effect::Command { operator: id, store_id, request });
            }
            Progress::Ended(outcome) => self.end(id, outcome),
        }
    }

    fn end(&mut self, id: OperatorId, outcome: Result<()>) {
        let Some(operator) = self.operators.remove(&id) else { return };
        self.busy.retain(|_, busy_with| *busy_with != id);
        match &outcome {
            Ok(()) => info!("operator done"; "operator" => %operator),
            Err(error) => warn!("operator failed"; "operator" => %operator, "err" => %error),
        }
        self.effects.push(Effect::Ended { operator: id, outcome });
    }
}

#[cfg(test)]
mod tests;
