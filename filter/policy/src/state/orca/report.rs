//! One load report, as it comes in a response header or trailer.
//!
//! `endpoint-load-metrics` says in its first word which format follows, `endpoint-load-metrics-bin`
//! is gRPC's older form of the first. Both are read as in Envoy's `source/common/orca/`:
//!
//! | value | what follows |
//! | --- | --- |
//! | `BIN ` | `xds.data.orca.v3.OrcaLoadReport` in base64, padded or not |
//! | `JSON ` | the same as JSON, names in either spelling of proto3 |
//! | `TEXT ` | `name=value` or `name:value`, with commas between |
//!
//! Only the fields that weights need are kept. A value among them that is negative or not finite
//! spoils the report, as does a name that comes twice. Names that are not known are skipped, so
//! that an endpoint may report more than this reads; Envoy refuses such a report as text or JSON.

use serde::Deserialize;

use super::wire;

/// Largest header value that is read, in bytes: a report with a hundred named metrics fits.
pub const REPORT_BYTES_MAX: usize = 4096;

/// The fields of a report that weights are made of; one that was not sent is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Share of the CPU in use; may exceed 1.
    #[serde(alias = "cpuUtilization")]
    pub cpu_utilization: f64,
    /// The application's own idea of how busy it is, as a share; may exceed 1.
    #[serde(alias = "applicationUtilization")]
    pub application_utilization: f64,
    /// Requests per second.
    #[serde(alias = "rpsFractional")]
    pub rps_fractional: f64,
    /// Errors per second.
    pub eps: f64,
}

impl Report {
    /// Reads the value of `endpoint-load-metrics`. `None`: no report that could be trusted.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() > REPORT_BYTES_MAX {
            return None;
        }
        let report = if let Some(base64) = value.strip_prefix(b"BIN ") {
            wire::decode(base64)?
        } else if let Some(json) = value.strip_prefix(b"JSON ") {
            serde_json::from_slice(json).ok()?
        } else {
            parse_text(core::str::from_utf8(value.strip_prefix(b"TEXT ")?).ok()?)?
        };
        report.is_sane().then_some(report)
    }

    /// Reads the value of `endpoint-load-metrics-bin`. `None`: no report that could be trusted.
    #[must_use]
    pub fn parse_bin(value: &[u8]) -> Option<Self> {
        if value.len() > REPORT_BYTES_MAX {
            return None;
        }
        wire::decode(value).filter(Self::is_sane)
    }

    /// How busy the endpoint is: what the application says, or else its CPU.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        if self.application_utilization > 0.0 {
            self.application_utilization
        } else {
            self.cpu_utilization
        }
    }

    fn is_sane(&self) -> bool {
        let all =
            [self.cpu_utilization, self.application_utilization, self.rps_fractional, self.eps];
        all.iter().all(|value| value.is_finite() && *value >= 0.0)
    }
}

fn parse_text(text: &str) -> Option<Report> {
    let [mut cpu, mut application, mut rps, mut eps] = [None; 4];
    for entry in text.split(',') {
        let (name, value) = entry.split_once(['=', ':'])?;
        let field = match name.trim() {
            "cpu_utilization" => &mut cpu,
            "application_utilization" => &mut application,
            "rps_fractional" => &mut rps,
            "eps" => &mut eps,
            _ => continue,
        };
        if field.replace(value.trim().parse::<f64>().ok()?).is_some() {
            return None;
        }
    }
    Some(Report {
        cpu_utilization: cpu.unwrap_or(0.0),
        application_utilization: application.unwrap_or(0.0),
        rps_fractional: rps.unwrap_or(0.0),
        eps: eps.unwrap_or(0.0),
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// What a grpc-go server sends: CPU 0.5, 100 requests and 2 errors a second, and a named
    /// metric (the value is from Envoy's `orca_parser_test.cc`).
    const FROM_GRPC_GO: &str = "CQAAAAAAAOA/MQAAAAAAAFlAOQAAAAAAAABAQg4KA3JpZhEAAAAAAAAQQA";

    const EXPECTED: Report = Report {
        cpu_utilization: 0.5,
        application_utilization: 0.0,
        rps_fractional: 100.0,
        eps: 2.0,
    };

    fn parse(value: &str) -> Option<Report> {
        Report::parse(value.as_bytes())
    }

    #[test]
    fn a_binary_report_is_read_with_and_without_padding_in_both_headers() {
        for padding in ["", "=="] {
            let base64 = format!("{FROM_GRPC_GO}{padding}");
            assert_eq!(Report::parse_bin(base64.as_bytes()), Some(EXPECTED));
            assert_eq!(parse(&format!("BIN {base64}")), Some(EXPECTED));
        }
        assert_eq!(parse(FROM_GRPC_GO), None, "without its prefix");
    }

    #[test]
    fn text_is_read_with_either_separator_and_skips_what_it_does_not_know() {
        for text in [
            "TEXT cpu_utilization=0.5,rps_fractional=100,eps=2",
            "TEXT cpu_utilization:0.5,rps_fractional:1e2,eps:2.0",
            "TEXT eps=2, cpu_utilization = 0.5 ,named_metrics.rif=4,rps_fractional=100,new=x",
        ] {
            assert_eq!(parse(text), Some(EXPECTED), "{text}");
        }
    }

    #[test]
    fn json_is_read_in_either_spelling_and_skips_what_it_does_not_know() {
        for json in [
            r#"JSON {"cpu_utilization": 0.5, "rps_fractional": 100, "eps": 2}"#,
            r#"JSON {"cpuUtilization": 0.5, "rpsFractional": 100, "eps": 2, "x": {"y": [null]}}"#,
        ] {
            assert_eq!(parse(json), Some(EXPECTED), "{json}");
        }
    }

    #[test]
    fn the_applications_own_utilization_goes_before_the_cpus() {
        let report = parse("TEXT cpu_utilization=0.5,application_utilization=0.8").unwrap();
        assert!((report.utilization() - 0.8).abs() < 1e-12);
        let report = parse("TEXT cpu_utilization=0.5,application_utilization=0").unwrap();
        assert!((report.utilization() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_report_that_cannot_be_trusted_is_none_at_all() {
        for value in [
            "",
            "BAD x",
            "TEXT",
            "TEXT ",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=",
            "TEXT cpu_utilization=NaN",
            "TEXT cpu_utilization=inf",
            "TEXT cpu_utilization=-1",
            "TEXT cpu_utilization=\"0.7\"",
            "TEXT eps=1,eps=1",
            "JSON ",
            "JSON {\"eps\": 2",
            "JSON {\"eps\": -2}",
            "JSON {\"eps\": \"x\"}",
            "JSON {\"eps\": 2, \"eps\": 3}",
            "BIN ",
            "BIN ####",
            "BIN CQ",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
        let long = format!("TEXT eps=1{}", ",x=1".repeat(REPORT_BYTES_MAX / 4));
        assert_eq!(parse(&long), None);
        assert!(parse(&long[..REPORT_BYTES_MAX - 2]).is_some());
    }
}
