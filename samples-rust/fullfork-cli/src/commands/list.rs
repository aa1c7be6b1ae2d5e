// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork list`

use fullfork::{Errno, Flags, ProcessEntry, SnapshotStore};
use serde::Serialize;

use super::snapshot::Summary;
use crate::context::Context;
use crate::failure::Failure;
use crate::holder;
use crate::output::{Node, STRONG, count, styled};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    processes: Vec<ProcessReport>,
}

#[derive(Serialize)]
struct ProcessReport {
    pid: u32,
    original: u32,
    name: String,
    nr_threads: u32,
    was_stopped: bool,
    gone: bool,
}

pub(super) fn run(context: &mut Context<'_>) -> Result<u8, Failure> {
    context.require(Flags::empty())?;
    let held = holder::connect()?;
    let reports = held.map_or_else(|| Ok(Vec::new()), |held| reports(&held.store))?;
    for report in &reports {
        if context.json {
            context.write_json(report)?;
        } else {
            context.write_line(&draw(report).render())?;
        }
    }
    Ok(0)
}

fn reports(store: &SnapshotStore<'_>) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    for entry in store.list().map_err(Failure::of("snapshots"))? {
        match store.processes(entry.id) {
            Ok(processes) => reports.push(Report {
                summary: Summary::from(&entry),
                processes: processes.iter().map(process_report).collect(),
            }),
            // Somebody has dropped it since.
            Err(error) if error.errno() == Errno::ENOENT => {}
            Err(error) => return Err(Failure::of(format!("snapshot {}", entry.id))(error)),
        }
    }
    Ok(reports)
}

fn process_report(entry: &ProcessEntry) -> ProcessReport {
    ProcessReport {
        pid: entry.pid,
        original: entry.original,
        name: entry.name(),
        nr_threads: entry.nr_threads,
        was_stopped: entry.flags & ProcessEntry::WAS_STOPPED != 0,
        gone: entry.flags & ProcessEntry::IS_GONE != 0,
    }
}

fn draw(report: &Report) -> Node {
    let mut node = Node::new(report.summary.text());
    for process in &report.processes {
        let name = styled(STRONG, &process.name);
        let threads = count(process.nr_threads as usize, "thread");
        let gone = if process.gone { ", gone" } else { "" };
        let stopped = if process.was_stopped { ", was stopped" } else { "" };
        let (original, pid) = (process.original, process.pid);
        node.children
            .push(Node::new(format!("{name} {original} -> {pid}, {threads}{stopped}{gone}")));
    }
    node
}

#[cfg(test)]
mod tests {
    use fullfork::SnapshotOptions;
    use fullfork::mock::Mock;

    use super::*;

    #[test]
    fn shows_snapshots_with_their_processes() {
        let mock = Mock::new().threads(8);
        let store = SnapshotStore::open_on(&mock).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let _ = store.take(&file, SnapshotOptions::default()).unwrap().keep();
        let reports = reports(&store).unwrap();
        let text = anstream::adapter::strip_str(&draw(&reports[0]).render()).to_string();
        let expected = "snapshot 1: 1 process with 8 threads\n└─ mock 100 -> 1001, 8 threads";
        assert_eq!(text, expected);
        let json = serde_json::to_value(&reports[0]).unwrap();
        assert_eq!(json["flags"][0], "CLONE_ALL_THREADS");
        assert_eq!(json["processes"][0]["gone"], false);
    }
}
