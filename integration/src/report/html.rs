//! `report.html`: one self-contained page, no script; a timeline per scenario and arm drawn as SVG.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Report, ScenarioReport, shown, shown_ms};
use crate::load::Record;
use crate::measure::{percentile_ms, within};

/// What one arm's clients saw in the first run of a scenario.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the arm.
    pub arm: String,
    /// The requests.
    pub records: Vec<Record>,
    /// What happened when, since the load's origin.
    pub events: Vec<(Duration, String)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 52.0;
const FLOOR: f64 = 160.0;
const STEP: Duration = Duration::from_millis(200);
/// The latency axis is logarithmic, from 0.1 ms to 10 s.
const DECADES: f64 = 5.0;

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Outrigger rig</title>\
<style>body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;\
color:#1b2430}table{border-collapse:collapse;margin:.6em 0}td,th{padding:.2em .7em;\
border-bottom:1px solid #d7dde5;text-align:right}td:first-child,th:first-child{text-align:left}\
.ok{color:#187a3a}.failed{color:#b3261e;font-weight:600}svg{display:block;margin:.4em 0;\
background:#f8fafc;border:1px solid #e2e8f0}text{font:11px system-ui,sans-serif;fill:#4a5565}\
h2{margin-top:2em}figure{margin:0}figcaption{font-weight:600}</style>";

pub(super) fn render(report: &Report, timelines: &[Timeline]) -> String {
    let mut page = String::from(HEAD);
    let class = if report.passed() { "ok" } else { "failed" };
    let verdict = format!("<span class={class}>{}</span>", report.verdict().to_lowercase());
    let envoy = escape(&report.envoy);
    let _ = write!(
        page,
        "<h1>Outrigger rig</h1><p>Envoy {envoy}, runner {}: {verdict}.</p>",
        report.runner
    );
    page.push_str(
        "<p>Latencies count from the moment at which a request was to leave. Percentiles in the \
         tables are those from 1 s after the fault until it is lifted. Timelines: median (light \
         line) and p99 (dark line) of each 200 ms on a logarithmic scale; red bars are failed \
         requests.</p>",
    );
    for scenario in &report.scenarios {
        section(&mut page, scenario);
        for line in timelines.iter().filter(|line| line.scenario == scenario.name) {
            figure(&mut page, line);
        }
    }
    page.push_str("</html>\n");
    page
}

fn section(page: &mut String, scenario: &ScenarioReport) {
    let _ = write!(page, "<h2>{}</h2><table><tr>", escape(&scenario.name));
    for head in [
        "arm",
        "requests",
        "failed",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "attempts/request",
        "out after ms",
        "back after ms",
    ] {
        let _ = write!(page, "<th>{head}");
    }
    for arm in &scenario.arms {
        let failed = arm.requests - arm.ok.min(arm.requests);
        let _ = write!(page, "<tr><td>{}<td>{}<td>{failed}", escape(&arm.name), arm.requests);
        for value in [arm.p50_ms, arm.p99_ms, arm.p999_ms] {
            let _ = write!(page, "<td>{}", shown_ms(value));
        }
        let _ = write!(page, "<td>{:.3}", arm.amplification);
        let _ = write!(page, "<td>{}<td>{}", shown_ms(arm.detect_ms), shown_ms(arm.recover_ms));
    }
    page.push_str("</table><table><tr><th>check<th>at most<th>measured<th>");
    for check in &scenario.checks {
        let class = if check.passed { "ok" } else { "failed" };
        let verdict = escape(&check.verdict().to_lowercase());
        let (limit, measured) = (shown(Some(check.limit)), shown(check.measured));
        let name = escape(&check.name);
        let _ = write!(page, "<tr><td>{name}<td>{limit}<td>{measured}<td class={class}>{verdict}");
    }
    let _ = write!(page, "</table><p>{}.</p>", escape(&scenario.machine.to_string()));
}

/// Where a moment and a latency are drawn.
struct Scale {
    end: Duration,
}

impl Scale {
    fn x(&self, at: Duration) -> f64 {
        LEFT + (WIDTH - LEFT - 10.0) * at.as_secs_f64() / self.end.as_secs_f64()
    }

    fn y(ms: f64) -> f64 {
        let decades = (ms.max(0.1) / 0.1).log10().min(DECADES);
        FLOOR - (FLOOR - 12.0) * decades / DECADES
    }
}

fn figure(page: &mut String, line: &Timeline) {
    let last = line.records.last().map_or(0, |record| record.scheduled_us);
    let scale = Scale { end: Duration::from_micros(last).max(STEP) };
    let caption = escape(&line.arm);
    let _ = write!(
        page,
        "<figure><figcaption>{caption}</figcaption>\
         <svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' role=img>"
    );
    for (ms, label) in [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1000.0, "1 s")] {
        let at = Scale::y(ms);
        let _ = write!(
            page,
            "<line x1='{LEFT}' x2='{WIDTH}' y1='{at:.1}' y2='{at:.1}' stroke='#e2e8f0'/>\
             <text x='4' y='{:.1}'>{label}</text>",
            at + 4.0
        );
    }
    curves(page, line, &scale);
    for (at, what) in &line.events {
        let (at, what) = (scale.x(*at), escape(what));
        let _ = write!(
            page,
            "<line x1='{at:.1}' x2='{at:.1}' y1='8' y2='{FLOOR}' stroke='#b3261e' \
             stroke-dasharray='4 3'/><text x='{:.1}' y='{:.1}'>{what}</text>",
            at + 3.0,
            FLOOR + 22.0
        );
    }
    page.push_str("</svg></figure>");
}

/// Median, p99 and failures of every step.
fn curves(page: &mut String, line: &Timeline, scale: &Scale) {
    let (mut median, mut tail) = (String::new(), String::new());
    let mut from = Duration::ZERO;
    while from < scale.end {
        let mut latencies = Vec::new();
        let mut failed = 0usize;
        for record in within(&line.records, from..from + STEP) {
            latencies.push(record.latency_us);
            failed += usize::from(!record.ok());
        }
        let at = scale.x(from + STEP / 2);
        if failed > 0 {
            let share = failed as f64 / latencies.len().max(1) as f64;
            let height = (FLOOR - 12.0) * share.max(0.03);
            let top = FLOOR - height;
            let _ = write!(
                page,
                "<rect x='{:.1}' y='{top:.1}' width='4' height='{height:.1}' \
                 fill='#e5484d' opacity='.55'><title>{failed} failed</title></rect>",
                at - 2.0
            );
        }
        for (points, percent) in [(&mut median, 50.0), (&mut tail, 99.0)] {
            if let Some(ms) = percentile_ms(&mut latencies, percent) {
                let _ = write!(points, "{at:.1},{:.1} ", Scale::y(ms));
            }
        }
        from += STEP;
    }
    let _ = write!(
        page,
        "<polyline points='{median}' fill='none' stroke='#8ab4f8' stroke-width='1.5'/>\
         <polyline points='{tail}' fill='none' stroke='#1a56a8' stroke-width='1.5'/>"
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
