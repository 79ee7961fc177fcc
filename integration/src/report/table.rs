//! The table on the terminal: plain characters, so that it looks the same in a log file.

use comfy_table::{CellAlignment, Table, presets};

use super::{Report, shown, shown_ms};

pub(super) fn render(report: &Report) -> String {
    let mut arms = Table::new();
    arms.load_preset(presets::ASCII_MARKDOWN);
    arms.set_header([
        "scenario",
        "arm",
        "requests",
        "failed",
        "success %",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "attempts/request",
        "out after ms",
        "back after ms",
    ]);
    let mut checks = Table::new();
    checks.load_preset(presets::ASCII_MARKDOWN);
    checks.set_header(["scenario", "check", "at most", "measured", ""]);
    for scenario in &report.scenarios {
        for arm in &scenario.arms {
            arms.add_row([
                scenario.name.clone(),
                arm.name.clone(),
                arm.requests.to_string(),
                (arm.requests - arm.ok.min(arm.requests)).to_string(),
                format!("{:.3}", arm.success_rate * 100.0),
                shown_ms(arm.p50_ms),
                shown_ms(arm.p99_ms),
                shown_ms(arm.p999_ms),
                format!("{:.3}", arm.amplification),
                shown_ms(arm.detect_ms),
                shown_ms(arm.recover_ms),
            ]);
        }
        for check in &scenario.checks {
            checks.add_row([
                scenario.name.clone(),
                check.name.clone(),
                shown(Some(check.limit)),
                shown(check.measured),
                check.verdict(),
            ]);
        }
    }
    for column in arms.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for column in checks.column_iter_mut().skip(2).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let still = report.scenarios.iter().map(|s| format!("{:9} {}", s.name, s.machine));
    let still = still.collect::<Vec<_>>().join("\n");
    let (envoy, runner, verdict) = (&report.envoy, &report.runner, report.verdict());
    format!("Envoy {envoy}, {runner}\n\n{arms}\n\n{checks}\n\n{still}\n\n{verdict}\n")
}
