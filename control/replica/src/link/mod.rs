//! The link between primary and standby.
