//! Talking to the admin port of a running node, from the command line.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use rivven_cluster::types::Address;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer may take: a removal waits for the group.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// A request to an admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Changes nothing.
    Get,
    /// Changes the cluster.
    Post,
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug)]
pub(crate) enum RemoteError {
    /// Nobody answers. Whether a change was made is unknown.
    Unreachable { address: Address, reason: String },
    /// The node refuses; the text is its own.
    Refused(String),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, reason } => {
                write!(f, "no answer from the admin port {address}: {reason}")
            }
            Self::Refused(text) => f.write_str(text.trim_end()),
        }
    }
}

/// Sends one request and returns the body of the answer.
pub(crate) fn ask(address: &Address, method: Method, path: &str) -> Result<String, RemoteError> {
    let unreachable = |reason: String| RemoteError::Unreachable {
        address: address.clone(),
        reason,
    };
    let answer = exchange(address, method, path).map_err(|e| unreachable(e.to_string()))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| unreachable("it does not speak HTTP".to_owned()))?;
    let status: u16 = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| unreachable("it does not speak HTTP".to_owned()))?;
    if (200..300).contains(&status) {
        return Ok(body.to_owned());
    }
    Err(RemoteError::Refused(body.to_owned()))
}

fn exchange(address: &Address, method: Method, path: &str) -> std::io::Result<String> {
    let mut last = std::io::Error::other("the name has no address");
    for resolved in (address.host(), address.port()).to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        let (method, header) = match method {
            Method::Get => ("GET", ""),
            Method::Post => ("POST", "Rivven-Admin: 1\r\nContent-Length: 0\r\n"),
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{header}\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    Err(last)
}
