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
