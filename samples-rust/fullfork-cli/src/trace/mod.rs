// SPDX-License-Identifier: MIT OR Apache-2.0

//! Full forks of the whole system, from the kernel's tracepoints.

mod instance;
mod operation;
mod parse;

pub(crate) use instance::{Instance, directory};
pub(crate) use operation::{Operation, Outcome, Tracker};
pub(crate) use parse::parse;
