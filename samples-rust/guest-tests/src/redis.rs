// SPDX-License-Identifier: MIT OR Apache-2.0

//! A database with threads, which goes on as its copy when it is gone itself.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::world::{Running, fullfork, is_gone, json, state, status, threads, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("redis_goes_on_as_its_copy", redis_goes_on_as_its_copy),
    ("redis_goes_on_with_its_tids", redis_goes_on_with_its_tids),
];

const KEYS: usize = 200;

/// A connection that speaks the inline form of the protocol.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        self.line()
    }

    fn get(&mut self, key: usize) -> String {
        // First its length.
        assert!(self.ask(&format!("GET key:{key}")).starts_with('$'));
        self.line()
    }
}

fn value(key: usize) -> String {
    format!("{}-{}", "v".repeat(key), key * key)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server with threads for input and output, and a client of it.
fn start() -> (Running, u16, Client) {
    let port = free_port();
    let text = port.to_string();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &text, "--bind", "127.0.0.1", "--io-threads", "4", "--save", ""])
        .stdout(Stdio::null());
    let server = Running::start(command);
    let mut client = None;
    wait_until("redis-server answers", || {
        client = Client::connect(port);
        client.as_mut().is_some_and(|client| client.ask("PING") == "+PONG")
    });
    (server, port, client.unwrap())
}

fn names(pid: u32) -> Vec<String> {
    let mut names: Vec<_> =
        threads(pid).into_iter().filter_map(|tid| status(tid, "Name")).collect();
    names.sort();
    names
}

fn goes_on_as_its_copy(options: &[&str]) {
    let (server, port, mut client) = start();
    for key in 0..KEYS {
        assert_eq!(client.ask(&format!("SET key:{key} {}", value(key))), "+OK");
    }
    let pid = server.pid().to_string();
    let args = [&["copy", "--json", "--stopped", &pid], options].concat();
    let report = json(fullfork(&args));
    let copy = u32::try_from(report["pid"].as_u64().unwrap()).unwrap();
    let expected = names(server.pid());
    assert!(expected.iter().filter(|name| name.starts_with("io_thd")).count() >= 3);
    assert_eq!(names(copy), expected);

    // What comes after the copy is not in it.
    assert_eq!(client.ask("SET key:0 late"), "+OK");
    let original = server.pid();
    drop(server);
    assert!(is_gone(original));
    assert_eq!(state(copy), Some('T'));
    let copied = Pid::from_raw(i32::try_from(copy).unwrap()).unwrap();
    kill_process(copied, Signal::CONT).unwrap();

    // A new client, and the one of the original, which notices nothing.
    for mut client in [Client::connect(port).unwrap(), client] {
        assert_eq!(client.ask("DBSIZE"), format!(":{KEYS}"));
        for key in 0..KEYS {
            assert_eq!(client.get(key), value(key));
        }
    }
    // It still writes, and ends as it should.
    let mut client = Client::connect(port).unwrap();
    assert_eq!(client.ask("SET more keys"), "+OK");
    assert_eq!(client.ask("DBSIZE"), format!(":{}", KEYS + 1));
    assert_eq!(client.ask("SHUTDOWN NOSAVE"), "");
    wait_until("the copy has ended", || is_gone(copy));
}

fn redis_goes_on_as_its_copy() {
    goes_on_as_its_copy(&[]);
}

fn redis_goes_on_with_its_tids() {
    goes_on_as_its_copy(&["--keep-tids"]);
}
