//! Stores whose effects are carried out one after another by the test: no threads, no time but ticks.
//!
//! Log writes and applied entries are carried out at once unless the test holds them; messages wait in the network until
//! they are delivered; snapshots wait until the test installs them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use engine_test::{MemDisk, MemEngine, MemFiles, MemLogStore};
use engine_traits::{Cf, FileStore as _, KvEngine, LogStore, WriteBatch};
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::{
        AdminCmdType, AdminRequest, CmdType, RaftCmdRequest, RaftCmdResponse, RaftRequestHeader, Request, SplitRequest,
    },
    raft_serverpb::{RaftMessage, SnapshotChunk},
};
use raft::{
    StateRole,
    eraftpb::{ConfChangeType, Message, MessageType},
};

use crate::{
    Error,
    coprocessor::dispatcher::{BoxDestroyPeerObserver, BoxTransferLeaderObserver},
    coprocessor::*,
    store::{
        Config, Direction, PeerStatus, SnapKey, Snapshot, SnapshotDir, StreamId,
        apply::{Applier, ApplyOutcome, Urgency},
        bootstrap_region, bootstrap_store,
        core::{ApplierEffect, ApplySnapshot, Delivery, Effect, Input, LogWrite, RequestId, Store},
        data,
        local_state::load_region_states,
        new_peer,
        snapshot::{Next, Outgoing, Receiver, raft_snapshot},
    },
};

pub(super) const REGION_ID: u64 = 1;

/// What the observers of a store were told, a line for each, in order.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    lines: Arc<Mutex<Vec<String>>>,
    /// What `pre_ack_transfer_leader` answers.
    pub(super) ready_to_lead: Arc<AtomicBool>,
    /// Set when `pre_apply_snapshot` is called.
    pub(super) cancel_at_pre_apply: Arc<Mutex<Option<Arc<AtomicBool>>>>,
    /// Whether commands that commit a merge are skipped.
    pub(super) skips_merges: Arc<AtomicBool>,
}

impl Recorder {
    fn add(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }

    /// What was recorded since the last call.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    fn register(&self, host: &mut CoprocessorHost<MemEngine>) {
        let registry = &mut host.registry;
        registry.register_region_change_observer(1, BoxRegionChangeObserver::new(self.clone()));
        registry.register_role_observer(1, BoxRoleObserver::new(self.clone()));
        registry.register_destroy_peer_observer(1, BoxDestroyPeerObserver::new(self.clone()));
        registry.register_apply_snapshot_observer(1, BoxApplySnapshotObserver::new(self.clone()));
        registry.register_transfer_leader_observer(1, BoxTransferLeaderObserver::new(self.clone()));
        registry.register_admin_observer(1, BoxAdminObserver::new(self.clone()));
        registry.register_query_observer(1, BoxQueryObserver::new(self.clone()));
    }
}

fn peers(region: &Region) -> usize {
    region.get_peers().len()
}

impl Coprocessor for Recorder {}

impl RegionChangeObserver for Recorder {
    fn on_region_changed(&self, ctx: &mut ObserverContext<'_>, event: RegionChangeEvent, _role: StateRole) {
        self.add(format!("region_changed {event:?} peers={}", peers(ctx.region())));
    }
}

impl RoleObserver for Recorder {
    fn on_role_change(&self, _ctx: &mut ObserverContext<'_>, change: &RoleChange) {
        let transferee = match change.prev_lead_transferee {
            0 => String::new(),
            peer_id => format!(" transferee={peer_id}"),
        };
        self.add(format!("role {:?} initialized={}{transferee}", change.state, change.initialized));
    }
}

impl DestroyPeerObserver for Recorder {
    fn on_destroy_peer(&self, region: &Region) {
        self.add(format!("destroy_peer peers={}", peers(region)));
    }
}

impl ApplySnapshotObserver for Recorder {
    fn should_pre_apply_snapshot(&self) -> bool {
        true
    }

    fn pre_apply_snapshot(&self, ctx: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.add(format!("pre_apply_snapshot peers={}", peers(ctx.region())));
        if let Some(cancel) = self.cancel_at_pre_apply.lock().unwrap().take() {
            cancel.store(true, Ordering::Release);
        }
    }

    fn post_apply_snapshot(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.add("post_apply_snapshot".into());
    }

    fn on_apply_snapshot_committed(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.add("apply_snapshot_committed".into());
    }

    fn cancel_apply_snapshot(&self, _region_id: u64, _peer_id: u64) {
        self.add("cancel_apply_snapshot".into());
    }
}

impl TransferLeaderObserver for Recorder {
    fn pre_transfer_leader(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _request: &kvproto::raft_cmdpb::TransferLeaderRequest,
    ) -> Result<Option<TransferLeaderCustomContext>> {
        self.add("pre_transfer_leader".into());
        Ok(Some(TransferLeaderCustomContext { key: b"k".to_vec(), value: b"v".to_vec() }))
    }

    fn pre_ack_transfer_leader(&self, _ctx: &mut ObserverContext<'_>, message: &Message) -> bool {
        let context = crate::store::TransferLeaderContext::from_bytes(message.get_context()).unwrap();
        let value = context.get_custom_ctx(b"k").map(|value| value.to_vec());
        let ready = self.ready_to_lead.load(Ordering::Relaxed);
        self.add(format!("pre_ack_transfer_leader carries={} ready={ready}", value.is_some()));
        ready
    }
}

impl AdminObserver for Recorder {
    fn pre_exec_admin(&self, _: &mut ObserverContext<'_>, admin: &AdminRequest, _index: u64, _term: u64) -> bool {
        admin.get_cmd_type() == AdminCmdType::CommitMerge && self.skips_merges.load(Ordering::Relaxed)
    }

    fn post_exec_admin(
        &self,
        ctx: &mut ObserverContext<'_>,
        cmd: &Cmd,
        _apply_state: &kvproto::raft_serverpb::RaftApplyState,
        state: &RegionState,
        _info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        let cmd_type = cmd.request.get_admin_request().get_cmd_type();
        let version = |region: &Region| region.get_region_epoch().get_version();
        let after = state.modified_region.as_ref().map_or(0, version);
        self.add(format!(
            "post_exec_admin {cmd_type:?} removed={} version {} to {after}",
            state.pending_remove,
            version(ctx.region())
        ));
        false
    }
}

impl QueryObserver for Recorder {
    fn pre_exec_query(&self, _: &mut ObserverContext<'_>, requests: &[Request], _index: u64, _term: u64) -> bool {
        // A way for tests to skip a command.
        requests.iter().any(|request| request.get_put().get_key() == b"skip me")
    }
}

pub(super) struct Node {
    core: Option<Store<MemEngine, MemLogStore>>,
    pub(super) kv: MemEngine,
    pub(super) log: MemLogStore,
    pub(super) recorder: Recorder,
    pub(super) host: CoprocessorHost<MemEngine>,
    pub(super) files: MemFiles,
    pub(super) dir: SnapshotDir,
    pub(super) receiver: Receiver,
    appliers: HashMap<u64, Applier>,
    /// Log writes are kept here while `hold_log` is set.
    pub(super) hold_log: bool,
    held_writes: VecDeque<LogWrite>,
    /// What the applier of `held_region`, by default the first region, is given is kept here.
    pub(super) hold_applies: bool,
    pub(super) held_region: u64,
    held_applies: VecDeque<ApplierEffect>,
    pub(super) snapshots: VecDeque<ApplySnapshot>,
    pub(super) responses: HashMap<u64, RaftCmdResponse>,
    /// Reads that were served, with the applied index; and that failed.
    pub(super) reads: HashMap<u64, std::result::Result<u64, Error>>,
}

impl Node {
    /// Writes what an applier has gathered.
    fn written(&self, batch: &WriteBatch, outcome: ApplyOutcome) -> Input {
        self.kv.write(batch).unwrap();
        if outcome.urgency == Urgency::Durable {
            self.kv.sync().unwrap();
        }
        Input::Applied(Box::new(outcome))
    }
}

pub(super) struct Harness {
    pub(super) disk: MemDisk,
    pub(super) nodes: BTreeMap<u64, Node>,
    /// Sent and not delivered yet.
    pub(super) network: VecDeque<RaftMessage>,
    /// Messages to, or of a type, that are lost.
    pub(super) cut_off: Vec<u64>,
    pub(super) lost_types: Vec<MessageType>,
    /// Messages of a region to a store that are lost.
    pub(super) lost_regions: Vec<(u64, u64)>,
    /// Messages of a region to a store that are lost when they tell that more is committed than up to this index.
    pub(super) lost_commits: Option<(u64, u64, u64)>,
    /// The requests for votes of all other stores are lost.
    only_candidate: Option<u64>,
    /// The region that commands, reads and questions are about.
    pub(super) region_id: u64,
    last_id: u64,
    /// Says what becomes of the chunks of snapshots.
    pub(super) on_chunk: Box<dyn FnMut(&mut SnapshotChunk) -> ChunkFate>,
    /// A sender hears how a transfer has ended when all messages have arrived.
    pub(super) reports_come_last: bool,
    reports: VecDeque<(u64, Input)>,
    /// How the transfers have ended, in order.
    pub(super) deliveries: Vec<Delivery>,
    /// Chunks that have arrived.
    pub(super) chunks: usize,
    streams: u64,
}

/// What becomes of a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkFate {
    Arrives,
    Lost,
    /// It arrives, and the answer does not.
    AnswerLost,
    /// The receiver is killed when it has taken the chunk in, before the store hears of anything.
    ReceiverKilled,
    /// The power of all stores fails then.
    PowerFails,
    /// The sender is killed.
    SenderKilled,
}

impl Harness {
    /// Stores 1, 2 and 3; the first region has a voter `100 + n` on each store `n` in `on`.
    pub(super) fn new(on: &[u64]) -> Self {
        let mut harness = Self {
            disk: MemDisk::new(),
            nodes: BTreeMap::new(),
            network: VecDeque::new(),
            cut_off: Vec::new(),
            lost_types: Vec::new(),
            lost_regions: Vec::new(),
            lost_commits: None,
            only_candidate: None,
            region_id: REGION_ID,
            last_id: 0,
            on_chunk: Box::new(|_| ChunkFate::Arrives),
            reports_come_last: false,
            reports: VecDeque::new(),
            deliveries: Vec::new(),
            chunks: 0,
            streams: 0,
        };
        let mut region = Region::default();
        region.set_id(REGION_ID);
        region.mut_region_epoch().set_conf_ver(1);
        region.mut_region_epoch().set_version(1);
        on.iter().for_each(|store_id| region.mut_peers().push(new_peer(*store_id, 100 + store_id)));
        for store_id in 1..=3 {
            if on.contains(&store_id) {
                let (kv, log) = harness.open(store_id);
                bootstrap_region(&kv, &log, &region).unwrap();
            }
            harness.add_store(store_id);
        }
        harness
    }

    pub(super) fn add_store(&mut self, store_id: u64) {
        let (_, log) = self.open(store_id);
        bootstrap_store(&log, 1, store_id).unwrap();
        self.start(store_id);
    }

    fn open(&self, store_id: u64) -> (MemEngine, MemLogStore) {
        (self.disk.open(format!("kv-{store_id}")), self.disk.open_log_store(format!("log-{store_id}")))
    }

    pub(super) fn start(&mut self, store_id: u64) {
        let (kv, log) = self.open(store_id);
        let recorder = Recorder::default();
        recorder.ready_to_lead.store(true, Ordering::Relaxed);
        let mut host = CoprocessorHost::default();
        recorder.register(&mut host);
        let config = Config { raft_log_gc_count_limit: 500, ..Config::default() };
        let core = Store::load(store_id, config, host.clone(), &kv, log.clone()).unwrap();
        let files = self.disk.open_files(format!("snap-{store_id}"));
        let dir = SnapshotDir::new(Arc::new(files.clone()));
        dir.recover(core.pending_snapshots()).unwrap();
        let receiver = Receiver::new(dir.clone(), 2, core.pending_snapshots().map(Snapshot::key));
        let node = Node {
            core: Some(core),
            kv,
            log,
            recorder,
            host,
            files,
            dir,
            receiver,
            appliers: HashMap::new(),
            hold_log: false,
            held_writes: VecDeque::new(),
            hold_applies: false,
            held_region: REGION_ID,
            held_applies: VecDeque::new(),
            snapshots: VecDeque::new(),
            responses: HashMap::new(),
            reads: HashMap::new(),
        };
        self.nodes.insert(store_id, node);
        self.carry_out(store_id);
    }

    /// Stops a store and starts it again on what is on its disk, all of it.
    pub(super) fn restart(&mut self, store_id: u64) {
        self.nodes.remove(&store_id);
        self.start(store_id);
    }

    /// Like `restart`, of all stores, with everything lost that was not synced.
    pub(super) fn power_failure(&mut self) {
        self.nodes.clear();
        self.network.clear();
        self.disk.crash();
        (1..=3).for_each(|store_id| self.start(store_id));
    }

    pub(super) fn node(&mut self, store_id: u64) -> &mut Node {
        self.nodes.get_mut(&store_id).unwrap()
    }

    pub(super) fn input(&mut self, store_id: u64, input: Input) {
        self.core(store_id).handle(input);
        self.carry_out(store_id);
    }

    pub(super) fn core(&mut self, store_id: u64) -> &mut Store<MemEngine, MemLogStore> {
        self.node(store_id).core.as_mut().unwrap()
    }

    pub(super) fn status(&mut self, store_id: u64) -> Option<PeerStatus> {
        let region_id = self.region_id;
        self.core(store_id).status(region_id)
    }

    /// Number of peers on a store.
    pub(super) fn peers(&mut self, store_id: u64) -> usize {
        self.core(store_id).statuses().len()
    }

    fn carry_out(&mut self, store_id: u64) {
        loop {
            let effects = self.core(store_id).finish();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out_one(store_id, effect);
            }
        }
    }

    fn carry_out_one(&mut self, store_id: u64, effect: Effect) {
        let node = self.nodes.get_mut(&store_id).unwrap();
        match effect {
            Effect::Send(message) => self.network.push_back(*message),
            Effect::RemoveSnapshot { direction: Direction::Generated, key } => {
                // Fails only when the test has broken the directory.
                let _ = node.dir.remove(Direction::Generated, key);
            }
            Effect::RemoveSnapshot { direction: Direction::Received, key } => node.receiver.release(key),
            Effect::WriteLog(write) if node.hold_log => node.held_writes.push_back(write),
            Effect::WriteLog(write) => self.write_log(store_id, write),
            Effect::Applier(effect) if node.hold_applies && effect.region_id() == node.held_region => {
                node.held_applies.push_back(effect);
            }
            Effect::Applier(effect) => self.apply(store_id, effect),
            Effect::ApplySnapshot(snapshot) => node.snapshots.push_back(snapshot),
            Effect::Respond { id, response } => drop(node.responses.insert(id.0, *response)),
            Effect::ServeRead { ids, applied_index, .. } => {
                node.reads.extend(ids.into_iter().map(|id| (id.0, Ok(applied_index))));
            }
            Effect::FailRead { id, error } => drop(node.reads.insert(id.0, Err(error))),
        }
    }

    fn write_log(&mut self, store_id: u64, write: LogWrite) {
        self.node(store_id).log.write(write.batch, write.sync).unwrap();
        if let Some(answer) = write.answer {
            self.core(store_id).handle(answer);
        }
    }

    fn apply(&mut self, store_id: u64, effect: ApplierEffect) {
        let node = self.nodes.get_mut(&store_id).unwrap();
        let input = match effect {
            ApplierEffect::Register(applier) => {
                node.appliers.insert(applier.tag().region_id, *applier);
                return;
            }
            ApplierEffect::Forget { tag } => {
                node.appliers.remove(&tag.region_id);
                return;
            }
            ApplierEffect::Apply { tag, entries } => {
                let mut batch = WriteBatch::new();
                let applier = node.appliers.get_mut(&tag.region_id).unwrap();
                let outcome = applier.apply(entries, &mut batch, &node.host).unwrap();
                node.written(&batch, outcome)
            }
            ApplierEffect::Resume { tag } => {
                let mut batch = WriteBatch::new();
                let applier = node.appliers.get_mut(&tag.region_id).unwrap();
                let outcome = applier.resume(&mut batch, &node.host).unwrap();
                node.written(&batch, outcome)
            }
            ApplierEffect::Retire { tag } => {
                node.appliers.remove(&tag.region_id);
                Input::ApplierRetired { tag }
            }
            ApplierEffect::GenerateSnapshot { tag } => {
                let applier = &node.appliers[&tag.region_id];
                let (index, term) = (applier.applied_index(), applier.applied_term());
                let key = SnapKey { region_id: tag.region_id, term, idx: index };
                let snapshot = applier.snapshot_state().and_then(|local| {
                    let data = node.dir.generate(&node.kv.snapshot(), &local, key, Direction::Generated).ok()?;
                    Some(Box::new(raft_snapshot(&data, index, term)))
                });
                Input::SnapshotGenerated { tag, snapshot }
            }
            ApplierEffect::Destroy { tag, remains } => {
                node.appliers.remove(&tag.region_id);
                data::destroy(&node.kv, &remains).unwrap();
                Input::DataDestroyed { tag }
            }
        };
        self.core(store_id).handle(input);
    }

    /// Number of log writes that are held.
    pub(super) fn held_writes(&mut self, store_id: u64) -> usize {
        self.node(store_id).held_writes.len()
    }

    /// Makes the oldest log write that is held durable.
    pub(super) fn release_log_write(&mut self, store_id: u64) {
        let write = self.node(store_id).held_writes.pop_front().expect("a log write is held");
        self.write_log(store_id, write);
        self.carry_out(store_id);
    }

    /// Writes the oldest log write that is held, without making it durable or saying so.
    pub(super) fn write_unsynced(&mut self, store_id: u64) {
        let node = self.node(store_id);
        let write = node.held_writes.pop_front().expect("a log write is held");
        node.log.write(write.batch, false).unwrap();
    }

    /// Takes two inputs in before their effects are carried out.
    pub(super) fn input_both(&mut self, store_id: u64, first: Input, second: Input) {
        self.core(store_id).handle(first);
        self.core(store_id).handle(second);
        self.carry_out(store_id);
    }

    pub(super) fn release_log(&mut self, store_id: u64) {
        self.node(store_id).hold_log = false;
        while let Some(write) = self.node(store_id).held_writes.pop_front() {
            self.write_log(store_id, write);
        }
        self.carry_out(store_id);
    }

    /// The store is killed after its applier has applied what is held, and before it destroys anything.
    pub(super) fn restart_before_destroy(&mut self, store_id: u64) {
        while let Some(effect) = self.node(store_id).held_applies.pop_front() {
            if !matches!(effect, ApplierEffect::Destroy { .. }) {
                self.apply(store_id, effect);
            }
        }
        self.restart(store_id);
    }

    /// What is held is applied durably, and the store is killed before its core hears of it.
    pub(super) fn restart_before_report(&mut self, store_id: u64) {
        let node = self.node(store_id);
        while let Some(effect) = node.held_applies.pop_front() {
            if let ApplierEffect::Apply { tag, entries } = effect {
                let mut batch = WriteBatch::new();
                let applier = node.appliers.get_mut(&tag.region_id).unwrap();
                applier.apply(entries, &mut batch, &node.host).unwrap();
                node.kv.write(&batch).unwrap();
                node.kv.sync().unwrap();
            }
        }
        self.restart(store_id);
    }

    pub(super) fn release_applies(&mut self, store_id: u64) {
        self.node(store_id).hold_applies = false;
        while let Some(effect) = self.node(store_id).held_applies.pop_front() {
            self.apply(store_id, effect);
        }
        self.carry_out(store_id);
    }

    /// Does what the snapshot worker does with the next snapshot: its data, and whether it was cancelled.
    pub(super) fn install_data(&mut self, store_id: u64) -> (ApplySnapshot, bool) {
        let node = self.node(store_id);
        let task = node.snapshots.pop_front().expect("a snapshot waits");
        let installed = data::install_snapshot(&node.kv, &node.host, &node.dir, &task).unwrap();
        (task, !installed)
    }

    pub(super) fn install_snapshot(&mut self, store_id: u64) {
        let (task, cancelled) = self.install_data(store_id);
        self.input(store_id, Input::SnapshotApplied { tag: task.tag, cancelled });
    }

    /// Delivers messages until none is left.
    pub(super) fn settle(&mut self) {
        loop {
            self.deliver_messages();
            let Some((store_id, report)) = self.reports.pop_front() else { return };
            self.input(store_id, report);
        }
    }

    fn deliver_messages(&mut self) {
        while let Some(message) = self.network.pop_front() {
            let (from, to) = (message.get_from_peer().get_store_id(), message.get_to_peer().get_store_id());
            let cut_off = self.cut_off.contains(&from) || self.cut_off.contains(&to);
            let message_type = message.get_message().get_msg_type();
            let unwanted_candidate = matches!(message_type, MessageType::MsgRequestPreVote)
                && self.only_candidate.is_some_and(|candidate| candidate != from);
            let tells_of_commit = self.lost_commits.is_some_and(|(region_id, store_id, index)| {
                (region_id, store_id) == (message.get_region_id(), to) && message.get_message().get_commit() > index
            });
            let is_lost = tells_of_commit || self.lost_regions.contains(&(message.get_region_id(), to));
            let is_lost = is_lost || cut_off || unwanted_candidate || self.lost_types.contains(&message_type);
            if SnapKey::of_message(&message).is_some() {
                self.transfer(message, is_lost);
                continue;
            }
            if is_lost {
                continue;
            }
            if self.nodes.contains_key(&to) {
                self.input(to, Input::RaftMessage(Box::new(message)));
            }
        }
    }

    /// Sends a snapshot with its files.
    fn transfer(&mut self, message: RaftMessage, is_lost: bool) {
        let (from, to) = (message.get_from_peer().get_store_id(), message.get_to_peer().get_store_id());
        self.streams += 1;
        let stream = StreamId { from_store: from, number: self.streams };
        let mut outgoing = Outgoing::new(self.node(from).dir.clone(), message).unwrap();
        let (key, to_peer) = (outgoing.key(), outgoing.to_peer());
        let mut chunk = outgoing.first();
        let delivery = loop {
            let fate = if is_lost { ChunkFate::Lost } else { (self.on_chunk)(&mut chunk) };
            if fate == ChunkFate::Lost {
                break Delivery::Interrupted;
            }
            self.chunks += 1;
            let received = self.node(to).receiver.receive(stream, chunk);
            match fate {
                ChunkFate::ReceiverKilled => {
                    self.restart(to);
                    break Delivery::Interrupted;
                }
                ChunkFate::PowerFails => return self.power_failure(),
                ChunkFate::Arrives | ChunkFate::AnswerLost | ChunkFate::SenderKilled | ChunkFate::Lost => {}
            }
            if let Some(message) = received.message {
                self.input(to, Input::RaftMessage(message));
            }
            match fate {
                ChunkFate::AnswerLost => break Delivery::Interrupted,
                ChunkFate::SenderKilled => return self.restart(from),
                _ => {}
            }
            match outgoing.on_answer(received.answer) {
                Next::Send(next) => chunk = *next,
                Next::End(delivery, _) => break delivery,
            }
        };
        self.deliveries.push(delivery);
        let report = Input::SnapshotSent { key, to_peer, delivery };
        if self.reports_come_last {
            self.reports.push_back((from, report));
        } else {
            self.input(from, report);
        }
    }

    /// A tick for every store, and everything that comes of it.
    pub(super) fn tick(&mut self) {
        for store_id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.input(store_id, Input::Tick);
        }
        self.settle();
    }

    /// Ticks until `condition` holds.
    #[track_caller]
    pub(super) fn tick_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        for _ in 0..200 {
            if condition(self) {
                return;
            }
            self.tick();
        }
        panic!("200 ticks have passed without {what}");
    }

    /// Time passes until store `store_id` leads; no other campaigns.
    #[track_caller]
    pub(super) fn elect(&mut self, store_id: u64) {
        self.only_candidate = Some(store_id);
        self.tick_until("a leader", |harness| harness.status(store_id).is_some_and(|status| status.is_leader()));
        self.only_candidate = None;
        self.tick();
    }

    /// Time passes until some store leads, and has told the others.
    #[track_caller]
    pub(super) fn wait_for_leader(&mut self) -> u64 {
        let leader = |harness: &mut Self| {
            (1..=3).find(|store_id| harness.status(*store_id).is_some_and(|status| status.is_leader()))
        };
        self.tick_until("a leader", |harness| leader(harness).is_some());
        self.tick();
        leader(self).expect("nothing has happened that deposes a leader")
    }

    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    /// Gives a command to a store; the answer is in its `responses` once there is one.
    pub(super) fn command(&mut self, store_id: u64, mut request: RaftCmdRequest) -> u64 {
        let id = self.next_id();
        if !request.get_header().has_region_epoch() {
            request.set_header(self.header(store_id));
        }
        self.input(store_id, Input::Command { id, request: Box::new(request) });
        id.0
    }

    pub(super) fn read(&mut self, store_id: u64) -> u64 {
        let (id, header) = (self.next_id(), self.header(store_id));
        self.input(store_id, Input::Read { id, header: Box::new(header) });
        id.0
    }

    pub(super) fn header(&mut self, store_id: u64) -> RaftRequestHeader {
        let mut header = RaftRequestHeader::default();
        header.set_region_id(self.region_id);
        if let Some(status) = self.status(store_id) {
            header.set_region_epoch(status.region.get_region_epoch().clone());
        }
        header
    }

    /// Writes on the leader `store_id` and lets everybody have it.
    #[track_caller]
    pub(super) fn must_put(&mut self, store_id: u64, key: &[u8], value: &[u8]) {
        self.must(store_id, put(key, value));
    }

    /// Has the leader `store_id` carry `command` out.
    #[track_caller]
    pub(super) fn must(&mut self, store_id: u64, command: RaftCmdRequest) {
        let id = self.command(store_id, command);
        self.settle();
        let response = self.node(store_id).responses.remove(&id).expect("an answer");
        assert!(!response.get_header().has_error(), "{response:?}");
    }

    #[track_caller]
    pub(super) fn must_change_peer(&mut self, leader: u64, change_type: ConfChangeType, peer: Peer) {
        self.must(leader, change_peer(change_type, peer));
    }

    /// A snapshot of the region on its leader `from`, as the leader would send it to store `to`. It holds a new value of
    /// `key`, which store `to` does not have yet.
    pub(super) fn snapshot_message(&mut self, from: u64, to: u64, key: &[u8]) -> RaftMessage {
        let cut_off = std::mem::replace(&mut self.cut_off, vec![to]);
        self.must_put(from, key, b"1");
        self.cut_off = cut_off;
        let (leader, to_peer) = (self.status(from).unwrap(), self.status(to).unwrap().peer_id);
        let local = load_region_states(&self.node(from).kv).unwrap();
        let local = local.into_iter().find(|local| local.get_region() == &leader.region).unwrap();
        // Its files arrive ahead of it.
        let key = SnapKey { region_id: self.region_id, term: leader.term, idx: leader.applied_index };
        let engine = self.node(from).kv.snapshot();
        let data = self.node(to).dir.generate(&engine, &local, key, Direction::Received).unwrap();
        let files = self.node(to).files.clone();
        files.list().unwrap().iter().for_each(|name| files.sync(name).unwrap());
        files.sync_names().unwrap();
        let mut message = RaftMessage::default();
        message.set_region_id(self.region_id);
        message.set_from_peer(new_peer(from, leader.peer_id));
        message.set_to_peer(new_peer(to, to_peer));
        message.set_region_epoch(leader.region.get_region_epoch().clone());
        let raft = message.mut_message();
        raft.set_msg_type(MessageType::MsgSnapshot);
        raft.set_from(leader.peer_id);
        raft.set_to(to_peer);
        raft.set_term(leader.term);
        raft.set_snapshot(raft_snapshot(&data, leader.applied_index, leader.term));
        message
    }

    pub(super) fn get(&self, store_id: u64, key: &[u8]) -> Option<Vec<u8>> {
        self.nodes[&store_id].kv.get_value(Cf::Default, &keys::data_key(key)).unwrap()
    }
}

pub(super) fn put(key: &[u8], value: &[u8]) -> RaftCmdRequest {
    let mut request = Request::default();
    request.set_cmd_type(CmdType::Put);
    request.mut_put().set_key(key.to_vec());
    request.mut_put().set_value(value.to_vec());
    let mut command = RaftCmdRequest::default();
    command.mut_requests().push(request);
    command
}

pub(super) fn change_peer(change_type: ConfChangeType, peer: Peer) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    let admin = command.mut_admin_request();
    admin.set_cmd_type(AdminCmdType::ChangePeer);
    admin.mut_change_peer().set_change_type(change_type);
    admin.mut_change_peer().set_peer(peer);
    command
}

/// A split at `key`; the region `new_region_id` becomes what is left of it, with peer `new_region_id * 100 + n` for the
/// `n`th peer.
pub(super) fn split(key: &[u8], new_region_id: u64, peers: u64) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    let admin = command.mut_admin_request();
    admin.set_cmd_type(AdminCmdType::BatchSplit);
    admin.mut_splits().set_right_derive(true);
    let mut split = SplitRequest::default();
    split.set_split_key(key.to_vec());
    split.set_new_region_id(new_region_id);
    split.set_new_peer_ids((1..=peers).map(|n| new_region_id * 100 + n).collect());
    admin.mut_splits().mut_requests().push(split);
    command
}

/// A merge into `target`.
pub(super) fn merge(target: &Region) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    let admin = command.mut_admin_request();
    admin.set_cmd_type(AdminCmdType::PrepareMerge);
    admin.mut_prepare_merge().set_target(target.clone());
    command
}

pub(super) fn transfer_leader(peer: Peer) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    let admin = command.mut_admin_request();
    admin.set_cmd_type(AdminCmdType::TransferLeader);
    admin.mut_transfer_leader().set_peer(peer);
    command
}
