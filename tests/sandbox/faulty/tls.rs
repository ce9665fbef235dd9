//! Certificates that are good, and others. OpenSSL makes them, once.
//!
//! ```text
//! good      for every name and address of the tests, by the authority that they trust
//! expired  future  elsewhere     by the same, with one thing wrong
//! unknown   by an authority that nobody trusts
//! self      by itself
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::image::sha256;

const SCRIPT: &str = r#"
    cat >conf <<END
[ca]
default_ca = it
[it]
new_certs_dir = .
database = database
rand_serial = yes
unique_subject = no
default_md = sha256
policy = policy
[policy]
commonName = supplied
END
    : >database
    key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
    all=IP:127.0.0.1,DNS:localhost,DNS:*.example.org,DNS:intranet
    for ip in 127.0.0.2 169.254.169.254 203.0.113.10 203.0.113.11 203.0.113.12; do all=$all,IP:$ip; done

    for authority in trusted untrusted; do
        openssl req -x509 $key -keyout $authority.key -out $authority.pem -days 10000 -subj /CN=$authority \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
    done
    certificate() {
        openssl req -new $key -keyout $1.key -out $1.csr -subj /CN=$1
        echo "subjectAltName=$5" >$1.ext
        openssl ca -batch -notext -config conf -cert $2.pem -keyfile $2.key -startdate $3 -enddate $4 \
            -extfile $1.ext -in $1.csr -out $1.pem
    }
    certificate good trusted 20200101000000Z 20491231000000Z $all
    certificate expired trusted 20200101000000Z 20210101000000Z $all
    certificate future trusted 20480101000000Z 20491231000000Z $all
    certificate elsewhere trusted 20200101000000Z 20491231000000Z DNS:registry.example.net
    certificate unknown untrusted 20200101000000Z 20491231000000Z $all
    openssl req -x509 $key -keyout self.key -out self.pem -days 10000 -subj /CN=self -addext subjectAltName=$all
"#;

/// Returns the directory of the certificates, `NAME.pem`, and their keys, `NAME.key`.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = crate::target_dir().join("../tmp/certificates").join(sha256(SCRIPT.as_bytes()));
        if !dir.exists() {
            let parent = dir.parent().unwrap();
            fs::create_dir_all(parent).unwrap();
            let new = tempfile::tempdir_in(parent).unwrap();
            let mut shell = Command::new("/bin/sh");
            let out = shell.args(["-euc", SCRIPT]).current_dir(new.path()).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            // Another run may have been faster.
            let _ = fs::rename(new.path(), &dir);
        }
        dir.canonicalize().unwrap()
    })
}

/// Returns the file of the authority that is to be trusted.
pub fn authority() -> PathBuf {
    dir().join("trusted.pem")
}

/// Returns what a server needs that shows this certificate; it may want to see one by our authority.
pub fn server(certificate: &str, wants_one: bool) -> Arc<ServerConfig> {
    let pem = |name: String| dir().join(name);
    let chain = CertificateDer::pem_file_iter(pem(format!("{certificate}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(pem(format!("{certificate}.key"))).unwrap();
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if wants_one {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let chain = chain.map(|certificate| certificate.unwrap()).collect();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}
