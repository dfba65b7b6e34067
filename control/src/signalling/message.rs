//! One SIP message (RFC 3261), as far as the account of calls needs it. Parsed by `rsipstack`, parts of a body by
//! `mail-parser`.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use rsipstack::sip::headers::{Header, ToTypedHeader};
use rsipstack::sip::{Headers, Method, SipMessage, Version};

/// No message is longer.
pub(super) const LONGEST: usize = 64 << 10;
/// No word of it that is kept is longer.
const LONGEST_WORD: usize = 256;
/// Parts of a body that are looked at.
const PARTS: usize = 16;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request(Method),
    /// Its status.
    Response(u16),
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    pub call: String,
    /// Tag of who sent the request.
    pub from: String,
    /// Tag of who answers; empty as long as there is none.
    pub to: String,
    /// Number and method of the request.
    pub cseq: (u32, Method),
    /// The session description in it.
    pub description: Option<Vec<u8>>,
}

/// Where a body starts, if the headers are complete.
pub(super) fn body_at(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// True for the first line of a request or a response, without its line end.
pub(super) fn is_start_line(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (first, second, third) = (words.next(), words.next(), words.next());
    let method = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    first == Some(b"SIP/2.0") && second.is_some()
        || first.is_some_and(method) && third == Some(b"SIP/2.0") && words.next().is_none()
}

/// The length of the body that headers (with the empty line) tell. `Err`: they contradict themselves, or are no SIP.
pub(super) fn told_length(head: &[u8]) -> Result<Option<u64>, ()> {
    let (SipMessage::Request(rsipstack::sip::Request { headers, .. })
    | SipMessage::Response(rsipstack::sip::Response { headers, .. })) =
        SipMessage::try_from(head).map_err(|_| ())?;
    let mut told = None;
    for header in headers.iter() {
        if let Header::ContentLength(length) = header {
            let length: u64 = length.value().trim().parse().map_err(|_| ())?;
            if told.is_some_and(|told| told != length) {
                return Err(());
            }
            told = Some(length);
        }
    }
    Ok(told)
}

impl Message {
    /// A datagram is one message; without a length its body goes on to the end.
    pub fn of_datagram(bytes: &[u8]) -> Option<Message> {
        let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
        let bytes = &bytes[start..];
        if bytes.len() > LONGEST {
            return None;
        }
        let at = body_at(bytes)?;
        let body = &bytes[at..];
        let body = match told_length(&bytes[..at]).ok()? {
            Some(told) => body.get(..usize::try_from(told).ok()?)?,
            None => body,
        };
        Message::of(&bytes[..at], body)
    }

    /// A message cut out of a stream by its length.
    pub fn of_stream(bytes: &[u8]) -> Option<Message> {
        let at = body_at(bytes)?;
        Message::of(&bytes[..at], &bytes[at..])
    }

    fn of(head: &[u8], body: &[u8]) -> Option<Message> {
        let line = head.split(|byte| *byte == b'\n').next()?;
        if !is_start_line(line.strip_suffix(b"\r").unwrap_or(line)) {
            return None;
        }
        let (kind, version, headers) = match SipMessage::try_from(head).ok()? {
            SipMessage::Request(request) => (Kind::Request(request.method), request.version, request.headers),
            SipMessage::Response(response) => {
                (Kind::Response(response.status_code.code()), response.version, response.headers)
            }
        };
        let (mut call, mut from, mut to, mut cseq) = (None, None, None, None);
        for header in headers.iter() {
            match header {
                Header::CallId(id) => call = call.or_else(|| word(id.value())),
                Header::From(of) if from.is_none() => {
                    from =
                        Some(of.typed().ok()?.tag().map_or_else(String::new, |tag| tag.value().to_owned()));
                }
                Header::To(of) if to.is_none() => {
                    to = Some(of.typed().ok()?.tag().map_or_else(String::new, |tag| tag.value().to_owned()));
                }
                Header::CSeq(of) if cseq.is_none() => cseq = Some(of.typed().ok()?),
                _ => {}
            }
        }
        let (from, to, cseq) = (from?, to?, cseq?);
        let agrees = !matches!(kind, Kind::Request(method) if method != cseq.method);
        let words = [&from, &to].iter().all(|word| word.len() <= LONGEST_WORD);
        if version != Version::V2 || from.is_empty() || !agrees || !words {
            return None;
        }
        let description = description(&headers, body);
        Some(Message { kind, call: call?, from, to, cseq: (cseq.seq, cseq.method), description })
    }
}

fn word(text: &str) -> Option<String> {
    (1..=LONGEST_WORD).contains(&text.len()).then(|| text.to_owned())
}

/// The session description in a body that says that it is one, or the first part that does.
fn description(headers: &Headers, body: &[u8]) -> Option<Vec<u8>> {
    let mut kind = None;
    for header in headers.iter() {
        match header {
            Header::ContentType(of) if kind.is_none() => kind = Some(of.value().to_owned()),
            Header::ContentEncoding(of) if !of.value().trim().eq_ignore_ascii_case("identity") => {
                return None;
            }
            _ => {}
        }
    }
    let kind = kind?;
    let name = kind.split(';').next()?.trim().to_ascii_lowercase();
    if name == "application/sdp" {
        return (!body.is_empty()).then(|| body.to_vec());
    }
    if !name.starts_with("multipart/") || kind.contains(['\r', '\n']) {
        return None;
    }
    let whole = [b"MIME-Version: 1.0\r\nContent-Type: ", kind.as_bytes(), b"\r\n\r\n", body].concat();
    let parts = MessageParser::new().with_mime_headers().parse(&whole)?.parts;
    parts.iter().take(PARTS).find_map(|part| {
        let is_sdp = part.content_type().is_some_and(|of| {
            of.ctype().eq_ignore_ascii_case("application")
                && of.subtype().is_some_and(|subtype| subtype.eq_ignore_ascii_case("sdp"))
        });
        match &part.body {
            PartType::Binary(bytes) | PartType::InlineBinary(bytes) if is_sdp => Some(bytes.to_vec()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(extra: &str, body: &str) -> Vec<u8> {
        format!(
            "INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK1\r\n\
             From: \"A\" <sip:alice@example.org>;tag=f1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c1\r\n\
             CSeq: 7 INVITE\r\n{extra}\r\n{body}"
        )
        .into_bytes()
    }

    #[test]
    fn a_request_and_a_response_are_read_with_compact_names_too() {
        let message =
            Message::of_datagram(&invite("Content-Type: application/sdp\r\n", "v=0\r\n")).expect("SIP");
        assert_eq!((message.kind, message.cseq), (Kind::Request(Method::Invite), (7, Method::Invite)));
        assert_eq!((&*message.call, &*message.from, &*message.to), ("c1", "f1", ""));
        assert_eq!(message.description.as_deref(), Some(&b"v=0\r\n"[..]));
        let compact = b"\r\n\r\nSIP/2.0 200 OK\r\nf: sip:a@b;tag=1\r\nt: <sip:c@d>;tag=2\r\ni: x@y\r\nCSeq: 1 INVITE\r\n\
            c: Application/SDP ; charset=utf-8\r\nl: 3\r\n\r\nv=0\r\n";
        let message = Message::of_datagram(compact).expect("SIP");
        assert_eq!((message.kind, &*message.from, &*message.to), (Kind::Response(200), "1", "2"));
        assert_eq!(message.description.as_deref(), Some(&b"v=0"[..]), "as long as it says");
    }

    #[test]
    fn a_part_of_a_body_may_be_the_description() {
        let kind = "Content-Type: multipart/mixed;boundary=\"b1\"\r\n";
        let body = "--b1\r\nContent-Type: application/isup\r\n\r\nv=1\r\n--b1\r\nContent-Type: application/sdp\r\n\r\n\
            v=0\r\no=x\r\n\r\n--b1--\r\n";
        let message = Message::of_datagram(&invite(kind, body)).expect("SIP");
        assert_eq!(message.description.as_deref(), Some(&b"v=0\r\no=x\r\n"[..]));
    }

    #[test]
    fn what_is_no_sip_or_no_description_is_none() {
        let text = "Content-Type: text/plain\r\n";
        for bytes in [invite("", "v=0\r\n"), invite(text, "v=0\r\n")] {
            assert!(Message::of_datagram(&bytes).expect("SIP").description.is_none());
        }
        let packed = "Content-Type: application/sdp\r\nContent-Encoding: gzip\r\n";
        assert!(Message::of_datagram(&invite(packed, "v=0\r\n")).expect("SIP").description.is_none());
        let sdp = "Content-Type: application/sdp\r\n";
        let good = String::from_utf8(invite(sdp, "v=0\r\n")).expect("text");
        for (from, to) in [
            ("INVITE sip:bob@example.org SIP/2.0", "POST /sip HTTP/1.1"),
            ("INVITE sip:bob@example.org SIP/2.0", "INVITE sip:bob@example.org SIP/1.0"),
            ("7 INVITE", "7 BYE"),
            (";tag=f1", ""),
            ("Call-ID: c1\r\n", ""),
            ("Call-ID: c1", "Call-ID: c1\r\nContent-Length: 99"),
            ("Call-ID: c1", "Call-ID: c1\r\nContent-Length: 1\r\nContent-Length: 2"),
            ("Call-ID: c1", "Call-ID: c1\r\nContent-Length: -1"),
        ] {
            assert!(good.contains(from));
            assert!(Message::of_datagram(good.replacen(from, to, 1).as_bytes()).is_none(), "{to}");
        }
        assert!(Message::of_datagram(&[b' '; LONGEST + 1]).is_none());
    }
}
