//! The guest process: its network card, its traffic, and the tool stack that checkpoints it.

use super::calls::Calls;
use super::clock::now_ns;
use super::nic::{Nic, Notes};
use super::reports::{GuestReport, write_made};
use super::stack::Stack;
use super::tool_stack::ToolStack;
use super::transfers::Transfers;
use super::{GUEST, GUEST_MAC, MAX_CALLS};
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks at card and clock.
const TICK: Duration = Duration::from_micros(250);
/// How long connections may take to end after the traffic: several round trips of a held guest.
const WIND_DOWN_NS: u64 = 5_000_000_000;
/// How often the last epoch may merge into itself on a machine that is too busy.
const CLOSE_TRIES: u32 = 50;

/// A guest process of the demo.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GuestArgs {
    /// The plane's vhost-user socket
    #[arg(long, value_name = "PATH")]
    port: PathBuf,
    /// The plane's control socket
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// How long traffic runs
    #[arg(long)]
    seconds: u64,
    /// Calls at the same time
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_CALLS)))]
    calls: u16,
    /// From checkpoint to checkpoint, milliseconds
    #[arg(long)]
    interval_ms: u64,
    /// From a checkpoint to its commit, milliseconds
    #[arg(long)]
    commit_ms: u64,
    /// Where to write the list of frames
    #[arg(long, value_name = "FILE")]
    frames: PathBuf,
}

/// Runs the traffic; then says what it came to, and keeps its rings running until standard input ends.
pub(super) fn run(args: &GuestArgs) -> Result<(), String> {
    let nic = Nic::connect(&args.port, Notes::Made { frames: Vec::new(), run: 0 })?;
    let mut stack = Stack::new(nic, GUEST_MAC, GUEST);
    let mut tool = ToolStack::connect(&args.control, Duration::from_millis(args.commit_ms))?;
    let report = live(args, &mut stack, &mut tool);
    let (closes, commits) = tool.finish()?;
    let report = GuestReport { closes, commits, ..report? };
    if let Notes::Made { frames, .. } = &stack.nic.notes {
        write_made(&args.frames, frames)?;
    }
    super::cli::say(&report)?;
    super::cli::until_input_ends();
    stack.nic.close().map(drop)
}

fn live(args: &GuestArgs, stack: &mut Stack, tool: &mut ToolStack) -> Result<GuestReport, String> {
    let start_ns = now_ns();
    let mut epochs = Epochs { interval_ns: args.interval_ms * 1_000_000, next_ns: start_ns, run: 0 };
    epochs.next_ns += epochs.interval_ns;
    let mut transfers = Transfers::start(stack, start_ns)?;
    let mut calls = Calls::place(stack, args.calls, start_ns);
    let end_ns = start_ns + args.seconds * 1_000_000_000;
    while now_ns() < end_ns {
        epochs.step(stack, tool)?;
        let now = now_ns();
        transfers.step(stack, now);
        calls.speak(stack, now);
        stack.poll();
        std::thread::sleep(TICK);
    }
    let seen = transfers.seen(stack);
    transfers.stop(stack);
    let give_up_ns = now_ns() + WIND_DOWN_NS;
    let mut gone = false;
    while !gone && now_ns() < give_up_ns {
        epochs.step(stack, tool)?;
        gone = transfers.wind_down(stack, now_ns());
        stack.poll();
        std::thread::sleep(TICK);
    }
    // What the ring has not taken by now it will take in the last run.
    stack.nic.flush();
    let mut tries = 0;
    while !epochs.close(stack, tool)? {
        tries += 1;
        if tries == CLOSE_TRIES {
            return Err(format!("the last epoch was not closed in {CLOSE_TRIES} tries"));
        }
    }
    let late = transfers.seen(stack);
    let (lookups, lookups_answered) = (late.lookups, late.lookups_answered);
    Ok(GuestReport {
        calls: calls.sent(),
        gap_ns_max: calls.gap_ns_max(),
        transfers: super::reports::TransfersSeen { lookups, lookups_answered, ..seen },
        traffic_ns: end_ns - start_ns,
        ..GuestReport::default()
    })
}

/// When the guest stands still.
struct Epochs {
    interval_ns: u64,
    next_ns: u64,
    run: u64,
}

impl Epochs {
    fn step(&mut self, stack: &mut Stack, tool: &mut ToolStack) -> Result<(), String> {
        if now_ns() < self.next_ns {
            return Ok(());
        }
        self.close(stack, tool)?; // Or not: then this run is longer.
        // A machine that was busy for longer than an epoch skips it rather than hurry.
        self.next_ns = (self.next_ns + self.interval_ns).max(now_ns());
        Ok(())
    }

    /// The guest is this thread: while the tool stack talks, no frame is made and none is received.
    fn close(&mut self, stack: &mut Stack, tool: &mut ToolStack) -> Result<bool, String> {
        if !tool.checkpoint(self.run)? {
            return Ok(false);
        }
        self.run += 1;
        if let Notes::Made { run, .. } = &mut stack.nic.notes {
            *run = self.run;
        }
        Ok(true)
    }
}
