//! Where generations come from: the wall clock and the kernel's random bytes, drawn when one is needed.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_dataplane::guest;

/// Hands out generations, each larger than the one before.
#[derive(Debug, Default)]
pub struct Generations(Mutex<guest::Generations>);

impl Generations {
    /// A new one. Fails only when the kernel gives no random bytes.
    pub fn next(&self) -> Result<u64, getrandom::Error> {
        let random = getrandom::u64()?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).next(unix_ms, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_rise_and_fit_json() {
        let generations = Generations::default();
        let many: Vec<u64> = (0..1000).map(|_| generations.next().expect("random bytes")).collect();
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(many.iter().all(|g| *g as f64 as u64 == *g), "exact as a double");
    }
}
