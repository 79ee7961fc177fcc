//! From bytes to a [`Config`]: the top of the tree, the clusters and their endpoints.

use core::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;

use super::{
    AdminSource, ClusterConfig, ClusterSettings, Config, ConfigError, Locality, Match,
    StaticEndpoint,
    json::Node,
    limits, raw,
    read::{Cursor, Object, shown},
    settings::{BLOCKS, CLUSTER, settings},
    tables::{self, Tables},
};

/// Reads and checks a configuration; input that is empty or all white space counts as `{}`.
///
/// # Errors
///
/// The first problem, in the order of the text within one object and of [`raw::FIELDS`] between
/// them.
pub fn parse(json: &[u8]) -> Result<Config, ConfigError> {
    let whole = |reason: String| ConfigError { path: "config".into(), reason };
    if json.len() > limits::CONFIG_BYTES_MAX {
        let (most, got) = (limits::CONFIG_BYTES_MAX, json.len());
        return Err(whole(format!("must be at most {most} bytes, got {got}")));
    }
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(Config::default());
    }
    let node: Node =
        serde_json::from_slice(json).map_err(|error| whole(format!("not valid JSON: {error}")))?;
    let root = Cursor::root(&node);
    let top = root.object(&["membership", "defaults", "clusters"])?;
    let admin = match top.get("membership") {
        Some(at) => admin(&at)?,
        None => AdminSource::default(),
    };
    let defaults = match top.get("defaults") {
        Some(at) => settings(&at.object(&BLOCKS)?, &ClusterSettings::default())?,
        None => ClusterSettings::default(),
    };
    let clusters = match top.get("clusters") {
        Some(at) => clusters(&at, &defaults)?,
        None => Vec::new(),
    };
    if clusters.is_empty() {
        tables::fit_every_cluster(&defaults.lb_policy)?;
    }
    Ok(Config { admin, defaults, clusters })
}

fn admin(at: &Cursor<'_>) -> Result<AdminSource, ConfigError> {
    let mut source = AdminSource::default();
    let membership = at.object(&["envoy_admin"])?;
    let Some(at) = membership.get("envoy_admin") else {
        return Ok(source);
    };
    let block = at.object(&["cluster", "interval", "timeout"])?;
    if let Some(at) = block.get("cluster") {
        source.cluster = at.name(&limits::NAME_BYTES)?.into();
    }
    if let Some(at) = block.get("interval") {
        source.interval = at.duration(&limits::POLL_INTERVAL)?;
    }
    if let Some(at) = block.get("timeout") {
        source.timeout = at.duration(&limits::POLL_TIMEOUT)?;
    }
    Ok(source)
}

fn clusters(
    at: &Cursor<'_>,
    defaults: &ClusterSettings,
) -> Result<Vec<ClusterConfig>, ConfigError> {
    let mut clusters: Vec<ClusterConfig> = Vec::new();
    let mut tables = Tables::default();
    for item in at.list(&(0..=limits::CLUSTERS_MAX))? {
        let block = item.object(&CLUSTER)?;
        let at = block.required("name")?;
        let name = at.name(&limits::NAME_BYTES)?;
        if let Some(first) = clusters.iter().position(|earlier| earlier.name == name) {
            return Err(at.error(&format!(
                "must be unique, got {} again (first in clusters[{first}])",
                at.got()
            )));
        }
        let cluster = ClusterConfig {
            name: name.into(),
            matches: block.get("match").map_or_else(|| Ok(Match::default()), |at| matches(&at))?,
            static_endpoints: static_endpoints(&block)?,
            settings: settings(&block, defaults)?,
        };
        tables.add(&block, &cluster)?;
        clusters.push(cluster);
    }
    Ok(clusters)
}

fn matches(at: &Cursor<'_>) -> Result<Match, ConfigError> {
    let block = at.object(&["authorities", "path_prefixes"])?;
    let count = 0..=limits::MATCHES_MAX;
    let mut matches = Match::default();
    if let Some(at) = block.get("authorities") {
        matches.authorities =
            at.list(&count)?.map(|at| authority(&at)).collect::<Result<_, _>>()?;
    }
    if let Some(at) = block.get("path_prefixes") {
        matches.path_prefixes =
            at.list(&count)?.map(|at| path_prefix(&at)).collect::<Result<_, _>>()?;
    }
    Ok(matches)
}

fn authority(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let text = at.text(&limits::NAME_BYTES)?;
    if text.contains('*') {
        return Err(at.error(&format!(
            "must be a whole host name, got {}: wildcards are not matched, leave `match` out \
             instead",
            at.got()
        )));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#,".contains(&byte)) {
        return Err(at.must("a host with or without its port, such as \"a.example:80\""));
    }
    Ok(text.to_ascii_lowercase())
}

fn path_prefix(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let text = at.text(&limits::PATH_PREFIX_BYTES)?;
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err(at.must("visible ASCII beginning with \"/\""))
}

fn static_endpoints(block: &Object<'_>) -> Result<Option<Vec<StaticEndpoint>>, ConfigError> {
    let Some(at) = block.get("membership") else {
        return Ok(None);
    };
    let membership = at.object(&["static"])?;
    let Some(at) = membership.get("static") else {
        return Ok(None);
    };
    let source = at.object(&["endpoints"])?;
    let at = source.required("endpoints")?;

    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut endpoints = Vec::new();
    for (index, item) in at.list(&(1..=limits::ENDPOINTS_MAX))?.enumerate() {
        endpoints.push(endpoint(&item, index, &mut seen)?);
    }
    let sum = endpoints.iter().fold(0, |sum: u64, e| sum.saturating_add(e.weight.into()));
    if sum > limits::WEIGHT_SUM_MAX {
        let most = limits::WEIGHT_SUM_MAX;
        return Err(at.error(&format!("weights must sum to at most {most}, got {sum}")));
    }
    priorities_without_gap(&at, &endpoints)?;
    Ok(Some(endpoints))
}

/// Envoy refuses a cluster in which a priority below another has no endpoints.
fn priorities_without_gap(
    at: &Cursor<'_>,
    endpoints: &[StaticEndpoint],
) -> Result<(), ConfigError> {
    let mut priorities: Vec<u32> = endpoints.iter().map(|e| e.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let gap = (0_u32..).zip(&priorities).find(|(expected, got)| expected != *got);
    gap.map_or(Ok(()), |(expected, got)| {
        Err(at.error(&format!(
            "priorities must be used from 0 without a gap, got {got} and no {expected}"
        )))
    })
}

/// Endpoint `index` of its cluster; `seen` has the addresses of those before it.
fn endpoint(
    at: &Cursor<'_>,
    index: usize,
    seen: &mut HashMap<String, usize>,
) -> Result<StaticEndpoint, ConfigError> {
    let block = at.object(&["address", "weight", "priority", "locality", "metadata"])?;
    let given = block.required("address")?;
    let address = address(&given)?;
    if let Some(first) = seen.insert(address.clone(), index) {
        return Err(given.error(&format!(
            "must be unique in the cluster, got {} again (first in endpoints[{first}])",
            shown(&address)
        )));
    }
    let mut endpoint = StaticEndpoint {
        address,
        weight: raw::WEIGHT,
        priority: 0,
        locality: Locality::default(),
        metadata: Vec::new(),
    };
    if let Some(at) = block.get("weight") {
        endpoint.weight = at.whole_u32(&limits::WEIGHT)?;
    }
    if let Some(at) = block.get("priority") {
        endpoint.priority = at.whole_u32(&limits::PRIORITY)?;
    }
    if let Some(at) = block.get("locality") {
        let locality = at.object(&["region", "zone", "sub_zone"])?;
        for (key, part) in [
            ("region", &mut endpoint.locality.region),
            ("zone", &mut endpoint.locality.zone),
            ("sub_zone", &mut endpoint.locality.sub_zone),
        ] {
            if let Some(at) = locality.get(key) {
                *part = at.text(&(0..=*limits::NAME_BYTES.end()))?.into();
            }
        }
    }
    if let Some(at) = block.get("metadata") {
        endpoint.metadata = metadata(&at)?;
    }
    Ok(endpoint)
}

fn metadata(at: &Cursor<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut metadata = Vec::new();
    for entry in at.entries(&(0..=limits::METADATA_MAX))? {
        let (key, at) = entry?;
        if !limits::NAME_BYTES.contains(&key.len()) {
            let (least, most, got) =
                (limits::NAME_BYTES.start(), limits::NAME_BYTES.end(), key.len());
            return Err(at.error(&format!("key must be {least}..{most} bytes, got {got} bytes")));
        }
        metadata.push((key.into(), at.text(&(0..=*limits::NAME_BYTES.end()))?.into()));
    }
    metadata.sort_unstable();
    Ok(metadata)
}

/// An address in Envoy's spelling, which is the only one that its override policy finds.
fn address(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let text = at.text(&limits::NAME_BYTES)?;
    let remedy = match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => return Ok(address.to_string()),
        Ok(_) => "the port must be 1..65535",
        Err(_) => match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => "add the port",
            Ok(IpAddr::V6(_)) => "put the address in brackets and add the port",
            Err(_) => {
                "host names are not looked up; write IP addresses, or leave `membership` out and \
                 let Envoy's own cluster resolve the name"
            }
        },
    };
    Err(at.error(&format!("must be ip:port or [ipv6]:port, got {}: {remedy}", at.got())))
}
