//! NATS JetStream with three replicas under the same load, for comparison. It acknowledges before it
//! syncs, as our `durability=replicated` does.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{LoadError, Loaded, Pace, connect, pump};
use crate::process::free_address;

const SERVERS: usize = 3;
const SUBJECT: &str = "bench";
const INBOX: &str = "_INBOX.bench";
/// How long the servers may take until they hold a stream.
const START: Duration = Duration::from_secs(30);
/// Longest message that is read.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Three `nats-server` processes with one stream of three replicas. Dropping it kills them.
#[derive(Debug)]
pub struct JetStream {
    servers: Vec<Child>,
    /// Where the stream's leader listens.
    leader: SocketAddr,
    _dir: TempDir,
}

impl Drop for JetStream {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It may have ended by itself.
            drop(server.kill());
            drop(server.wait());
        }
    }
}

impl JetStream {
    /// Starts the servers; `None` if there is no `nats-server` on the path.
    pub fn start() -> Result<Option<Self>, LoadError> {
        let there = Command::new("nats-server").arg("--version").output();
        if there.is_err() {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("jetstream-").tempdir()?;
        let broken = |_| LoadError::Broken("no port is free");
        let mut addresses = Vec::new();
        for _ in 0..SERVERS {
            addresses.push([
                free_address().map_err(broken)?,
                free_address().map_err(broken)?,
            ]);
        }
        let routes: Vec<String> = addresses
            .iter()
            .map(|[_, route]| format!("\"nats-route://{route}\""))
            .collect();
        let mut servers = Vec::new();
        for (index, [client, route]) in addresses.iter().enumerate() {
            let store = dir.path().join(format!("store-{index}"));
            let config = dir.path().join(format!("{index}.conf"));
            let text = format!(
                "server_name: s{index}\nlisten: \"{client}\"\njetstream {{ store_dir: \"{}\" }}\n\
                 cluster {{ name: bench, listen: \"{route}\", routes: [{}] }}\n",
                store.display(),
                routes.join(", ")
            );
            std::fs::write(&config, text)?;
            let mut command = Command::new("nats-server");
            command.arg("-c").arg(&config);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            servers.push(command.spawn()?);
        }
        let mut this = Self {
            servers,
            leader: SocketAddr::from(([127, 0, 0, 1], 0)),
            _dir: dir,
        };
        let clients: Vec<SocketAddr> = addresses.iter().map(|[client, _]| *client).collect();
        this.leader = create_stream(&clients)?;
        Ok(Some(this))
    }

    /// Publishes to the stream's leader, each message acknowledged.
    pub fn run_load(
        &self,
        value_bytes: usize,
        in_flight: usize,
        time: Duration,
    ) -> Result<Loaded, LoadError> {
        let mut connection = Connection::open(self.leader)?;
        let value = vec![b'x'; value_bytes];
        let request = message(SUBJECT, &value);
        connection.subscribe()?;
        let stream = connection.reading.into_inner();
        pump(stream, &request, Pace { in_flight, time }, |reading| {
            let payload = next_message(reading)?;
            if payload.windows(7).any(|w| w == b"\"error\"") {
                return Err(LoadError::Broken("JetStream has refused a message"));
            }
            Ok(())
        })
    }
}

/// Creates the stream as soon as the servers can; returns where its leader listens.
fn create_stream(servers: &[SocketAddr]) -> Result<SocketAddr, LoadError> {
    let config = format!(
        "{{\"name\":\"BENCH\",\"subjects\":[\"{SUBJECT}\"],\"num_replicas\":{SERVERS},\"storage\":\"file\",\
         \"retention\":\"limits\",\"discard\":\"old\",\"max_age\":0,\"duplicate_window\":0}}"
    );
    let started = Instant::now();
    while started.elapsed() < START {
        for server in servers {
            if let Ok(answer) = ask(*server, "$JS.API.STREAM.CREATE.BENCH", config.as_bytes())
                && let Some(leader) = leader_in(&answer, servers)
            {
                return Ok(leader);
            }
        }
        // Not up yet, or no leader yet.
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Err(LoadError::Broken("JetStream makes no stream"))
}

/// The address of the server that an answer names as the stream's leader.
fn leader_in(answer: &[u8], servers: &[SocketAddr]) -> Option<SocketAddr> {
    let text = String::from_utf8_lossy(answer);
    let (_, rest) = text.split_once("\"leader\":\"s")?;
    let (index, _) = rest.split_once('"')?;
    servers.get(index.parse::<usize>().ok()?).copied()
}

fn ask(server: SocketAddr, subject: &str, body: &[u8]) -> Result<Vec<u8>, LoadError> {
    let mut connection = Connection::open(server)?;
    connection.subscribe()?;
    let stream = connection.reading.get_mut();
    stream.write_all(&message(subject, body))?;
    next_message(&mut connection.reading)
}

/// A message that asks for an answer.
fn message(subject: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("PUB {subject} {INBOX} {}\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
    out
}

struct Connection {
    reading: BufReader<TcpStream>,
}

impl Connection {
    fn open(server: SocketAddr) -> Result<Self, LoadError> {
        let mut reading = BufReader::new(connect(server)?);
        let _info = line(&mut reading)?;
        let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
        reading.get_mut().write_all(hello)?;
        Ok(Self { reading })
    }

    /// Listens to the inbox, and waits until the server has heard it.
    fn subscribe(&mut self) -> Result<(), LoadError> {
        let ask = format!("SUB {INBOX} 1\r\nPING\r\n");
        self.reading.get_mut().write_all(ask.as_bytes())?;
        while line(&mut self.reading)? != "PONG" {}
        Ok(())
    }
}

fn line(reading: &mut BufReader<TcpStream>) -> Result<String, LoadError> {
    let mut text = String::new();
    if reading.read_line(&mut text)? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(text.trim_end().to_owned())
}

/// The payload of the next message; what else the server says is passed over.
fn next_message(reading: &mut BufReader<TcpStream>) -> Result<Vec<u8>, LoadError> {
    loop {
        let head = line(reading)?;
        if head == "PING" {
            reading.get_mut().write_all(b"PONG\r\n")?;
        }
        if head.starts_with("-ERR") {
            return Err(LoadError::Broken("the server reports an error"));
        }
        if !head.starts_with("MSG ") {
            continue;
        }
        let length = head.rsplit(' ').next().and_then(|n| n.parse().ok());
        let length: usize = length
            .filter(|length| *length <= MAX_MESSAGE_BYTES)
            .ok_or(LoadError::Broken("a message without a length"))?;
        let mut payload = vec![0; length + 2];
        reading.read_exact(&mut payload)?;
        payload.truncate(length);
        return Ok(payload);
    }
}
