//! Command line of the rig; `integration help` lists the subcommands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use integration::{bench, process, rig, upstream};

#[derive(Debug, Parser)]
#[command(name = "integration", about = "Outrigger's rig: real Envoys, upstreams that fail, load")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios and write a report; exit code 1 when a check fails
    Rig(rig::Options),
    /// Measure what the plugin costs and write a report; exit code 1 when a limit is exceeded
    Bench(bench::Arguments),
    /// Be one upstream that can fail
    Upstream(upstream::Options),
    /// Run a program that dies with its parent (used by the rig itself)
    #[command(hide = true)]
    Child {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Child { program } => Err(process::become_child(&program)),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Upstream(options) => {
            // One thread: ten of these share the machine with two Envoys and the load.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(upstream::serve(options)).map(|()| true)
        }
        Command::Rig(options) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(async {
                tokio::select! {
                    passed = rig::run(options) => passed,
                    // Returning drops the site, which takes containers down; processes die with us
                    // anyway.
                    _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
                }
            })
        }
    }
}
