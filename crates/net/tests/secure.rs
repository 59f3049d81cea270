//! Who is let in by TLS and who is not, and nodes that know Noise alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use backmesh_format::NodeId;
use backmesh_net::{DialError, DialFailure, NetEvent, Protocol};
use common::{Node, PATIENCE, node};
use futures::StreamExt;
use libp2p::core::upgrade::Version;
use libp2p::swarm::{Config, Swarm, SwarmEvent, dummy};
use libp2p::tls::certificate;
use libp2p::{Multiaddr, Transport, identity, noise, tcp, yamux};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ServerConfig, ServerConnection,
    SignatureScheme,
};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

const HELLO: &[u8] = b"\x13/multistream/1.0.0\n";
const TLS: &[u8] = b"\x0b/tls/1.0.0\n";
const YAMUX: &[u8] = b"\x0d/yamux/1.0.0\n";

type Papers = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn keys(seed: u8) -> identity::Keypair {
    identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

fn papers(seed: u8) -> Papers {
    certificate::generate(&keys(seed)).unwrap()
}

fn resolver((certificate, key): Papers) -> Arc<SingleCertAndKey> {
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)))
}

/// What vouches for the certificate of one node, in the certificate of another.
fn vouching_of_another(victim: &CertificateDer<'_>) -> Papers {
    // The extension is an octet string after its object identifier and the mark that it is critical.
    let identifier = [0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1];
    let at = victim.windows(identifier.len()).position(|bytes| bytes == identifier).unwrap() + identifier.len();
    assert_eq!(victim[at..at + 4], [1, 1, 0xff, 4]);
    let content = victim[at + 5..at + 5 + usize::from(victim[at + 4])].to_vec();
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 53594, 1, 1], content);
    extension.set_criticality(true);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.custom_extensions.push(extension);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.into(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

fn without_extension() -> Papers {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    (certificate.into(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// Takes any server.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!()
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn client(papers: Option<Papers>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match papers {
        Some(papers) => builder.with_client_cert_resolver(resolver(papers)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"libp2p".to_vec()];
    config.enable_early_data = true;
    config
}

fn expect(socket: &mut impl Read, wanted: &[u8]) -> io::Result<()> {
    let mut bytes = vec![0; wanted.len()];
    socket.read_exact(&mut bytes)?;
    if bytes == wanted { Ok(()) } else { Err(io::Error::other(format!("got {}", bytes.escape_ascii()))) }
}

/// Calls a node with TLS. `Ok` once the node goes on to what comes after the handshake.
fn call(port: u16, config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&[HELLO, TLS].concat())?;
    expect(&mut socket, HELLO)?;
    expect(&mut socket, TLS)?;
    let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
    let mut session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(&[HELLO, YAMUX].concat())?;
    stream.flush()?;
    expect(&mut stream, HELLO)?;
    expect(&mut stream, YAMUX)?;
    Ok(session)
}

async fn called(node: &Node, config: ClientConfig) -> io::Result<ClientConnection> {
    let (port, config) = (node.port(), Arc::new(config));
    tokio::task::spawn_blocking(move || call(port, &config)).await.unwrap()
}

#[tokio::test]
async fn only_who_holds_the_key_behind_a_vouched_certificate_is_let_in() {
    let mut a = node(1).await;
    called(&a, client(Some(papers(7)))).await.unwrap();
    assert_eq!(a.connected().await.0, keys(7).public().try_into_ed25519().unwrap().to_bytes());

    let victim = papers(7);
    let foreign: [(&str, Option<Papers>); 5] = [
        ("another's certificate, which anyone who was called by it has", Some((victim.0.clone(), papers(8).1))),
        ("what vouches for another's certificate", Some(vouching_of_another(&victim.0))),
        ("a certificate that no node vouches for", Some(without_extension())),
        ("no certificate", None),
        ("no certificate at all", Some((vec![0x30, 0x80, 1, 2, 3].into(), papers(8).1))),
    ];
    for (what, papers) in foreign {
        let error = called(&a, client(papers)).await.map(|_| ()).expect_err(what);
        assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{what}: {error}");
    }
    let mut altered = victim.0.to_vec();
    let at = altered.len() - 1;
    altered[at] ^= 1;
    called(&a, client(Some((altered.into(), victim.1.clone_key())))).await.expect_err("an altered certificate");

    let b = node(2).await;
    b.net.dial(&a.address(), Some(a.id())).await.unwrap();
    assert_eq!(a.connected().await, b.id(), "nobody else ever was connected");
}

#[tokio::test]
async fn every_connection_proves_the_keys_anew() {
    let a = node(1).await;
    let config = client(Some(papers(7)));
    for _ in 0..3 {
        let session = called(&a, config.clone()).await.unwrap();
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "nothing is resumed");
        assert!(!session.is_early_data_accepted());
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test]
async fn the_callers_cipher_is_taken_and_all_are_known() {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let a = node(1).await;
    for suite in [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256] {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(resolver(papers(7)));
        config.alpn_protocols = vec![b"libp2p".to_vec()];
        let session = called(&a, config).await.unwrap();
        assert_eq!(session.negotiated_cipher_suite().unwrap().suite(), suite.suite());
    }
}

/// Answers one call as a server with these papers; what came of the handshake, and of which cipher.
fn answer(papers: Papers) -> (String, std::thread::JoinHandle<io::Result<CipherSuite>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver(papers));
    config.alpn_protocols = vec![b"libp2p".to_vec()];
    let answering = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        expect(&mut socket, HELLO)?;
        expect(&mut socket, TLS)?;
        socket.write_all(&[HELLO, TLS].concat())?;
        let mut session = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        session.negotiated_cipher_suite().map(|suite| suite.suite()).ok_or_else(|| io::Error::other("no cipher"))
    });
    (address, answering)
}

#[tokio::test]
async fn a_node_is_not_taken_in_by_a_foreign_certificate() {
    let a = node(1).await;
    let expected = NodeId(keys(7).public().try_into_ed25519().unwrap().to_bytes());
    let victim = papers(7);
    let foreign = [(victim.0.clone(), papers(8).1), vouching_of_another(&victim.0), without_extension()];
    let dials = foreign.map(|papers| {
        let (net, (address, answering)) = (&a.net, answer(papers));
        async move { (net.dial(&address, Some(expected)).await, answering) }
    });
    for (dialled, answering) in futures::future::join_all(dials).await {
        match dialled {
            Err(DialError::Unreachable { reason: DialFailure::NoNode(text), .. }) => {
                assert!(text.starts_with("the TLS handshake failed: invalid peer certificate"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert!(tokio::task::spawn_blocking(|| answering.join().unwrap()).await.unwrap().is_err());
    }
    // The same with the right key is taken; what it says after the handshake, which is nothing, is another matter.
    let (address, answering) = answer(victim);
    let _ = a.net.dial(&address, Some(expected)).await;
    let cipher = tokio::task::spawn_blocking(|| answering.join().unwrap()).await.unwrap().unwrap();
    let known = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    assert!(known.contains(&cipher), "{cipher:?}");
}

/// A node as it was before TLS: Noise alone.
fn older(seed: u8) -> Swarm<dummy::Behaviour> {
    let transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keys(seed)).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    Swarm::new(transport, dummy::Behaviour, keys(seed).public().to_peer_id(), Config::with_tokio_executor())
}

#[tokio::test]
async fn older_nodes_that_know_noise_alone_are_reached_and_let_in() {
    let mut a = node(1).await;
    let older_id = keys(9).public().try_into_ed25519().unwrap().to_bytes();
    let mut swarm = older(9);
    swarm.dial(format!("/ip4/127.0.0.1/tcp/{}", a.port()).parse::<Multiaddr>().unwrap()).unwrap();
    let connected = tokio::select! {
        peer = a.connected() => peer,
        () = async { while !matches!(swarm.select_next_some().await, SwarmEvent::OutgoingConnectionError { .. }) {} } => {
            panic!("the older node was not let in")
        }
    };
    assert_eq!(connected.0, older_id);

    let (b, mut swarm) = (node(2).await, older(9));
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let reached = b.net.dial(&address.to_string(), None).await.unwrap();
    assert_eq!(reached.0, older_id);
}

#[tokio::test]
async fn small_and_large_frames_come_whole_and_in_order() {
    let (a, mut b) = common::pair().await;
    let (_reader, mut writer) = a.net.open(b.id(), Protocol::Store).await.unwrap().split();
    let (mut inbound, _back) = b
        .event(|event| match event {
            NetEvent::Inbound { stream, .. } => Some(stream),
            _ => None,
        })
        .await
        .split();
    // Around the sizes where pieces are gathered, records end and Yamux cuts.
    let sizes = [0, 1, 11, 4_071, 4_080, 4_096, 4_097, 16_383, 16_384, 16_385, 63_995, 64_000, 64_001, 1 << 20, 3];
    let bytes = |size: usize| (0..size).map(|at| (at * 31 + size) as u8).collect::<Vec<u8>>();
    let sending = tokio::spawn(async move {
        for round in 0..3 {
            for size in sizes {
                writer.send(&bytes(size)).await.unwrap();
                if round == 1 {
                    writer.flush().await.unwrap();
                }
            }
        }
        writer.close().await.unwrap();
    });
    for _ in 0..3 {
        for size in sizes {
            assert!(inbound.next(2 << 20).await.unwrap().unwrap() == bytes(size), "{size} bytes");
        }
    }
    assert!(inbound.next(10).await.unwrap().is_none());
    sending.await.unwrap();
}
