//! Where the plugin's instructions go: how often Envoy and the plugin call each other per request.
//!
//! Envoy writes a line for each such call at trace level. Counts are exact; what one call costs is
//! in the README's table.

use std::collections::BTreeMap;

use anyhow::Result;

use super::load;
use super::machine::Machine;

const WARM_UP: u32 = 200;
const REQUESTS: u32 = 400;

/// Calls per request by name: `proxy_on_...` enter the plugin, other names leave it. Calls of
/// ticks and polls that fall into the time of the load are in it, as fractions.
pub(super) fn per_request(machine: &Machine, authority: &str) -> Result<BTreeMap<String, f64>> {
    load::run(machine.entry, authority, WARM_UP)?;
    let before = count(&machine.log());
    load::run(machine.entry, authority, REQUESTS)?;
    let after = count(&machine.log());
    let per_request = after.into_iter().map(|(name, total)| {
        let calls = total.saturating_sub(before.get(&name).copied().unwrap_or(0));
        (name, f64::from(calls) / f64::from(REQUESTS))
    });
    Ok(per_request.filter(|(_, calls)| *calls >= 0.01).collect())
}

fn count(log: &str) -> BTreeMap<String, u32> {
    let mut calls = BTreeMap::new();
    for line in log.lines() {
        let direction = ["[host->vm] ", "[vm->host] "];
        let Some(call) = direction.iter().find_map(|mark| line.split_once(mark)) else {
            continue;
        };
        // A call is logged again when it returns.
        let Some((name, _)) = call.1.split_once('(') else {
            continue;
        };
        let name = name.rsplit('.').next().unwrap_or(name);
        if !call.1.contains("return") {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once_and_returns_not_at_all() {
        let log = "[t] [host->vm] proxy_on_log(2)\n\
                   [t] [vm->host] env.proxy_set_metric(1, 2)\n\
                   [t] [vm<-host] env.proxy_set_metric return: 0\n\
                   [t] [host<-vm] proxy_on_log return: void\n\
                   [t] something else (1)\n";
        let calls = count(log);
        assert_eq!(calls.len(), 2);
        assert_eq!(calls["proxy_on_log"], 1);
        assert_eq!(calls["proxy_set_metric"], 1);
    }
}
