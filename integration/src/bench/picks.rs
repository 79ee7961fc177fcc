//! Reads what criterion measured in `cargo bench -p outrigger-policy --bench pick`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::report::Pick;

/// Rows of `<folder>/<policy>/<endpoints>/new/estimates.json`, by policy, then size; none when
/// the picks were never measured.
pub(super) fn read(folder: &Path) -> Vec<Pick> {
    let mut picks: Vec<Pick> = names(folder)
        .iter()
        .flat_map(|policy| {
            let sizes = names(&folder.join(policy));
            sizes.into_iter().filter_map(|size| pick(folder, policy, &size)).collect::<Vec<_>>()
        })
        .collect();
    picks.sort_by(|a, b| (&a.policy, a.endpoints).cmp(&(&b.policy, b.endpoints)));
    picks
}

fn pick(folder: &Path, policy: &str, size: &str) -> Option<Pick> {
    let path = folder.join(policy).join(size).join("new/estimates.json");
    let estimates: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let ns = estimates.pointer("/median/point_estimate")?.as_f64()?;
    Some(Pick { policy: policy.to_owned(), endpoints: size.parse().ok()?, ns, peer: None })
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_sorted_and_folders_that_are_no_sizes_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (name, ns) in [("maglev/1000", 20.5), ("maglev/10", 10.0), ("report/index", 1.0)] {
            let new = folder.path().join(name).join("new");
            fs::create_dir_all(&new).unwrap();
            let text = format!("{{\"median\":{{\"point_estimate\":{ns}}}}}");
            fs::write(new.join("estimates.json"), text).unwrap();
        }
        let picks = read(folder.path());
        assert_eq!(picks.iter().map(|pick| pick.endpoints).collect::<Vec<_>>(), [10, 1000]);
        assert!((picks[1].ns - 20.5).abs() < 1e-9);
        assert!(read(&folder.path().join("none")).is_empty());
    }
}
