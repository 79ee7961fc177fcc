//! Renders what an Envoy of the rig is started with: bootstrap, listener file, membership file.
//!
//! The templates in `envoy/` are compiled in, so that what a reader sees there is what runs.
//! `{{name}}` is replaced; a block between `#if name` and `#endif` stays only where that name is
//! set. Every value that can hold a quote is inserted as JSON, which is YAML too. The listener and
//! the endpoints are files that Envoy watches, so a test can change the plugin's configuration or
//! the membership of a running Envoy by an atomic rename.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

const OUTRIGGER: &str = include_str!("../../envoy/rig-outrigger.yaml.tmpl");
const OUTRIGGER_LISTENER: &str = include_str!("../../envoy/rig-outrigger-listener.yaml.tmpl");
const NATIVE: &str = include_str!("../../envoy/rig-native.yaml.tmpl");
const NATIVE_LISTENER: &str = include_str!("../../envoy/rig-native-listener.yaml.tmpl");

/// Which Envoy is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// override_host, the plugin as filter and as upstream access logger.
    Outrigger,
    /// The same without the plugin: every request falls to the fallback policy. For benches and for
    /// the rig's own tests.
    PassThrough,
    /// Envoy at its best practice, no plugin.
    Native,
}

impl Flavour {
    /// Name of the arm in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outrigger => "outrigger",
            Self::PassThrough => "pass-through",
            Self::Native => "envoy-native",
        }
    }
}

/// Load balancing policy: of the cluster (`Native`) or of the fallback (`Outrigger`,
/// `PassThrough`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lb {
    /// `round_robin`
    RoundRobin,
    /// `ring_hash` with Envoy's defaults
    RingHash,
    /// `maglev` with Envoy's defaults
    Maglev,
    /// `least_request` with Envoy's defaults: the better of two drawn at random
    LeastRequest,
}

impl Lb {
    /// Envoy's and the plugin's name of the policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::RingHash => "ring_hash",
            Self::Maglev => "maglev",
            Self::LeastRequest => "least_request",
        }
    }

    fn extension(self) -> Value {
        let (name, message) = match self {
            Self::RoundRobin => ("round_robin", "round_robin.v3.RoundRobin"),
            Self::RingHash => ("ring_hash", "ring_hash.v3.RingHash"),
            Self::Maglev => ("maglev", "maglev.v3.Maglev"),
            Self::LeastRequest => ("least_request", "least_request.v3.LeastRequest"),
        };
        let kind =
            format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{message}");
        json!({
            "name": format!("envoy.load_balancing_policies.{name}"),
            "typed_config": {"@type": kind},
        })
    }
}

/// One member of the cluster, as the membership file gives it to Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port that Envoy connects to.
    pub address: SocketAddr,
    /// Load balancing weight, 1 or more.
    pub weight: u32,
    /// Priority, 0 first.
    pub priority: u32,
    /// Zone of the locality; endpoints of one zone and priority share a locality. May be empty.
    pub zone: String,
    /// `HEALTHY`, `UNHEALTHY`, `DRAINING`, ... as Envoy names it; `UNKNOWN` is its default.
    pub health_status: &'static str,
}

impl Endpoint {
    /// A plain member: weight 1, priority 0, no locality.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, weight: 1, priority: 0, zone: String::new(), health_status: "UNKNOWN" }
    }

    /// The same member with another weight.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }
}

/// Everything that differs between two Envoys of the rig.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Which Envoy.
    pub flavour: Flavour,
    /// Policy of the cluster or of its fallback.
    pub lb: Lb,
    /// Where the listener listens.
    pub listen: SocketAddr,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// The plugin's configuration, as text: a test may want it to be no JSON at all.
    pub plugin_config: String,
    /// The module, as Envoy will see its path.
    pub wasm: PathBuf,
    /// Folder of the listener and membership files, as Envoy will see its path.
    pub folder: PathBuf,
    /// Text to replace in what is rendered, in order: what a single test needs and no template has.
    pub edits: Vec<(String, String)>,
}

/// Name of the bootstrap inside the folder.
pub const BOOTSTRAP_FILE: &str = "envoy.yaml";
/// Name of the listener file inside the folder.
pub const LISTENER_FILE: &str = "listener.yaml";
/// Name of the membership file inside the folder.
pub const MEMBERSHIP_FILE: &str = "membership.json";

impl Bootstrap {
    /// The bootstrap, as YAML.
    ///
    /// # Errors
    /// When the template asks for a name that nothing fills.
    pub fn render(&self) -> anyhow::Result<String> {
        let template = if self.flavour == Flavour::Native { NATIVE } else { OUTRIGGER };
        self.fill(template)
    }

    /// The listener file (an LDS answer), as YAML.
    ///
    /// # Errors
    /// As `render`.
    pub fn render_listener(&self) -> anyhow::Result<String> {
        let template =
            if self.flavour == Flavour::Native { NATIVE_LISTENER } else { OUTRIGGER_LISTENER };
        self.fill(template)
    }

    fn fill(&self, template: &str) -> anyhow::Result<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let values = [
            ("admin_address", self.admin.ip().to_string()),
            ("admin_port", self.admin.port().to_string()),
            ("listen_address", self.listen.ip().to_string()),
            ("listen_port", self.listen.port().to_string()),
            ("listener_file", path(LISTENER_FILE)),
            ("membership_file", path(MEMBERSHIP_FILE)),
            ("lb_policy", self.lb.extension().to_string()),
            ("plugin_config", Value::from(self.plugin_config.as_str()).to_string()),
            ("wasm_file", self.wasm.display().to_string()),
        ];
        let conditions = [("plugin", self.flavour == Flavour::Outrigger)];
        let mut text = fill(template, &values, &conditions)?;
        for (from, to) in &self.edits {
            text = text.replace(from, to);
        }
        Ok(text)
    }

    /// The edits that find nothing to replace, neither in the bootstrap nor in the listener file.
    ///
    /// # Errors
    /// As `render`.
    pub fn idle_edits(&self) -> anyhow::Result<Vec<&str>> {
        let bare = Self { edits: Vec::new(), ..self.clone() };
        let mut both = bare.render()? + &bare.render_listener()?;
        let mut idle = Vec::new();
        for (from, to) in &self.edits {
            if !both.contains(from) {
                idle.push(from.as_str());
            }
            both = both.replace(from, to);
        }
        Ok(idle)
    }
}

fn fill(
    template: &str,
    values: &[(&str, String)],
    conditions: &[(&str, bool)],
) -> anyhow::Result<String> {
    let mut out = String::with_capacity(template.len());
    let mut keep = true;
    for line in template.lines() {
        if let Some(name) = line.strip_prefix("#if ") {
            let found = conditions.iter().find(|(known, _)| *known == name.trim());
            keep = found.with_context(|| format!("template: unknown condition {name}"))?.1;
        } else if line.starts_with("#endif") {
            keep = true;
        } else if keep {
            out.push_str(&fill_line(line, values)?);
            out.push('\n');
        }
    }
    Ok(out)
}

fn fill_line(line: &str, values: &[(&str, String)]) -> anyhow::Result<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        // Only `{{name}}` is ours; YAML flow maps may well hold two braces.
        let Some((name, tail)) = after.split_once("}}") else {
            break;
        };
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            break;
        }
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            bail!("template: nothing fills {name}");
        };
        out.push_str(before);
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// The membership file (an EDS answer) of the cluster `backend`, as JSON.
#[must_use]
pub fn membership(endpoints: &[Endpoint]) -> String {
    let mut localities: Vec<(u32, &str, Vec<Value>)> = Vec::new();
    for endpoint in endpoints {
        let member = json!({
            "endpoint": {"address": {"socket_address": {
                "address": endpoint.address.ip().to_string(),
                "port_value": endpoint.address.port(),
            }}},
            "load_balancing_weight": endpoint.weight,
            "health_status": endpoint.health_status,
        });
        let known = localities
            .iter_mut()
            .find(|(priority, zone, _)| *priority == endpoint.priority && *zone == endpoint.zone);
        match known {
            Some((_, _, members)) => members.push(member),
            None => localities.push((endpoint.priority, &endpoint.zone, vec![member])),
        }
    }
    let endpoints: Vec<Value> = localities
        .into_iter()
        .map(|(priority, zone, members)| {
            json!({"priority": priority, "locality": {"zone": zone}, "lb_endpoints": members})
        })
        .collect();
    json!({"resources": [{
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "backend",
        "endpoints": endpoints,
    }]})
    .to_string()
}

/// Writes a file that Envoy watches: aside first, then renamed over, so that Envoy never reads half
/// of it.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_atomically(path: &Path, text: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).with_context(|| format!("cannot write {}", aside.display()))?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(flavour: Flavour) -> Bootstrap {
        Bootstrap {
            flavour,
            lb: Lb::Maglev,
            listen: "127.0.0.1:1001".parse().unwrap(),
            admin: "127.0.0.1:1002".parse().unwrap(),
            plugin_config: r#"{"clusters":[{"name":"b\"x"}]}"#.to_owned(),
            wasm: "/w/outrigger.wasm".into(),
            folder: "/tmp/x".into(),
            edits: Vec::new(),
        }
    }

    #[test]
    fn an_edit_replaces_what_is_rendered_and_one_that_finds_nothing_is_told() {
        let edit = |from: &str| (from.to_owned(), "replaced".to_owned());
        let edited = Bootstrap {
            edits: vec![edit("id: rig"), edit("no such text"), edit("name: rig")],
            ..bootstrap(Flavour::Outrigger)
        };
        assert!(edited.render().unwrap().contains("node: {replaced, "));
        assert!(!edited.render_listener().unwrap().contains("name: rig"));
        assert_eq!(edited.idle_edits().unwrap(), ["no such text"]);
    }

    #[test]
    fn every_flavour_renders_with_nothing_left_to_fill() {
        for flavour in [Flavour::Outrigger, Flavour::PassThrough, Flavour::Native] {
            let b = bootstrap(flavour);
            for text in [b.render().unwrap(), b.render_listener().unwrap()] {
                assert!(!text.contains("{{"), "{text}");
                assert!(!text.contains("#if") && !text.contains("#endif"), "{text}");
            }
        }
    }

    #[test]
    fn only_the_outrigger_flavour_loads_the_module() {
        let text = |flavour| bootstrap(flavour).render_listener().unwrap();
        assert_eq!(text(Flavour::Outrigger).matches("/w/outrigger.wasm").count(), 1);
        assert_eq!(text(Flavour::Outrigger).matches("plugin\n").count(), 2);
        assert!(!text(Flavour::PassThrough).contains("wasm"));
        assert!(!text(Flavour::Native).contains("wasm"));
    }

    #[test]
    fn the_configuration_is_quoted_for_yaml() {
        let text = bootstrap(Flavour::Outrigger).render_listener().unwrap();
        assert!(text.contains(r#"value: "{\"clusters\":[{\"name\":\"b\\\"x\"}]}""#), "{text}");
    }

    #[test]
    fn an_unknown_name_is_an_error_and_yaml_braces_are_not() {
        assert!(fill("a {{nope}}", &[], &[]).is_err());
        assert_eq!(fill("a: {{b: 1}}", &[], &[]).unwrap(), "a: {{b: 1}}\n");
        assert!(fill("#if nope\n", &[], &[]).is_err());
    }

    #[test]
    fn membership_groups_by_priority_and_zone() {
        let at = |text: &str| Endpoint::new(text.parse().unwrap());
        let text = membership(&[
            at("127.0.0.1:1").with_weight(3),
            Endpoint { priority: 1, ..at("[::1]:2") },
            at("127.0.0.1:3"),
        ]);
        let value: Value = serde_json::from_str(&text).unwrap();
        let groups = value["resources"][0]["endpoints"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0]["lb_endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(groups[0]["lb_endpoints"][0]["load_balancing_weight"], 3);
        let second = &groups[1]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
        assert_eq!(second["address"], "::1");
    }
}
