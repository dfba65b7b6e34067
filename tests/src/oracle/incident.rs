//! What is done to the plane on purpose while frames flow: `kill@50`, `silence=300@60`.

use std::fmt;
use std::str::FromStr;

/// An incident and the run in whose middle it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The run, from 1.
    pub run: u32,
    /// What happens.
    pub what: What,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Term,
    /// The control connection is lost for so many milliseconds; then another takes the guest over.
    LoseControl(u32),
    /// The source says nothing for so many milliseconds, the guest nothing either.
    Silence(u32),
    /// The source commits nothing for so many runs, while the guest goes on.
    Withhold(u32),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Kill => f.write_str("kill"),
            What::Term => f.write_str("term"),
            What::LoseControl(ms) => write!(f, "lose-control={ms}"),
            What::Silence(ms) => write!(f, "silence={ms}"),
            What::Withhold(runs) => write!(f, "withhold={runs}"),
        }
    }
}

impl FromStr for Incident {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no incident: write kill@RUN, term@RUN, lose-control=MS@RUN, silence=MS@RUN \
                 or withhold=RUNS@RUN"
            )
        };
        let (what, run) = text.split_once('@').ok_or_else(wrong)?;
        let run = run.parse().map_err(|_| wrong())?;
        let (word, amount) = what.split_once('=').map_or((what, None), |(word, n)| (word, Some(n)));
        let amount = amount.map(str::parse::<u32>).transpose().map_err(|_| wrong())?;
        let what = match (word, amount) {
            ("kill", None) => What::Kill,
            ("term", None) => What::Term,
            ("lose-control", Some(ms)) => What::LoseControl(ms),
            ("silence", Some(ms)) => What::Silence(ms),
            ("withhold", Some(runs)) => What::Withhold(runs),
            _ => return Err(wrong()),
        };
        Ok(Incident { run, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incidents_are_read_or_refused() {
        for text in ["kill@50", "term@1", "lose-control=200@3", "silence=300@60", "withhold=9@70"] {
            let incident: Incident = text.parse().unwrap();
            assert_eq!(format!("{}@{}", incident.what, incident.run), text);
        }
        for text in ["", "kill", "kill@", "kill=1@2", "silence@3", "silence=x@3", "flood@1"] {
            assert!(text.parse::<Incident>().is_err(), "{text}");
        }
    }
}
