//! The name of the domain in a stream: it stands in the configuration in front.
//!
//! An `xl migrate-receive` that is killed leaves the domain that it was filling, `NAME--incoming`, and no other can be made of
//! that name. So whoever feeds the next one has to know it.

use super::stream::CONFIG_MAX;

/// Most bytes that are kept: a stream with a longer configuration is refused.
const MOST: usize = HEAD + CONFIG_MAX as usize;
/// xl's header, and where in it the length of what follows stands.
const HEAD: usize = 48;
const LENGTH_AT: usize = 44;
/// Longest name that is taken; xl takes no longer one either.
const NAME_MAX: usize = 64;

/// Listens to the beginning of a stream.
#[derive(Debug, Default)]
pub struct Name {
    heard: Vec<u8>,
    told: bool,
}

impl Name {
    /// The next bytes of the stream; the name, once, when the bytes that complete it are among them.
    pub fn hear(&mut self, bytes: &[u8]) -> Option<String> {
        if self.told {
            return None;
        }
        self.heard.extend_from_slice(bytes.get(..MOST.saturating_sub(self.heard.len()).min(bytes.len()))?);
        let length =
            self.heard.get(LENGTH_AT..HEAD).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes)?;
        let end = HEAD.checked_add(usize::try_from(length).ok()?)?;
        self.told = end > MOST;
        let config = self.heard.get(HEAD..end)?;
        let name = named(config);
        self.told = true;
        self.heard = Vec::new();
        name
    }
}

/// In JSON, behind a length of its own.
fn named(config: &[u8]) -> Option<String> {
    let begin = config.iter().position(|&byte| byte == b'{')?;
    let end = config.iter().rposition(|&byte| byte == b'}')?;
    let told: serde_json::Value = serde_json::from_slice(config.get(begin..=end)?).ok()?;
    let name = told["c_info"]["name"].as_str()?;
    // It becomes a word of a command: one that begins like an option, or is a path, is no domain of xl's.
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
    let good = (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('-') && name.chars().all(plain);
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(config: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH_AT];
        bytes.extend_from_slice(&(config.len() as u32).to_le_bytes());
        bytes.extend_from_slice(config);
        bytes.extend_from_slice(b"LibxlFmt");
        bytes
    }

    #[test]
    fn the_name_is_told_once_with_the_byte_that_completes_it() {
        let bytes = stream(b"\x20\0\0\0{\"c_info\":{\"name\":\"pbx\"}}\n\0");
        let mut name = Name::default();
        let told: Vec<usize> =
            (0..bytes.len()).filter(|&at| name.hear(&bytes[at..=at]) == Some("pbx".into())).collect();
        assert_eq!(told, [bytes.len() - 9]);
    }

    #[test]
    fn what_is_no_name_or_too_long_is_none_and_nothing_is_kept() {
        for config in
            [&b"{\"c_info\":{\"name\":\"-f\"}}"[..], b"{\"c_info\":{\"name\":\"a b\"}}", b"}{", b"", b"{"]
        {
            let mut name = Name::default();
            assert_eq!(name.hear(&stream(config)), None);
            assert!(name.told && name.heard.is_empty());
        }
        let mut name = Name::default();
        assert_eq!(name.hear(&stream(&vec![b'{'; 2 * MOST])), None);
        assert!(name.told && name.heard.len() <= MOST);
    }
}
