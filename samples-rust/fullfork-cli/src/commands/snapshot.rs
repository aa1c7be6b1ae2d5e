// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork snapshot`

use fullfork::{Flags, SnapshotEntry, SnapshotOptions, open_pidfd};
use serde::Serialize;

use super::copy::{scope, tids};
use crate::args;
use crate::context::{Context, names};
use crate::failure::Failure;
use crate::holder;
use crate::output::count;

/// What is told of a snapshot, here and by `list`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) id: u32,
    pub(super) pid: u32,
    pub(super) flags: Vec<String>,
    pub(super) nr_processes: u32,
    pub(super) nr_threads: u32,
}

impl From<&SnapshotEntry> for Summary {
    fn from(entry: &SnapshotEntry) -> Self {
        Self {
            id: entry.id,
            pid: entry.pid,
            flags: names(Flags::from_bits_truncate(entry.flags)),
            nr_processes: entry.nr_processes,
            nr_threads: entry.nr_threads,
        }
    }
}

impl Summary {
    pub(super) fn text(&self) -> String {
        format!(
            "snapshot {}: {} with {}",
            self.id,
            count(self.nr_processes as usize, "process"),
            count(self.nr_threads as usize, "thread"),
        )
    }
}

pub(super) fn run(args: &args::Snapshot, context: &mut Context<'_>) -> Result<u8, Failure> {
    let mut needed = Flags::FROM_PIDFD | Flags::STOPPED;
    needed.set(Flags::SUBTREE, args.tree);
    needed.set(Flags::KEEP_TIDS, args.keep_tids);
    context.require(needed)?;

    let what = format!("process {}", args.pid);
    let pidfd = open_pidfd(args.pid).map_err(Failure::of(&what))?;
    let held = holder::connect_or_start()?;
    let options = SnapshotOptions {
        scope: scope(args.tree),
        tids: tids(args.keep_tids),
        no_new_privs: false,
    };
    let snapshot = held.store.take(pidfd, options).map_err(Failure::of(&what))?;
    let summary = Summary::from(snapshot.entry());
    // It is told first: one that nobody can name would stay for ever.
    if context.json {
        context.write_json(&summary)?;
    } else {
        context.write_line(&summary.text())?;
    }
    let _ = snapshot.keep();
    Ok(0)
}
