// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which plots there are, and what is in them.

use super::plot::{Plot, Series, Shape};
use super::rows::float;
use crate::record::{Figure, Measurements, Size};

const INSTRUCTIONS: &str = "million instructions of one CPU";

fn millions(count: u64) -> f64 {
    float(count) / 1e6
}

/// A curve: what each size comes to.
fn series(
    name: &'static str,
    sizes: &[Size],
    x: impl Fn(Size) -> u32,
    y: impl Fn(Size) -> Option<u64>,
) -> Series {
    let mut points: Vec<_> =
        sizes.iter().filter_map(|size| Some((f64::from(x(*size)), millions(y(*size)?)))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name, points }
}

fn sizes(runs: &[Measurements], figure: Figure, filter: impl Fn(&Size) -> bool) -> Vec<Size> {
    let mut sizes: Vec<_> = runs.iter().flat_map(|run| run.sizes(figure)).filter(filter).collect();
    sizes.dedup();
    sizes
}

fn find<T>(runs: &[Measurements], value: impl Fn(&Measurements) -> Option<T>) -> Option<T> {
    runs.iter().find_map(value)
}

/// All of which something was measured.
pub(crate) fn plots(runs: &[Measurements]) -> Vec<Plot> {
    [threads(runs), memory(runs), processes(runs), phases(runs)].into_iter().flatten().collect()
}

/// If there are curves in it.
fn lines(plot: Plot) -> Option<Plot> {
    let Plot { shape: Shape::Lines { mut series, base }, .. } = plot else { return Some(plot) };
    series.retain(|series| series.points.len() > 1);
    (!series.is_empty()).then_some(Plot { shape: Shape::Lines { series, base }, ..plot })
}

fn criu(runs: &[Measurements], size: Size) -> Option<u64> {
    find(runs, |run| {
        let dump = run.median(Figure::CriuDump, size).filter(|ticks| *ticks > 0)?;
        Some(dump + run.median(Figure::CriuRestore, size)?)
    })
}

fn threads(runs: &[Measurements]) -> Option<Plot> {
    let only_threads = |size: &Size| size.mb == 0 && size.processes == 1;
    let all = sizes(runs, Figure::FullFork, only_threads);
    let with_criu = sizes(runs, Figure::CriuDump, only_threads);
    let x = |size: Size| size.threads;
    let median = |figure| move |size| find(runs, |run| run.median(figure, size));
    lines(Plot {
        name: "threads",
        title: "Copying a process, by its number of threads",
        x: "threads",
        y: INSTRUCTIONS,
        shape: Shape::Lines {
            series: vec![
                series("full fork", &all, x, median(Figure::FullFork)),
                series("floor: fork + creation of the other threads", &all, x, |size| {
                    find(runs, |run| run.floor(size))
                }),
                series("fork: one thread only", &all, x, median(Figure::Fork)),
                series("CRIU: dump and restore", &with_criu, x, |size| criu(runs, size)),
            ],
            base: 2.0,
        },
    })
}

fn memory(runs: &[Measurements]) -> Option<Plot> {
    let of = |threads: u32| {
        move |size: &Size| size.mb > 0 && size.processes == 1 && size.threads == threads
    };
    let all = sizes(runs, Figure::StoodStill, of(8));
    let many = sizes(runs, Figure::StoodStill, of(64));
    let with_criu = sizes(runs, Figure::CriuDump, of(8));
    let x = |size: Size| size.mb;
    let median = |figure| move |size| find(runs, |run| run.median(figure, size));
    lines(Plot {
        name: "memory",
        title: "Copying a process, by its memory",
        x: "MB of memory that was written to, in small pages",
        y: INSTRUCTIONS,
        shape: Shape::Lines {
            series: vec![
                series("full fork, 8 threads", &all, x, median(Figure::FullFork)),
                series("fork, 8 threads in the original", &all, x, median(Figure::Fork)),
                series("full fork, 64 threads", &many, x, median(Figure::FullFork)),
                series("CRIU, 8 threads", &with_criu, x, |size| criu(runs, size)),
            ],
            base: 10.0,
        },
    })
}

fn processes(runs: &[Measurements]) -> Option<Plot> {
    let all = sizes(runs, Figure::FullForkOfTree, |_| true);
    let with_criu = sizes(runs, Figure::CriuDump, |size| size.processes > 1 || size.threads == 1);
    let x = |size: Size| size.processes;
    let median = |figure| move |size| find(runs, |run| run.median(figure, size));
    lines(Plot {
        name: "processes",
        title: "Copying a tree of processes of one thread each",
        x: "processes",
        y: INSTRUCTIONS,
        shape: Shape::Lines {
            series: vec![
                series("full fork of the tree", &all, x, median(Figure::FullForkOfTree)),
                series("a plain fork of each", &all, x, median(Figure::ForksOfTree)),
                series("CRIU: dump and restore", &with_criu, x, |size| criu(runs, size)),
            ],
            base: 10.0,
        },
    })
}

fn phases(runs: &[Measurements]) -> Option<Plot> {
    const PHASES: [(Figure, &str); 4] = [
        (Figure::PhaseQuiesce, "quiesce"),
        (Figure::PhasePrepare, "prepare: the replicas are made"),
        (Figure::PhaseCommit, "commit and release"),
        (Figure::PhaseReturn, "before and after"),
    ];
    let all = sizes(runs, Figure::PhaseQuiesce, |size| size.mb == 0);
    if all.is_empty() {
        return None;
    }
    let part = |figure| {
        let share = |size: &Size| {
            find(runs, |run| run.median(figure, *size))
                .map_or(0.0, |ticks| float(ticks) / 1e3 / f64::from(size.threads))
        };
        all.iter().map(share).collect()
    };
    Some(Plot {
        name: "phases",
        title: "Where the instructions of a full fork go",
        x: "threads",
        y: "thousand instructions for each thread",
        shape: Shape::Bars {
            bars: all.iter().map(|size| size.threads.to_string()).collect(),
            parts: PHASES.iter().map(|(figure, name)| (*name, part(*figure))).collect(),
        },
    })
}
