//! `target/bench/report.json`, and the same on the terminal.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

/// Everything that the bench measured. Parts that could not run are empty.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) envoy: String,
    pub(super) instructions: Vec<Instructions>,
    pub(super) calls: Vec<Calls>,
    pub(super) times: Vec<Times>,
    pub(super) picks: Vec<Pick>,
    /// What `integration/rebuilds/run.mjs` measured, row for row.
    pub(super) rebuilds: Vec<Value>,
    pub(super) memory: Vec<Memory>,
    pub(super) checks: Vec<Check>,
}

/// Instructions per request on the success path.
#[derive(Debug, Serialize)]
pub(super) struct Instructions {
    pub(super) arm: &'static str,
    pub(super) lb: &'static str,
    pub(super) clusters: u32,
    /// In the window that cost least: no poll fell into it.
    pub(super) per_request: u64,
    /// Over all windows, with the ticks and polls that fell into them.
    pub(super) per_request_mean: u64,
    /// How long that window took: the ticks of that time are in it.
    pub(super) window_s: f64,
    /// What Envoy does in a second without requests: ticks and polls, its own and the plugin's.
    pub(super) idle_per_s: u64,
    /// Over the arm `plain` of the same policy and number of clusters.
    pub(super) ratio_to_plain: Option<f64>,
    /// Over the arm `empty-sdk` of the same.
    pub(super) ratio_to_empty_sdk: Option<f64>,
}

/// How often one call between Envoy and the plugin happens.
#[derive(Debug, Serialize)]
pub(super) struct Calls {
    pub(super) arm: &'static str,
    pub(super) lb: &'static str,
    pub(super) clusters: u32,
    pub(super) call: String,
    pub(super) per_request: f64,
}

/// Round trips of four connections, each with one request at a time.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    pub(super) arm: &'static str,
    pub(super) lb: &'static str,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) requests_per_s: f64,
}

/// Time of one pick.
#[derive(Debug, Serialize)]
pub(super) struct Pick {
    pub(super) policy: String,
    pub(super) endpoints: u64,
    pub(super) ns: f64,
    /// Another implementation at the same job; without one the job is three candidates, with one
    /// it is what that implementation does.
    pub(super) peer: Option<Peer>,
}

/// Another implementation.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) ns: f64,
}

/// Resident memory of one more VM.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) endpoints: u32,
    pub(super) vm_mib: f64,
}

/// A limit, and what was measured.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) limit: f64,
    pub(super) measured: f64,
    pub(super) passed: bool,
}

const RATIO_TO_PLAIN_MAX: f64 = 1.30;
const RATIO_TO_EMPTY_SDK_MAX: f64 = 1.12;

/// Nanoseconds of a pick among [`PICK_ENDPOINTS`]: of policies that hash, and of the others.
const PICK_MAX: (f64, f64) = (150.0, 300.0);
const PICK_ENDPOINTS: u64 = 10_000;
const HASHING: [&str; 3] = ["ring_hash", "maglev", "rendezvous"];

/// Milliseconds that a slice of a build may keep requests waiting.
const SLICE_MAX_MS: f64 = 1.0;

/// Policies that the limits are for.
const LIMITED: [&str; 2] = ["round_robin", "maglev"];

impl Report {
    /// Fills in the ratios and judges the `outrigger` arms of the policies with limits.
    pub(super) fn judge(&mut self) {
        let measured: Vec<(&str, &str, u32, u64)> = self
            .instructions
            .iter()
            .map(|row| (row.arm, row.lb, row.clusters, row.per_request))
            .collect();
        let base = |arm: &str, lb: &str, clusters: u32| {
            let same =
                |row: &&(&str, &str, u32, u64)| row.0 == arm && row.1 == lb && row.2 == clusters;
            measured.iter().find(same).map(|row| row.3)
        };
        for row in &mut self.instructions {
            let over = |base: Option<u64>| base.map(|base| ratio(row.per_request, base));
            row.ratio_to_plain = over(base("plain", row.lb, row.clusters));
            row.ratio_to_empty_sdk = over(base("empty-sdk", row.lb, row.clusters));
        }
        for row in self.instructions.iter().filter(|row| row.is_limited()) {
            let limits = [
                ("plain", row.ratio_to_plain, RATIO_TO_PLAIN_MAX),
                ("empty-sdk", row.ratio_to_empty_sdk, RATIO_TO_EMPTY_SDK_MAX),
            ];
            for (over, measured, limit) in limits {
                let Some(measured) = measured else { continue };
                let name = format!("{} {} over {over}", row.lb, row.clusters);
                self.checks.push(Check { name, limit, measured, passed: measured <= limit });
            }
        }
        self.judge_picks();
    }

    fn judge_picks(&mut self) {
        let mut check = |name: String, limit: f64, measured: f64| {
            self.checks.push(Check { name, limit, measured, passed: measured <= limit });
        };
        let own = |pick: &&Pick| pick.peer.is_none() && !pick.policy.starts_with("build_");
        for pick in self.picks.iter().filter(own).filter(|p| p.endpoints == PICK_ENDPOINTS) {
            let hashes = HASHING.iter().any(|name| pick.policy.starts_with(name));
            let limit = if hashes { PICK_MAX.0 } else { PICK_MAX.1 };
            check(format!("ns, {} {}", pick.policy, pick.endpoints), limit, pick.ns);
        }
        for row in &self.rebuilds {
            let Some(ms) = row.get("slice_ms_max").and_then(Value::as_f64) else { continue };
            let name = |key: &str| row.get(key).map(cell).unwrap_or_default();
            let name = format!("ms, slice of {} {}", name("policy"), name("endpoints"));
            check(name, SLICE_MAX_MS, ms);
        }
    }

    /// Whether every limit held.
    pub(super) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// Writes the JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints every part that has rows.
    pub(super) fn print(&self) {
        for (title, rows) in [
            ("instructions per request (callgrind)", rows(&self.instructions)),
            ("calls between Envoy and the plugin, per request", rows(&self.calls)),
            ("times, interleaved", rows(&self.times)),
            ("picks (criterion)", rows(&self.picks)),
            ("a change of membership in wasm (Node)", self.rebuilds.clone()),
            ("resident memory per VM", rows(&self.memory)),
            ("limits", rows(&self.checks)),
        ] {
            if !rows.is_empty() {
                println!("\n{title}\n{}", table(&rows));
            }
        }
    }
}

impl Instructions {
    /// Policies that follow load cost host calls by design and are stated, not judged.
    fn is_limited(&self) -> bool {
        self.arm == "outrigger" && LIMITED.contains(&self.lb)
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to.max(1) as f64
}

fn rows<T: Serialize>(of: &[T]) -> Vec<Value> {
    of.iter().filter_map(|row| serde_json::to_value(row).ok()).collect()
}

/// A table whose columns are the fields of the rows.
fn table(rows: &[Value]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    if let Some(first) = rows.first().and_then(Value::as_object) {
        table.set_header(first.keys());
    }
    for row in rows.iter().filter_map(Value::as_object) {
        table.add_row(row.values().map(cell));
    }
    table.to_string()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.3}", number.as_f64().unwrap_or_default())
        }
        Value::Object(fields) => fields.values().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(arm: &'static str, lb: &'static str, clusters: u32, per_request: u64) -> Instructions {
        let (ratio_to_plain, ratio_to_empty_sdk) = (None, None);
        let (idle_per_s, per_request_mean, window_s) = (0, per_request, 1.0);
        Instructions {
            arm,
            lb,
            clusters,
            per_request,
            per_request_mean,
            window_s,
            idle_per_s,
            ratio_to_plain,
            ratio_to_empty_sdk,
        }
    }

    #[test]
    fn an_arm_is_judged_against_its_own_base() {
        let mut report = Report {
            instructions: vec![
                row("plain", "maglev", 1, 100),
                row("plain", "maglev", 20, 200),
                row("empty-sdk", "maglev", 20, 220),
                row("outrigger", "maglev", 20, 240),
                row("outrigger", "maglev", 1, 131),
            ],
            ..Report::default()
        };
        report.judge();
        let passed: Vec<(&str, bool)> =
            report.checks.iter().map(|check| (check.name.as_str(), check.passed)).collect();
        assert_eq!(
            passed,
            [
                ("maglev 20 over plain", true),
                ("maglev 20 over empty-sdk", true),
                ("maglev 1 over plain", false),
            ]
        );
        assert!(!report.passed());
    }
}
