//! Requests that this store sent, or is about to send.
//!
//! **Owns** what the asking side remembers until it knows how the transfer ended.
//!
//! **How it works.** A leader that offers its leadership asks the target, if the region is warm here. When that is not
//! known yet, the request waits for a probe of this store's cache. Answers are noted; when the target takes
//! leadership over, the last word tells whether the transfer was warm.
//!
//! **Invariants.** At most `max-in-flight-requests` are remembered, each until its deadline or the end of its transfer,
//! whichever comes first.
//!
//! **Must not** take a target's word for anything but a metric and a log line: answers come from the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::action::{ColdReason, Notice, Outbox};
use crate::message::{Address, AnswerKind, PreloadAnswer};

/// In this order, so that the requests for a region, one for each target of its transfer, are neighbours.
type Key = (u64, Address);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Whether the region is warm here is not known yet.
    Probing,
    Sent {
        last_answer: Option<AnswerKind>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Request {
    deadline: Duration,
    state: State,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    requests: BTreeMap<Key, Request>,
    by_deadline: BTreeSet<(Duration, Key)>,
}

/// What to do for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Send,
    /// An earlier request to this target is still being answered, or waits for a probe.
    AlreadyAsked,
    AwaitProbe,
    Full,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Remembers a request for `region_id` to `to`. Unless it is known that the region is warm here, a probe has to tell.
    pub(super) fn begin(
        &mut self,
        region_id: u64,
        to: Address,
        is_warm_here: bool,
        deadline: Duration,
        max: usize,
    ) -> Begin {
        let key = (region_id, to);
        if let Some(earlier) = self.requests.get(&key) {
            let is_answered = matches!(earlier.state, State::Sent { last_answer: Some(kind) } if kind.is_final());
            let is_awaited = earlier.state == State::Probing && is_warm_here;
            if !is_answered && !is_awaited {
                return Begin::AlreadyAsked;
            }
            self.remove(key);
        }
        if self.requests.len() >= max {
            return Begin::Full;
        }
        let state = if is_warm_here { State::Sent { last_answer: None } } else { State::Probing };
        self.requests.insert(key, Request { deadline, state });
        self.by_deadline.insert((deadline, key));
        if is_warm_here { Begin::Send } else { Begin::AwaitProbe }
    }

    /// Whether a request for `region_id` waits for a probe.
    pub(super) fn awaits_probe(&self, region_id: u64) -> bool {
        self.of_region(region_id).any(|(_, request)| request.state == State::Probing)
    }

    /// A probe told whether the region is warm here; returns the targets to ask now.
    pub(super) fn probed(&mut self, region_id: u64, is_warm_here: bool) -> Vec<Address> {
        let probing = self.of_region(region_id).filter(|(_, request)| request.state == State::Probing);
        let keys: Vec<Key> = probing.map(|(key, _)| key).collect();
        for key in &keys {
            if !is_warm_here {
                self.remove(*key);
            } else if let Some(request) = self.requests.get_mut(key) {
                request.state = State::Sent { last_answer: None };
            }
        }
        keys.into_iter().map(|(_, to)| to).collect()
    }

    pub(super) fn answered(&mut self, answer: PreloadAnswer, outbox: &mut Outbox) {
        let PreloadAnswer { region_id, from, kind } = answer;
        match self.requests.get_mut(&(region_id, from)).map(|request| &mut request.state) {
            // Answers may overtake each other: the final one stays the last word.
            Some(State::Sent { last_answer }) if !last_answer.is_some_and(AnswerKind::is_final) => {
                *last_answer = Some(kind);
                outbox.notice(Notice::AnswerReceived { region_id, from, kind });
            }
            _ => outbox.notice(Notice::AnswerUnexpected { region_id, from, kind }),
        }
    }

    /// The peer `leader_peer_id` leads the region now: ends the transfer to it.
    pub(super) fn settle(&mut self, region_id: u64, leader_peer_id: u64, outbox: &mut Outbox) {
        let Some((key, request)) = self.of_region(region_id).find(|((_, to), _)| to.peer_id == leader_peer_id) else {
            return;
        };
        let reason = match request.state {
            State::Sent { last_answer: Some(AnswerKind::Warm) } => None,
            State::Sent { last_answer: Some(kind) } => Some(ColdReason::Answered(kind)),
            State::Sent { last_answer: None } => Some(ColdReason::NoAnswer),
            State::Probing => Some(ColdReason::NotCachedHere),
        };
        self.remove(key);
        outbox.notice(match reason {
            None => Notice::TransferWarm { region_id },
            Some(reason) => Notice::TransferCold { region_id, reason },
        });
    }

    pub(super) fn expire(&mut self, now: Duration, outbox: &mut Outbox) {
        while let Some(&(deadline, key)) = self.by_deadline.first() {
            if deadline > now {
                break;
            }
            let request = self.remove(key);
            let is_answered =
                request.is_some_and(|r| matches!(r.state, State::Sent { last_answer: Some(kind) } if kind.is_final()));
            if !is_answered {
                outbox.notice(Notice::AskExpired { region_id: key.0, to: key.1 });
            }
        }
    }

    fn of_region(&self, region_id: u64) -> impl Iterator<Item = (Key, Request)> + '_ {
        let all = Address { peer_id: u64::MAX, store_id: u64::MAX };
        let range = self.requests.range((region_id, Address::default())..=(region_id, all));
        range.map(|(key, request)| (*key, *request))
    }

    fn remove(&mut self, key: Key) -> Option<Request> {
        let request = self.requests.remove(&key)?;
        self.by_deadline.remove(&(request.deadline, key));
        Some(request)
    }
}
