//! Why a bench could not be run, in words for the person who ran it.

use std::fmt;

/// What went wrong and what to do about it. A bench that fails has measured nothing.
#[derive(Debug)]
pub struct Failure(String);

/// What every step of a bench gives.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// In whole words: what was wrong, where, what to do.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<tidegate_tests::failure::Failure> for Failure {
    fn from(failure: tidegate_tests::failure::Failure) -> Failure {
        Failure(failure.to_string())
    }
}

/// Says what was being done when another error came.
pub trait Context<T> {
    /// `doing`: "cannot write /tmp/x".
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure(format!("{}: {error}", doing())))
    }
}
