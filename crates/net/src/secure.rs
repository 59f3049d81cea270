//! What makes a connection secret and proves who is at its other end: TLS 1.3 as libp2p has it, or Noise with nodes that know no TLS.
//!
//! Both prove to both sides the other's Ed25519 node key, and both are as strong, so it does no harm if someone on the line makes two
//! nodes take the one instead of the other. TLS comes first because AES costs a third of ChaCha20 where the processor has instructions
//! for it, and because its bytes are copied less often. See
//! <https://github.com/libp2p/specs/blob/master/tls/tls.md>.

use crate::gather::Gather;
use futures::future::{BoxFuture, Either};
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::tls::certificate;
use libp2p::{PeerId, identity, noise};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig, SignatureScheme};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const TLS: &str = "/tls/1.0.0";
const NOISE: &str = "/noise";
const TLS_NEXT_PROTOCOL: &[u8] = b"libp2p";
/// What is read from the socket at once; by itself TLS asks for 4 KiB each time.
const READ_BYTES: usize = 64 << 10;
/// The certificates of libp2p name 1975 to 4096. A machine whose clock is not set stands before it, and would refuse all of them.
const CLOCK_AT_LEAST: Duration = Duration::from_secs(6 * 366 * 86_400);

/// A connection after its handshake.
pub(crate) type Secured<C> = Either<Gather<TlsStream<BufReader<C>>>, noise::Output<C>>;

/// How to secure a connection under the node's key.
#[derive(Clone)]
pub(crate) struct Config {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    noise: noise::Config,
}

/// Why a connection was not secured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecureError {
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] certificate::GenError),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("the peer's certificate names no node: {0}")]
    Peer(#[from] certificate::ParseError),
    #[error("the peer has sent no certificate of its own")]
    NoPeer,
    #[error("the Noise handshake failed: {0}")]
    Noise(#[from] noise::Error),
}

impl Config {
    pub(crate) fn new(identity: &identity::Keypair) -> Result<Self, SecureError> {
        let aes = has_aes();
        let provider = Arc::new(provider(aes));
        let verifier = Arc::new(Verifier);
        let (certificate, key) = certificate::generate(identity)?;
        let key = provider.key_provider.load_private_key(key).map_err(SecureError::Setup)?;
        // As it is: rustls itself would refuse the critical extension in which the node key vouches for the certificate.
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(SecureError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(certified.clone());
        client.alpn_protocols = vec![TLS_NEXT_PROTOCOL.to_vec()];
        // Each connection proves both keys anew: nothing is resumed, so nothing is sent before the proof.
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(SecureError::Setup)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certified);
        server.alpn_protocols = vec![TLS_NEXT_PROTOCOL.to_vec()];
        server.send_tls13_tickets = 0;
        // The caller's order counts, unless AES is slow here: then it is only taken from who knows nothing else.
        server.ignore_client_order = !aes;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), noise: noise::Config::new(identity)? })
    }

    async fn accept<C: Socket>(self, socket: C, protocol: &str) -> Result<(PeerId, Secured<C>), SecureError> {
        if protocol == NOISE {
            let (peer, socket) = self.noise.upgrade_inbound(socket, NOISE).await?;
            return Ok((peer, Either::Right(socket)));
        }
        let socket = BufReader::with_capacity(READ_BYTES, socket);
        let stream = TlsAcceptor::from(self.server).accept(socket).await.map_err(SecureError::Handshake)?;
        secured(stream.into())
    }

    async fn connect<C: Socket>(self, socket: C, protocol: &str) -> Result<(PeerId, Secured<C>), SecureError> {
        if protocol == NOISE {
            let (peer, socket) = self.noise.upgrade_outbound(socket, NOISE).await?;
            return Ok((peer, Either::Right(socket)));
        }
        let socket = BufReader::with_capacity(READ_BYTES, socket);
        // An address in place of a name: then no name is sent, as libp2p wants it.
        let nobody = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stream = TlsConnector::from(self.client).connect(nobody, socket).await.map_err(SecureError::Handshake)?;
        secured(stream.into())
    }
}

/// Who the peer has proven to be.
fn secured<C: Socket>(stream: TlsStream<BufReader<C>>) -> Result<(PeerId, Secured<C>), SecureError> {
    let peer = match stream.get_ref().1.peer_certificates() {
        Some([certificate]) => certificate::parse(certificate)?.peer_id(),
        _ => return Err(SecureError::NoPeer),
    };
    Ok((peer, Either::Left(Gather::new(stream))))
}

/// The key exchanges and ciphers of TLS 1.3, in the order that suits the processor.
fn provider(aes: bool) -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = if aes {
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        vec![TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    };
    provider
}

/// Whether the processor has instructions for AES and for the multiplication that GCM needs.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Copied<std::slice::Iter<'static, &'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        let clock_is_set = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|now| now > CLOCK_AT_LEAST);
        let protocols: &[&str] = if clock_is_set { &[TLS, NOISE] } else { &[NOISE] };
        protocols.iter().copied()
    }
}

/// What a connection can be secured on.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for C {}

impl<C: Socket> InboundConnectionUpgrade<C> for Config {
    type Output = (PeerId, Secured<C>);
    type Error = SecureError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        Box::pin(self.accept(socket, protocol))
    }
}

impl<C: Socket> OutboundConnectionUpgrade<C> for Config {
    type Output = (PeerId, Secured<C>);
    type Error = SecureError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        Box::pin(self.connect(socket, protocol))
    }
}

/// Accepts who holds the key of a certificate that some node key vouches for. Whose node key that is the swarm compares.
#[derive(Debug)]
struct Verifier;

/// Of the certificate's own key; nodes make theirs with P-256.
const SIGNATURES: [SignatureScheme; 3] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

fn vouched(certificate: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    if !further.is_empty() {
        return Err(rustls::Error::General("more than one certificate".to_owned()));
    }
    certificate::parse(certificate)?;
    Ok(())
}

fn signed(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    certificate::parse(certificate)?.verify_signature(signature.scheme, message, signature.signature())?;
    Ok(HandshakeSignatureValid::assertion())
}

/// What every signature of TLS 1.2 comes to.
fn too_old() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        vouched(certificate, further).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.to_vec()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        vouched(certificate, further).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.to_vec()
    }
}
