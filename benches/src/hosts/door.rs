//! Who may tell an agent what to do: whoever knows its secret. It is never sent: each side proves it over what the other
//! drew. What follows is in the clear, so beyond a testbed's own network the control port belongs into an ssh tunnel.

use super::message::{receive, send};
use crate::failure::{Context, Failure, Result};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Shortest secret, bytes.
const SECRET_MIN: usize = 16;
const SECRET_MAX: u64 = 4096;

/// See the module's head.
pub struct Secret(hmac::Key);

impl Secret {
    /// Out of a file that nobody else can read.
    pub fn read(path: &Path) -> Result<Secret> {
        let shown = path.display();
        let what = || format!("cannot read the secret {shown}");
        let file = fs::File::open(path).context(what)?;
        let mode = file.metadata().context(what)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Failure::new(format!("others can read the secret {shown}: chmod 600 {shown}")));
        }
        let mut text = String::new();
        file.take(SECRET_MAX).read_to_string(&mut text).context(what)?;
        Secret::new(text.trim())
    }

    /// Out of its text.
    pub fn new(text: &str) -> Result<Secret> {
        if text.len() < SECRET_MIN {
            return Err(Failure::new(format!(
                "a secret has {SECRET_MIN} characters at least: head -c 24 /dev/urandom | base64 > FILE; chmod 600 FILE"
            )));
        }
        Ok(Secret(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())))
    }

    fn prove(&self, side: &str, own: &str, other: &str) -> String {
        let tag = hmac::sign(&self.0, format!("tidegate-hosts {side} {own} {other}").as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn proves(&self, proof: &str, side: &str, own: &str, other: &str) -> bool {
        let bytes: Option<Vec<u8>> = proof
            .as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
            .collect();
        let text = format!("tidegate-hosts {side} {own} {other}");
        bytes.is_some_and(|bytes| hmac::verify(&self.0, text.as_bytes(), &bytes).is_ok())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draw {
    tidegate_hosts: u32,
    draw: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    proof: String,
    draw: String,
}

/// Of this exchange and what follows.
const FORM: u32 = 1;

fn draw() -> Result<String> {
    let mut bytes = [0u8; 16];
    let mut random = fs::File::open("/dev/urandom").context(|| "/dev/urandom".into())?;
    random.read_exact(&mut bytes).context(|| "/dev/urandom".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The agent's side: true for one who knows the secret.
pub fn admits(secret: &Secret, from: &mut impl BufRead, to: &mut impl Write) -> Result<bool> {
    let own = draw()?;
    send(to, &Draw { tidegate_hosts: FORM, draw: own.clone() })?;
    let Some(Proof { proof, draw: other }) = receive(from)? else { return Ok(false) };
    if !secret.proves(&proof, "coordinator", &other, &own) {
        return Ok(false);
    }
    send(to, &Proof { proof: secret.prove("agent", &own, &other), draw: own })?;
    Ok(true)
}

/// The coordinator's side. A failure says which side does not know the secret.
pub fn enters(secret: &Secret, from: &mut impl BufRead, to: &mut impl Write) -> Result<()> {
    let no = |what: &str| Failure::new(format!("{what}: is it an agent (scripts/bench hosts agent)?"));
    let Some(Draw { tidegate_hosts, draw: other }) = receive(from)? else {
        return Err(no("it says nothing"));
    };
    if tidegate_hosts != FORM {
        return Err(no("it speaks another form"));
    }
    let own = draw()?;
    send(to, &Proof { proof: secret.prove("coordinator", &own, &other), draw: own.clone() })?;
    let answer: Option<Proof> = receive(from).unwrap_or(None);
    match answer {
        Some(answer) if answer.draw == other && secret.proves(&answer.proof, "agent", &other, &own) => Ok(()),
        _ => {
            Err(Failure::new("it refuses the secret, or does not know it: both need the same --secret file"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;
    use std::net::{TcpListener, TcpStream};

    /// Both sides over a socket.
    fn meet(agent: &str, coordinator: &str) -> (bool, Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let secret = Secret::new(coordinator).unwrap();
        let other = std::thread::spawn(move || {
            let stream = TcpStream::connect(to).unwrap();
            enters(&secret, &mut BufReader::new(&stream), &mut &stream)
        });
        let (stream, _) = listener.accept().unwrap();
        let admitted = admits(&Secret::new(agent).unwrap(), &mut BufReader::new(&stream), &mut &stream);
        drop(stream);
        (admitted.unwrap_or(false), other.join().unwrap())
    }

    #[test]
    fn only_who_knows_the_secret_comes_in() {
        let (admitted, entered) = meet("a secret of some length", "a secret of some length");
        assert!(admitted && entered.is_ok(), "{entered:?}");
        let (admitted, entered) = meet("a secret of some length", "another one of that length");
        assert!(!admitted && entered.unwrap_err().to_string().contains("--secret"));
        assert!(Secret::new("short").is_err());
    }

    #[test]
    fn what_was_said_once_opens_no_second_time_and_noise_opens_nothing() {
        let secret = Secret::new("a secret of some length").unwrap();
        let proof = |draw: &str| {
            format!("{{\"proof\":\"{}\",\"draw\":\"{draw}\"}}\n", secret.prove("coordinator", draw, "old"))
        };
        let noise = [
            "",
            "\n",
            "{}\n",
            "{\"proof\":\"zz\",\"draw\":\"\"}\n",
            "{\"proof\":\"\u{e4}b\",\"draw\":\"\"}\n",
            &proof("x"),
        ];
        for said in noise {
            assert!(!admits(&secret, &mut said.as_bytes(), &mut Vec::new()).unwrap_or(false), "{said}");
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_none() {
        let path = std::env::temp_dir().join(format!("tidegate-bench-secret-{}", std::process::id()));
        fs::write(&path, "a secret of some length\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Secret::read(&path).err().unwrap().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Secret::read(&path).is_ok());
        fs::remove_file(path).unwrap();
    }
}
