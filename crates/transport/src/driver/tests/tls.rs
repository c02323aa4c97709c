use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rivven_core_types::{ClusterId, HandshakeRefusal, Lane, RpcError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;
use crate::config::Security;
use crate::error::TransportError;
use crate::tls::{CertificateAuthority, IssuedCertificate, TlsConfig, TlsFiles};

fn authority(cluster: &str) -> CertificateAuthority {
    CertificateAuthority::create(cluster.parse().unwrap(), 30).unwrap()
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A node's files in a folder of their own.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(trusted: &[&CertificateAuthority], issued: &IssuedCertificate) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.trust(trusted);
        files.install(issued);
        files
    }

    fn trust(&self, trusted: &[&CertificateAuthority]) {
        let bundle: Vec<_> = trusted.iter().map(|ca| ca.certificate_pem()).collect();
        std::fs::write(self.dir.path().join("ca.pem"), bundle.concat()).unwrap();
    }

    fn install(&self, issued: &IssuedCertificate) {
        let certificate = self.dir.path().join("node.pem");
        std::fs::write(certificate, &issued.certificate_pem).unwrap();
        write_private(&self.dir.path().join("node.key"), &issued.key_pem);
    }

    fn security(&self) -> Security {
        Security::MutualTls(TlsConfig::files(TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            certificate: self.dir.path().join("node.pem"),
            key: self.dir.path().join("node.key"),
            denied: Some(self.denied()),
        }))
    }

    fn denied(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("denied");
        if !path.exists() {
            std::fs::write(&path, "# nobody\n").unwrap();
        }
        path
    }
}

async fn secured(node: &str, ca: &CertificateAuthority) -> (Node, Files) {
    let files = Files::new(&[ca], &ca.issue(&name(node), 10).unwrap());
    (start(config(node, files.security())).await, files)
}

fn refusal(outcome: Result<rivven_core_types::RpcResponse, RpcError>) -> HandshakeRefusal {
    match outcome {
        Err(RpcError::Handshake { reason, .. }) => reason,
        other => panic!("expected a refused handshake, found {other:?}"),
    }
}

#[track_caller]
fn assert_untrusted(outcome: Result<rivven_core_types::RpcResponse, RpcError>, hint: &str) {
    let reason = refusal(outcome);
    let HandshakeRefusal::UntrustedPeer { reason } = &reason else {
        panic!("{reason:?}");
    };
    assert!(reason.contains(hint), "{reason} has no {hint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_authority_talk_on_every_lane() {
    let ca = authority("orders");
    let ((a, _fa), (b, _fb)) = (secured("a", &ca).await, secured("b", &ca).await);
    a.knows(&b, "b");
    for lane in Lane::ALL {
        let mut echo = request(ECHO, lane, b"meta");
        echo.body = vec![7; 3 << 20].into();
        let answer = a.call("b", echo.clone()).await.unwrap();
        assert_eq!((answer.meta, answer.body), (echo.meta, echo.body));
    }
    let answer = a.call("b", request(WHO, Lane::Rpc, b"")).await.unwrap();
    assert_eq!(&answer.meta[..], b"a None");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bulk_lane_of_tls_runs_on_the_data_runtime() {
    let data = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("data")
        .enable_all()
        .build()
        .unwrap();
    let tls = Security::MutualTls(TlsConfig::self_signed("orders").unwrap());
    let start = async |node: &str| {
        let runtimes = crate::driver::TransportRuntimes {
            control: tokio::runtime::Handle::current(),
            data: data.handle().clone(),
        };
        let entropy = Arc::new(rivven_core_types::OsEntropy);
        let bound = crate::driver::Transport::bind(config(node, tls.clone()), runtimes, entropy);
        let (transport, handler) = (bound.await.unwrap(), Arc::new(Tester::default()));
        transport.serve(Arc::<Tester>::clone(&handler));
        Node { transport, handler }
    };
    let (a, b) = (start("a").await, start("b").await);
    a.knows(&b, "b");
    for lane in Lane::ALL {
        let answer = a.call("b", request(THREAD, lane, b"")).await.unwrap();
        assert_eq!(answer.meta == "data", lane == Lane::Bulk, "{lane:?}");
    }
    within(a.transport.shutdown()).await;
    within(b.transport.shutdown()).await;
    data.shutdown_background();
}

#[tokio::test]
async fn another_authority_is_untrusted_in_both_directions() {
    let (a, _fa) = secured("a", &authority("orders")).await;
    let (b, _fb) = secured("b", &authority("orders")).await;
    a.knows(&b, "b");
    b.knows(&a, "a");
    for (from, to) in [(&a, "b"), (&b, "a")] {
        let outcome = from.call(to, request(ECHO, Lane::Rpc, b"")).await;
        assert_untrusted(outcome, "certificate");
    }
    // One side trusting the other is not enough.
    let (x, y) = (authority("orders"), authority("orders"));
    let trusting = Files::new(&[&x, &y], &x.issue(&name("c"), 1).unwrap());
    let c = start(config("c", trusting.security())).await;
    let (d, _fd) = secured("d", &y).await;
    c.knows(&d, "d");
    let outcome = c.call("d", request(ECHO, Lane::Rpc, b"")).await;
    assert_untrusted(outcome, "alert");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_or_node_is_refused() {
    let ca = authority("orders");
    let (b, _fb) = secured("b", &ca).await;
    // Signed by the same CA, for another cluster.
    let other = CertificateAuthority::from_pem(
        "orders".parse().unwrap(),
        ca.certificate_pem(),
        ca.key_pem(),
    )
    .unwrap();
    assert_eq!(other.cluster().as_str(), "orders");
    let (a, _fa) = secured("a", &ca).await;
    a.knows(&b, "c");
    // The node that answers is who its certificate says, and not whom we wanted.
    let reason = refusal(a.call("c", request(ECHO, Lane::Rpc, b"")).await);
    let (expected, found) = (name("c"), name("b"));
    assert_eq!(reason, HandshakeRefusal::WrongNode { expected, found });
    // A node does not start with the certificate of another one.
    let files = Files::new(&[&ca], &ca.issue(&name("d"), 1).unwrap());
    let mut settings = config("e", files.security());
    settings.listen = "127.0.0.1:0".parse().unwrap();
    let runtimes = crate::driver::TransportRuntimes::current();
    let entropy = Arc::new(rivven_core_types::OsEntropy);
    let error = crate::driver::Transport::bind(settings, runtimes, entropy).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("for node d, this is e"), "{error}");
}

#[tokio::test]
async fn a_cluster_id_in_the_certificate_binds_the_handshake() {
    let id = ClusterId::from_bytes([1; 16]);
    let ca = authority(&id.to_string());
    let member = async |node: &str, of: u8| {
        let files = Files::new(&[&ca], &ca.issue(&name(node), 1).unwrap());
        let mut settings = config(node, files.security());
        settings.cluster_id = Some(cluster(of));
        (start(settings).await, files)
    };
    let ((a, _fa), (b, _fb)) = (member("a", 1).await, member("b", 1).await);
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    let (c, _fc) = member("c", 2).await;
    c.knows(&b, "b");
    let outcome = c.call("b", request(ECHO, Lane::Rpc, b"")).await;
    assert_untrusted(outcome, "its certificate is for cluster");
}

#[tokio::test]
async fn a_denied_peer_loses_its_connections_and_gets_no_new_one() {
    let ca = authority("orders");
    let ((a, _fa), (b, files)) = (secured("a", &ca).await, secured("b", &ca).await);
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    std::fs::write(files.denied(), "a  # left the company\n").unwrap();
    b.transport.reload_certificates().unwrap();
    let outcome = eventually(
        async || a.call("b", request(ECHO, Lane::Rpc, b"")).await,
        |outcome| matches!(outcome, Err(RpcError::Handshake { .. })),
    );
    assert_untrusted(outcome.await, "evoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_twenty_times_under_load_and_no_call_fails() {
    let mut ca = authority("orders");
    let ((a, fa), (b, fb)) = (secured("a", &ca).await, secured("b", &ca).await);
    a.knows(&b, "b");
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (transport, done) = (a.transport.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut calls = 0u32;
            while !done.load(Ordering::Relaxed) {
                use rivven_core_types::PeerRpc as _;
                let call = transport.call(&name("b"), request(ECHO, Lane::Rpc, b"x"));
                call.await.unwrap();
                calls += 1;
            }
            calls
        })
    };
    let rounds = 20;
    for round in 0..rounds {
        // The whole procedure: trust the new CA as well, then use it, then stop trusting the old one.
        let next = authority("orders");
        for step in 0..3 {
            for (node, files, name_of) in [(&a, &fa, "a"), (&b, &fb, "b")] {
                match step {
                    0 => files.trust(&[&ca, &next]),
                    1 => files.install(&next.issue(&name(name_of), 1).unwrap()),
                    _ => files.trust(&[&next]),
                }
                node.transport.reload_certificates().unwrap();
            }
            a.call("b", request(ECHO, Lane::Bulk, b"")).await.unwrap();
        }
        ca = next;
        if round == rounds / 2 {
            // A certificate that cannot be used changes nothing.
            let stranger = authority("orders").issue(&name("a"), 1).unwrap();
            fa.install(&stranger);
            let error = a.transport.reload_certificates().unwrap_err();
            assert!(matches!(error, TransportError::Certificate(_)), "{error}");
            fa.install(&ca.issue(&name("a"), 1).unwrap());
            a.transport.reload_certificates().unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(within(load).await.unwrap() > 0);
}

#[tokio::test]
async fn a_key_that_others_may_read_or_that_does_not_fit_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let ca = authority("orders");
    let files = Files::new(&[&ca], &ca.issue(&name("a"), 1).unwrap());
    let bind = async || {
        let runtimes = crate::driver::TransportRuntimes::current();
        let entropy = Arc::new(rivven_core_types::OsEntropy);
        let settings = config("a", files.security());
        let bound = crate::driver::Transport::bind(settings, runtimes, entropy).await;
        bound.unwrap_err().to_string()
    };
    let key = files.dir.path().join("node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(bind().await.contains("chmod 600"));
    write_private(&key, &ca.issue(&name("a"), 1).unwrap().key_pem);
    let error = bind().await;
    assert!(error.contains("private key"), "{error}");
    write_private(&key, "nothing");
    assert!(bind().await.contains("no private key"));
}

#[tokio::test]
async fn plain_text_and_garbage_reach_nothing_and_tls_to_a_plain_node_fails() {
    let ca = authority("orders");
    let (b, _fb) = secured("b", &ca).await;
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xFF; 600],
        &[22, 3, 1, 0xFF, 0xFF],
    ] {
        let mut stream = TcpStream::connect(b.transport.local_addr()).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut sink = Vec::new();
        let _ended = within(stream.read_to_end(&mut sink)).await.is_ok();
        // Nothing but an alert: no name, no cluster.
        assert!(sink.len() < 16, "{sink:?}");
    }
    let plain = node("p").await;
    plain.knows(&b, "b");
    let (a, _fa) = secured("a", &ca).await;
    a.knows(&plain, "p");
    for (from, to) in [(&plain, "b"), (&a, "p")] {
        let mut hasty = request(ECHO, Lane::Rpc, b"");
        hasty.deadline = Duration::from_secs(3);
        assert!(!from.call(to, hasty).await.unwrap_err().maybe_executed());
    }
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
}

#[tokio::test]
async fn self_signed_clones_trust_each_other_and_nobody_else() {
    let ours = TlsConfig::self_signed("orders").unwrap();
    let theirs = TlsConfig::self_signed("orders").unwrap();
    let with = async |node: &str, tls: &TlsConfig| {
        start(config(node, Security::MutualTls(tls.clone()))).await
    };
    let (a, b) = (with("a", &ours).await, with("b", &ours).await);
    let stranger = with("c", &theirs).await;
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    a.knows(&stranger, "c");
    let outcome = a.call("c", request(ECHO, Lane::Rpc, b"")).await;
    assert_untrusted(outcome, "");
    assert!(TlsConfig::self_signed("no spaces").is_err());
}

/// The judgement that every handshake, every stream of QUIC and every connection once a minute goes through.
#[tokio::test]
async fn a_certificate_that_has_ended_is_refused_and_one_that_has_not_is_not() {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, UnixTime};

    let ca = CertificateAuthority::create("prod".parse().unwrap(), 30).unwrap();
    let files = Files::new(&[&ca], &ca.issue(&name("b"), 20).unwrap());
    let Security::MutualTls(tls) = files.security() else {
        panic!("files are for TLS");
    };
    let bundle = crate::tls::TlsBundle::load(&tls, &name("b")).unwrap();
    let peer = ca.issue(&name("a"), 1).unwrap();
    let chain = [CertificateDer::from_pem_slice(peer.certificate_pem.as_bytes()).unwrap()];
    let identify = |days: u64| {
        let at = UnixTime::now().as_secs() + days * 86_400;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        bundle.verifier.identify(&chain, at)
    };
    assert_eq!(identify(0).unwrap().node, name("a"));
    let refused = identify(2).unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("expired"), "{refused}");
}

/// A client that would resume, and send its first request before the handshake is over, gets neither a
/// ticket nor early data taken: there is nothing that could be replayed.
#[tokio::test]
async fn nothing_is_resumed_and_no_early_data_is_taken() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let settings = config("b", Security::MutualTls(tls.clone().for_node(name("b"))));
    let b = start(settings).await;
    let bundle = crate::tls::TlsBundle::load(&tls.for_node(name("a")), &name("a")).unwrap();
    let mut eager = rustls::ClientConfig::clone(&bundle.client);
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    eager.enable_early_data = true;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(eager));
    for _ in 0..3 {
        let stream = TcpStream::connect(b.transport.local_addr()).await.unwrap();
        let host = "node.rivven.invalid".try_into().unwrap();
        let connecting = connector.connect(host, stream);
        let mut session = within(connecting).await.unwrap();
        session.write_all(&[0; 24]).await.unwrap();
        let _until_closed = within(session.read(&mut [0; 64])).await;
        let (_, state) = session.get_ref();
        assert_eq!(state.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert!(!state.is_early_data_accepted());
    }
}
