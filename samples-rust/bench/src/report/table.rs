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
        (_, false) if row.passes() => "over, known",
        (_, false) => "OVER",
    }
}

const HEAD: [&str; 6] = ["figure", "case", "value", "goal", "", "instructions"];

fn cells(row: &Row) -> [String; 6] {
    [
        row.figure.to_owned(),
        row.case.clone(),
        format!("{:.3}", row.value),
        goal(row.goal),
        verdict(row).to_owned(),
        row.parts.clone(),
    ]
}

/// For a terminal.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
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

/// For the document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|---|---|---|---|---|---|\n", HEAD.join(" | "));
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells(row).join(" | "));
    }
    text
}

/// For those who count what failed.
pub(crate) fn json_lines(rows: &[Row]) -> serde_json::Result<String> {
    let mut text = String::new();
    for row in rows {
        let line = serde_json::json!({
            "name": format!("{}: {}", row.figure, row.case),
            "ok": row.passes(),
            "detail": format!("{:.3}, goal: {} ({})", row.value, goal(row.goal), row.parts),
        });
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}
