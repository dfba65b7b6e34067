use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    link: LinkArgs,
}

fn link(words: &str) -> LinkArgs {
    Line::parse_from(std::iter::once("x").chain(words.split_ascii_whitespace())).link
}

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

#[test]
fn what_contradicts_itself_is_refused_with_the_option_to_change() {
    let ms = Duration::from_millis;
    let grants = |term, media_term: Option<u64>| GrantArgs { term: ms(term), media_term: media_term.map(ms) };
    let [near, far]: [SocketAddr; 2] =
        ["127.0.0.1:1", "10.7.0.2:1"].map(|at| at.parse().expect("an address"));
    assert_eq!(link("").check_dial(near), Ok(()));
    assert!(link("").check_dial(far).unwrap_err().contains("--certs"));
    assert_eq!(link("--certs /d --peer b").check_dial(far), Ok(()));
    assert_eq!((link("").check_listen(near), link("--certs /d").check_listen(far)), (Ok(()), Ok(())));
    assert!(link("").check_listen(far).unwrap_err().contains("--certs"));
    assert!(link("--certs /d").check_dial(near).unwrap_err().contains("--peer"));
    assert!(link("--beat 100ms").check_dial(near).unwrap_err().contains("--dead-after"));
    assert_eq!(address("[fd00::2]:7411"), Ok("[fd00::2]:7411".parse().expect("an address")));
    for wrong in ["host-b:7411", "10.7.0.2", "[fd00::2]"] {
        assert!(address(wrong).unwrap_err().contains("10.7.0.2:7411"), "{wrong}");
    }
    assert_eq!(link("").check_grants(&grants(90, Some(45))), Ok(()));
    assert!(link("").check_grants(&grants(20, None)).unwrap_err().contains("--term"));
    assert!(link("").check_grants(&grants(90, Some(91))).unwrap_err().contains("--media-term"));
}
