//! Whom to trust, and as whom to appear: CA certificates and client certificates.
//!
//! ```text
//! /etc/docker/certs.d/HOST:PORT/*.crt     authorities, beside the machine's own
//! /etc/docker/certs.d/HOST:PORT/*.cert    a client certificate, and its *.key
//! ```
//!
//! The same below `/etc/containers` and the user's `~/.config/containers` and
//! `~/.config/docker`. What lies in a host's directory is for that host alone.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore};

use crate::error::{At, Hint};
use crate::tree;

/// The largest file of certificates that is read.
const FILE_LIMIT: u64 = 4 << 20;

/// Returns the `certs.d` directories of this machine and user.
pub fn directories() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let config = env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let mut dirs = Vec::new();
    if let Some(config) = config.or(home) {
        dirs.push(config.join("containers/certs.d"));
        dirs.push(config.join("docker/certs.d"));
    }
    dirs.push("/etc/containers/certs.d".into());
    dirs.push("/etc/docker/certs.d".into());
    dirs
}

/// What the `certs.d` directories hold for one host.
#[derive(Default)]
pub struct HostFiles {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl HostFiles {
    /// Reads what `dirs` hold for any of `hosts`, which are spellings of one.
    pub fn read(dirs: &[PathBuf], hosts: &[String]) -> Result<HostFiles> {
        let mut files = HostFiles::default();
        for dir in dirs {
            for host in hosts {
                files.add(&dir.join(host))?;
            }
        }
        Ok(files)
    }

    /// Returns whether there is nothing for the host.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.client.is_none()
    }

    fn add(&mut self, dir: &Path) -> Result<()> {
        // Another user's directory may be closed to us; that is no error until a certificate is missed.
        let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|ext| ext.to_str()) {
                Some("crt") => self.authorities.extend(certificates(&path)?),
                Some("cert") if self.client.is_none() => {
                    let key = path.with_extension("key");
                    let bytes = tree::read(&key, FILE_LIMIT)
                        .at(&key)
                        .with_context(|| format!("{} has no key", path.display()))?;
                    let key = PrivateKeyDer::from_pem_slice(&bytes)
                        .map_err(|err| anyhow!("not a private key: {err}"))
                        .at(&key)?;
                    self.client = Some((certificates(&path)?, key));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = tree::read(path, FILE_LIMIT).at(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|err| anyhow!("not a certificate: {err}"))
        .at(path)?;
    ensure!(!certificates.is_empty(), "{}: no certificate in it", path.display());
    Ok(certificates)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(crypto::ring::default_provider())).clone()
}

/// Returns the machine's own authorities. Reading them takes milliseconds, so it is done at most once.
fn machine_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

/// Returns a configuration that trusts nobody, for what speaks no TLS.
pub fn none() -> Result<ClientConfig> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Returns a configuration for a host with these files. Without `verify`, any certificate will do.
pub fn config(files: HostFiles, verify: bool) -> Result<ClientConfig> {
    let builder = if verify {
        let mut roots = machine_roots().clone();
        for authority in files.authorities {
            roots.add(authority).context("not the certificate of an authority")?;
        }
        if roots.is_empty() {
            return Err(anyhow!("no CA certificates on this machine")).hint(|| {
                "install ca-certificates, or let SSL_CERT_FILE name a file of them".into()
            });
        }
        builder()?.with_root_certificates(roots)
    } else {
        let verifier = Arc::new(Anybody(provider()));
        builder()?.dangerous().with_custom_certificate_verifier(verifier)
    };
    let mut config = match files.client {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).context("the client certificate")?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    Ok(ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?)
}

/// Accepts every certificate: `--tls-verify=false`.
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns whether a server of this machine speaks TLS.
///
/// It is asked with a greeting, after which we say that nothing more will
/// come: a server of plain HTTP answers in its own tongue, or closes.
pub fn spoken_at(addresses: &[SocketAddr], patience: Duration) -> Result<bool> {
    let name = ServerName::try_from("localhost").context("localhost")?;
    let mut greeting = Vec::new();
    ClientConnection::new(Arc::new(none()?), name)?.write_tls(&mut greeting)?;
    let mut refused = None;
    for address in addresses {
        let mut stream = match TcpStream::connect_timeout(address, patience) {
            Ok(stream) => stream,
            Err(err) => {
                refused = Some(err);
                continue;
            }
        };
        let mut first = [0];
        let answer = stream
            .set_read_timeout(Some(patience))
            .and_then(|()| stream.write_all(&greeting))
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .and_then(|()| stream.read(&mut first));
        // A handshake record or an alert: RFC 8446, section 5.1.
        return Ok(matches!((answer, first), (Ok(1), [21 | 22])));
    }
    match refused {
        Some(err) => Err(err.into()),
        None => bail!("no address"),
    }
}
