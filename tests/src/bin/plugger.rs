//! The program in the router VM that drives its sch_plug: an order a line on a serial line, a netlink message to the
//! kernel, an answer. A `tc` for each would cost an emulated CPU tens of milliseconds.
//!
//! Words: `DEVICE LINE`, e.g. `ifb0 /dev/ttyS1`. An order is `NUMBER buffer`, `NUMBER release` or `NUMBER pass`; the answer is
//! `NUMBER done`, or `NUMBER` and what the kernel says against it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Error, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// linux/rtnetlink.h, linux/netlink.h.
const RTM_NEWQDISC: u16 = 36;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = u32::MAX;
/// More is no order.
const LINE_MAX: usize = 64;

/// linux/pkt_sched.h: TCQ_PLUG_BUFFER, TCQ_PLUG_RELEASE_ONE, TCQ_PLUG_RELEASE_INDEFINITE.
fn action(order: &str) -> Option<u32> {
    ["buffer", "release", "pass"].iter().position(|known| *known == order).map(|at| at as u32)
}

/// A change of the root qdisc `plug` of a device.
fn message(device: u32, action: u32, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(RTM_NEWQDISC.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    for word in [sequence, 0, 0, device, 0, TC_H_ROOT, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    let mut attribute = |kind: u16, content: &[u8]| {
        bytes.extend((content.len() as u16 + 4).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    };
    attribute(TCA_KIND, b"plug\0");
    attribute(TCA_OPTIONS, &[action.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// The kernel's answer: nothing against it, or an errno.
fn answer(bytes: &[u8]) -> Result<(), Error> {
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(i32::from_ne_bytes);
    let kind = bytes.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, word(16)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(Error::from_raw_os_error(-errno)),
        _ => Err(Error::other("the kernel's answer is none")),
    }
}

fn change(netlink: &OwnedFd, device: u32, action: u32, sequence: u32) -> Result<(), Error> {
    send(netlink.as_raw_fd(), &message(device, action, sequence), MsgFlags::empty())?;
    let mut bytes = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    answer(&bytes[..length])
}

fn run(device: &str, line: &str) -> Result<(), Error> {
    let index = nix::net::if_::if_nametoindex(device)?;
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkRoute),
    )?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut answers = OpenOptions::new().read(true).write(true).open(line)?;
    let orders = BufReader::new(answers.try_clone()?);
    answers.write_all(b"ready\n")?;
    for (sequence, order) in (1..).zip(orders.split(b'\n')) {
        let order = order?;
        let text = String::from_utf8_lossy(&order);
        let mut words = text.split_whitespace();
        let (Some(number), Some(action), true) =
            (words.next(), words.next().and_then(action), order.len() <= LINE_MAX)
        else {
            answers.write_all(b"0 is no order\n")?;
            continue;
        };
        let said = match change(&netlink, index, action, sequence) {
            Ok(()) => format!("{number} done\n"),
            Err(error) => format!("{number} {error}\n"),
        };
        answers.write_all(said.as_bytes())?;
    }
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [device, line] = words.as_slice() else {
        eprintln!("plugger: DEVICE LINE are needed");
        std::process::exit(2);
    };
    if let Err(error) = run(device, line) {
        // Where the harness looks for what went wrong in a guest.
        println!("GUEST-FAULT plugger: {error}");
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_plug_is_as_the_kernel_wants_it() {
        let bytes = message(7, action("release").unwrap(), 3);
        assert_eq!(bytes.len(), 36 + 12 + 12);
        assert_eq!(bytes[..4], 60u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 7u32.to_ne_bytes(), "tcm_ifindex");
        assert_eq!(bytes[28..32], TC_H_ROOT.to_ne_bytes(), "tcm_parent");
        assert_eq!(&bytes[40..45], b"plug\0");
        assert_eq!(bytes[52..56], 1u32.to_ne_bytes(), "TCQ_PLUG_RELEASE_ONE");
        assert_eq!((action("buffer"), action("pass"), action("limit")), (Some(0), Some(2), None));
    }

    #[test]
    fn the_kernels_refusal_is_told() {
        let mut bytes = message(1, 0, 1)[..20].to_vec();
        bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes[16..20].copy_from_slice(&0i32.to_ne_bytes());
        assert!(answer(&bytes).is_ok());
        bytes[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(answer(&bytes).unwrap_err().raw_os_error(), Some(2));
        assert!(answer(&bytes[..10]).is_err());
    }
}
