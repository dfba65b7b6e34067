//! A phone outside: baresip, with or without an account at the guest's proxy, told what to do over its control port.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::laboratory::GUEST_IP;
use crate::namespace::Namespace;
use crate::process::{Program, Running, run};
use crate::scratch::Scratch;

/// A registration whose answer waits for an epoch, by TLS twice, on a busy machine.
const REGISTERS_WITHIN: Duration = Duration::from_secs(30);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// The longest message that is taken.
const MESSAGE_MAX: usize = 1 << 16;

/// How its signalling goes to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
    /// One that nobody can read.
    Tls,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }
}

/// What kind of phone.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Its user name, unique in a test.
    pub name: &'static str,
    /// Its number in the test, from 0: its ports follow from it.
    pub number: u16,
    /// See [`Transport`].
    pub transport: Transport,
    /// Parameters of its account, e.g. `audio_codecs=opus;mediaenc=dtls_srtp;medianat=ice`.
    pub account: &'static str,
    /// With a camera.
    pub video: bool,
    /// It has an account at the guest's proxy; otherwise it calls and is called directly.
    pub registers: bool,
    /// Its interface in the namespace.
    pub interface: &'static str,
}

/// A phone that answers by itself.
pub struct Phone {
    name: &'static str,
    running: Running,
    control: TcpStream,
    read: Vec<u8>,
    events: VecDeque<Value>,
    token: u32,
}

impl Phone {
    /// Starts it in the namespace and waits until it is ready: where it registers, until the proxy knows it.
    pub fn start(model: &Model, outside: &Namespace, scratch: &Scratch) -> Result<Phone> {
        let directory = scratch.file(&format!("phone-{}", model.name));
        fs::create_dir_all(&directory).context(|| format!("cannot make {}", directory.display()))?;
        furnish(model, &directory)?;
        let mut running = Program::new("baresip")
            // With a trace of its signalling.
            .args("-s -f")
            .arg(directory.display().to_string())
            .inside(outside)
            .start(scratch, &format!("phone-{}", model.name))?;
        let ready = if model.registers { "[1 binding]" } else { "baresip is ready" };
        running.wait_for_line(ready, REGISTERS_WITHIN)?;
        let control = connect_inside(outside, control_port(model.number))?;
        Ok(Phone { name: model.name, running, control, read: Vec::new(), events: VecDeque::new(), token: 0 })
    }

    /// Calls another phone of the proxy; returns when both hear each other.
    pub fn call(&mut self, callee: &str) -> Result<()> {
        self.dial(&format!("sip:{callee}@{GUEST_IP}"))
    }

    /// Calls this URI.
    pub fn dial(&mut self, uri: &str) -> Result<()> {
        self.command("dial", uri)?;
        self.wait_for("CALL_ESTABLISHED", Duration::from_secs(30))
    }

    /// What it has written so far, its signalling among it.
    pub fn output(&self) -> String {
        self.running.output()
    }

    /// A failure that shows the end of its log.
    pub fn failure(&self, what: &str) -> Failure {
        self.running.failure(what)
    }

    /// Ends its call.
    pub fn hang_up(&mut self) -> Result<()> {
        self.command("hangup", "")?;
        self.wait_for("CALL_CLOSED", ANSWERS_WITHIN)
    }

    /// Asks baresip for something, e.g. `hold`, `resume`, `sndcode`, `transfer`; what it answers.
    pub fn command(&mut self, command: &str, params: &str) -> Result<String> {
        self.token += 1;
        let token = self.token.to_string();
        let text = json!({ "command": command, "params": params, "token": token }).to_string();
        write!(self.control, "{}:{text},", text.len())
            .context(|| format!("cannot write to phone {}", self.name))?;
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while let Some(message) = self.receive(deadline)? {
            if message["response"] == true && message["token"] == token {
                let answer = message["data"].as_str().unwrap_or_default().to_owned();
                crate::ensure!(message["ok"] == true, "phone {} refused {command}: {answer}", self.name);
                return Ok(answer);
            }
            self.events.extend((message["event"] == true).then_some(message));
        }
        Err(self.running.failure(&format!("did not answer {command:?}")))
    }

    /// True when an event of this type has been heard; what came before it is forgotten.
    pub fn happened(&mut self, event: &str) -> bool {
        let at = self.events.iter().position(|past| past["type"] == event);
        at.is_some_and(|at| self.events.drain(..=at).count() > 0)
    }

    /// Waits for an event of this type, e.g. `CALL_ESTABLISHED`; what came before it is forgotten.
    pub fn wait_for(&mut self, event: &str, timeout: Duration) -> Result<()> {
        while let Some(past) = self.events.pop_front() {
            if past["type"] == event {
                return Ok(());
            }
        }
        let deadline = Instant::now() + timeout;
        while let Some(message) = self.receive(deadline)? {
            if message["type"] == event {
                return Ok(());
            }
        }
        Err(self.running.failure(&format!("saw no {event} within {timeout:?}")))
    }

    /// The next message, a netstring around JSON.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            if let Some((message, used)) = netstring(&self.read) {
                let value = serde_json::from_slice(message)
                    .context(|| format!("phone {} sent no JSON", self.name))?;
                self.read.drain(..used);
                return Ok(Some(value));
            }
            crate::ensure!(
                self.read.len() < MESSAGE_MAX,
                "phone {} sent a message without an end",
                self.name
            );
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let what = || format!("cannot read from phone {}", self.name);
            self.control.set_read_timeout(Some(left)).context(what)?;
            let mut some = [0; 4096];
            match self.control.read(&mut some) {
                Ok(0) => return Err(self.running.failure("closed its control port")),
                Ok(n) => self.read.extend_from_slice(&some[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).context(what),
            }
        }
    }
}

/// The first whole netstring (`5:hello,`) and the bytes that it takes.
fn netstring(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let message = bytes.get(colon + 1..colon + 1 + length)?;
    bytes.get(colon + 1 + length)?;
    Some((message, colon + 2 + length))
}

fn control_port(number: u16) -> u16 {
    4440 + number
}

/// Connects to a port of the namespace's own loopback.
fn connect_inside(namespace: &Namespace, port: u16) -> Result<TcpStream> {
    namespace.enter(move || {
        TcpStream::connect(("127.0.0.1", port)).context(|| format!("cannot connect to port {port} there"))
    })
}

/// Writes what baresip reads at its start.
fn furnish(model: &Model, directory: &Path) -> Result<()> {
    let Model { name, number, transport, account, video, registers, interface } = model;
    let write = |file: &str, text: String| {
        let path = directory.join(file);
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
    };
    // baresip opens a TLS port whatever its account says.
    let certificate = directory.join("cert.pem");
    run(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
         -keyout {0} -out {0}.public",
        certificate.display()
    ))?;
    let read = |path: &Path| fs::read(path).context(|| format!("cannot read {}", path.display()));
    let both = [read(&directory.join("cert.pem.public"))?, read(&certificate)?].concat();
    fs::write(&certificate, both).context(|| format!("cannot write {}", certificate.display()))?;
    let sip = 5070 + 10 * number;
    let media = 40_000 + 100 * number;
    let camera = if *video {
        "module fakevideo.so\nmodule avcodec.so\nmodule vp8.so\nvideo_source fakevideo,nil\n\
         video_display fakevideo,nil\nvideo_size 176x144\nvideo_bitrate 100000\nvideo_fps 10\n"
    } else {
        ""
    };
    write(
        "config",
        format!(
            "sip_listen 10.9.0.1:{sip}\nsip_certificate {}\nnet_interface {interface}\ncall_local_timeout 60\ncall_max_calls 4\n\
             module_path /usr/lib/baresip/modules\naudio_player aubridge,{name}\naudio_source ausine,440\n\
             audio_alert aubridge,alert\nausrc_srate 48000\nausrc_channels 2\nausrc_format s16\nauplay_format s16\nauenc_format s16\naudec_format s16\n\
             rtp_ports {media}-{}\nrtcp_mux yes\njitter_buffer_type off\n\
             module g711.so\nmodule opus.so\nmodule ausine.so\nmodule aubridge.so\nmodule ice.so\nmodule srtp.so\n\
             module dtls_srtp.so\nmodule_tmp uuid.so\nmodule_tmp account.so\nmodule_app menu.so\n\
             module_app ctrl_tcp.so\nctrl_tcp_listen 127.0.0.1:{}\n{camera}",
            certificate.display(),
            media + 99,
            control_port(*number),
        ),
    )?;
    let way = transport.name();
    let port = if *transport == Transport::Tls { 5061 } else { 5060 };
    let (home, outbound) = match registers {
        true => {
            let proxy = format!("sip:{GUEST_IP}:{port};transport={way}");
            (GUEST_IP.to_string(), format!("outbound=\"{proxy}\";regint=600"))
        }
        false => {
            (format!("10.9.0.1:{}", sip + u16::from(*transport == Transport::Tls)), "regint=0".to_owned())
        }
    };
    write("accounts", format!("<sip:{name}@{home};transport={way}>;{outbound};answermode=auto;{account}\n"))?;
    write("contacts", String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netstrings_are_taken_one_by_one_and_only_whole() {
        assert_eq!(netstring(b"5:hello,2:xy,"), Some((&b"hello"[..], 8)));
        for part in [&b""[..], b"5", b"5:hell", b"5:hello"] {
            assert_eq!(netstring(part), None);
        }
    }
}
