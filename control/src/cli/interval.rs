//! `--interval`: a time, or `auto`.

use crate::quantity::span;
use std::time::Duration;

/// From one checkpoint to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Always the same.
    Fixed(Duration),
    /// Follows what is measured.
    Auto,
}

impl std::str::FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Interval, String> {
        match text {
            "auto" => Ok(Interval::Auto),
            other => span(other).map(Interval::Fixed).map_err(|e| format!("{e}, or auto")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_or_auto() {
        assert_eq!("auto".parse(), Ok(Interval::Auto));
        assert_eq!("50ms".parse(), Ok(Interval::Fixed(Duration::from_millis(50))));
        assert!("often".parse::<Interval>().unwrap_err().contains("or auto"));
    }
}
