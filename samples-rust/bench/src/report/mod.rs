// SPDX-License-Identifier: MIT OR Apache-2.0

//! Judges what was measured, a row for each goal, and draws it.

mod fit;
mod plot;
mod plots;
mod rows;
mod table;

use std::fs;
use std::io;
use std::path::Path;

use crate::measure::Fallible;
use crate::record::Measurements;

/// Prints the table; says whether nothing is worse than its goal, or than is
/// known. The verdicts, and if it is to
/// draw the table and the plots, are put where the measurements are.
pub(crate) fn report(directory: &Path, draw: bool) -> Fallible<bool> {
    let runs = load(directory)?;
    let rows = rows::rows(&runs);
    if rows.is_empty() {
        return Err(format!("{}: nothing was measured", directory.display()).into());
    }
    print!("{}", table::text(&rows));
    fs::write(directory.join("rows.jsonl"), table::json_lines(&rows)?)?;
    if draw {
        fs::write(directory.join("table.md"), table::markdown(&rows))?;
        plot::load_font()?;
        for plot in plots::plots(&runs) {
            plot.write(directory)?;
        }
    }
    Ok(rows.iter().all(rows::Row::passes))
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
