//! A client of the Kafka port, as small as the commands need it: one request at a time.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    FindCoordinatorRequest, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion, Request, StrBytes};
use rivven_cluster::types::Address;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a coordinator that is being elected is waited for.
const COORDINATOR_DEADLINE: Duration = Duration::from_secs(15);
/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const METADATA_VERSION: i16 = 12;
const FIND_COORDINATOR_VERSION: i16 = 3;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupCommandError {
    /// Nobody answers. Whether a change was made is unknown.
    #[error("no answer from the Kafka port {address}: {reason}")]
    Unreachable { address: Address, reason: String },
    /// The cluster refuses.
    #[error("{what}: {}", describe_code(*.code))]
    Refused { what: String, code: i16 },
    /// The cluster or this command says why not.
    #[error("{0}")]
    Failed(String),
}

pub(crate) type Result<T> = std::result::Result<T, GroupCommandError>;

pub(super) fn describe_code(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(error) => error.to_string(),
        None => format!("error code {code}"),
    }
}

/// Refuses an answer that has an error code.
pub(super) fn check(code: i16, what: impl FnOnce() -> String) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    Err(GroupCommandError::Refused { what: what(), code })
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The connections to a cluster's nodes.
#[derive(Debug)]
pub(super) struct Client {
    bootstrap: Vec<Address>,
    open: BTreeMap<String, TcpStream>,
    issued: i32,
    /// Something of the last request may have been sent.
    sent: bool,
    repeated: bool,
}

impl Client {
    pub(super) const fn new(bootstrap: Vec<Address>) -> Self {
        Self {
            bootstrap,
            open: BTreeMap::new(),
            issued: 0,
            sent: false,
            repeated: false,
        }
    }

    /// One request to one node, one answer.
    pub(super) fn call<R: Request>(
        &mut self,
        to: &Address,
        version: i16,
        request: &R,
    ) -> Result<R::Response> {
        let unreachable = |reason: String| GroupCommandError::Unreachable {
            address: to.clone(),
            reason,
        };
        self.sent = false;
        self.issued = self.issued.wrapping_add(1);
        let frame = encode(self.issued, version, request).map_err(unreachable)?;
        let key = to.to_string();
        let mut stream = match self.open.remove(&key) {
            Some(stream) => stream,
            None => connect(to).map_err(|e| unreachable(e.to_string()))?,
        };
        self.sent = true;
        let answer = exchange(&mut stream, &frame).map_err(|e| unreachable(e.to_string()))?;
        let answer = decode::<R>(answer, self.issued, version).map_err(unreachable)?;
        self.open.insert(key, stream);
        Ok(answer)
    }

    /// One request to whichever node answers.
    pub(super) fn any<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        let mut last = GroupCommandError::Failed("no address is given".to_owned());
        for address in self.bootstrap.clone() {
            match self.call(&address, version, request) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Brokers and the named topics.
    pub(super) fn metadata(&mut self, topics: &[String]) -> Result<MetadataResponse> {
        use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
        let one =
            |name: &String| MetadataRequestTopic::default().with_name(Some(text(name).into()));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.iter().map(one).collect()))
            .with_allow_auto_topic_creation(false);
        self.any(METADATA_VERSION, &request)
    }

    /// The node that coordinates the groups.
    fn coordinator(&mut self, group: &str) -> Result<Address> {
        let request = FindCoordinatorRequest::default().with_key(text(group));
        let found = self.any(FIND_COORDINATOR_VERSION, &request)?;
        check(found.error_code, || "no group coordinator".to_owned())?;
        address(&found.host, found.port)
    }

    /// Whether the last request to a coordinator was sent again because an answer was lost: the first may
    /// have done what it asked for.
    pub(super) const fn was_repeated(&self) -> bool {
        self.repeated
    }

    /// One request to the node that coordinates the groups, which is waited for if it is being elected.
    /// `code` finds the error that says so in an answer. See [`Self::was_repeated`].
    pub(super) fn at_coordinator<R: Request>(
        &mut self,
        group: &str,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let started = Instant::now();
        self.repeated = false;
        let mut is_lost = false;
        loop {
            let asked = match self.coordinator(group) {
                Ok(coordinator) => {
                    self.repeated |= is_lost;
                    let asked = self.call(&coordinator, version, request);
                    // A node that could not be connected to has done nothing.
                    is_lost |= asked.is_err() && self.sent;
                    asked
                }
                Err(error) => Err(error),
            };
            let passing = match &asked {
                Ok(answer) => is_passing(code(answer)),
                Err(GroupCommandError::Refused { code, .. }) => is_passing(*code),
                // The coordinator that a node still names may have died.
                Err(GroupCommandError::Unreachable { .. }) => true,
                Err(GroupCommandError::Failed(_)) => false,
            };
            if !passing || started.elapsed() > COORDINATOR_DEADLINE {
                return asked;
            }
            // A node that is cut off knows no coordinator: another one may.
            self.bootstrap.rotate_left(1);
            // Waking up early costs one request more.
            std::thread::park_timeout(RETRY_PAUSE);
        }
    }
}

/// Whether the coordinator is loading, not there or elsewhere: all of that passes.
fn is_passing(code: i16) -> bool {
    [
        ResponseError::CoordinatorLoadInProgress,
        ResponseError::CoordinatorNotAvailable,
        ResponseError::NotCoordinator,
    ]
    .iter()
    .any(|error| error.code() == code)
}

pub(super) fn address(host: &str, port: i32) -> Result<Address> {
    let invalid = |reason: String| GroupCommandError::Failed(format!("{host}:{port}: {reason}"));
    let port = u16::try_from(port).map_err(|e| invalid(e.to_string()))?;
    Address::new(host, port).map_err(|e| invalid(e.to_string()))
}

fn connect(to: &Address) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for resolved in (to.host(), to.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(stream: &mut TcpStream, frame: &[u8]) -> std::io::Result<Bytes> {
    stream.write_all(frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_ANSWER_BYTES {
        return Err(std::io::Error::other("it does not speak Kafka's protocol"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer.into())
}

fn encode<R: Request>(
    correlation: i32,
    version: i16,
    request: &R,
) -> std::result::Result<BytesMut, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("rivven-node")));
    let mut body = BytesMut::new();
    header
        .encode(&mut body, R::header_version(version))
        .and_then(|()| request.encode(&mut body, version))
        .map_err(|e| e.to_string())?;
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_u32(u32::try_from(body.len()).map_err(|e| e.to_string())?);
    frame.put(body);
    Ok(frame)
}

fn decode<R: Request>(
    mut answer: Bytes,
    correlation: i32,
    version: i16,
) -> std::result::Result<R::Response, String> {
    let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))
        .map_err(|e| e.to_string())?;
    if header.correlation_id != correlation {
        return Err("an answer to another request".to_owned());
    }
    R::Response::decode(&mut answer, version).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use kafka_protocol::messages::FindCoordinatorResponse;

    use super::*;

    fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut frame).unwrap();
        frame
    }

    /// Answers that the coordinator is at these ports in turn; for none it hangs up instead.
    fn serve(listener: &TcpListener, ports: &[Option<u16>]) {
        let mut stream = listener.accept().unwrap().0;
        for port in ports {
            let frame = read_frame(&mut stream);
            let Some(port) = port else {
                drop(stream);
                stream = listener.accept().unwrap().0;
                continue;
            };
            let correlation = i32::from_be_bytes(frame[4..8].try_into().unwrap());
            let version = FIND_COORDINATOR_VERSION;
            let mut body = BytesMut::new();
            let header = ResponseHeader::default().with_correlation_id(correlation);
            let answer = FindCoordinatorResponse::default()
                .with_host(text("127.0.0.1"))
                .with_port((*port).into());
            let header_version = FindCoordinatorResponse::header_version(version);
            header.encode(&mut body, header_version).unwrap();
            answer.encode(&mut body, version).unwrap();
            let length = i32::try_from(body.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length, &body[..]].concat()).unwrap();
        }
    }

    /// Asks the coordinator something; whether the request was repeated.
    fn is_repeated(ports: impl FnOnce(u16, u16) -> Vec<Option<u16>>) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = other.local_addr().unwrap().port();
        drop(other);
        let ports = ports(own, closed);
        let server = std::thread::spawn(move || serve(&listener, &ports));
        let mut client = Client::new(vec![Address::new("127.0.0.1", own).unwrap()]);
        let request = FindCoordinatorRequest::default().with_key(text("g"));
        let asked =
            client.at_coordinator("g", FIND_COORDINATOR_VERSION, &request, |a| a.error_code);
        asked.unwrap();
        server.join().unwrap();
        client.was_repeated()
    }

    #[test]
    fn only_a_request_that_was_sent_may_have_been_carried_out() {
        let refused = |own, closed| vec![Some(closed), Some(own), Some(own)];
        assert!(!is_repeated(refused));
        let lost = |own, _| vec![Some(own), None, Some(own), Some(own)];
        assert!(is_repeated(lost));
    }
}
