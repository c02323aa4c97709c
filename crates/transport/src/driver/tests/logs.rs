//! What the logs say, and what they never say.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rivven_core_types::{Lane, RpcKind};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::hostile::{closed, raw};
use super::support::*;
use crate::config::TransportConfig;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Calls that succeed, fail and are refused, with everything logged that there is to log.
async fn talk(a: TransportConfig, b: TransportConfig) -> String {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let logged = tracing::subscriber::set_default(subscriber);
    let (a, b) = (start(a).await, start(b).await);
    a.knows(&b, "b");
    for kind in [ECHO, SOON, PANIC, TOO_MUCH, RpcKind(0x7fff)] {
        for lane in Lane::ALL {
            let mut call = request(kind, lane, b"a-word-of-meta");
            call.body = Bytes::from("a-word-of-body".repeat(10_000));
            let outcome = a.call("b", call).await;
            assert_eq!(
                outcome.is_ok(),
                matches!(kind, ECHO | SOON) || (kind == TOO_MUCH && lane == Lane::Bulk)
            );
        }
    }
    a.knows(&b, "somebody");
    let refused = a
        .call("somebody", request(ECHO, Lane::Rpc, b"a-word-of-meta"))
        .await;
    assert!(refused.is_err());
    within(a.transport.shutdown()).await;
    drop(logged);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn logs_name_peers_and_calls_and_never_a_secret_or_a_body() {
    let secret = "never-to-be-logged";
    let log = talk(config("a", shared(secret)), config("b", shared(secret))).await;
    for said in [
        "rpc.client",
        "rpc.server",
        "conn",
        "peer=b",
        "peer=a",
        "correlation=",
    ] {
        assert!(log.contains(said), "{said} is missing in:\n{log}");
    }
    for unsaid in [secret, "a-word-of-meta", "a-word-of-body"] {
        assert!(!log.contains(unsaid), "{unsaid} is in the log");
    }
}

/// A member that goes mad is named with what was wrong, and not with what it sent.
#[tokio::test]
async fn what_a_broken_peer_sent_is_not_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let b = node("b").await;
    let mut member = raw(&b, Lane::Rpc).await;
    tokio::io::AsyncWriteExt::write_all(&mut member.stream, &b"a-word-of-garbage".repeat(10))
        .await
        .unwrap();
    closed(&mut member.stream).await;
    let bytes = log.0.lock().unwrap().clone();
    let log = String::from_utf8(bytes).unwrap();
    assert!(log.contains("magic"), "{log}");
    assert!(!log.contains("a-word-of"), "{log}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn logs_over_tls_never_contain_a_private_key() {
    use crate::config::Security;
    use crate::tls::{CertificateAuthority, TlsConfig, TlsFiles};

    let dir = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::create("logs".parse().unwrap(), 1).unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.certificate_pem()).unwrap();
    let mut keys = Vec::new();
    let mut settings = |node: &str| {
        let issued = authority.issue(&name(node), 1).unwrap();
        let path = |suffix: &str| dir.path().join(format!("{node}.{suffix}"));
        std::fs::write(path("pem"), &issued.certificate_pem).unwrap();
        std::fs::write(path("key"), issued.key_pem.as_bytes()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path("key"), private).unwrap();
        }
        keys.extend(issued.key_pem.lines().map(str::to_owned));
        let files = TlsFiles {
            ca: dir.path().join("ca.pem"),
            certificate: path("pem"),
            key: path("key"),
            denied: None,
        };
        config(node, Security::MutualTls(TlsConfig::files(files)))
    };
    let (a, b) = (settings("a"), settings("b"));
    assert!(!format!("{a:?}").contains("PRIVATE"));
    let log = talk(a, b).await;
    assert!(log.contains("tls"), "{log}");
    for line in keys.iter().filter(|line| line.len() > 16) {
        assert!(!log.contains(line.as_str()), "{line}");
    }
    assert!(
        !log.contains("a-word-of"),
        "a body or a message is in the log"
    );
}
