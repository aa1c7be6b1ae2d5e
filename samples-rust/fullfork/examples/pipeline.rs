// SPDX-License-Identifier: MIT OR Apache-2.0

//! A pipeline of three programs, set up in ordinary Rust.
//!
//! Each program is started by a thread that moves into the child, redirects and
//! limits it there, and comes back from `exec()`. What fails in a child is an error
//! that the function returns: which step, and why, with no pipe to tell it and no
//! restriction on what may be called. The second pipeline has such a step.
//!
//!     pipeline

use std::env::{set_current_dir, temp_dir};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fullfork::sfork::{Program, Spawned, Subprocess};
use fullfork::{Flags, Support};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, setpgid, setrlimit};
use rustix::stdio::{dup2_stdin, dup2_stdout};

/// One program of a pipeline, and where it is to run.
struct Step {
    program: Program,
    directory: PathBuf,
}

impl Step {
    fn new(name: &str, arguments: &[&str], directory: &Path) -> Self {
        let program = Program::new(name).args(arguments).env("LC_ALL", "C");
        Self { program, directory: directory.to_owned() }
    }

    /// Starts it as a member of a process group, or as its leader.
    fn start(&self, input: &OwnedFd, output: &OwnedFd, group: Option<Pid>) -> io::Result<Spawned> {
        // SAFETY: the child neither opens nor closes what a value owns.
        let child = unsafe { Subprocess::start() }?;
        let child = child.setup(|| {
            dup2_stdin(input)?;
            dup2_stdout(output)?;
            setpgid(None, group)?;
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            set_current_dir(&self.directory)
        })?;
        Ok(child.exec(&self.program)?)
    }
}

/// Starts all steps, the output of each one being the input of the next, and waits for
/// them. A step that cannot be started ends those that were.
fn run(steps: &[Step], input: &Path, output: &Path) -> Result<(), String> {
    let mut started: Vec<Spawned> = Vec::new();
    let outcome = start_all(steps, input, output, &mut started);
    for child in started {
        let pid = child.pid();
        // Its input has ended, as nobody holds a pipe any more.
        let status = child.wait().map_err(|error| error.to_string())?;
        println!("   {pid} ended: {status}");
    }
    outcome
}

fn start_all(
    steps: &[Step],
    input: &Path,
    output: &Path,
    started: &mut Vec<Spawned>,
) -> Result<(), String> {
    let mut input: OwnedFd = File::open(input).map_err(|error| error.to_string())?.into();
    let output: OwnedFd = File::create(output).map_err(|error| error.to_string())?.into();
    let mut group = None;
    for (number, step) in steps.iter().enumerate() {
        let fail = |error: io::Error| format!("step {}: {error}", number + 1);
        let (next, out) = if number + 1 < steps.len() {
            let (next, out) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| fail(errno.into()))?;
            (Some(next), out)
        } else {
            (None, output.try_clone().map_err(fail)?)
        };
        let child = step.start(&input, &out, group).map_err(fail)?;
        println!("   step {} is {}", number + 1, child.pid());
        group = group.or_else(|| Pid::from_raw(i32::try_from(child.pid()).ok()?));
        started.push(child);
        match next {
            Some(next) => input = next,
            None => break,
        }
    }
    Ok(())
}

fn demonstrate(directory: &Path) -> io::Result<()> {
    let (words, counts) = (directory.join("words"), directory.join("counts"));
    fs::write(&words, "fork\nvfork\nsfork\nfork\nsfork\nsfork\n")?;
    let here = std::env::current_dir()?;
    let step = |name: &str, arguments: &[&str]| Step::new(name, arguments, directory);

    println!("sort | uniq -c | sort -rn");
    let mut steps = [step("sort", &[]), step("uniq", &["-c"]), step("sort", &["-rn"])];
    run(&steps, &words, &counts).map_err(io::Error::other)?;
    print!("{}", fs::read_to_string(&counts)?);

    println!("the same, where a directory is missing");
    steps[1].directory = directory.join("missing");
    match run(&steps, &words, &counts) {
        Ok(()) => return Err(io::Error::other("a step without its directory was started")),
        Err(error) => println!("   {error}"),
    }
    println!("the same, where a program is missing");
    steps[1] = step("no-such-program", &[]);
    match run(&steps, &words, &counts) {
        Ok(()) => return Err(io::Error::other("a step without its program was started")),
        Err(error) => println!("   {error}"),
    }
    if std::env::current_dir()? != here {
        return Err(io::Error::other("the directory of a child came out of it"));
    }
    Ok(())
}

fn main() -> ExitCode {
    if !Support::probe().has(Flags::SFORK) {
        eprintln!("this kernel has no CLONE_SFORK");
        return ExitCode::from(77);
    }
    let directory = temp_dir().join(format!("pipeline-{}", std::process::id()));
    let outcome = fs::create_dir(&directory).and_then(|()| demonstrate(&directory));
    let _ = fs::remove_dir_all(&directory);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipeline: {error}");
            ExitCode::FAILURE
        }
    }
}
