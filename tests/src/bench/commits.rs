//! Members that commit offsets as fast as they are answered: prepared requests, two threads for each
//! connection. Every request is of one group and carries offsets that are greater than its last ones.

use std::collections::VecDeque;
use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::client::{LoadError, connect, frame, put_string, read_frame};

const OFFSET_COMMIT: i16 = 8;
/// The last version that is not flexible: laid out by hand, and read at fixed places.
const OFFSET_COMMIT_VERSION: i16 = 7;
const HEARTBEAT_VERSION: i16 = 1;
/// How long a member may take to get its partitions.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// What to commit.
#[derive(Debug, Clone)]
pub struct CommitLoad {
    /// The topic whose partitions are committed, which must exist.
    pub topic: String,
    /// How many groups, each of one member that has all partitions.
    pub groups: usize,
    /// Partitions of the topic, and of each request.
    pub partitions: usize,
    /// Connections, among which the groups are divided.
    pub connections: usize,
    /// Requests under way at a time on each.
    pub in_flight: usize,
    /// Requests a second in all, at even times whatever is answered; `None` for as many as are answered.
    pub pace: Option<u32>,
    /// How long.
    pub time: Duration,
}

/// What was committed.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// Acknowledged offsets.
    pub offsets: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From when each request was to be sent to its answer, sorted: one that had to wait for room has waited.
    pub latencies: Vec<Duration>,
}

impl Committed {
    /// Acknowledged offsets per second.
    pub fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.offsets).unwrap_or(u32::MAX)) / self.elapsed.as_secs_f64()
    }
}

/// A member and its prepared request.
struct Member {
    request: Vec<u8>,
    /// Where the offsets are in it.
    offsets: Vec<usize>,
    next: i64,
}

impl Member {
    fn new(load: &CommitLoad, group: &str, member: &str, epoch: i32) -> Self {
        let mut body = Vec::new();
        put_string(&mut body, group);
        body.extend_from_slice(&epoch.to_be_bytes());
        put_string(&mut body, member);
        // No static id; one topic.
        body.extend_from_slice(&(-1i16).to_be_bytes());
        body.extend_from_slice(&1i32.to_be_bytes());
        put_string(&mut body, &load.topic);
        let count = i32::try_from(load.partitions).unwrap_or(i32::MAX);
        body.extend_from_slice(&count.to_be_bytes());
        let mut offsets = Vec::with_capacity(load.partitions);
        for index in 0..count {
            body.extend_from_slice(&index.to_be_bytes());
            offsets.push(body.len());
            body.extend_from_slice(&0i64.to_be_bytes());
            // The leader epoch; empty metadata, as librdkafka sends it.
            body.extend_from_slice(&0i32.to_be_bytes());
            put_string(&mut body, "");
        }
        let request = frame(OFFSET_COMMIT, OFFSET_COMMIT_VERSION, &body);
        let head = request.len() - body.len();
        Self {
            request,
            offsets: offsets.into_iter().map(|at| at + head).collect(),
            next: 0,
        }
    }

    /// The request with the next offsets.
    fn next(&mut self) -> &[u8] {
        self.next += 1;
        for at in &self.offsets {
            if let Some(bytes) = self.request.get_mut(*at..*at + 8) {
                bytes.copy_from_slice(&self.next.to_be_bytes());
            }
        }
        &self.request
    }
}

/// A request of generated code, and its answer.
fn call<R: Request>(
    stream: &mut TcpStream,
    request: &R,
    version: i16,
) -> Result<R::Response, LoadError> {
    let broken = |_| LoadError::Broken("a request or answer that is not well formed");
    let mut bytes = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("bench")));
    header
        .encode(&mut bytes, R::header_version(version))
        .map_err(broken)?;
    request.encode(&mut bytes, version).map_err(broken)?;
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&bytes)?;
    let mut answer = Vec::new();
    read_frame(stream, &mut answer)?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, R::Response::header_version(version)).map_err(broken)?;
    R::Response::decode(&mut answer, version).map_err(broken)
}

fn heartbeat(
    stream: &mut TcpStream,
    load: &CommitLoad,
    (group, member): (&str, &str),
    epoch: i32,
) -> Result<ConsumerGroupHeartbeatResponse, LoadError> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(text(group).into())
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_topic_partitions(None);
    if epoch == 0 {
        let topic = text(&load.topic).into();
        request = request
            .with_rebalance_timeout_ms(300_000)
            .with_subscribed_topic_names(Some(vec![topic]))
            .with_topic_partitions(Some(Vec::new()));
    }
    call(stream, &request, HEARTBEAT_VERSION)
}

/// Joins a group of its own and waits until it has all partitions.
fn join(stream: &mut TcpStream, load: &CommitLoad, number: usize) -> Result<Member, LoadError> {
    let (group, member) = (
        format!("commits-{number:05}"),
        format!("member-{number:05}"),
    );
    let started = Instant::now();
    while started.elapsed() < JOIN_LIMIT {
        let answer = heartbeat(stream, load, (&group, &member), 0)?;
        match answer.error_code {
            0 => {}
            // The coordinator loads, or has not learnt of the topic yet.
            14..=16 => continue,
            code => return Err(LoadError::Refused(code)),
        }
        let assigned = answer
            .assignment
            .into_iter()
            .flat_map(|a| a.topic_partitions);
        if assigned.map(|t| t.partitions.len()).sum::<usize>() == load.partitions {
            return Ok(Member::new(load, &group, &member, answer.member_epoch));
        }
    }
    Err(LoadError::Broken("a member does not get its partitions"))
}

/// Checks that every partition of an answer has the code 0.
fn check(answer: &[u8], load: &CommitLoad) -> Result<(), LoadError> {
    // Correlation id, throttle time, one topic, its name, the number of partitions.
    let head = 4 + 4 + 4 + 2 + load.topic.len() + 4;
    for partition in 0..load.partitions {
        let at = head + partition * 6 + 4;
        let code = answer.get(at..at + 2).and_then(|b| b.try_into().ok());
        match code.map(i16::from_be_bytes) {
            Some(0) => {}
            Some(code) => return Err(LoadError::Refused(code)),
            None => return Err(LoadError::Broken("an answer is too short")),
        }
    }
    Ok(())
}

/// Commits at the coordinator for as long as `load` says, and waits for every answer.
pub fn run_commits(coordinator: SocketAddr, load: &CommitLoad) -> Result<Committed, LoadError> {
    let lines = in_threads(0..load.connections, load, move |line, load| {
        let mut stream = connect(coordinator)?;
        let numbers = (0..load.groups).filter(|number| number % load.connections == line);
        let members = numbers.map(|number| join(&mut stream, load, number));
        Ok((members.collect::<Result<Vec<_>, _>>()?, stream))
    })?;
    let started = Instant::now();
    let latencies = in_threads(lines, load, |(members, stream), load| {
        pump(stream, members, load)
    })?;
    let mut all = Committed {
        elapsed: started.elapsed(),
        latencies: latencies.concat(),
        ..Committed::default()
    };
    all.offsets = (all.latencies.len() * load.partitions) as u64;
    all.latencies.sort_unstable();
    Ok(all)
}

/// Does the work of every connection in a thread of its own.
fn in_threads<T: Send + 'static, U: Send + 'static>(
    lines: impl IntoIterator<Item = T>,
    load: &CommitLoad,
    work: impl Fn(T, &CommitLoad) -> Result<U, LoadError> + Send + Copy + 'static,
) -> Result<Vec<U>, LoadError> {
    let start = |line| {
        let load = load.clone();
        std::thread::spawn(move || work(line, &load))
    };
    let threads: Vec<_> = lines.into_iter().map(start).collect();
    let end = |thread: std::thread::JoinHandle<Result<U, LoadError>>| {
        let ended = thread.join();
        ended.map_err(|_| LoadError::Broken("a thread panicked"))?
    };
    threads.into_iter().map(end).collect()
}

/// When a connection's requests are to be sent.
struct Schedule {
    started: Instant,
    /// From one request to the next; `None` when the answers set the pace.
    every: Option<Duration>,
    sent: u32,
}

impl Schedule {
    fn new(load: &CommitLoad) -> Self {
        let connections = u32::try_from(load.connections).unwrap_or(u32::MAX);
        let every = load
            .pace
            .map(|pace| Duration::from_secs(1) * connections / pace);
        Self {
            started: Instant::now(),
            every,
            sent: 0,
        }
    }

    /// When each of the next requests was due, at most `room` of them; waits until one is.
    #[allow(
        clippy::disallowed_methods,
        reason = "a load at even times waits for them"
    )]
    fn due(&mut self, room: usize) -> Vec<Instant> {
        let Some(every) = self.every else {
            return vec![Instant::now(); room];
        };
        let first = self.started + every * self.sent;
        // sleep-ok: a load at even times waits for the next of them.
        std::thread::sleep(first.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let due = std::iter::successors(Some(first), |at| Some(*at + every));
        let due: Vec<Instant> = due.take(room).take_while(|at| *at <= now).collect();
        self.sent += u32::try_from(due.len()).unwrap_or(u32::MAX);
        due
    }
}

/// One connection: writes while there is room in its window, which the reader makes.
fn pump(
    mut writing: TcpStream,
    mut members: Vec<Member>,
    load: &CommitLoad,
) -> Result<Vec<Duration>, LoadError> {
    let mut reading = BufReader::new(writing.try_clone()?);
    let (sent, expected) = mpsc::channel::<Instant>();
    let (answered, room) = mpsc::channel::<()>();
    let reader = {
        let load = load.clone();
        std::thread::spawn(move || -> Result<Vec<Duration>, LoadError> {
            let mut latencies = Vec::new();
            let mut answer = Vec::new();
            while let Ok(at) = expected.recv() {
                read_frame(&mut reading, &mut answer)?;
                check(&answer, &load)?;
                latencies.push(at.elapsed());
                if answered.send(()).is_err() {
                    // The writer is done: it counts no more answers.
                    continue;
                }
            }
            Ok(latencies)
        })
    };
    let gone = || LoadError::Broken("the reader is gone");
    let mut schedule = Schedule::new(load);
    let mut free = load.in_flight;
    let mut order: VecDeque<usize> = (0..members.len()).collect();
    let mut several = Vec::new();
    let wrote = loop {
        if schedule.started.elapsed() >= load.time || reader.is_finished() {
            break Ok(());
        }
        if free == 0 {
            match room.recv() {
                Ok(()) => free += 1,
                Err(mpsc::RecvError) => break Ok(()),
            }
        }
        free += room.try_iter().count();
        several.clear();
        for at in schedule.due(free) {
            order.rotate_left(1);
            let member = order.front().and_then(|at| members.get_mut(*at));
            several.extend_from_slice(member.ok_or_else(gone)?.next());
            free -= 1;
            // The reader has ended: what ended it is said below.
            if sent.send(at).is_err() {
                break;
            }
        }
        if let Err(error) = writing.write_all(&several) {
            break Err(error);
        }
    };
    drop(sent);
    if wrote.is_err() {
        // Nothing more is answered, and the reader is not to wait for it.
        writing.shutdown(std::net::Shutdown::Both).or_else(closed)?;
    }
    // A refusal is said before the broken connection that follows from it.
    let latencies = reader.join().map_err(|_| gone())??;
    wrote?;
    writing.shutdown(std::net::Shutdown::Both).or_else(closed)?;
    Ok(latencies)
}

/// The other side may have closed first.
fn closed(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}
