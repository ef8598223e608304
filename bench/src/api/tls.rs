//! TLS to the server that is measured: whose certificate is accepted, and which one is shown.

use std::{io, path::Path, sync::Arc};

use anyhow::{Context, Error, Result, ensure};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

use super::args::Access;

/// What a TLS connection to one server takes.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// To the server called `name`, which is a DNS name or an IP address.
    pub(super) fn new(name: &str, access: &Access) -> Result<Self> {
        let name = ServerName::try_from(name.to_owned()).context("expected the name or the address of a server")?;
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = match &access.ca {
            Some(file) => builder.with_root_certificates(roots(file)?),
            None => {
                ensure!(access.insecure, "https:// needs --ca FILE, or --insecure");
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
            }
        };
        let mut config = match (&access.client_cert, &access.client_key) {
            (Some(certificate), Some(key)) => {
                let shown = certificates("--client-cert", certificate)?;
                let what = || format!("--client-key {}", key.display());
                let key = PrivateKeyDer::from_pem_file(key).with_context(what)?;
                builder.with_client_auth_cert(shown, key).with_context(what)?
            }
            _ => builder.with_no_client_auth(),
        };
        // The load knows no other.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), name })
    }

    /// Agrees with the server on TLS.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(self.name.clone(), stream).await.map_err(explained)
    }
}

fn explained(error: io::Error) -> Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let what = match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "--ca does not vouch for the server's certificate"
        }
        Some(rustls::Error::InvalidCertificate(_)) => "the server's certificate",
        _ => "agreeing on TLS",
    };
    Error::new(error).context(what)
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--ca", file)? {
        roots.add(certificate).with_context(|| format!("--ca {}", file.display()))?;
    }
    Ok(roots)
}

/// All certificates in a file, of which there must be some.
fn certificates(flag: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.with_context(|| format!("{flag} {}", file.display()))?;
    ensure!(!found.is_empty(), "{flag} {}: no certificate in PEM form", file.display());
    Ok(found)
}

/// Accepts every certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
