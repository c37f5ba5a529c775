//! The floor of the machine: three processes that append values durably on a majority, and nothing
//! else. No terms, no elections, no recovery: what no replicated log on this machine can be faster
//! than by much.
//!
//! The leader sends a batch to both followers before it writes its own file; a batch is answered when
//! it is on its own disk and on that of one follower. Files are zeroed beforehand and opened with
//! `O_DSYNC`, so that a write is its own sync.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use crate::System;
use crate::load::{Kind, Load, Sample, VALUE, sample};
use crate::peers::{Processes, free_ports};

/// A record on the wire to followers and on disk: sequence number, checksum, value.
const RECORD: usize = 16 + VALUE;
/// The length of a file; it is written round and round.
const FILE: u64 = 256 << 20;
/// The answer to one value.
const ANSWER: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where this process listens
    #[arg(long)]
    port: u16,
    /// Its file
    #[arg(long)]
    file: PathBuf,
    /// The followers' ports: this process leads
    #[arg(long)]
    follower: Vec<u16>,
}

/// One of the three processes.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // It listens when its file is zeroed: no load may be on before.
    let mut log = Log::new(&args.file)?;
    if args.follower.is_empty() {
        let (stream, _) = TcpListener::bind(("127.0.0.1", args.port))?.accept()?;
        follow(stream, &mut log)
    } else {
        Leader::new(args.port, log, &args.follower)?.lead()
    }
}

struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn new(path: &Path) -> io::Result<Self> {
        let mut zeros = File::create(path)?;
        let block = vec![0; 1 << 20];
        for _ in 0..FILE >> 20 {
            zeros.write_all(&block)?;
        }
        zeros.sync_all()?;
        let flags = rustix::fs::OFlags::DSYNC.bits().cast_signed();
        Ok(Self { file: OpenOptions::new().write(true).custom_flags(flags).open(path)?, at: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() as u64 > FILE {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Takes batches (length, last number, records), writes each, and answers with its number.
fn follow(mut stream: TcpStream, log: &mut Log) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut head, mut batch) = ([0; 16], Vec::new());
    while stream.read_exact(&mut head).is_ok() {
        let (length, last) = head.split_at(8);
        batch.resize(usize::try_from(u64::from_le_bytes(length.try_into()?))?, 0);
        stream.read_exact(&mut batch)?;
        for record in batch.chunks(RECORD) {
            let sum = u32::from_le_bytes(record[8..12].try_into()?);
            ensure!(sum == crc32c::crc32c(&record[16..]), "a record was damaged on its way");
        }
        log.append(&batch)?;
        stream.write_all(last)?;
    }
    Ok(())
}

/// A connection that is never waited for.
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    is_open: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, read: Vec::new(), is_open: true })
    }

    /// Takes what has come.
    fn fill(&mut self) {
        let mut chunk = [0; 64 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.is_open = false;
                    return;
                }
                Ok(length) => {
                    self.read.extend_from_slice(&chunk[..length]);
                    if length < chunk.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.is_open = false;
                    return;
                }
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => {
                    self.is_open = false;
                    return;
                }
            }
        }
    }
}

/// Waits until something can be read; says where.
fn ready<'a>(
    streams: impl Iterator<Item = &'a TcpStream>,
    listener: Option<&'a TcpListener>,
) -> anyhow::Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> =
        listener.iter().map(|listener| PollFd::new(*listener, PollFlags::IN)).collect();
    fds.extend(streams.map(|stream| PollFd::new(stream, PollFlags::IN)));
    let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    poll(&mut fds, Some(&second))?;
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

struct Leader {
    listener: TcpListener,
    log: Log,
    followers: Vec<Connection>,
    /// What each follower has on disk.
    durable: Vec<u64>,
    clients: Vec<Connection>,
    /// The records of the next batch, and whose they are.
    next: (Vec<u8>, Vec<usize>),
    /// The batch that is under way: its last number, and whose its values are.
    under_way: Option<(u64, Vec<usize>)>,
    count: u64,
}

impl Leader {
    fn new(port: u16, log: Log, followers: &[u16]) -> anyhow::Result<Self> {
        let connect = |port: &u16| -> anyhow::Result<Connection> {
            let begun = Instant::now();
            loop {
                match TcpStream::connect(("127.0.0.1", *port)) {
                    Ok(stream) => return Ok(Connection::new(stream)?),
                    Err(error) if begun.elapsed() > Duration::from_secs(60) => {
                        return Err(error.into());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        };
        let followers: Vec<_> = followers.iter().map(connect).collect::<anyhow::Result<_>>()?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            log,
            durable: vec![0; followers.len()],
            followers,
            clients: Vec::new(),
            next: (Vec::new(), Vec::new()),
            under_way: None,
            count: 0,
        })
    }

    fn lead(mut self) -> anyhow::Result<()> {
        loop {
            let streams = self.followers.iter().chain(self.clients.iter()).map(|peer| &peer.stream);
            let is_ready = ready(streams, Some(&self.listener))?;
            let (followers, clients) = is_ready[1..].split_at(self.followers.len());
            for (follower, _) in (0..).zip(followers).filter(|(_, is_ready)| **is_ready) {
                self.hear(follower);
                if !self.followers[follower].is_open {
                    return Ok(());
                }
            }
            for (client, _) in (0..).zip(clients).filter(|(_, is_ready)| **is_ready) {
                self.take(client);
            }
            if is_ready[0] {
                while let Ok((stream, _)) = self.listener.accept() {
                    self.clients.push(Connection::new(stream)?);
                }
            }
            self.answer();
            if self.under_way.is_none() {
                // Nobody's values are under way: positions may change.
                if self.next.1.is_empty() {
                    self.clients.retain(|client| client.is_open);
                }
                self.begin_batch()?;
            }
        }
    }

    fn hear(&mut self, follower: usize) {
        let connection = &mut self.followers[follower];
        connection.fill();
        let whole = connection.read.len() / 8 * 8;
        if let Some(last) = connection.read[..whole].chunks_exact(8).next_back() {
            self.durable[follower] = u64::from_le_bytes(last.try_into().expect("8 bytes"));
        }
        connection.read.drain(..whole);
    }

    fn take(&mut self, client: usize) {
        let connection = &mut self.clients[client];
        connection.fill();
        let whole = connection.read.len() / VALUE * VALUE;
        for value in connection.read[..whole].chunks_exact(VALUE) {
            self.count += 1;
            self.next.0.extend_from_slice(&self.count.to_le_bytes());
            self.next.0.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
            self.next.0.extend_from_slice(&[0; 4]);
            self.next.0.extend_from_slice(value);
            self.next.1.push(client);
        }
        connection.read.drain(..whole);
    }

    /// The leader's own write is done when a batch is under way: one follower more is a majority.
    fn answer(&mut self) {
        let is_done = |last: u64| self.durable.iter().any(|durable| *durable >= last);
        let Some((_, owners)) = self.under_way.take_if(|(last, _)| is_done(*last)) else {
            return;
        };
        let mut counts = vec![0; self.clients.len()];
        for owner in owners {
            counts[owner] += 1;
        }
        for (client, count) in self.clients.iter_mut().zip(counts) {
            client.send(&vec![1; count * ANSWER]);
        }
    }

    fn begin_batch(&mut self) -> anyhow::Result<()> {
        let (records, owners) = std::mem::take(&mut self.next);
        if records.is_empty() {
            return Ok(());
        }
        let mut message = (records.len() as u64).to_le_bytes().to_vec();
        message.extend_from_slice(&self.count.to_le_bytes());
        message.extend_from_slice(&records);
        for follower in &mut self.followers {
            follower.send(&message);
        }
        self.log.append(&records)?;
        self.under_way = Some((self.count, owners));
        Ok(())
    }
}

pub(crate) struct Floor {
    pub(crate) dir: PathBuf,
}

impl System for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn knows(&self, load: &Load) -> bool {
        matches!(load.kind, Kind::Append | Kind::Stream)
    }

    fn measure(
        &self,
        loads: &[Load],
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Vec<Sample>> {
        let dir = tempfile::Builder::new().prefix("compare-floor-").tempdir_in(&self.dir)?;
        let ports = free_ports(3)?;
        let mut processes = Processes::new();
        for (number, port) in ports.iter().enumerate() {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["floor", "--port", &port.to_string(), "--file"]);
            command.arg(dir.path().join(format!("f{number}")));
            if number == 0 {
                for follower in &ports[1..] {
                    command.args(["--follower", &follower.to_string()]);
                }
            }
            processes.start(command, &dir.path().join(format!("f{number}.log")))?;
        }
        loads.iter().map(|load| self.one(ports[0], *load, warm_up, length)).collect()
    }
}

impl Floor {
    /// Each value has a connection of its own, or as many as the stream allows.
    fn one(
        &self,
        port: u16,
        load: Load,
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Sample> {
        let (connections, each) = match load.kind {
            Kind::Stream | Kind::ReadStream => {
                (load.connections, load.in_flight / load.connections)
            }
            Kind::Append | Kind::Read => (load.in_flight, 1),
        };
        let mut clients = Vec::new();
        let begun = Instant::now();
        while clients.len() < connections {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => clients.push((Connection::new(stream)?, VecDeque::new())),
                Err(error) if begun.elapsed() > Duration::from_secs(60) => {
                    return Err(error).context("the floor's leader");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let values = vec![7; VALUE * each];
        let from = Instant::now() + warm_up;
        for (client, pending) in &mut clients {
            pending.extend((0..each).map(|_| Instant::now()));
            client.send(&values);
        }
        let mut latencies = Vec::new();
        while Instant::now() < from + length {
            let is_ready = ready(clients.iter().map(|(client, _)| &client.stream), None)?;
            for (client, pending) in
                clients.iter_mut().zip(is_ready).filter(|(_, is_ready)| *is_ready).map(|(c, _)| c)
            {
                client.fill();
                ensure!(client.is_open, "the floor's leader is gone");
                let answers = client.read.len() / ANSWER;
                client.read.drain(..answers * ANSWER);
                let now = Instant::now();
                for _ in 0..answers {
                    let begun = pending.pop_front().context("an answer to nothing")?;
                    if begun >= from {
                        latencies.push(now - begun);
                    }
                    pending.push_back(now);
                }
                client.send(&values[..answers * VALUE]);
            }
        }
        let took = from.elapsed();
        Ok(sample(self.name(), load, latencies, took, 0))
    }
}
