// SPDX-License-Identifier: MIT OR Apache-2.0

//! Judges what was measured: a row for each goal.

mod fit;
mod rows;
mod table;

use std::fs;
use std::io;
use std::path::Path;

use crate::measure::Fallible;
use crate::record::Measurements;

/// Prints the table; says whether every goal is met.
pub(crate) fn report(directory: &Path) -> Fallible<bool> {
    let runs = load(directory)?;
    let rows = rows::rows(&runs);
    if rows.is_empty() {
        return Err(format!("{}: nothing was measured", directory.display()).into());
    }
    print!("{}", table::text(&rows));
    Ok(rows.iter().all(rows::Row::met))
}

fn load(directory: &Path) -> Fallible<Vec<Measurements>> {
    let mut paths: Vec<_> = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            serde_json::from_slice(&fs::read(path)?)
                .map_err(|error| format!("{}: {error}", path.display()).into())
        })
        .collect()
}
