//! `make check`: the plugin's own parser on a file, so that it can never be of another opinion
//! than Envoy will be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use outrigger_policy::config;

/// Checks every file, prints a line for each; fails if one of them does.
pub(crate) fn run(files: &[PathBuf]) -> ExitCode {
    let mut all_good = true;
    for file in files {
        match verdict(file) {
            Ok(what) => println!("{}: ok ({what})", file.display()),
            Err(why) => {
                all_good = false;
                println!("{}: {why}", file.display());
            }
        }
    }
    if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(file: &Path) -> Result<String, String> {
    let bytes = fs::read(file).map_err(|error| format!("cannot read it: {error}"))?;
    let parsed = config::parse(&bytes).map_err(|error| error.to_string())?;
    Ok(match parsed.clusters.len() {
        0 => "no cluster named: the defaults apply to all".to_owned(),
        1 => "1 cluster named".to_owned(),
        many => format!("{many} clusters named"),
    })
}
