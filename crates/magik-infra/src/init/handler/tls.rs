//! TLS to whom nobody believes: as the kubelet's, a probe takes every certificate, since it asks
//! whether a server answers and tells it nothing.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use super::HandlerError;

/// What is spoken over it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    /// Whatever the server takes: nothing is agreed upon.
    Http1,
    /// Agreed upon by its name (ALPN), without which servers of gRPC do not answer.
    Http2,
}

/// By TLS 1.2 or 1.3.
pub(super) async fn connect<S>(
    stream: S,
    host: IpAddr,
    protocol: Protocol,
) -> Result<TlsStream<S>, HandlerError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(config(protocol)?);
    let connected = connector.connect(ServerName::IpAddress(host.into()), stream);
    connected.await.map_err(HandlerError::NoTls)
}

/// Made once a process for each protocol: a probe may ask each second.
fn config(protocol: Protocol) -> Result<Arc<ClientConfig>, HandlerError> {
    static HTTP1: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static HTTP2: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let (known, names) = match protocol {
        Protocol::Http1 => (&HTTP1, Vec::new()),
        Protocol::Http2 => (&HTTP2, vec![b"h2".to_vec()]),
    };
    if let Some(config) = known.get() {
        return Ok(config.clone());
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| HandlerError::NoTls(io::Error::other(e)))?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    // Each question is asked anew; what a server gives to remember is not kept.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = names;
    Ok(known.get_or_init(|| Arc::new(config)).clone())
}

/// Takes every certificate, also one that is no certificate of today's rules.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
