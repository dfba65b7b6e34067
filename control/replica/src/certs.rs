//! `tidegate certs`: a private CA and one certificate per node, for the link.
//!
//! The CA signs nodes of one pair (or a few pairs and a witness) and nothing else; it is trusted by the link alone.
//! Keys are ECDSA P-256. The CA's own certificate can be made anew with the same key, so that nodes need not change.

use crate::link::message::is_name;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_control::cli::CertsArgs;

const CA_NAME: &str = "tidegate private CA";
const DAY: Duration = Duration::from_secs(86_400);
/// How long certificates are good for.
const LIFE: Duration = Duration::from_secs(3652 * 86_400);

/// What was made for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MadeNode {
    /// Its name.
    pub node: String,
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The CA's certificate, which every node needs.
    pub ca: PathBuf,
    /// The CA's key, which no node needs.
    pub ca_key: PathBuf,
    /// The CA is new, or its certificate is.
    pub ca_made: bool,
    /// The nodes, in the order asked for.
    pub nodes: Vec<MadeNode>,
    /// Until when these certificates are good, seconds since 1970.
    pub expires: u64,
}

/// `tidegate certs`
pub fn run(args: &CertsArgs) -> ExitCode {
    let made = make(args, SystemTime::now());
    let mut out = std::io::stdout();
    match made {
        Ok(made) if args.json => {
            let _ = writeln!(out, "{}", serde_json::json!(made));
            ExitCode::SUCCESS
        }
        Ok(made) => {
            let _ = out.write_all(told(&made).as_bytes());
            ExitCode::SUCCESS
        }
        Err(why) => {
            if args.json {
                let failure = serde_json::json!({ "error": { "reason": "certs", "desc": why } });
                let _ = writeln!(out, "{failure}");
            }
            let _ = writeln!(std::io::stderr(), "tidegate: {why}");
            ExitCode::from(1)
        }
    }
}

fn told(made: &Made) -> String {
    let mut text = String::new();
    let ca = made.ca.display();
    if made.ca_made {
        text += &format!("{ca}: made; give it to every node\n");
        let key = made.ca_key.display();
        text += &format!("{key}: stays here, and best offline: whoever has it can be any node\n");
    } else {
        text += &format!("{ca}: used as it was\n");
    }
    for MadeNode { node, certificate, key } in &made.nodes {
        text += &format!("{}, {}: made; give them to {node}\n", certificate.display(), key.display());
    }
    text + "Each node: put its three files into one directory, and name that with --certs DIR.\n"
}

/// Makes what is missing, as seen at `now`. Nothing is written unless all of it can be made; nothing is overwritten
/// unless the arguments say so.
pub fn make(args: &CertsArgs, now: SystemTime) -> Result<Made, String> {
    let dir = &args.dir;
    for (at, node) in args.nodes.iter().enumerate() {
        check_name(node)?;
        if args.nodes[..at].contains(node) {
            return Err(format!("`{node}` is named twice"));
        }
    }
    let (ca, ca_key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let files = |node: &String| MadeNode {
        node: node.clone(),
        certificate: dir.join(format!("{node}.pem")),
        key: dir.join(format!("{node}.key")),
    };
    let nodes: Vec<MadeNode> = args.nodes.iter().map(files).collect();
    for path in nodes.iter().flat_map(|node| [&node.certificate, &node.key]) {
        if !args.force && path.exists() {
            return Err(format!("{}: exists; add --force to replace it", path.display()));
        }
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?;

    let mut writes: Vec<(&Path, String, u32, bool)> = Vec::new();
    let (key, certificate) = match (read(&ca_key)?, read(&ca)?) {
        (None, None) => {
            let key = new_key()?;
            let certificate = ca_params(now).self_signed(&key).map_err(|e| e.to_string())?.pem();
            writes.push((&ca_key, key.serialize_pem(), 0o600, false));
            writes.push((&ca, certificate.clone(), 0o644, false));
            (key, certificate)
        }
        (None, Some(_)) => {
            let (ca, key) = (ca.display(), ca_key.display());
            return Err(format!(
                "{ca} is here, its key {key} is not: run this where the CA was made, or name a new directory"
            ));
        }
        (Some(pem), certificate) => {
            let key = KeyPair::from_pem(&pem)
                .map_err(|e| format!("{}: no key that can be used here: {e}", ca_key.display()))?;
            match certificate {
                _ if args.renew_ca => {
                    let certificate = ca_params(now).self_signed(&key).map_err(|e| e.to_string())?.pem();
                    writes.push((&ca, certificate.clone(), 0o644, true));
                    (key, certificate)
                }
                Some(certificate) => (key, certificate),
                None => {
                    return Err(format!(
                        "{} is missing; add --renew-ca to make it anew from ca.key",
                        ca.display()
                    ));
                }
            }
        }
    };
    let ca_made = !writes.is_empty();
    let issuer = Issuer::new(ca_params(now), key);
    for node in &nodes {
        let key = new_key()?;
        let params = node_params(&node.node, now)?;
        let issued = params.signed_by(&key, &issuer).map_err(|e| e.to_string())?;
        verify(&certificate, issued.der(), now).map_err(|why| {
            format!(
                "{}: not the certificate of a CA that this command made with the key beside it ({why}); name a new \
                 directory",
                ca.display()
            )
        })?;
        writes.push((&node.key, key.serialize_pem(), 0o600, args.force));
        writes.push((&node.certificate, issued.pem(), 0o644, args.force));
    }
    for (path, text, mode, replace) in writes {
        write(path, &text, mode, replace).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let expires = (now + LIFE).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Made { ca, ca_key, ca_made, nodes, expires })
}

fn check_name(node: &str) -> Result<(), String> {
    let host = ServerName::try_from(node).is_ok_and(|name| matches!(name, ServerName::DnsName(_)));
    if host && is_name(node) && node != "ca" {
        return Ok(());
    }
    Err(format!(
        "`{node}` cannot name a node: use a host name of at most 64 letters, digits, `-` and `.`, not `ca`"
    ))
}

fn new_key() -> Result<KeyPair, String> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| format!("no key can be made: {e}"))
}

fn validity(params: &mut CertificateParams, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    // A day for clocks that differ.
    params.not_before = epoch + since.saturating_sub(DAY);
    params.not_after = epoch + (since + LIFE);
}

fn ca_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    validity(&mut params, now);
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn node_params(node: &str, now: SystemTime) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(vec![node.to_owned()]).map_err(|e| format!("`{node}`: {e}"))?;
    validity(&mut params, now);
    params.distinguished_name.push(DnType::CommonName, node);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A node dials and listens.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Whether the CA's certificate on disk vouches for what its key has just signed: it does not if it is another's.
fn verify(ca_pem: &str, issued: &CertificateDer<'_>, now: SystemTime) -> Result<(), String> {
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|_| "no certificate".to_owned())?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| e.to_string())?;
    let issued = ParsedCertificate::try_from(issued).map_err(|e| e.to_string())?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let ring = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&issued, &roots, &[], now, ring.all).map_err(|e| e.to_string())
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Whole or not at all; what is there is replaced only where `replace` says so.
fn write(path: &Path, text: &str, mode: u32, replace: bool) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let result = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if replace { std::fs::rename(&fresh, path) } else { std::fs::hard_link(&fresh, path) }
    })();
    let _ = std::fs::remove_file(&fresh);
    result
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    pub(crate) fn args(dir: &Path, nodes: &[&str]) -> CertsArgs {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        CertsArgs { dir: dir.to_owned(), nodes, force: false, renew_ca: false, json: false }
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&args(dir.path(), &["alpha", "beta"]), SystemTime::now()).unwrap();
        assert!(made.ca_made);
        for (file, mode) in [("ca.key", 0o600), ("alpha.key", 0o600), ("beta.key", 0o600), ("ca.pem", 0o644)]
        {
            assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().mode() & 0o777, mode, "{file}");
        }
        let before = std::fs::read(dir.path().join("alpha.key")).unwrap();
        // One of two is there: nothing at all is made.
        let refused = make(&args(dir.path(), &["gamma", "alpha"]), SystemTime::now()).unwrap_err();
        assert!(refused.contains("alpha.pem") && refused.contains("--force"), "{refused}");
        assert!(!dir.path().join("gamma.pem").exists());
        let refused = make(&args(dir.path(), &["gamma", "gamma"]), SystemTime::now()).unwrap_err();
        assert!(refused.contains("twice") && !dir.path().join("gamma.pem").exists(), "{refused}");
        assert_eq!(std::fs::read(dir.path().join("alpha.key")).unwrap(), before);
        let again =
            make(&CertsArgs { force: true, ..args(dir.path(), &["alpha"]) }, SystemTime::now()).unwrap();
        assert!(!again.ca_made);
        assert_ne!(std::fs::read(dir.path().join("alpha.key")).unwrap(), before);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{left:?}");
    }

    #[test]
    fn a_ca_of_another_make_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = new_key().unwrap();
        let mut params = ca_params(SystemTime::now());
        params.distinguished_name.push(DnType::CommonName, "somebody else");
        std::fs::write(dir.path().join("ca.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let refused = make(&args(dir.path(), &["alpha"]), SystemTime::now()).unwrap_err();
        assert!(refused.contains("ca.pem"), "{refused}");
        assert!(!dir.path().join("alpha.key").exists());

        // The right name with another key.
        let other = new_key().unwrap();
        let foreign = ca_params(SystemTime::now()).self_signed(&other).unwrap().pem();
        std::fs::write(dir.path().join("ca.pem"), foreign).unwrap();
        assert!(make(&args(dir.path(), &["alpha"]), SystemTime::now()).is_err());
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let refused = make(&args(dir.path(), &["alpha"]), SystemTime::now()).unwrap_err();
        assert!(refused.contains("where the CA was made"), "{refused}");
    }

    #[test]
    fn a_renewed_ca_vouches_for_old_nodes() {
        let dir = tempfile::tempdir().unwrap();
        make(&args(dir.path(), &["alpha"]), SystemTime::now()).unwrap();
        let ca = dir.path().join("ca.pem");
        let before = std::fs::read_to_string(&ca).unwrap();
        std::fs::remove_file(&ca).unwrap();
        let refused = make(&args(dir.path(), &["beta"]), SystemTime::now()).unwrap_err();
        assert!(refused.contains("--renew-ca"), "{refused}");
        make(&CertsArgs { renew_ca: true, ..args(dir.path(), &["beta"]) }, SystemTime::now()).unwrap();
        let after = std::fs::read_to_string(&ca).unwrap();
        assert_ne!(before, after);
        for node in ["alpha.pem", "beta.pem"] {
            let node = CertificateDer::from_pem_file(dir.path().join(node)).unwrap();
            verify(&after, &node, SystemTime::now()).unwrap();
            verify(&after, &node, SystemTime::now() + LIFE + DAY).unwrap_err();
        }
        // By itself too.
        let alone = make(&CertsArgs { renew_ca: true, ..args(dir.path(), &[]) }, SystemTime::now()).unwrap();
        assert!(alone.ca_made && alone.nodes.is_empty());
        assert_ne!(std::fs::read_to_string(&ca).unwrap(), after);
    }

    #[test]
    fn only_host_names_name_nodes() {
        for bad in ["", "ca", "../x", "a/b", "10.0.0.1", "a b", "-a", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        for good in ["alpha", "pbx-1.example.org", "a"] {
            check_name(good).unwrap();
        }
    }
}
