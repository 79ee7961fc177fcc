//! The rig: real Envoys, real upstream processes that fail, open-loop load, scenarios, a report.
//!
//! | module | what |
//! | --- | --- |
//! | `upstream` | one failing upstream: server, faults, the hold on it |
//! | `process`, `ports`, `http` | children that die with the rig, free ports, single requests |
//! | `bootstrap` | Envoy's configuration from the templates in `envoy/` |
//! | `envoy` | a running Envoy |
//! | `load` | open-loop load and what its clients saw |
//! | `measure` | what is computed from that; pure |
//! | `stalls` | how still the machine stood meanwhile |
//! | `site` | where arms run: processes or containers |
//! | `scenario` | what is done to the upstreams, and what must hold |
//! | `report` | table, `report.json`, `report.html` |
//! | `bench` | what the plugin costs: `integration bench` |
//! | `harness` | one Envoy and its upstreams in three lines, for end-to-end tests |

pub mod bench;
pub mod bootstrap;
pub mod envoy;
pub mod harness;
pub mod http;
pub mod load;
pub mod measure;
pub mod ports;
pub mod process;
pub mod report;
pub mod rig;
pub mod scenario;
pub mod site;
pub mod stalls;
pub mod upstream;
