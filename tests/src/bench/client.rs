//! A producer that costs as little as it can: one connection, prepared requests, two threads. The
//! requests are laid out by hand at versions that need no generated code.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rivven_core_types::BatchBuilder;

const PRODUCE: i16 = 0;
const PRODUCE_VERSION: i16 = 7;
const CREATE_TOPICS: i16 = 19;
const CREATE_TOPICS_VERSION: i16 = 2;
const ACKS_ALL: i16 = -1;
const TIMEOUT_MS: i32 = 10_000;
/// Most bytes of small requests that go out in one write, as buffering clients do it.
const WRITE_BYTES: usize = 32 << 10;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What goes wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The broker's answer.
    #[error("error code {0}")]
    Refused(i16),
    /// An answer that cannot be read, or a thread that is gone.
    #[error("{0}")]
    Broken(&'static str),
}

/// What to write.
#[derive(Debug, Clone)]
pub struct Load {
    /// The topic, whose partition 0 is written.
    pub topic: String,
    /// Bytes of a record's value.
    pub value_bytes: usize,
    /// Records in a batch.
    pub batch_records: usize,
    /// Requests under way at a time.
    pub in_flight: usize,
    /// How long.
    pub time: Duration,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Acknowledged requests.
    pub requests: u64,
    /// The time it took until the last was acknowledged.
    pub elapsed: Duration,
    /// From sending to the answer of each request, sorted.
    pub latencies: Vec<Duration>,
}

impl Loaded {
    /// Acknowledged records per second, `per_request` of them in each.
    pub fn rate(&self, per_request: usize) -> f64 {
        let count = self.requests.saturating_mul(per_request as u64);
        f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / self.elapsed.as_secs_f64()
    }
}

pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A request frame; the correlation id is at bytes 8 to 11.
pub(super) fn frame(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    put_string(&mut out, "bench");
    out.extend_from_slice(body);
    let length = i32::try_from(out.len() - 4).unwrap_or(i32::MAX);
    if let Some(head) = out.get_mut(..4) {
        head.copy_from_slice(&length.to_be_bytes());
    }
    out
}

fn produce_frame(load: &Load, partition: i32) -> Result<Vec<u8>, LoadError> {
    let value = vec![b'x'; load.value_bytes];
    let mut batch = BatchBuilder::new(0);
    for _ in 0..load.batch_records {
        batch = batch.record(0, None, Some(&value));
    }
    let batch = batch
        .build()
        .map_err(|_| LoadError::Broken("the batch is too long"))?;
    let mut body = Vec::with_capacity(batch.bytes().len() + 64);
    body.extend_from_slice(&(-1i16).to_be_bytes());
    body.extend_from_slice(&ACKS_ALL.to_be_bytes());
    body.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    body.extend_from_slice(&1i32.to_be_bytes());
    put_string(&mut body, &load.topic);
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&partition.to_be_bytes());
    let length = i32::try_from(batch.bytes().len()).unwrap_or(i32::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(batch.bytes());
    Ok(frame(PRODUCE, PRODUCE_VERSION, &body))
}

pub(super) fn read_frame(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if length > 1 << 20 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a long answer"));
    }
    buffer.resize(length, 0);
    stream.read_exact(buffer)
}

fn code_at(answer: &[u8], at: usize) -> Result<(), LoadError> {
    let bytes = answer.get(at..at + 2).and_then(|b| b.try_into().ok());
    match bytes.map(i16::from_be_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(LoadError::Refused(code)),
        None => Err(LoadError::Broken("an answer is too short")),
    }
}

/// Connects without delays.
pub(super) fn connect(broker: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

/// Creates a topic with three replicas, min ISR 2.
pub fn create_topic(
    broker: SocketAddr,
    name: &str,
    partitions: u16,
    durability: &str,
) -> Result<(), LoadError> {
    let mut body = 1i32.to_be_bytes().to_vec();
    put_string(&mut body, name);
    body.extend_from_slice(&i32::from(partitions).to_be_bytes());
    body.extend_from_slice(&3i16.to_be_bytes());
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&2i32.to_be_bytes());
    for (key, value) in [("durability", durability), ("min.insync.replicas", "2")] {
        put_string(&mut body, key);
        put_string(&mut body, value);
    }
    body.extend_from_slice(&TIMEOUT_MS.to_be_bytes());
    body.push(0);
    let mut stream = connect(broker)?;
    stream.write_all(&frame(CREATE_TOPICS, CREATE_TOPICS_VERSION, &body))?;
    let mut answer = Vec::new();
    read_frame(&mut stream, &mut answer)?;
    // Correlation id, throttle time, one topic, its name.
    code_at(&answer, 4 + 4 + 4 + 2 + name.len())
}

/// When each request under way was sent.
#[derive(Default)]
struct Window {
    sent: Mutex<VecDeque<Instant>>,
    moved: Condvar,
}

/// Writes to the leader at `broker` for as long as `load` says, and waits for every answer.
pub fn run_load(broker: SocketAddr, load: &Load) -> Result<Loaded, LoadError> {
    let request = produce_frame(load, 0)?;
    run_requests(broker, load, &request, request.len())
}

/// As [`run_load`], to these partitions in turn, which `broker` must lead; each is written at least
/// once, whatever the time.
pub fn run_spread_load(
    broker: SocketAddr,
    load: &Load,
    partitions: &[i32],
) -> Result<Loaded, LoadError> {
    let mut requests = Vec::new();
    for partition in partitions {
        requests.extend(produce_frame(load, *partition)?);
    }
    let each = requests.len() / partitions.len().max(1);
    run_requests(broker, load, &requests, each)
}

fn run_requests(
    broker: SocketAddr,
    load: &Load,
    requests: &[u8],
    each: usize,
) -> Result<Loaded, LoadError> {
    let code_offset = 4 + 4 + 2 + load.topic.len() + 4 + 4;
    let mut answer = Vec::new();
    let pace = Pace {
        in_flight: load.in_flight,
        time: load.time,
    };
    pump_round(connect(broker)?, (requests, each), pace, move |reading| {
        read_frame(reading, &mut answer)?;
        code_at(&answer, code_offset)
    })
}

/// How many requests are under way at a time, and for how long they are sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) in_flight: usize,
    pub(super) time: Duration,
}

/// Sends `request` again and again. `read_answer` takes one answer off the connection and judges it; the
/// end of the stream between two answers is the end.
pub(super) fn pump(
    writing: TcpStream,
    request: &[u8],
    pace: Pace,
    read_answer: impl FnMut(&mut BufReader<TcpStream>) -> Result<(), LoadError> + Send + 'static,
) -> Result<Loaded, LoadError> {
    pump_round(writing, (request, request.len()), pace, read_answer)
}

/// As [`pump`], with requests of one length in turn, each of them once at least.
fn pump_round(
    mut writing: TcpStream,
    (requests, each): (&[u8], usize),
    pace: Pace,
    mut read_answer: impl FnMut(&mut BufReader<TcpStream>) -> Result<(), LoadError> + Send + 'static,
) -> Result<Loaded, LoadError> {
    let mut reading = BufReader::with_capacity(WRITE_BYTES, writing.try_clone()?);
    let window = Arc::new(Window::default());
    let started = Instant::now();
    let reader = {
        let window = Arc::clone(&window);
        std::thread::spawn(move || -> Result<Loaded, LoadError> {
            let mut loaded = Loaded::default();
            loop {
                match read_answer(&mut reading) {
                    Ok(()) => {}
                    Err(LoadError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                    Err(e) => return Err(e),
                }
                let mut sent = window.sent.lock().unwrap_or_else(PoisonError::into_inner);
                let at = sent
                    .pop_front()
                    .ok_or(LoadError::Broken("nothing was asked"))?;
                window.moved.notify_one();
                drop(sent);
                loaded.requests += 1;
                loaded.latencies.push(at.elapsed());
                loaded.elapsed = started.elapsed();
            }
            Ok(loaded)
        })
    };
    let at_once = (WRITE_BYTES / each).max(1).min(pace.in_flight);
    // Any number up to `at_once` can be taken in one piece wherever the last write ended.
    let round = requests.len() / each;
    let several = requests.repeat(at_once.div_ceil(round) + 1);
    let (mut at, mut all_sent) = (0, false);
    while (!all_sent || started.elapsed() < pace.time) && !reader.is_finished() {
        let mut sent = window.sent.lock().unwrap_or_else(PoisonError::into_inner);
        while sent.len() >= pace.in_flight && !reader.is_finished() {
            let waited = window.moved.wait_timeout(sent, Duration::from_millis(100));
            sent = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // As many as the window and one write have room for.
        let count = pace.in_flight.saturating_sub(sent.len()).clamp(1, at_once);
        let now = Instant::now();
        sent.extend(std::iter::repeat_n(now, count));
        drop(sent);
        let bytes = several.get(at * each..(at + count) * each);
        writing.write_all(bytes.ok_or(LoadError::Broken("nothing to send"))?)?;
        at += count;
        all_sent |= at >= round;
        at %= round;
    }
    // All answers, then the end of the stream.
    while !reader.is_finished() {
        let sent = window.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.is_empty() {
            break;
        }
        drop(window.moved.wait_timeout(sent, Duration::from_millis(100)));
    }
    writing.shutdown(std::net::Shutdown::Both)?;
    let loaded = reader
        .join()
        .map_err(|_| LoadError::Broken("the reader panicked"))?;
    let mut loaded = loaded?;
    loaded.latencies.sort_unstable();
    Ok(loaded)
}
