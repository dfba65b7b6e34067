//! `tidegate-lab`: guests, peers and sources for tests and demonstrations. Exit codes: 0 done, 1 failed,
//! 2 wrong use.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_dataplane::dpdk::{Mempool, MempoolConfig};
use tidegate_tests::oracle::capture::Capture;
use tidegate_tests::oracle::generator::Generator;
use tidegate_tests::oracle::incident::Incident;
use tidegate_tests::oracle::journal::Journal;
use tidegate_tests::oracle::kind::Policy;
use tidegate_tests::oracle::lane::LanePorts;
use tidegate_tests::oracle::plan::{Plan, Summary};
use tidegate_tests::virtio::{RingPath, cpus, start_eal};

/// Guests, peers and sources for tests and demonstrations.
#[derive(Debug, Parser)]
#[command(version)]
struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send labelled frames in epochs, commit them, record what comes out of the wire.
    Generate(Generate),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rings {
    Packed,
    Split,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate-lab generate --control /run/tidegate/control.sock --guest g0 --policy hold-all \\
      --guest-socket /run/tidegate/g0.sock --wire-socket /run/tidegate/w0.sock \\
      --log generated.log --capture capture.bin
  tidegate-oracle generated.log capture.bin")]
struct Generate {
    /// The plane's control socket.
    #[arg(long)]
    control: PathBuf,
    /// The guest's name there.
    #[arg(long, default_value = "g0")]
    guest: String,
    /// The vhost-user socket of a lane's guest port; once for each lane.
    #[arg(long, required = true)]
    guest_socket: Vec<PathBuf>,
    /// The vhost-user socket of a lane's wire port; once for each lane, in the same order.
    #[arg(long, required = true)]
    wire_socket: Vec<PathBuf>,
    /// What the plane was told to hold.
    #[arg(long)]
    policy: Policy,
    /// How guest and plane, plane and wire talk.
    #[arg(long, default_value = "packed")]
    rings: Rings,
    /// Runs: each becomes an epoch.
    #[arg(long, default_value_t = 100)]
    runs: u32,
    /// Frames a run, in the mean.
    #[arg(long, default_value_t = 1000)]
    frames: u32,
    /// Runs by which a commit follows its close, at most.
    #[arg(long, default_value_t = 6)]
    lag: u32,
    /// The same seed makes the same frames and commits.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ask for protection first; else the plane must be holding already.
    #[arg(long)]
    protect: bool,
    /// Pause by taking the guest's devices away instead of vouching for the pause.
    #[arg(long)]
    in_band: bool,
    /// Something done to the plane in the middle of a run: kill@RUN, term@RUN, lose-control=MS@RUN,
    /// silence=MS@RUN, withhold=RUNS@RUN.
    #[arg(long)]
    incident: Vec<Incident>,
    /// The plane's process, for kill and term.
    #[arg(long)]
    plane: Option<i32>,
    /// Where the log goes.
    #[arg(long)]
    log: PathBuf,
    /// Where the capture goes; 32 bytes a frame.
    #[arg(long)]
    capture: PathBuf,
}

/// MiB for DPDK: the pool, and its tables.
const MEMORY_MB: u32 = 128;
/// Mbufs for four lanes, whose rings can pin 4096 each, and what is in hand.
const MBUFS: u32 = 20_000;
const LANES_MAX: usize = 4;

impl Generate {
    fn plan(&self) -> Result<Plan, String> {
        let lanes = self.guest_socket.len();
        if lanes != self.wire_socket.len() || lanes > LANES_MAX {
            return Err(format!(
                "{lanes} --guest-socket and {} --wire-socket; give one of each for each lane, at most {LANES_MAX}",
                self.wire_socket.len()
            ));
        }
        let ports = self.guest_socket.iter().zip(&self.wire_socket);
        Ok(Plan {
            guest: self.guest.clone(),
            control: self.control.clone(),
            lanes: ports
                .map(|(guest, wire)| LanePorts { guest_socket: guest.clone(), wire_socket: wire.clone() })
                .collect(),
            policy: self.policy,
            rings: match self.rings {
                Rings::Packed => RingPath::Packed,
                Rings::Split => RingPath::Split,
            },
            runs: self.runs,
            frames: self.frames,
            lag: self.lag,
            seed: self.seed,
            protect: self.protect,
            in_band: self.in_band,
            incidents: self.incident.clone(),
            plane: self.plane,
        })
    }

    fn run(&self, plan: Plan) -> Result<Summary, String> {
        let cannot = |path: &PathBuf, error| format!("cannot write {}: {error}", path.display());
        let journal = Journal::create(&self.log).map_err(|error| cannot(&self.log, error))?;
        let capture = Capture::create(&self.capture).map_err(|error| cannot(&self.capture, error))?;
        let cpu = cpus().first().copied().unwrap_or(0);
        let eal = start_eal(MEMORY_MB, cpu).map_err(|error| error.to_string())?;
        let pool =
            Mempool::new(&eal, MempoolConfig::new("frames", MBUFS)).map_err(|error| error.to_string())?;
        let generator = Generator::open(plan, &eal, &pool, journal, capture);
        generator.and_then(Generator::run).map_err(|error| error.to_string())
    }
}

fn main() -> ExitCode {
    let Command::Generate(generate) = Lab::parse().command;
    let plan = match generate.plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("tidegate-lab: {error}");
            return ExitCode::from(2);
        }
    };
    match generate.run(plan) {
        Ok(summary) => {
            println!("{}", serde_json::json!(summary));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tidegate-lab: {error}");
            ExitCode::FAILURE
        }
    }
}
