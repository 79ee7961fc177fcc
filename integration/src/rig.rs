//! `integration rig`: runs scenarios, writes the report.

use std::path::PathBuf;

use anyhow::bail;

use crate::bootstrap::Flavour;
use crate::envoy::{Binaries, repository};
use crate::report::Report;
use crate::scenario::{self, Rig};
use crate::site::{Site, compose::Compose, docker, native::Native};

/// Where the arms run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runner {
    /// Processes of this machine.
    Native,
    /// Containers.
    Compose,
}

/// Command line of `integration rig`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Scenarios to run, by comma; all when empty
    #[arg(long, value_delimiter = ',', default_value = "")]
    pub scenario: Vec<String>,
    /// Where the arms run
    #[arg(long, value_enum, default_value = "native")]
    pub runner: Runner,
    /// Arms to run, by comma: outrigger, envoy-native, pass-through
    #[arg(long, value_delimiter = ',', default_value = "outrigger,envoy-native")]
    pub arms: Vec<String>,
    /// How often each fault is repeated; times are medians of the runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub runs: u8,
    /// Cut `slow-replica` and `sinkhole` to a third
    #[arg(long)]
    pub quick: bool,
    /// Others use the machine: a p99 may be 10 times its limit, and a scenario that fails while the
    /// machine stood still is run up to 3 times, then not judged
    #[arg(long)]
    pub shared_machine: bool,
    /// Version of Envoy, for the path of its binary and for the report
    #[arg(long, env = "OUTRIGGER_ENVOY_VERSION", default_value = "1.40.0")]
    pub envoy_version: String,
    /// Worker threads of each native Envoy
    #[arg(long, default_value_t = 2)]
    pub concurrency: u32,
    /// Where report.json and report.html go; target/rig when not given
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// Runs the scenarios. True when every check passed, or when the runner is not available here.
///
/// # Errors
/// When the rig itself cannot do its work.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let names = scenarios(&options.scenario)?;
    let flavours = flavours(&options.arms)?;
    let root = repository();
    let binaries = Binaries::find(&options.envoy_version)?;
    let site = match options.runner {
        Runner::Native => Site::Native(Native {
            binaries,
            concurrency: options.concurrency,
            folder: tempfile::Builder::new().prefix("outrigger-rig-").tempdir()?,
        }),
        Runner::Compose => {
            if let Some(reason) = docker::unavailable().await {
                println!("rig: SKIPPED, nothing was run: {reason}");
                return Ok(true);
            }
            println!("rig: building the images");
            Site::Compose(Compose::prepare(root.clone(), &binaries).await?)
        }
    };
    if let Some(warning) = busy() {
        println!("{warning}");
    }
    let runner = site.name().to_owned();
    let rig = Rig {
        site,
        flavours,
        runs: usize::from(options.runs),
        quick: options.quick,
        shared_machine: options.shared_machine,
    };
    let mut report = Report { envoy: options.envoy_version, runner, scenarios: Vec::new() };
    let mut timelines = Vec::new();
    for name in names {
        let Some((scenario, lines)) = scenario::run(&name, &rig).await? else {
            rig.say(format!("{name:9} skipped: {}", scenario::why_skipped(&name)));
            continue;
        };
        report.scenarios.push(scenario);
        timelines.extend(lines);
    }
    let folder = options.output.unwrap_or_else(|| root.join("target/rig"));
    report.write(&folder, &timelines)?;
    rig.say(format!("\n{}", report.table()));
    rig.say(format!("{0}/report.json {0}/report.html", folder.display()));
    Ok(report.passed())
}

/// Says so when other programs keep the machine busy: then latencies are theirs.
fn busy() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    let cores = std::thread::available_parallelism().ok()?.get();
    (load > cores as f64 / 2.0).then(|| {
        format!(
            "rig: the machine is busy (load {load} on {cores} cores): p99 checks may fail for that"
        )
    })
}

fn scenarios(wanted: &[String]) -> anyhow::Result<Vec<String>> {
    let wanted: Vec<&String> = wanted.iter().filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = wanted.iter().find(|n| !scenario::NAMES.contains(&n.as_str())) {
        bail!("no scenario {unknown}; there are {}", scenario::NAMES.join(", "));
    }
    if wanted.is_empty() {
        return Ok(scenario::NAMES.map(str::to_owned).to_vec());
    }
    Ok(wanted.into_iter().cloned().collect())
}

fn flavours(arms: &[String]) -> anyhow::Result<Vec<Flavour>> {
    let known = [Flavour::Outrigger, Flavour::Native, Flavour::PassThrough];
    let mut flavours = Vec::new();
    for arm in arms {
        match known.into_iter().find(|flavour| flavour.name() == arm) {
            Some(flavour) => flavours.push(flavour),
            None => bail!("no arm {arm}; there are outrigger, envoy-native, pass-through"),
        }
    }
    Ok(flavours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scenario_means_all_and_an_unknown_one_is_an_error() {
        assert_eq!(scenarios(&[String::new()]).unwrap().len(), scenario::NAMES.len());
        assert_eq!(scenarios(&["hang".into()]).unwrap(), ["hang"]);
        assert!(scenarios(&["hung".into()]).unwrap_err().to_string().contains("crash, hang"));
    }
}
