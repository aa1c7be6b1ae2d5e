// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lines of `trace_pipe`.
//!
//! Fields are found by their names, so that ones that a later kernel adds, or puts
//! in another order, do no harm.

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The thread that it happened in, in the system's own PID namespace.
    pub(crate) tid: u32,
    pub(crate) comm: String,
    /// Seconds since boot.
    pub(crate) time: f64,
    pub(crate) event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Start { flags: u64 },
    Quiesced { nr_members: u32 },
    Commit { replica: u32, nr_members: u32 },
    Replica { original: u32, replica: u32 },
    Release { stood_still_ns: u64 },
    Abort { errno: i32, reason: String, culprit: u32 },
}

/// None for lines that are no event of full fork.
pub(crate) fn parse(line: &str) -> Option<Record> {
    // A name of a thread may contain anything, so look from the right.
    let (head, event) = line.rsplit_once(": fullfork_")?;
    let (name, fields) = event.split_once(": ")?;
    let event = parse_event(name, &Fields(fields))?;
    let (head, time) = head.trim_end().rsplit_once(char::is_whitespace)?;
    let (tid, comm) = parse_task(head)?;
    Some(Record { tid, comm, time: time.parse().ok()?, event })
}

/// `comm-tid [cpu] flags`, where some options add more behind the TID.
fn parse_task(head: &str) -> Option<(u32, String)> {
    let (task, _) = head.rsplit_once('[')?;
    let (comm, rest) = task.rsplit_once('-').filter(|(_, rest)| starts_with_digit(rest))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((digits.parse().ok()?, comm.trim_start().to_owned()))
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

fn parse_event(name: &str, fields: &Fields<'_>) -> Option<Event> {
    Some(match name {
        "start" => Event::Start { flags: fields.hex("flags")? },
        "quiesced" => Event::Quiesced { nr_members: fields.number("nr_members")? },
        "commit" => Event::Commit {
            replica: fields.number("tgid")?,
            nr_members: fields.number("nr_members")?,
        },
        "replica" => Event::Replica {
            original: fields.number("original")?,
            replica: fields.number("replica")?,
        },
        "release" => Event::Release { stood_still_ns: fields.number("stood_still_ns")? },
        "abort" => Event::Abort {
            errno: fields.number::<i32>("err")?.saturating_abs(),
            reason: fields.find("reason")?.to_owned(),
            culprit: fields.number("culprit")?,
        },
        _ => return None,
    })
}

/// "name=value name=value"
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.find(name)?.parse().ok()
    }

    fn hex(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.find(name)?.trim_start_matches("0x"), 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "         python3-812     [001] .....    12.345678: fullfork_start: \
                         flags=0x4000000000000000 nr_threads=5";

    #[test]
    fn reads_a_line() {
        let record = parse(START).unwrap();
        assert_eq!((record.tid, record.comm.as_str()), (812, "python3"));
        assert!((record.time - 12.345_678).abs() < 1e-9);
        assert_eq!(record.event, Event::Start { flags: 1 << 62 });
    }

    #[test]
    fn a_name_may_look_like_anything() {
        let line = "  a-7 [x]: fullfork_-99 [000] d..1. 1.5: fullfork_release: stood_still_ns=83";
        let record = parse(line).unwrap();
        assert_eq!((record.tid, record.comm.as_str()), (99, "a-7 [x]: fullfork_"));
        assert_eq!(record.event, Event::Release { stood_still_ns: 83 });
    }

    #[test]
    fn a_thread_group_may_follow_the_tid() {
        let line = "sh-99 (   98) [000] ..... 1.5: fullfork_quiesced: nr_members=3";
        let record = parse(line).unwrap();
        assert_eq!((record.tid, record.event), (99, Event::Quiesced { nr_members: 3 }));
    }

    #[test]
    fn fields_are_found_by_name() {
        let line = "sh-9 [000] ..... 1.5: fullfork_abort: new=1 culprit=12 reason=io_uring err=-95";
        let expected = Event::Abort { errno: 95, reason: "io_uring".into(), culprit: 12 };
        assert_eq!(parse(line).unwrap().event, expected);
    }

    #[test]
    fn other_lines_are_passed_over() {
        for line in [
            "",
            "CPU:1 [LOST 5 EVENTS]",
            "sh-9 [000] ..... 1.5: sched_switch: prev=1",
            "sh-9 [000] ..... 1.5: fullfork_new: x=1",
            "sh-9 [000] ..... 1.5: fullfork_abort: err=-95",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
