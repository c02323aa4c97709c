//! etcd, three processes, under the same load: gRPC by hand over HTTP/2, four kinds of message.

use std::fmt;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use rivven_tests::process::free_address;
use rivven_tests::{Failure, wait};
use tempfile::TempDir;
use tokio::net::TcpStream;

const MEMBERS: usize = 3;
/// Connections that the clients share: more cost etcd throughput on two cores.
const CONNECTIONS: usize = 16;
const START: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Three `etcd` processes. Dropping it kills them.
pub(crate) struct Etcd {
    members: Vec<Child>,
    addresses: Vec<SocketAddr>,
    _dir: TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            drop(member.kill());
            drop(member.wait());
        }
    }
}

/// Connections to one member.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Vec<SendRequest<Bytes>>>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections", self.0.len())
    }
}

fn failed(error: impl ToString) -> Failure {
    Failure::new(format!("etcd: {}", error.to_string()))
}

impl Etcd {
    /// Starts the members, with heartbeats and elections as ours by default; `None` if there is no
    /// `etcd` on the path.
    pub(crate) async fn start() -> Result<Option<Self>, Failure> {
        if Command::new("etcd").arg("--version").output().is_err() {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("bench-etcd-").tempdir()?;
        let mut addresses = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..MEMBERS {
            addresses.push(free_address()?);
            peers.push(free_address()?);
        }
        let named = peers.iter().enumerate();
        let cluster: Vec<String> = named
            .map(|(i, peer)| format!("m{i}=http://{peer}"))
            .collect();
        let mut this = Self {
            members: Vec::new(),
            addresses,
            _dir: dir,
        };
        for (index, (client, peer)) in this.addresses.iter().zip(&peers).enumerate() {
            let mut command = Command::new("etcd");
            command
                .args(["--heartbeat-interval=50", "--election-timeout=300"])
                .args(["--snapshot-count=100000", "--log-level=error"])
                .arg(format!("--name=m{index}"))
                .arg(format!(
                    "--data-dir={}",
                    this._dir.path().join(format!("m{index}")).display()
                ))
                .arg(format!("--listen-client-urls=http://{client}"))
                .arg(format!("--advertise-client-urls=http://{client}"))
                .arg(format!("--listen-peer-urls=http://{peer}"))
                .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
                .arg(format!("--initial-cluster={}", cluster.join(",")))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            this.members.push(command.spawn()?);
        }
        Ok(Some(this))
    }

    /// Connections to the leader, and to the others.
    pub(crate) async fn connect(&self) -> Result<[Vec<Connections>; 2], Failure> {
        wait::until("etcd has a leader", START, async || {
            let (mut leader, mut followers) = (Vec::new(), Vec::new());
            for address in &self.addresses {
                let connections = Connections::open(*address).await?;
                if connections.leads().await? {
                    leader.push(connections);
                } else {
                    followers.push(connections);
                }
            }
            if leader.len() == 1 {
                Ok([leader, followers])
            } else {
                Err(Failure::new("nobody names one"))
            }
        })
        .await
    }
}

impl Connections {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (send, connection) = h2::client::handshake(stream).await.map_err(failed)?;
            // It ends with the process behind it.
            tokio::spawn(async move { drop(connection.await) });
            connections.push(send);
        }
        Ok(Self(Arc::new(connections)))
    }

    /// One call; returns the message of the answer.
    async fn call(&self, client: usize, method: &str, message: &[u8]) -> Result<Bytes, Failure> {
        let connection = self.0.get(client % self.0.len().max(1));
        let connection = connection.ok_or_else(|| failed("no connection"))?.clone();
        let mut connection = connection.ready().await.map_err(failed)?;
        let request = http::Request::post(format!("http://etcd/etcdserverpb.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(());
        let request = request.map_err(failed)?;
        let (response, mut stream) = connection.send_request(request, false).map_err(failed)?;
        let mut framed = BytesMut::with_capacity(5 + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).map_err(failed)?);
        framed.extend_from_slice(message);
        stream.send_data(framed.freeze(), true).map_err(failed)?;
        let mut body = response.await.map_err(failed)?.into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(failed)?;
            body.flow_control()
                .release_capacity(data.len())
                .map_err(failed)?;
            answer.extend_from_slice(&data);
            if answer.len() > MAX_ANSWER_BYTES {
                return Err(failed("the answer is too long"));
            }
        }
        let trailers = body.trailers().await.map_err(failed)?;
        let status = trailers.as_ref().and_then(|t| t.get("grpc-status"));
        if status.is_none_or(|status| status.as_bytes() != b"0") {
            return Err(failed(format!("{method} gave {trailers:?}")));
        }
        answer
            .freeze()
            .get(5..)
            .map(Bytes::copy_from_slice)
            .ok_or_else(|| failed("an answer without a message"))
    }

    /// `KV.Put`: durable on a majority when it is answered.
    pub(crate) async fn put(&self, client: usize, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        field(&mut message, 1, key);
        field(&mut message, 2, value);
        self.call(client, "KV/Put", &message).await.map(drop)
    }

    /// `KV.Range` of one key, linearizable as it is by default.
    pub(crate) async fn get(&self, client: usize, key: &[u8]) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        field(&mut message, 1, key);
        self.call(client, "KV/Range", &message).await.map(drop)
    }

    /// `Maintenance.Status`: whether the member names itself the leader.
    async fn leads(&self) -> Result<bool, Failure> {
        let status = self.call(0, "Maintenance/Status", &[]).await?;
        let header = bytes_of(&status, 1).unwrap_or_default();
        let (member, leader) = (number_of(header, 2), number_of(&status, 4));
        Ok(member.is_some() && member == leader)
    }
}

/// Appends a field of bytes.
fn field(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    message.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    loop {
        let [low, ..] = length.to_le_bytes();
        length >>= 7;
        if length == 0 {
            message.put_u8(low & 0x7f);
            break;
        }
        message.put_u8(low | 0x80);
    }
    message.extend_from_slice(bytes);
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The first field with this number.
fn find(mut message: &[u8], number: u64) -> Option<Value<'_>> {
    loop {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        if key >> 3 == number {
            return Some(value);
        }
    }
}

fn number_of(message: &[u8], number: u64) -> Option<u64> {
    match find(message, number)? {
        Value::Number(value) => Some(value),
        Value::Bytes(_) => None,
    }
}

fn bytes_of(message: &[u8], number: u64) -> Option<&[u8]> {
    match find(message, number)? {
        Value::Bytes(bytes) => Some(bytes),
        Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_others() {
        let mut message = BytesMut::new();
        field(&mut message, 1, &[7; 300]);
        message.extend_from_slice(&[4 << 3, 0x96, 0x01]);
        assert_eq!(bytes_of(&message, 1), Some(&[7; 300][..]));
        assert_eq!(number_of(&message, 4), Some(150));
        assert_eq!(number_of(&message, 5), None);
        assert_eq!(number_of(&message[..200], 4), None);
    }
}
