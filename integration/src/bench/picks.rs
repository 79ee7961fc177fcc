//! Reads what criterion measured: our picks by themselves (`cargo bench -p outrigger-policy --bench
//! pick`), and beside other implementations (`integration/peers`).

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::report::{Peer, Pick};

/// What our own rows are called beside others.
const OURS: &str = "outrigger";

/// Rows of `<folder>/<policy>/<endpoints>/new/estimates.json`, by policy, then size; none when
/// the picks were never measured.
pub(super) fn read(folder: &Path) -> Vec<Pick> {
    let mut picks: Vec<Pick> = names(folder)
        .iter()
        .flat_map(|policy| {
            let of_policy = folder.join(policy);
            let pick = |size: &String| {
                let ns = median_ns(&of_policy.join(size))?;
                Some(Pick { policy: policy.clone(), endpoints: size.parse().ok()?, ns, peer: None })
            };
            names(&of_policy).iter().filter_map(pick).collect::<Vec<_>>()
        })
        .collect();
    picks.sort_by(|a, b| (&a.policy, a.endpoints).cmp(&(&b.policy, b.endpoints)));
    picks
}

/// Rows of `<folder>/<policy>/<implementation>/<endpoints>/new/estimates.json`: one for each peer
/// and size, with what ours took for the same job in the same run.
pub(super) fn read_peers(folder: &Path) -> Vec<Pick> {
    let mut picks = Vec::new();
    for policy in names(folder) {
        let of_policy = folder.join(&policy);
        for name in names(&of_policy).into_iter().filter(|name| name != OURS) {
            let pick = |size: &String| {
                let ns = median_ns(&of_policy.join(OURS).join(size))?;
                let peer =
                    Peer { name: name.clone(), ns: median_ns(&of_policy.join(&name).join(size))? };
                let endpoints = size.parse().ok()?;
                Some(Pick { policy: policy.clone(), endpoints, ns, peer: Some(peer) })
            };
            picks.extend(names(&of_policy.join(&name)).iter().filter_map(pick));
        }
    }
    let peer = |pick: &Pick| pick.peer.as_ref().map(|peer| peer.name.clone());
    picks.sort_by_key(|pick| (pick.policy.clone(), peer(pick), pick.endpoints));
    picks
}

fn median_ns(folder: &Path) -> Option<f64> {
    let estimates = fs::read(folder.join("new/estimates.json")).ok()?;
    let estimates: Value = serde_json::from_slice(&estimates).ok()?;
    estimates.pointer("/median/point_estimate")?.as_f64()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(folder: &Path, name: &str, ns: f64) {
        let new = folder.join(name).join("new");
        fs::create_dir_all(&new).unwrap();
        let text = format!("{{\"median\":{{\"point_estimate\":{ns}}}}}");
        fs::write(new.join("estimates.json"), text).unwrap();
    }

    #[test]
    fn a_peer_stands_beside_what_ours_took_for_the_same_job() {
        let folder = tempfile::tempdir().unwrap();
        for (name, ns) in
            [("m/outrigger/10", 1.0), ("m/a/10", 3.0), ("m/b/10", 2.0), ("m/b/9", 4.0)]
        {
            estimate(folder.path(), name, ns);
        }
        let rows: Vec<_> =
            read_peers(folder.path()).into_iter().map(|p| (p.ns, p.peer.unwrap().name)).collect();
        assert_eq!(rows, [(1.0, "a".to_owned()), (1.0, "b".to_owned())]);
    }

    #[test]
    fn picks_are_sorted_and_folders_that_are_no_sizes_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (name, ns) in [("maglev/1000", 20.5), ("maglev/10", 10.0), ("report/index", 1.0)] {
            estimate(folder.path(), name, ns);
        }
        let picks = read(folder.path());
        assert_eq!(picks.iter().map(|pick| pick.endpoints).collect::<Vec<_>>(), [10, 1000]);
        assert!((picks[1].ns - 20.5).abs() < 1e-9);
        assert!(read(&folder.path().join("none")).is_empty());
    }
}
