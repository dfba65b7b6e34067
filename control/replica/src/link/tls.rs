//! Who may speak on the link: TLS 1.3, certificates on both sides from one private CA.

use crate::link::LinkError;
use crate::link::socket::Socket;
use rustls::client::{Resumption, verify_server_name};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file of a certificate or key that is read, bytes.
const FILE_MAX: u64 = 64 << 10;

/// What this protocol calls itself in the TLS handshake (ALPN).
const ALPN: &[u8] = b"tidegate-link/1";

/// Where the node's certificate, key and CA are: as `tidegate certs` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `ca.pem`
    pub ca: PathBuf,
    /// `NODE.pem`
    pub certificate: PathBuf,
    /// `NODE.key`
    pub key: PathBuf,
}

impl TlsFiles {
    /// The files of `node` in `dir`.
    pub fn in_dir(dir: &Path, node: &str) -> TlsFiles {
        TlsFiles {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("{node}.pem")),
            key: dir.join(format!("{node}.key")),
        }
    }
}

/// The node's keys, read and checked once.
#[derive(Clone, Debug)]
pub struct Keys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Keys {
    /// Reads the files; the error names the one that is wrong, and the command that makes them.
    pub fn read(files: &TlsFiles) -> Result<Keys, LinkError> {
        let make = "make the three files with `tidegate certs DIR NODE...`";
        let fail =
            |path: &Path, why: String| LinkError::Refused(format!("{}: {why}; {make}", path.display()));
        let chain = |path: &Path| -> Result<Vec<CertificateDer<'static>>, LinkError> {
            let pem = read(path).map_err(|e| fail(path, e.to_string()))?;
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            match chain {
                Ok(chain) if !chain.is_empty() => Ok(chain),
                _ => Err(fail(path, "it holds no certificate (PEM)".to_owned())),
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in chain(&files.ca)? {
            roots.add(certificate).map_err(|e| fail(&files.ca, e.to_string()))?;
        }
        let roots = Arc::new(roots);
        let own = chain(&files.certificate)?;
        let pem = read(&files.key).map_err(|e| fail(&files.key, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| fail(&files.key, "it holds no private key (PEM)".to_owned()))?;
        let mismatch = |e: rustls::Error| {
            fail(&files.key, format!("it does not fit {}: {e}", files.certificate.display()))
        };

        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let only = [&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(ring.clone())
            .with_protocol_versions(&only)
            .map_err(mismatch)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(own.clone(), key.clone_key())
            .map_err(mismatch)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, ring.clone())
            .build()
            .map_err(|e| fail(&files.ca, e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(ring)
            .with_protocol_versions(&only)
            .map_err(mismatch)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own, key)
            .map_err(mismatch)?;
        // No session outlives its connection: a certificate is looked at each time.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Keys { client: Arc::new(client), server: Arc::new(server) })
    }

    /// The dialer's handshake; the listener's certificate must carry the name `peer`.
    pub(crate) fn dial(
        &self,
        mut socket: Socket,
        peer: &str,
    ) -> Result<StreamOwned<ClientConnection, Socket>, LinkError> {
        let mut connection = ClientConnection::new(self.client.clone(), name(peer)?).map_err(broken)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    let why =
                        "the peer ended the TLS handshake: are certificates configured there (--certs DIR)?";
                    LinkError::Refused(why.to_owned())
                }
                _ => explain(e.into()),
            })?;
        }
        agreed(connection.alpn_protocol())?;
        Ok(StreamOwned::new(connection, socket))
    }

    /// The listener's handshake; who it is says [`is_named`].
    pub(crate) fn accept(
        &self,
        mut socket: Socket,
    ) -> Result<StreamOwned<ServerConnection, Socket>, LinkError> {
        let mut connection = ServerConnection::new(self.server.clone()).map_err(broken)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(|e| explain(e.into()))?;
        }
        agreed(connection.alpn_protocol())?;
        Ok(StreamOwned::new(connection, socket))
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn name(node: &str) -> Result<ServerName<'static>, LinkError> {
    let name = ServerName::try_from(node.to_owned());
    name.map_err(|_| LinkError::Refused(format!("`{node}` is no node name: use one that is a host name")))
}

fn agreed(protocol: Option<&[u8]>) -> Result<(), LinkError> {
    match protocol {
        Some(ALPN) => Ok(()),
        _ => Err(LinkError::Protocol("the peer speaks TLS but not this protocol".to_owned())),
    }
}

/// Whether the dialer's certificate carries the name `node`.
pub(crate) fn is_named(stream: &StreamOwned<ServerConnection, Socket>, node: &str) -> Result<(), LinkError> {
    let own = stream.conn.peer_certificates().and_then(|chain| chain.first());
    let own = own.ok_or_else(|| LinkError::Refused("the dialer showed no certificate".to_owned()))?;
    let certificate = ParsedCertificate::try_from(own).map_err(broken)?;
    verify_server_name(&certificate, &name(node)?).map_err(|_| {
        LinkError::Refused(format!("the dialer says that it is `{node}`, its certificate does not"))
    })
}

fn broken(error: rustls::Error) -> LinkError {
    explain(std::io::Error::other(error).into())
}

/// Says in the operator's words what TLS says in its own.
pub(crate) fn explain(error: LinkError) -> LinkError {
    let LinkError::Io(io) = &error else { return error };
    let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error;
    };
    use CertificateError as Bad;
    LinkError::Refused(match tls {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "the peer's certificate has expired; renew it with `tidegate \
                certs DIR NODE --force`"
                    .to_owned()
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "the peer's certificate is not valid yet; set the clocks of both hosts".to_owned()
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                format!("the peer's certificate is for another node: {bad}")
            }
            Bad::UnknownIssuer | Bad::BadSignature => {
                "the peer's certificate is from another CA; make both with the \
                same directory: `tidegate certs DIR NODE...`"
                    .to_owned()
            }
            _ => format!("the peer's certificate is not accepted: {bad}"),
        },
        rustls::Error::AlertReceived(alert) => {
            let what = match alert {
                AlertDescription::CertificateExpired => {
                    "it has expired; renew it with `tidegate certs DIR NODE --force`"
                }
                AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                    "it is from another CA; make both with the same directory: `tidegate certs DIR NODE...`"
                }
                AlertDescription::CertificateRequired => "it was not shown",
                _ => return LinkError::Refused(format!("the peer refused the TLS handshake: {alert:?}")),
            };
            format!("the peer refused this node's certificate: {what}")
        }
        rustls::Error::InvalidMessage(_) => {
            "the peer does not speak TLS: are certificates configured there (--certs DIR)?".to_owned()
        }
        other => format!("TLS: {other}"),
    })
}
