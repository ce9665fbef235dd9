//! TLS: a certificate and its key, from two PEM files.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use common::error::At;
use common::tree::read;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The largest file that is read.
const FILE_LIMIT: u64 = 4 << 20;

/// Returns who speaks TLS with this certificate, its chain behind it, and this key.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(&read(cert, FILE_LIMIT).at(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|err| anyhow!("not a certificate: {err}"))
        .at(cert)?;
    ensure!(!chain.is_empty(), "{}: no certificate in it", cert.display());
    let private = PrivateKeyDer::from_pem_slice(&read(key, FILE_LIMIT).at(key)?)
        .map_err(|err| anyhow!("not a private key: {err}"))
        .at(key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .context("the key does not go with the certificate")
        .at(key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
