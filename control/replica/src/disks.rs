//! Disks: what a checkpoint does not hold, and how it is kept in step.
