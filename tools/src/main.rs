//! What the build and the users need beside the plugin itself.
//!
//! - `strip` holds the built module to the callbacks that the plugin needs, no more and no fewer
//!   (Envoy calls every callback it finds exported, and each call costs about one percent of a
//!   request), and drops the code that nothing reaches.
//! - `check` reads a configuration with the plugin's own parser.
//! - `trap-on-body` makes a module that dies on demand, so that tests can kill a VM. The product
//!   has no such switch.
//!
//! Nothing here runs inside Envoy.

mod check;
mod module;
mod strip;
mod trap;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "outrigger-tools", about = "Tools of the Outrigger build")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove the exports that the plugin does not use, and all code only they reach
    Strip {
        /// The module as the compiler wrote it
        input: PathBuf,
        /// Where the smaller module goes
        output: PathBuf,
        /// One more export to keep; may be repeated
        #[arg(long)]
        keep: Vec<String>,
    },
    /// Add a `proxy_on_request_body` that traps, for tests of a VM's death
    TrapOnBody {
        /// Any proxy-wasm module without a request body callback
        input: PathBuf,
        /// Where the trapping module goes
        output: PathBuf,
    },
    /// Read configurations as the plugin would, and say what is wrong with them
    Check {
        /// JSON files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Strip { input, output, keep } => strip::run(&input, &output, &keep),
        Command::TrapOnBody { input, output } => trap::run(&input, &output),
        Command::Check { files } => return check::run(&files),
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("outrigger-tools: {error:#}");
            ExitCode::FAILURE
        }
    }
}
