// SPDX-License-Identifier: MIT OR Apache-2.0

//! The goals, and what was measured against each.

use super::fit::quadratic_share;
use crate::measure::OBJECTS;
use crate::record::{Figure, Held, Measurements, Size};

/// What a value should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    /// So much off 1 at most.
    Same(f64),
    /// Only told.
    Told,
}

/// A value and its goal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) figure: &'static str,
    pub(crate) case: String,
    pub(crate) goal: Goal,
    pub(crate) value: f64,
    /// What the ratio is of.
    pub(crate) parts: String,
}

/// What is over its goal, and how far at most: the document says why. Nothing else
/// may be, and none of these may get worse.
const KNOWN: &[(&str, &str, f64)] = &[
    (THREADS, "1 thread", 1.12),
    (THREADS, "64 threads", 1.75),
    (THREADS, "512 threads", 1.89),
    (THREADS, "4096 threads", 1.89),
    (STILL, "8 threads", 1.45),
    (STILL, "64 threads", 1.70),
    (STILL, "64 threads, 10 MB", 1.89),
    (TREES, "10 processes", 1.24),
    (TREES, "100 processes", 1.38),
    (TREES, "1000 processes", 1.49),
    (SPAWNS, "1 thread", 1.405),
    // One exec differs by as much from another.
    (SFORK_SIZE, "1 thread, 1000 MB", 1.03),
];

const THREADS: &str = "full fork / floor";
const STILL: &str = "stand still / floor";
const TREES: &str = "tree / its plain forks";
const ISOLATE: &str = "CLONE_ISOLATE / without it";
const FINDING: &str = "finding what is internal / dup_fd()";
const SFORK_SIZE: &str = "sfork, exec, wait / with 0 MB";
const SPAWNS: &str = "spawn of a snapshot / plain fork";

impl Row {
    /// Neither over its goal, nor worse than is known.
    pub(crate) fn passes(&self) -> bool {
        self.met() || self.known().is_some_and(|most| self.value <= most)
    }

    fn known(&self) -> Option<f64> {
        KNOWN
            .iter()
            .find(|(figure, case, _)| *figure == self.figure && *case == self.case)
            .map(|known| known.2)
    }

    pub(crate) fn met(&self) -> bool {
        match self.goal {
            Goal::AtMost(most) => self.value <= most,
            Goal::Same(off) => (self.value - 1.0).abs() <= off,
            Goal::Told => true,
        }
    }
}

fn case(size: Size) -> String {
    match size {
        Size { processes: 2.., .. } => format!("{} processes", size.processes),
        Size { threads: 1, mb: 0, .. } => "1 thread".to_owned(),
        Size { mb: 0, .. } => format!("{} threads", size.threads),
        Size { threads: 1, .. } => format!("1 thread, {} MB", size.mb),
        _ => format!("{} threads, {} MB", size.threads, size.mb),
    }
}

#[allow(clippy::cast_precision_loss)] // Counts are far below 2^52.
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// A ratio of two counts, and what they are.
fn ratio(figure: &'static str, case: String, goal: Goal, part: u64, whole: u64) -> Row {
    let parts = format!("{} / {}", thousands(part), thousands(whole));
    Row { figure, case, goal, value: float(part) / float(whole), parts }
}

/// A count as people read it.
fn thousands(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}

impl Measurements {
    pub(crate) fn median(&self, figure: Figure, size: Size) -> Option<u64> {
        self.records
            .iter()
            .find(|record| record.figure == figure && record.size == size)
            .map(crate::record::Record::median)
    }

    /// The sizes of which there is this figure.
    pub(crate) fn sizes(&self, figure: Figure) -> impl Iterator<Item = Size> {
        self.records.iter().filter(move |record| record.figure == figure).map(|record| record.size)
    }

    /// One `fork()` of the same process, and a thread creation for each further
    /// thread.
    pub(crate) fn floor(&self, size: Size) -> Option<u64> {
        self.floor_of(Figure::Thread, size)
    }

    fn floor_of(&self, thread: Figure, size: Size) -> Option<u64> {
        let fork = self.median(Figure::Fork, size)?;
        if size.threads == 1 {
            return Some(fork);
        }
        let others = size.threads as usize - 1;
        let made = self
            .records
            .iter()
            .filter(|record| record.figure == thread)
            .find_map(|record| record.samples.get(..others))?;
        Some(fork + made.iter().sum::<u64>())
    }
}

/// A row for each goal of which something was measured.
pub(crate) fn rows(runs: &[Measurements]) -> Vec<Row> {
    let mut rows = vec![];
    for run in runs {
        threads(run, &mut rows);
    }
    for run in runs {
        ordinary(run, &mut rows);
    }
    for run in runs {
        still(run, &mut rows);
    }
    for run in runs {
        trees(run, &mut rows);
    }
    for run in runs {
        lines(run, &mut rows);
    }
    for run in runs {
        holds(run, &mut rows);
    }
    plain(runs, &mut rows);
    for run in runs {
        kernel_memory(run, &mut rows);
        wall(run, &mut rows);
        spawns(run, &mut rows);
        sforks(run, &mut rows);
        isolate(run, &mut rows);
        criu(run, &mut rows);
    }
    rows
}

/// Other suites have the same figures of a few sizes too.
fn push_once(row: Row, rows: &mut Vec<Row>) {
    if !rows.iter().any(|other| other.figure == row.figure && other.case == row.case) {
        rows.push(row);
    }
}

fn threads(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::FullFork).filter(|size| size.mb == 0) {
        let (Some(copy), Some(floor)) = (run.median(Figure::FullFork, size), run.floor(size))
        else {
            continue;
        };
        let goal = match size.threads {
            1 => Goal::AtMost(1.1),
            2 | 8 | 64 | 512 | 4096 => Goal::AtMost(1.7),
            _ => continue,
        };
        let case = case(size);
        let row = ratio(THREADS, case, goal, copy, floor);
        push_once(row, rows);
    }
}

/// The same with what the threads do that are made, or let go.
fn ordinary(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::FullForkOrdinary).filter(|size| size.mb == 0) {
        let copy = run.median(Figure::FullForkOrdinary, size);
        let floor = run.floor_of(Figure::ThreadOrdinary, size);
        let (Some(copy), Some(floor), 8 | 64 | 512 | 4096) = (copy, floor, size.threads) else {
            continue;
        };
        let case = case(size);
        let row = ratio("the same, ordinary caller", case, Goal::Told, copy, floor);
        push_once(row, rows);
    }
}

fn still(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::StoodStill) {
        let (Some(still), Some(floor)) = (run.median(Figure::StoodStill, size), run.floor(size))
        else {
            continue;
        };
        let case = case(size);
        rows.push(ratio(STILL, case, Goal::AtMost(1.3), still, floor));
    }
}

fn trees(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::FullForkOfTree) {
        let copy = run.median(Figure::FullForkOfTree, size);
        let forks = run.median(Figure::ForksOfTree, size);
        let (Some(copy), Some(forks), 1 | 10 | 100 | 1000) = (copy, forks, size.processes) else {
            continue;
        };
        let case = match size.processes {
            1 => "1 process".to_owned(),
            processes => format!("{processes} processes"),
        };
        rows.push(ratio(TREES, case, Goal::AtMost(1.15), copy, forks));
    }
}

/// What one step more may be longer than another is.
const STEP: f64 = 1.1;

fn holds(run: &Measurements, rows: &mut Vec<Row>) {
    for (what, figure, own) in [
        ("tasklist_lock write hold / fork's", Figure::WriteHold, Figure::WriteHoldOfFork),
        ("tasklist_lock read hold / fork's write", Figure::ReadHold, Figure::WriteHoldOfFork),
        ("interrupts off / fork's", Figure::IrqsOff, Figure::IrqsOffOfFork),
    ] {
        for size in run.sizes(figure) {
            if let (Some(copy), Some(own)) = (run.median(figure, size), run.median(own, size)) {
                rows.push(ratio(what, case(size), Goal::AtMost(STEP), copy, own));
            }
        }
    }
}

fn kernel_memory(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::MemoryOfReplicaThread) {
        let replica = run.median(Figure::MemoryOfReplicaThread, size);
        let thread = run.median(Figure::MemoryOfThread, size);
        if let (Some(replica), Some(thread)) = (replica, thread) {
            let case = case(size);
            let goal = Goal::Same(0.005);
            rows.push(ratio("memory of replica / thread, bytes", case, goal, replica, thread));
        }
    }
}

fn wall(run: &Measurements, rows: &mut Vec<Row>) {
    let least = |figure| run.records.iter().find(|record| record.figure == figure);
    let (Some(two), Some(one)) = (least(Figure::OnTwoCpus), least(Figure::OnOneCpu)) else {
        return;
    };
    let case = format!("{} threads", two.size.threads);
    let what = "2 CPUs / 1, wall clock, ns";
    rows.push(ratio(what, case, Goal::AtMost(0.7), two.least(), one.least()));
}

fn spawns(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::Spawn) {
        let (Some(spawn), Some(floor)) = (run.median(Figure::Spawn, size), run.floor(size)) else {
            continue;
        };
        let case = case(size);
        let row = if size.threads == 1 {
            ratio(SPAWNS, case, Goal::AtMost(1.3), spawn, floor)
        } else {
            ratio("spawn of a snapshot / floor", case, Goal::Told, spawn, floor)
        };
        rows.push(row);
    }
}

/// What the memory of the caller may seem to add to an exec in the child: samples of
/// an exec differ by 1 % as it is. With `fork()` it is 900 times as dear.
const SIZE_ADDS: f64 = 1.02;

fn sforks(run: &Measurements, rows: &mut Vec<Row>) {
    let nothing = Size::threads(1);
    let mut row = |what, size, goal, part, whole: (Figure, Size)| {
        let (part, whole) = (run.median(part, size), run.median(whole.0, whole.1));
        if let (Some(part), Some(whole)) = (part, whole) {
            rows.push(ratio(what, case(size), goal, part, whole));
        }
    };
    let least = Goal::AtMost(1.05);
    row(
        "sfork, exit, wait / vfork's",
        nothing,
        least,
        Figure::SforkExit,
        (Figure::VforkExit, nothing),
    );
    row(
        "sfork, exec, wait / vfork's",
        nothing,
        least,
        Figure::SforkExec,
        (Figure::VforkExec, nothing),
    );
    for size in run.sizes(Figure::SforkExec).filter(|size| size.mb > 0) {
        let most = Goal::AtMost(SIZE_ADDS);
        row(SFORK_SIZE, size, most, Figure::SforkExec, (Figure::SforkExec, nothing));
        row(
            "fork, exec, wait / sfork's",
            size,
            Goal::Told,
            Figure::ForkExec,
            (Figure::SforkExec, size),
        );
    }
}

fn isolate(run: &Measurements, rows: &mut Vec<Row>) {
    let without = |held| run.median(Figure::NotIsolated(held), Size::threads(1));
    let with = |held| run.median(Figure::Isolated(held), Size::threads(1));
    let (Some(plain), Some(isolated)) = (without(Held::Nothing), with(Held::Nothing)) else {
        return;
    };
    // What something adds to each kind of copy.
    let added = |held| {
        let (plain, isolated) =
            (without(held)?.checked_sub(plain)?, with(held)?.checked_sub(isolated)?);
        Some((plain, isolated.saturating_sub(plain)))
    };
    let mut row = |figure, case: &str, goal, part, whole| {
        rows.push(ratio(figure, case.to_owned(), goal, part, whole));
    };
    row(ISOLATE, "10 internal descriptors", Goal::Told, isolated, plain);
    for (held, case, goal) in [
        (Held::Devices, "990 devices more", Goal::AtMost(1.0)),
        (Held::OthersEventfds, "990 eventfds of others more", Goal::Told),
    ] {
        if let Some((dup, found)) = added(held) {
            row(FINDING, case, goal, found, dup);
        }
    }
    for (held, case) in [
        (Held::Pipes, "a pipe"),
        (Held::Eventfds, "an eventfd"),
        (Held::Sockets, "a pair of unix sockets"),
        (Held::Timerfds, "a timerfd"),
        (Held::Epolls, "an epoll instance"),
    ] {
        if let Some((_, copied)) = added(held) {
            row(
                "an object copied / a copy without",
                case,
                Goal::Told,
                copied / u64::from(OBJECTS),
                isolated,
            );
        }
    }
    if let (Some(part), Some(whole)) = (with(Held::Memory), without(Held::Memory)) {
        row(ISOLATE, "100 MB of shared memory", Goal::Told, part, whole);
    }
}

fn criu(run: &Measurements, rows: &mut Vec<Row>) {
    for size in run.sizes(Figure::FullForkByPidfd) {
        let dump = run.median(Figure::CriuDump, size);
        let restore = run.median(Figure::CriuRestore, size);
        let copy = run.median(Figure::FullForkByPidfd, size);
        let (Some(dump), Some(restore), Some(copy)) = (dump, restore, copy) else { continue };
        rows.push(ratio("CRIU / full fork", case(size), Goal::Told, dump + restore, copy));
    }
}

/// Up to this share of the cost at the largest size, a line counts as straight.
const STRAIGHT: f64 = 0.05;
/// What is done once, and what is done by few only, bends the line before this part
/// of its largest size.
const LINE_BEGINS: f64 = 1.0 / 64.0;

fn lines(run: &Measurements, rows: &mut Vec<Row>) {
    for (figure, what) in [(Figure::FullFork, "threads"), (Figure::FullForkOfWideTree, "processes")]
    {
        let number = |size: Size| if what == "threads" { size.threads } else { size.processes };
        let mut points: Vec<_> = run
            .sizes(figure)
            .filter(|size| size.mb == 0)
            .filter_map(|size| Some((f64::from(number(size)), float(run.median(figure, size)?))))
            .collect();
        let most = points.iter().map(|point| point.0).fold(0.0, f64::max);
        points.retain(|point| point.0 >= most * LINE_BEGINS);
        if most < 1000.0 {
            continue;
        }
        if let Some(value) = quadratic_share(&points) {
            rows.push(Row {
                figure: "quadratic term's share of the cost",
                case: format!("{most:.0} {what}"),
                goal: Goal::AtMost(STRAIGHT),
                value,
                parts: format!("fit to {} points", points.len()),
            });
        }
    }
}

fn plain(runs: &[Measurements], rows: &mut Vec<Row>) {
    let figures = [
        (Figure::Fork, "fork"),
        (Figure::Vfork, "vfork"),
        (Figure::PthreadCreate, "pthread_create"),
        (Figure::Execve, "execve"),
        (Figure::NullSyscall, "100 null system calls"),
        (Figure::Signal, "100 signals delivered"),
    ];
    let size = Size::threads(1);
    let is_plain = |run: &&Measurements| run.median(Figure::Signal, size).is_some();
    let find = |kernel| runs.iter().filter(is_plain).find(|run| run.kernel == kernel);
    let Some(base) = find("base") else { return };
    for (kernel, what, goal) in [
        ("fast", "ours / base, option on", Goal::Same(0.005)),
        ("off", "ours / base, option off", Goal::Same(0.0)),
    ] {
        let Some(ours) = find(kernel) else { continue };
        for (figure, name) in figures {
            if let (Some(a), Some(b)) = (ours.median(figure, size), base.median(figure, size)) {
                rows.push(ratio(what, name.to_owned(), goal, a, b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn run(kernel: &str, records: Vec<Record>) -> Measurements {
        Measurements { kernel: kernel.to_owned(), cpus: 1, records }
    }

    fn copies(threads: u32, copy: u64) -> Measurements {
        let size = Size::threads(threads);
        run(
            "fast",
            vec![
                Record::new(Figure::Thread, Size::threads(4), vec![10, 20, 30]),
                Record::new(Figure::Fork, size, vec![99, 100, 101]),
                Record::new(Figure::FullFork, size, vec![copy]),
            ],
        )
    }

    fn verdicts(run: Measurements) -> Vec<(f64, bool)> {
        rows(&[run]).iter().map(|row| (row.value, row.met())).collect()
    }

    #[test]
    fn the_floor_is_a_fork_and_the_first_threads() {
        assert_eq!(copies(1, 0).floor(Size::threads(1)), Some(100));
        assert_eq!(copies(3, 0).floor(Size::threads(3)), Some(130));
        // More were not made.
        assert_eq!(copies(5, 0).floor(Size::threads(5)), None);
    }

    #[test]
    fn is_over_its_goal_or_not() {
        assert_eq!(verdicts(copies(1, 110)), [(1.1, true)]);
        assert_eq!(verdicts(copies(1, 111)), [(1.11, false)]);
        assert_eq!(verdicts(copies(2, 187)), [(1.7, true)]);
        assert_eq!(verdicts(copies(2, 188)).iter().filter(|row| row.1).count(), 0);
    }

    #[test]
    fn what_is_known_may_not_get_worse() {
        let size = Size::threads(1);
        let row = |copy| {
            let fork = Record::new(Figure::Fork, size, vec![1000]);
            let copy = Record::new(Figure::FullFork, size, vec![copy]);
            rows(&[run("fast", vec![fork, copy])])[0].clone()
        };
        assert!(row(1100).met() && row(1100).passes());
        assert!(!row(1120).met() && row(1120).passes());
        assert!(!row(1121).passes());
    }

    #[test]
    fn one_instruction_more_is_not_the_same() {
        let size = Size::threads(1);
        let plain = |kernel, count| {
            run(
                kernel,
                vec![
                    Record::new(Figure::Signal, size, vec![count]),
                    Record::new(Figure::Fork, size, vec![count]),
                ],
            )
        };
        let judge = |fast, off| {
            let runs = [plain("fast", fast), plain("off", off), plain("base", 1000)];
            rows(&runs).iter().map(Row::met).collect::<Vec<_>>()
        };
        assert_eq!(judge(1005, 1000), [true; 4]);
        assert_eq!(judge(1006, 1001), [false; 4]);
    }

    #[test]
    fn memory_adds_nothing_to_an_exec_by_sfork() {
        let size = Size::threads(1).with_mb(1000);
        let judge = |exit, exec| {
            verdicts(run(
                "fast",
                vec![
                    Record::new(Figure::VforkExit, Size::threads(1), vec![1000]),
                    Record::new(Figure::SforkExit, Size::threads(1), vec![exit]),
                    Record::new(Figure::SforkExec, Size::threads(1), vec![1000]),
                    Record::new(Figure::SforkExec, size, vec![exec]),
                ],
            ))
        };
        assert_eq!(judge(1050, 1020), [(1.05, true), (1.02, true)]);
        assert_eq!(judge(1051, 1021), [(1.051, false), (1.021, false)]);
    }

    #[test]
    fn to_find_out_costs_no_more_than_the_descriptors() {
        let size = Size::threads(1);
        let judge = |isolated| {
            let records = [
                (Figure::NotIsolated(Held::Nothing), 1000),
                (Figure::Isolated(Held::Nothing), 2000),
                (Figure::NotIsolated(Held::Devices), 1400),
                (Figure::Isolated(Held::Devices), isolated),
            ]
            .map(|(figure, count)| Record::new(figure, size, vec![count]));
            verdicts(run("fast", records.to_vec()))
        };
        assert_eq!(judge(2800), [(2.0, true), (1.0, true)]);
        assert_eq!(judge(2804), [(2.0, true), (1.01, false)]);
    }

    #[test]
    fn a_curve_is_no_line() {
        let line = |cost: fn(u64) -> u64| {
            let sizes = [16, 64, 256, 1024, 2048].map(|threads| {
                Record::new(Figure::FullFork, Size::threads(threads), vec![cost(threads.into())])
            });
            verdicts(run("fast", sizes.to_vec())).iter().map(|row| row.1).collect::<Vec<_>>()
        };
        assert_eq!(line(|threads| 100_000 + 20_000 * threads), [true]);
        assert_eq!(line(|threads| 100_000 + 20_000 * threads + 2 * threads * threads), [false]);
    }
}
