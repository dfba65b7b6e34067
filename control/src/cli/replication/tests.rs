use super::*;
use clap::Parser;

#[derive(Parser)]
struct Remus {
    #[command(flatten)]
    args: XenRemusArgs,
}

#[derive(Parser)]
struct Send {
    #[command(flatten)]
    args: XenSendArgs,
}

#[test]
fn what_xen_remus_is_told_reaches_xen_send() {
    let line = "x pbx 10.7.0.2:7413 --guest pbx --certs /etc/c --node a --peer b --beat 30ms --dead-after 200ms \
                --decide witness --witness 10.7.0.3:7412 --witness-name w --stalled-after 7s --socket /s --desk /d \
                --takeover --json";
    let told = Remus::parse_from(line.split_ascii_whitespace()).args;
    let words = told.send_words();
    let sent = Send::parse_from(std::iter::once("x").chain(words.iter().map(String::as_str))).args;
    assert_eq!(Some(sent.to), told.backup);
    assert_eq!(format!("{:?}", sent.send), format!("{:?}", told.send));
    assert!(Remus::try_parse_from(["x", "pbx"]).is_err(), "a backup, or --rescue");
    assert!(Remus::try_parse_from(["x", "pbx", "--rescue"]).is_ok());
}
