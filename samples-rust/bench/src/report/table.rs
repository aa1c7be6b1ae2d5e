// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table, for the terminal.

use std::fmt::Write;

use super::rows::{Goal, Row};

fn goal(goal: Goal) -> String {
    match goal {
        Goal::AtMost(most) => format!("at most {most}"),
        Goal::Same(0.0) => "1 exactly".to_owned(),
        Goal::Same(off) => format!("1 within {} %", off * 100.0),
        Goal::Told => "-".to_owned(),
    }
}

fn verdict(row: &Row) -> &'static str {
    match (row.goal, row.met()) {
        (Goal::Told, _) => "",
        (_, true) => "met",
        (_, false) => "OVER",
    }
}

const HEAD: [&str; 6] = ["figure", "case", "value", "goal", "", "instructions"];

/// For a terminal.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.figure.to_owned(),
            row.case.clone(),
            format!("{:.3}", row.value),
            goal(row.goal),
            verdict(row).to_owned(),
            row.parts.clone(),
        ]
    }));
    let widths: Vec<_> = (0..HEAD.len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
