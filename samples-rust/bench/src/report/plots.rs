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
    sizes.sort_by_key(|size| (size.threads, size.processes, size.mb));
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

/// Beside each full fork its floor, which has the same parts but two.
fn phases(runs: &[Measurements]) -> Option<Plot> {
    let mut all = sizes(runs, Figure::PhaseQuiesce, |size| size.mb == 0 && size.threads > 1);
    all.retain(|size| find(runs, |run| run.floor(*size)).is_some());
    if all.is_empty() {
        return None;
    }
    let mut bars = vec![];
    let mut parts = [vec![], vec![], vec![], vec![]];
    for size in all {
        let value = |value: Option<u64>| {
            value.map_or(0.0, |ticks| float(ticks) / 1e3 / f64::from(size.threads))
        };
        let figure = |figure| value(find(runs, |run| run.median(figure, size)));
        let fork = figure(Figure::Fork);
        let floor = value(find(runs, |run| run.floor(size)));
        bars.push(format!("floor, {}", size.threads));
        bars.push(size.threads.to_string());
        let of_floor = [fork, floor - fork, 0.0, 0.0];
        let of_copy = [
            fork,
            (figure(Figure::PhasePrepare) - fork).max(0.0),
            figure(Figure::PhaseQuiesce),
            figure(Figure::PhaseCommit) + figure(Figure::PhaseReturn),
        ];
        for (part, pair) in parts.iter_mut().zip(of_floor.into_iter().zip(of_copy)) {
            part.extend([pair.0, pair.1]);
        }
    }
    let names = [
        "fork of the process",
        "making the other threads (prepare)",
        "quiesce",
        "commit, release, return",
    ];
    Some(Plot {
        name: "phases",
        title: "Where the instructions of a full fork go",
        x: "threads: the floor, and beside it the full fork",
        y: "thousand instructions for each thread",
        shape: Shape::Bars { bars, parts: names.into_iter().zip(parts).collect() },
    })
}
