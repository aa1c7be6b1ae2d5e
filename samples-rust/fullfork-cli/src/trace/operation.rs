// SPDX-License-Identifier: MIT OR Apache-2.0

//! Full forks, put together from their events. All events of one happen in its
//! caller, which makes one at a time.

use std::collections::HashMap;

use fullfork::{Errno, Flags};
use serde::Serialize;

use super::parse::{Event, Record};
use crate::context::names;

/// One full fork.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Operation {
    /// The thread that asked for it.
    pub(crate) caller: u32,
    pub(crate) comm: String,
    /// Seconds since boot, at its end.
    pub(crate) time: f64,
    pub(crate) flags: Vec<String>,
    /// Threads that took part, as far as it came.
    pub(crate) nr_members: Option<u32>,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Done {
        /// The root's leader, and its replica.
        original: Option<u32>,
        replica: Option<u32>,
        stood_still_ns: u64,
    },
    Failed {
        errno: String,
        reason: String,
        /// The thread that was the reason.
        culprit: u32,
    },
}

#[derive(Debug, Default)]
struct Pending {
    flags: u64,
    nr_members: Option<u32>,
    original: Option<u32>,
    replica: Option<u32>,
}

/// Puts events together.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    pending: HashMap<u32, Pending>,
}

impl Tracker {
    /// Returns the full fork that ended with this event, if one did.
    pub(crate) fn add(&mut self, record: Record) -> Option<Operation> {
        let pending = self.pending.entry(record.tid).or_default();
        let outcome = match record.event {
            Event::Start { flags } => {
                *pending = Pending { flags, ..Pending::default() };
                return None;
            }
            Event::Quiesced { nr_members } => {
                pending.nr_members = Some(nr_members);
                return None;
            }
            Event::Commit { replica, nr_members } => {
                pending.replica = Some(replica);
                pending.nr_members = Some(nr_members);
                return None;
            }
            Event::Replica { original, replica } => {
                if pending.replica == Some(replica) {
                    pending.original = Some(original);
                }
                return None;
            }
            Event::Release { stood_still_ns } => Outcome::Done {
                original: pending.original,
                replica: pending.replica,
                stood_still_ns,
            },
            Event::Abort { errno, reason, culprit } => {
                Outcome::Failed { errno: Errno::new(errno).to_string(), reason, culprit }
            }
        };
        let operation = Operation {
            caller: record.tid,
            comm: record.comm,
            time: record.time,
            flags: names(Flags::from_bits_truncate(pending.flags)),
            nr_members: pending.nr_members,
            outcome,
        };
        self.forget(record.tid, &operation.outcome);
        Some(operation)
    }

    /// The kernel tries again, without another start, if a member was killed.
    fn forget(&mut self, caller: u32, outcome: &Outcome) {
        match outcome {
            Outcome::Failed { reason, .. } if reason == "member-killed" => {
                if let Some(pending) = self.pending.get_mut(&caller) {
                    *pending = Pending { flags: pending.flags, ..Pending::default() };
                }
            }
            _ => {
                self.pending.remove(&caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(tracker: &mut Tracker, tid: u32, events: Vec<Event>) -> Vec<Operation> {
        let record = |event| Record { tid, comm: "sh".into(), time: 1.5, event };
        events.into_iter().filter_map(|event| tracker.add(record(event))).collect()
    }

    fn start() -> Event {
        Event::Start { flags: (Flags::ALL_THREADS | Flags::SUBTREE).bits() }
    }

    fn abort(reason: &str) -> Event {
        Event::Abort { errno: 16, reason: reason.into(), culprit: 7 }
    }

    fn success() -> Vec<Event> {
        vec![
            Event::Quiesced { nr_members: 2 },
            Event::Commit { replica: 20, nr_members: 2 },
            Event::Replica { original: 10, replica: 20 },
            Event::Replica { original: 11, replica: 21 },
            Event::Release { stood_still_ns: 5 },
        ]
    }

    #[test]
    fn tells_who_copied_what() {
        let mut events = vec![start()];
        events.extend(success());
        let done = feed(&mut Tracker::default(), 9, events);
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].caller, done[0].nr_members), (9, Some(2)));
        assert_eq!(done[0].flags, ["CLONE_SUBTREE", "CLONE_ALL_THREADS"]);
        let expected = Outcome::Done { original: Some(10), replica: Some(20), stood_still_ns: 5 };
        assert_eq!(done[0].outcome, expected);
    }

    #[test]
    fn callers_at_the_same_time_are_told_apart() {
        let mut tracker = Tracker::default();
        assert!(feed(&mut tracker, 1, vec![start()]).is_empty());
        let failed = feed(&mut tracker, 2, vec![start(), abort("timeout")]);
        assert_eq!(failed[0].caller, 2);
        assert_eq!(feed(&mut tracker, 1, success())[0].caller, 1);
        assert!(tracker.pending.is_empty());
    }

    #[test]
    fn tells_why_one_failed() {
        let failed = feed(&mut Tracker::default(), 9, vec![start(), abort("timeout")]);
        let json = serde_json::to_value(&failed[0]).unwrap();
        assert_eq!(json["outcome"], "failed");
        assert_eq!((json["errno"].as_str(), json["culprit"].as_u64()), (Some("EBUSY"), Some(7)));
    }

    #[test]
    fn another_try_has_the_same_flags() {
        let mut tracker = Tracker::default();
        let mut events = vec![start(), abort("member-killed")];
        events.extend(success());
        let both = feed(&mut tracker, 9, events);
        assert_eq!(both.len(), 2);
        assert_eq!(both[0].flags, both[1].flags);
    }

    #[test]
    fn one_that_began_before_the_watch_has_no_flags() {
        let done = feed(&mut Tracker::default(), 9, success());
        assert!(done[0].flags.is_empty());
    }
}
