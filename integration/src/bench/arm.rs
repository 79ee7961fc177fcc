//! The set-ups that are compared, and the Envoy configuration of each.
//!
//! Written as JSON, which Envoy reads as it reads YAML. An arm and its base differ in nothing but
//! what the arm is named for: same routes, same authorities, same endpoints, same policy.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";
const OVERRIDE_HEADER: &str = "x-envoy-retry-on";

/// What Envoy is made to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Envoy alone: the base of the first ratio.
    Plain,
    /// The override policy around the same policy, but nothing that writes the header.
    OverrideHost,
    /// Envoy alone with a plugin of the SDK that does nothing: the base of the second ratio.
    EmptySdk,
    /// The whole set-up that the README recommends.
    Outrigger,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::OverrideHost => "override-host",
            Self::EmptySdk => "empty-sdk",
            Self::Outrigger => "outrigger",
        }
    }

    fn overrides(self) -> bool {
        matches!(self, Self::OverrideHost | Self::Outrigger)
    }
}

/// The plugin's policy, and Envoy's own of the same name or, where it has none, the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lb {
    RoundRobin,
    Maglev,
    /// Maglev with a `hash_balance_factor`.
    MaglevBounded,
    /// Beside Envoy's Maglev.
    Rendezvous,
    LeastRequest,
    /// Beside Envoy's least request.
    PeakEwma,
}

/// `hash_balance_factor` where one is set.
const BALANCE_FACTOR: u32 = 125;

impl Lb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Maglev => "maglev",
            Self::MaglevBounded => "maglev_bounded",
            Self::Rendezvous => "rendezvous",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
        }
    }

    /// The `lb_policy` of the plugin's clusters; none where `{}` says it.
    fn configured(self) -> Option<Value> {
        match self {
            Self::RoundRobin => None,
            Self::Maglev => Some(json!({"maglev": {}})),
            Self::MaglevBounded => Some(json!({"maglev": {"hash_balance_factor": BALANCE_FACTOR}})),
            Self::Rendezvous => Some(json!({"rendezvous": {}})),
            Self::LeastRequest => Some(json!({"least_request": {}})),
            Self::PeakEwma => Some(json!({"peak_ewma": {}})),
        }
    }

    fn hashes(self) -> bool {
        matches!(self, Self::Maglev | Self::MaglevBounded | Self::Rendezvous)
    }

    fn policies(self) -> Value {
        let (name, message) = match self {
            Self::RoundRobin => ("round_robin", "round_robin.v3.RoundRobin"),
            Self::Maglev | Self::MaglevBounded | Self::Rendezvous => ("maglev", "maglev.v3.Maglev"),
            Self::LeastRequest | Self::PeakEwma => {
                ("least_request", "least_request.v3.LeastRequest")
            }
        };
        let mut config = json!({"@type": extension("load_balancing_policies", message)});
        if let (Self::MaglevBounded, Some(config)) = (self, config.as_object_mut()) {
            let bounded = json!({"hash_balance_factor": BALANCE_FACTOR});
            config.insert("consistent_hashing_lb_config".to_owned(), bounded);
        }
        policies(name, config)
    }
}

/// One set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arm {
    pub(super) kind: Kind,
    pub(super) lb: Lb,
    /// Clusters in Envoy and, where the policy needs naming, in the plugin's configuration.
    pub(super) clusters: u32,
}

impl Arm {
    /// The authority that the load asks for: the middle cluster's.
    pub(super) fn authority(&self) -> String {
        authority(self.clusters.div_ceil(2))
    }

    /// The plugin's configuration: `{}` where that says everything.
    pub(super) fn plugin_config(&self) -> Value {
        let Some(policy) = self.lb.configured() else { return json!({}) };
        let hash_policy = json!([{"header": {"header_name": "x-key"}}]);
        let clusters: Vec<Value> = (1..=self.clusters)
            .map(|number| {
                json!({
                    "name": cluster_name(number),
                    "match": {"authorities": [authority(number)]},
                    "lb_policy": policy,
                    "hash_policy": if self.lb.hashes() { hash_policy.clone() } else { json!([]) },
                })
            })
            .collect();
        json!({"clusters": clusters})
    }

    /// Name on the terminal.
    pub(super) fn title(&self) -> String {
        format!("{} {} {}", self.kind.name(), self.lb.name(), self.clusters)
    }
}

/// What a started Envoy needs to know beside its arm.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Members of every cluster.
    pub(super) endpoints: &'a [SocketAddr],
    /// The module of the arm; unused by arms without one.
    pub(super) wasm: &'a Path,
}

/// The bootstrap, as JSON.
pub(super) fn bootstrap(arm: &Arm, site: &Site<'_>) -> Value {
    let mut clusters: Vec<Value> =
        (1..=arm.clusters).map(|number| cluster(arm, number, site.endpoints)).collect();
    if arm.kind == Kind::Outrigger {
        clusters.push(json!({
            "name": "outrigger_admin",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": assignment("outrigger_admin", &[site.admin]),
        }));
    }
    json!({
        "admin": {"address": address(site.admin)},
        "static_resources": {"listeners": [listener(arm, site)], "clusters": clusters},
    })
}

fn listener(arm: &Arm, site: &Site<'_>) -> Value {
    let mut router = json!({"@type": extension("filters", "http.router.v3.Router")});
    let mut filters = Vec::new();
    if matches!(arm.kind, Kind::Outrigger | Kind::EmptySdk) {
        filters.push(json!({
            "name": "plugin",
            "typed_config": {
                "@type": extension("filters", "http.wasm.v3.Wasm"),
                "config": plugin(arm, site.wasm),
            },
        }));
    }
    if arm.kind == Kind::Outrigger
        && let Some(router) = router.as_object_mut()
    {
        router.insert("upstream_log".to_owned(), json!([observer(arm, site.wasm)]));
    }
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": router}));
    let manager = json!({
        "@type": extension(
            "filters",
            "network.http_connection_manager.v3.HttpConnectionManager",
        ),
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": virtual_hosts(arm)},
        "http_filters": filters,
    });
    json!({
        "name": "bench",
        "address": address(site.listen),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    })
}

fn virtual_hosts(arm: &Arm) -> Vec<Value> {
    let route = |number: u32| {
        json!({
            "cluster": cluster_name(number),
            "timeout": "120s",
            "hash_policy": [{"header": {"header_name": "x-key"}}],
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset-before-request",
                "num_retries": 2,
                "per_try_timeout": "60s",
            },
        })
    };
    (1..=arm.clusters)
        .map(|number| {
            json!({
                "name": cluster_name(number),
                "domains": [authority(number)],
                "routes": [{"match": {"prefix": "/"}, "route": route(number)}],
            })
        })
        .collect()
}

/// The plugin block; the same in both places, so that they share a VM and a root context.
fn plugin(arm: &Arm, wasm: &Path) -> Value {
    let configuration = match arm.kind {
        Kind::Outrigger => arm.plugin_config().to_string(),
        _ => String::new(),
    };
    json!({
        "name": "outrigger",
        "root_id": "outrigger",
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": configuration,
        },
        "vm_config": {
            "vm_id": "outrigger",
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": wasm.display().to_string()}},
        },
        "failure_policy": "FAIL_RELOAD",
    })
}

fn observer(arm: &Arm, wasm: &Path) -> Value {
    let status = |op, value| {
        let value = json!({"default_value": value, "runtime_key": "outrigger.unused"});
        json!({"status_code_filter": {"comparison": {"op": op, "value": value}}})
    };
    json!({
        "name": "envoy.access_loggers.wasm",
        "filter": {"or_filter": {"filters": [
            {"response_flag_filter": {}},
            status("EQ", 0),
            status("GE", 500),
        ]}},
        "typed_config": {
            "@type": extension("access_loggers", "wasm.v3.WasmAccessLog"),
            "config": plugin(arm, wasm),
        },
    })
}

fn cluster(arm: &Arm, number: u32, endpoints: &[SocketAddr]) -> Value {
    let name = cluster_name(number);
    let balancing = if arm.kind.overrides() {
        policies(
            "override_host",
            json!({
                "@type": extension(
                    "load_balancing_policies",
                    "override_host.v3.OverrideHost",
                ),
                "override_host_sources": [{"header": OVERRIDE_HEADER}],
                "fallback_policy": arm.lb.policies(),
            }),
        )
    } else {
        arm.lb.policies()
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_balancing_policy": balancing,
        "load_assignment": assignment(&name, endpoints),
    })
}

fn policies(name: &str, config: Value) -> Value {
    json!({"policies": [{"typed_extension_config": {
        "name": format!("envoy.load_balancing_policies.{name}"),
        "typed_config": config,
    }}]})
}

fn assignment(name: &str, endpoints: &[SocketAddr]) -> Value {
    let members: Vec<Value> =
        endpoints.iter().map(|at| json!({"endpoint": {"address": address(*at)}})).collect();
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": members}]})
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}

fn extension(area: &str, message: &str) -> String {
    format!("{EXTENSIONS}.{area}.{message}")
}

fn cluster_name(number: u32) -> String {
    format!("c{number}")
}

fn authority(number: u32) -> String {
    format!("c{number}.example")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind, clusters: u32) -> String {
        let at = "127.0.0.1:1".parse().unwrap();
        let site = Site { listen: at, admin: at, endpoints: &[at], wasm: Path::new("module.bin") };
        bootstrap(&Arm { kind, lb: Lb::Maglev, clusters }, &site).to_string()
    }

    #[test]
    fn an_arm_adds_only_what_it_is_named_for() {
        assert!(!text(Kind::Plain, 1).contains("override_host"));
        assert!(text(Kind::OverrideHost, 1).contains("override_host"));
        assert!(!text(Kind::EmptySdk, 1).contains("override_host"));
        assert_eq!(text(Kind::EmptySdk, 1).matches("module.bin").count(), 1);
        assert_eq!(text(Kind::Outrigger, 1).matches("module.bin").count(), 2);
    }

    #[test]
    fn twenty_clusters_are_twenty_in_envoy_and_in_the_plugin() {
        let arm = Arm { kind: Kind::Outrigger, lb: Lb::Maglev, clusters: 20 };
        assert_eq!(arm.plugin_config()["clusters"].as_array().unwrap().len(), 20);
        assert_eq!(arm.authority(), "c10.example");
        assert_eq!(text(Kind::Plain, 20).matches("\"domains\"").count(), 20);
    }
}
