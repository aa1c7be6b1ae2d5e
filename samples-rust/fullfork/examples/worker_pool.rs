// SPDX-License-Identifier: MIT OR Apache-2.0

//! A pre-warmed pool of workers.
//!
//! A service is slow to start: it computes a table and starts threads that answer
//! questions about it. It is started once. Each worker is a replica of the whole,
//! warm, with all its threads, and has the table as copy-on-write memory.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::thread;

use fullfork::{Builder, Child, Fork, Relation, Scope, Support, exit_now};

const WORKERS: usize = 4;
const THREADS: usize = 3;
const LIMIT: usize = 200_000;

type Answer = Result<(), Box<dyn std::error::Error>>;

/// A question, and where the answer goes.
struct Question {
    nth: usize,
    answer: Sender<Option<usize>>,
}

/// A queue. The first wait in a channel of std has glibc note a destructor, under a
/// lock that records its owner; this one takes no such lock.
struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    changed: Condvar,
}

impl<T> Queue<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { items: Mutex::default(), changed: Condvar::new() })
    }

    fn push(&self, item: T) {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
        self.changed.notify_one();
    }

    fn pop(&self) -> T {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match items.pop_front() {
                Some(item) => return item,
                None => items = self.changed.wait(items).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Threads that know the prime numbers.
struct Service {
    questions: Arc<Queue<Question>>,
}

impl Service {
    /// Returns when all threads have started: glibc takes locks of its own until then.
    fn start() -> Self {
        let primes = Arc::new(sieve());
        let questions = Queue::new();
        let started = Arc::new(Barrier::new(THREADS + 1));
        for _ in 0..THREADS {
            let (primes, questions) = (Arc::clone(&primes), Arc::clone(&questions));
            let started = Arc::clone(&started);
            thread::spawn(move || {
                started.wait();
                answer_all(&primes, &questions)
            });
        }
        started.wait();
        Self { questions }
    }

    fn ask(&self, nth: usize) -> Option<usize> {
        let (answer, receiver) = channel();
        self.questions.push(Question { nth, answer });
        receiver.recv().ok()?
    }
}

fn sieve() -> Vec<usize> {
    let mut is_prime = vec![true; LIMIT];
    (2..LIMIT)
        .filter(|&number| {
            let found = is_prime[number];
            if found {
                (number * number..LIMIT).step_by(number).for_each(|n| is_prime[n] = false);
            }
            found
        })
        .collect()
}

fn answer_all(primes: &[usize], questions: &Queue<Question>) -> ! {
    loop {
        let question = questions.pop();
        // Who asked may have given up.
        let _ = question.answer.send(primes.get(question.nth).copied());
    }
}

/// A worker, as the parent sees it.
struct Worker {
    child: Child,
    requests: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Worker {
    fn new(service: &Service) -> Result<Self, Box<dyn std::error::Error>> {
        let (ours, theirs) = UnixStream::pair()?;
        // Who forgets to wait gets no zombies.
        let builder = Builder::new(Scope::Process).relation(Relation::Autoreaped);
        // SAFETY: the threads of the service have started and wait for its queue,
        // whose lock records no owner; no other lock is held, and no file is read.
        match unsafe { builder.fork() }? {
            Fork::Replica => {
                drop(ours);
                exit_now(i32::from(serve(&theirs, service).is_err()))
            }
            Fork::Original(child) => {
                let answers = BufReader::new(ours.try_clone()?);
                Ok(Self { child, requests: ours, answers })
            }
        }
    }

    fn ask(&mut self, nth: usize) -> std::io::Result<String> {
        writeln!(self.requests, "{nth}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// What a worker does: one line in, one line out.
fn serve(stream: &UnixStream, service: &Service) -> Answer {
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line == "quit" {
            break;
        }
        let prime = service.ask(line.parse()?);
        writeln!(&mut &*stream, "{}", prime.map_or("?".into(), |prime| prime.to_string()))?;
    }
    Ok(())
}

fn run() -> Answer {
    let service = Service::start();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::new(&service)?);
    }
    for nth in (0..12).map(|i| i * 1000) {
        let worker = &mut workers[nth / 1000 % WORKERS];
        let prime = worker.ask(nth)?;
        println!("worker {}: prime {nth} is {prime}", worker.child.pid());
        let expected = service.ask(nth).map(|prime| prime.to_string());
        if expected.as_deref() != Some(prime.as_str()) {
            return Err("a worker has another opinion than the original".into());
        }
    }
    for worker in &mut workers {
        writeln!(worker.requests, "quit")?;
    }
    Ok(())
}

fn main() -> ExitCode {
    if !Support::probe().full_fork() {
        eprintln!("worker_pool: this kernel has no full fork (CLONE_ALL_THREADS)");
        return ExitCode::from(77);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker_pool: {error}");
            ExitCode::FAILURE
        }
    }
}
