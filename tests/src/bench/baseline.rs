//! What the machine itself gives, measured in the same run.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of one synced append.
const APPEND_BYTES: usize = 4096;
/// Bytes of one write on loopback.
const CHUNK_BYTES: usize = 64 << 10;

/// How many appends of 4 KiB, each made durable before the next, a file in `dir` takes per second.
pub fn synced_appends_per_second(dir: &Path, time: Duration) -> io::Result<f64> {
    let path = dir.join("baseline");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let block = vec![7u8; APPEND_BYTES];
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < time {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}

/// How many bytes per second one TCP connection on loopback carries.
pub fn loopback_bytes_per_second(time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut writing = TcpStream::connect(listener.local_addr()?)?;
    let (mut reading, _) = listener.accept()?;
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0u8; CHUNK_BYTES];
        let mut total = 0u64;
        loop {
            match reading.read(&mut buffer) {
                Ok(0) | Err(_) => return total,
                Ok(n) => total += n as u64,
            }
        }
    });
    let block = vec![7u8; CHUNK_BYTES];
    let started = Instant::now();
    while started.elapsed() < time {
        writing.write_all(&block)?;
    }
    drop(writing);
    let total = reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))?;
    let elapsed = started.elapsed().as_secs_f64();
    Ok(f64::from(u32::try_from(total >> 10).unwrap_or(u32::MAX)) * 1024.0 / elapsed)
}

/// What a process of this machine holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Footprint {
    /// Memory of its own, in bytes.
    pub memory_bytes: u64,
    /// Open files.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Processor time since it started, in ticks of a hundredth of a second.
    pub ticks: u64,
}

/// What the process with this id holds now.
pub fn footprint(pid: u32) -> io::Result<Footprint> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "an unknown form of /proc");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = own
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .ok_or_else(missing)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything.
    let fields = stat.rsplit_once(") ").ok_or_else(missing)?.1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    Ok(Footprint {
        memory_bytes: kib * 1024,
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count(),
        ticks: ticks.filter_map(|t| t.parse::<u64>().ok()).sum(),
    })
}

/// The processor time that this machine has spent, and how much of it was not idle, in ticks.
pub fn processor_ticks() -> io::Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first
        .split_whitespace()
        .filter_map(|t| t.parse().ok())
        .collect();
    let all = ticks.iter().take(8).sum();
    // Idle, and idle with I/O under way.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all, all - idle))
}
