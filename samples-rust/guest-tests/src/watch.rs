// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork watch`, on what really happens.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;

use fullfork::{Builder, Scope, open_pidfd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Test;
use crate::programs::Workers;
use crate::world::{Running, Scratch, fullfork, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("watch_tells_who_copied_whom", watch_tells_who_copied_whom),
    ("watch_tells_why_it_failed", watch_tells_why_it_failed),
    ("watch_ends_cleanly_by_a_signal", watch_ends_cleanly_by_a_signal),
];

/// A watch that has begun.
struct Watch {
    process: Running,
    instance: PathBuf,
}

impl Watch {
    fn start(args: &[&str]) -> Self {
        let mut command = fullfork(&["watch", "--json"]);
        command.args(args).stdout(Stdio::piped());
        let process = Running::start(command);
        let instances = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .map(|root| PathBuf::from(root).join("instances"));
        let instances = instances.into_iter().find(|path| path.exists()).unwrap();
        let instance = instances.join(format!("fullfork-{}", process.pid()));
        let enable = instance.join("events/fullfork/enable");
        wait_until("the watch has begun", || {
            fs::read_to_string(&enable).is_ok_and(|text| text.trim() == "1")
        });
        Self { process, instance }
    }

    /// Waits for its end, and returns what it said.
    fn finish(mut self) -> Vec<Value> {
        let mut text = String::new();
        self.process.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(self.process.code(), Some(0));
        assert!(!self.instance.exists(), "the instance was left");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn watch_tells_who_copied_whom() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, 4);
    let watch = Watch::start(&["--count", "1"]);
    let copy = Builder::new(Scope::Process).copy(open_pidfd(workers.pid()).unwrap()).unwrap();
    let told = watch.finish();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["outcome"], "done");
    assert_eq!(told[0]["caller"], std::process::id());
    assert_eq!(told[0]["nr_members"], workers.nr_threads());
    assert_eq!(
        (&told[0]["original"], &told[0]["replica"]),
        (&workers.pid().into(), &copy.pid().into())
    );
    assert!(told[0]["stood_still_ns"].as_u64().unwrap() > 0);
    let flags = told[0]["flags"].as_array().unwrap();
    assert!(flags.contains(&"CLONE_FROM_PIDFD".into()) && flags.contains(&"CLONE_PIDFD".into()));
    workers.go();
    assert_eq!(copy.wait().unwrap().code(), Some(0));
}

fn watch_tells_why_it_failed() {
    let scratch = Scratch::new();
    let workers = Workers::start(&scratch, 4);
    let watch = Watch::start(&["--count", "1"]);
    let builder = Builder::new(Scope::Process).tid_map_with_room(1);
    builder.copy(open_pidfd(workers.pid()).unwrap()).unwrap_err();
    let told = watch.finish();
    assert_eq!(told[0]["outcome"], "failed");
    assert_eq!((&told[0]["errno"], &told[0]["reason"]), (&"E2BIG".into(), &"tid-map-size".into()));
    assert_eq!(told[0]["culprit"], std::process::id());
}

fn watch_ends_cleanly_by_a_signal() {
    let watch = Watch::start(&[]);
    let pid = Pid::from_raw(i32::try_from(watch.process.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(watch.finish().is_empty());
}
