// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork spawn`

use fullfork::{Child, Flags, SpawnOptions};
use serde::Serialize;

use super::copy::tids;
use super::shell_status;
use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::holder;
use crate::output::Progress;

#[derive(Serialize)]
struct Report {
    id: u32,
    pids: Vec<u32>,
}

pub(super) fn run(args: &args::Spawn, context: &mut Context<'_>) -> Result<u8, Failure> {
    let mut needed = Flags::FROM_PIDFD;
    needed.set(Flags::STOPPED, args.stopped);
    needed.set(Flags::KEEP_TIDS, args.keep_tids);
    context.require(needed)?;

    let held = holder::connect()?.ok_or(Failure::NoSnapshots)?;
    let options = SpawnOptions {
        tids: tids(args.keep_tids),
        stopped: args.stopped,
        ..SpawnOptions::default()
    };
    let mut copies = Vec::new();
    let result = spawn_all(args, &mut copies, |id| held.store.spawn(id, options));
    // Those that there are, are told even if one has failed.
    tell(args.id, &copies, context)?;
    result?;
    if args.wait { wait_all(&copies) } else { Ok(0) }
}

fn spawn_all(
    args: &args::Spawn,
    copies: &mut Vec<Child>,
    spawn: impl Fn(u32) -> Result<Child, fullfork::Error>,
) -> Result<(), Failure> {
    let progress = Progress::new();
    while copies.len() < args.copies {
        progress.show(&format!("copy {} of {}", copies.len() + 1, args.copies));
        copies.push(spawn(args.id).map_err(Failure::of(format!("snapshot {}", args.id)))?);
    }
    Ok(())
}

fn tell(id: u32, copies: &[Child], context: &mut Context<'_>) -> Result<(), Failure> {
    let pids: Vec<u32> = copies.iter().map(Child::pid).collect();
    if context.json {
        return context.write_json(&Report { id, pids });
    }
    pids.iter().try_for_each(|pid| context.write_line(&pid.to_string()))
}

fn wait_all(copies: &[Child]) -> Result<u8, Failure> {
    let mut worst = 0;
    for copy in copies {
        let status = copy.wait().map_err(Failure::of(format!("copy {}", copy.pid())))?;
        match shell_status(status) {
            0 => {}
            status => worst = status,
        }
    }
    Ok(worst)
}
