// SPDX-License-Identifier: MIT OR Apache-2.0

//! What people see: trees, colours, and progress.

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal, Write as _, stderr};

use anstyle::{AnsiColor, Style};

/// Things that stop a copy.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Things that may stop a copy.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// Things that are as they should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Names of processes.
pub(crate) const STRONG: Style = Style::new().bold();

/// Text in a style. What is written through `anstream` loses it where colours
/// are not wanted: `NO_COLOR`, or not a terminal.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A line with lines below it.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) label: String,
    pub(crate) children: Vec<Node>,
}

impl Node {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), children: Vec::new() }
    }

    /// All lines, without a newline at the end.
    pub(crate) fn render(&self) -> String {
        let mut text = self.label.clone();
        self.render_children(&mut text, "");
        text
    }

    fn render_children(&self, text: &mut String, indent: &str) {
        let last = self.children.len().saturating_sub(1);
        for (i, child) in self.children.iter().enumerate() {
            let (branch, below) = if i == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            // Writing to a string does not fail.
            let _ = write!(text, "\n{indent}{branch}{}", child.label);
            child.render_children(text, &format!("{indent}{below}"));
        }
    }
}

/// One line on standard error that is written over; nothing if that is not a
/// terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: stderr().is_terminal() }
    }

    pub(crate) fn show(&self, text: &str) {
        if self.shown {
            // Nobody needs to know that progress could not be told.
            let _ = write!(stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// A time as people like to read it.
pub(crate) fn duration(nanoseconds: u64) -> String {
    let microseconds = nanoseconds / 1000;
    match microseconds {
        0..1000 => format!("{microseconds} us"),
        1000..1_000_000 => format!("{}.{:02} ms", microseconds / 1000, microseconds % 1000 / 10),
        _ => format!("{}.{:02} s", microseconds / 1_000_000, microseconds % 1_000_000 / 10_000),
    }
}

/// "1 thread", "5 threads"
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = match noun {
        "process" => "processes",
        "copy" => "copies",
        _ => return format!("{number} {noun}{}", if number == 1 { "" } else { "s" }),
    };
    format!("{number} {}", if number == 1 { noun } else { plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_a_tree() {
        let mut root = Node::new("a");
        let mut b = Node::new("b");
        b.children.push(Node::new("c"));
        root.children.push(b);
        root.children.push(Node::new("d"));
        assert_eq!(root.render(), "a\n├─ b\n│  └─ c\n└─ d");
    }

    #[test]
    fn durations_have_a_unit_that_fits() {
        assert_eq!(duration(999_999), "999 us");
        assert_eq!(duration(1_234_567), "1.23 ms");
        assert_eq!(duration(2_050_000_000), "2.05 s");
    }

    #[test]
    fn counts_have_a_plural() {
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(2, "process"), "2 processes");
        assert_eq!(count(0, "thread"), "0 threads");
    }
}
