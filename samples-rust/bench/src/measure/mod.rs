// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs in the guest, and measures. What is copied are processes of their own,
//! made for it: this program again, with another command line.

mod criu;
mod elf;
mod holds;
mod isolate;
mod kernel_memory;
mod plain;
mod program;
mod raw;
mod sfork;
mod snapshot;
mod subject;
mod suites;
mod trace;
mod wall;
mod work;

use std::error::Error;
use std::process::{Command, Stdio};

use crate::record::Record;

pub(crate) use isolate::OBJECTS;
pub(crate) use suites::{Suite, run};
pub(crate) use work::{Work, work};

/// The errors are for whoever reads the log of a run that failed.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// Has a new process do this, and takes the records that it prints.
fn in_new_process(work: Work) -> Fallible<Vec<Record>> {
    let order = serde_json::to_string(&work)?;
    let output = Command::new("/proc/self/exe")
        .args(["work", &order])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{order}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
