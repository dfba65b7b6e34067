//! Quantities as people write them: sizes, rates, spans of time.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a quantity may look like in a file: a bare number or text with a unit.
pub(crate) enum Written {
    /// Whole, not negative.
    Number(u64),
    /// Anything else: what reads it says what it should have been.
    Text(String),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or text in quotes")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
                Ok(Written::Number(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
                Ok(u64::try_from(number).map_or_else(|_| Written::Text(number.to_string()), Written::Number))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
                Ok(Written::Text(number.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Text(text.to_owned()))
            }
        }
        from.deserialize_any(Reader)
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn scaled(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let (digits, unit) = split(text.trim());
    let number: u64 =
        digits.parse().map_err(|_| format!("`{text}` is not a number with a unit: {example}"))?;
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let factor = factor.ok_or_else(|| format!("`{text}`: no unit `{unit}` here: {example}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
}

/// A size in bytes: `65536`, `"64KiB"`, `"64MB"`, `"1GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "u64")]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 9] = [
            ("", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("kB", 1_000),
            ("KB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
        ];
        scaled(text, &UNITS, "write 65536, \"64KiB\", \"64MiB\" or \"1GiB\"").map(Bytes)
    }
}

impl TryFrom<Written> for Bytes {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => Ok(Bytes(number)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Bytes> for u64 {
    fn from(bytes: Bytes) -> u64 {
        bytes.0
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 => write!(f, "{:.1} GiB", n as f64 / (1u64 << 30) as f64),
            n if n >= 1 << 20 => write!(f, "{:.1} MiB", n as f64 / (1u64 << 20) as f64),
            n if n >= 1 << 10 => write!(f, "{:.1} KiB", n as f64 / (1u64 << 10) as f64),
            n => write!(f, "{n} B"),
        }
    }
}

/// How fast released frames may follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Pace {
    /// As fast as the wire takes them.
    #[default]
    None,
    /// Bits per second.
    Bits(u64),
    /// Per cent of the link's speed, 1 to 100.
    Share(u8),
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "write \"none\", \"800M\" (bits per second) or \"90%\" (of the link's speed)";
        const UNITS: [(&str, u64); 5] =
            [("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
        let text = text.trim();
        if text == "none" {
            return Ok(Pace::None);
        }
        if let Some(share) = text.strip_suffix('%') {
            return match share.trim().parse() {
                Ok(share @ 1..=100) => Ok(Pace::Share(share)),
                _ => Err(format!("`{text}` is not a share of 1 to 100 per cent: {EXAMPLE}")),
            };
        }
        match scaled(text, &UNITS, EXAMPLE)? {
            0 => Err(format!("a pace of nothing would hold frames for ever: {EXAMPLE}")),
            bits => Ok(Pace::Bits(bits)),
        }
    }
}

impl TryFrom<Written> for Pace {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Pace> for String {
    fn from(pace: Pace) -> String {
        pace.to_string()
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pace::None => write!(f, "none"),
            Pace::Bits(bits) => write!(f, "{bits}"),
            Pace::Share(share) => write!(f, "{share}%"),
        }
    }
}

/// A span of time on a command line: `200ms`, `20us`, `2s`, `1h`.
pub fn span(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("min", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    scaled(text, &UNITS, "write 200ms, 20us, 2s, 5min or 1h").map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_rates_and_spans_are_read_as_people_write_them() {
        assert_eq!("64MiB".parse(), Ok(Bytes(64 << 20)));
        assert_eq!("1500".parse(), Ok(Bytes(1500)));
        assert_eq!("64 kB".parse(), Ok(Bytes(64_000)));
        assert_eq!("800M".parse(), Ok(Pace::Bits(800_000_000)));
        assert_eq!("90%".parse(), Ok(Pace::Share(90)));
        assert_eq!("none".parse(), Ok(Pace::None));
        assert_eq!(span("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(span("2s"), Ok(Duration::from_secs(2)));
        assert_eq!((span("5min"), span("1h")), (Ok(Duration::from_secs(300)), Ok(Duration::from_secs(3600))));
    }

    #[test]
    fn a_quantity_without_sense_is_refused_with_an_example() {
        for text in ["", "MiB", "-1", "12 furlongs", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for text in ["0", "0%", "101%", "fast", "10Mbit/s"] {
            assert!(text.parse::<Pace>().is_err(), "{text}");
        }
        assert!(span("200").unwrap_err().contains("200ms"), "a span names its unit");
    }

    #[test]
    fn what_a_file_has_in_place_of_a_quantity_is_told_with_what_is_allowed() {
        let bytes = |json: &str| serde_json::from_str::<Bytes>(json).map_err(|e| e.to_string());
        assert_eq!(bytes("1500").map_err(drop), Ok(Bytes(1500)));
        for (wrong, said) in
            [("-5", "`-5` is not a number with a unit"), ("1.5", "`1.5`"), ("true", "a number")]
        {
            let error = bytes(wrong).unwrap_err();
            assert!(error.contains(said) && !error.contains("Written"), "{error}");
        }
        assert!(bytes("-5").unwrap_err().contains("64KiB"));
        assert!(serde_json::from_str::<Pace>("-1").unwrap_err().to_string().contains("800M"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_an_error(text in ".{0,24}") {
            let _ = (text.parse::<Bytes>(), text.parse::<Pace>(), span(&text));
        }
    }
}
