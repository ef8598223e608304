//! One kept-alive connection with one request in flight.

use std::{io, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{target::Target, wire::Parser};

/// Bytes of each body that are kept for a look: what the load depends on is at the beginning.
const KEPT: usize = 4 << 10;
/// One read at most. Lists are read in pieces of this size, which stay in the cache.
const READ: usize = 256 << 10;

/// Until a server has taken a connection and agreed on TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) bytes: u64,
}

/// What a connection goes through.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                // What the socket had no room for is still in there.
                stream.flush().await
            }
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    parser: Parser,
    buffer: Box<[u8]>,
    start: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        Self::open_with(target, READ).await
    }

    /// Connects, to read small pieces: for connections in large numbers.
    pub(crate) async fn open_with(target: &Target, read: usize) -> Result<Self> {
        let connecting = async {
            let stream = TcpStream::connect(target.address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, anyhow::Error>(match &target.tls {
                None => Stream::Plain(stream),
                Some(tls) => Stream::Tls(Box::new(tls.connect(stream).await?)),
            })
        };
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        let late = || anyhow!("no answer within {CONNECT_LIMIT:?}");
        let stream = connected.unwrap_or_else(|_| Err(late()));
        let stream = stream.with_context(|| format!("connecting to {}", target.address))?;
        Ok(Self { stream, parser: Parser::default(), buffer: vec![0; read].into(), start: Vec::with_capacity(KEPT) })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request).await?;
        let (start, mut bytes) = (&mut self.start, 0);
        while !self.parser.is_done() {
            let read = self.stream.read(&mut self.buffer).await.context("reading an answer")?;
            ensure!(read > 0, "the server closed the connection in the middle of an answer");
            let used = self.parser.feed(&self.buffer[..read], |part| {
                bytes += part.len() as u64;
                start.extend_from_slice(&part[..part.len().min(KEPT - start.len())]);
            })?;
            ensure!(used == read, "the server sent more than the answer");
        }
        Ok(Answer { status: self.parser.status().unwrap_or_default(), bytes })
    }

    /// Sends a request whose answer goes on, to be read with [`Connection::read`].
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.parser.restart();
        self.start.clear();
        self.stream.write(request).await.context("sending a request")
    }

    /// Waits for the next piece of an answer and hands its part of the body to `body`. Returns
    /// whether the answer goes on.
    pub(crate) async fn read(&mut self, body: impl FnMut(&[u8])) -> Result<bool> {
        let read = self.stream.read(&mut self.buffer).await.context("reading a stream")?;
        if read == 0 {
            return Ok(false);
        }
        self.parser.feed(&self.buffer[..read], body)?;
        Ok(!self.parser.is_done())
    }

    /// The status code of the answer under way.
    pub(crate) fn status(&self) -> Option<u16> {
        self.parser.status()
    }

    /// The first bytes of the last body.
    pub(crate) fn start_of_body(&self) -> &[u8] {
        &self.start
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::PathBuf, sync::Arc};

    use tokio::net::TcpListener;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            RootCertStore, ServerConfig,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
            server::WebPkiClientVerifier,
        },
    };

    use super::*;
    use crate::api::{args::Access, wire};

    /// `ca.pem` is the CA of `localhost.pem`, which is a server's and a client's certificate; `other-ca.pem` is that
    /// of none. They are valid from 2026 to 2125.
    fn file(name: &str) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "src/api/testdata", name].iter().collect()
    }

    fn acceptor() -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let clients = clients.allow_unauthenticated().build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let certificate = CertificateDer::from_pem_file(file("localhost.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("localhost.key")).unwrap();
        let mut config = builder.with_client_cert_verifier(clients).with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Answers one request of each connection with what it saw: the protocol that was agreed on, whether the client
    /// showed a certificate, and the request.
    async fn serve() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, acceptor) = (listener.local_addr().unwrap(), acceptor());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Some clients refuse the certificate.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut seen = {
                    let (_, session) = stream.get_ref();
                    let protocol = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default());
                    let client = if session.peer_certificates().is_some() { "known" } else { "any" };
                    format!("{protocol}, {client}: ").into_bytes()
                };
                while !seen.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "a request was cut");
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.len());
                stream.write_all(&[head.as_bytes(), &seen].concat()).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        address
    }

    /// What the server at `address` saw of a request.
    async fn ask(address: SocketAddr, access: &Access) -> Result<String> {
        let target = Target::at(&format!("https://{address}"), access)?;
        let mut request = Vec::new();
        wire::request(&mut request, "GET", "/version", &target.headers);
        let mut connection = Connection::open(&target).await?;
        let answer = connection.exchange(&request).await?;
        assert_eq!((answer.status, answer.bytes), (200, connection.start_of_body().len() as u64));
        Ok(String::from_utf8(connection.start_of_body().to_vec())?)
    }

    #[tokio::test]
    async fn a_request_over_tls_says_who_asks() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let access = Access {
            ca: Some(file("ca.pem")),
            insecure: false,
            token_file: Some(token),
            client_cert: Some(file("localhost.pem")),
            client_key: Some(file("localhost.key")),
        };
        let seen = ask(serve().await, &access).await.unwrap();
        assert!(seen.starts_with("http/1.1, known: GET /version HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("\r\nAuthorization: Bearer secret\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_server_of_another_ca_is_refused_unless_any_will_do() {
        let address = serve().await;
        let other = Access { ca: Some(file("other-ca.pem")), ..Access::default() };
        let error = format!("{:#}", ask(address, &other).await.unwrap_err());
        assert!(error.contains("--ca"), "{error}");
        let any = Access { insecure: true, ..Access::default() };
        let seen = ask(address, &any).await.unwrap();
        assert!(seen.starts_with("http/1.1, any: GET /version HTTP/1.1\r\n"), "{seen}");
    }
}
