//! The least HTTP that reads an admin port.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::{Doing, Failure};

/// How long one request may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// An answer to a GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub code: u16,
    /// The body.
    pub body: String,
}

/// `GET path` from a server that closes the connection after its answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<HttpAnswer, Failure> {
    let what = || format!("GET http://{address}{path}");
    let answer = tokio::time::timeout(TIMEOUT, exchange(address, path)).await;
    answer.doing(what)?.doing(what)
}

async fn exchange(address: SocketAddr, path: &str) -> Result<HttpAnswer, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut bytes)
        .await?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| Failure::new("an answer without an end of its head"))?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| Failure::new(format!("no status code in {head:?}")))?;
    Ok(HttpAnswer {
        code,
        body: body.to_owned(),
    })
}
