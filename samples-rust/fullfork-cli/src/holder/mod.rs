// SPDX-License-Identifier: MIT OR Apache-2.0

//! Snapshots live as long as their device is open, and commands end. So a small
//! process in the background holds it open, and hands it to the commands of the
//! same user through a unix socket.

mod client;
mod daemon;
mod directory;
mod message;
mod server;

pub(crate) use client::{connect, connect_or_start};
pub(crate) use daemon::serve;
