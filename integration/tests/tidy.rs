//! The shape of the repository: what a reviewer would otherwise have to look for every time.
//!
//! Each rule is a function from text to complaints, so that each can also be shown a bad sample
//! (module `samples`); the tests below them only walk the tree. README tables are compared with
//! the code they describe; a failing test prints the table that should be there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use outrigger_policy::config::FIELDS;
use outrigger_policy::metrics::{METRICS, Scope};

const CODE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// The stages of the policy, each with what it may use beside itself and the helpers.
const STAGES: [&str; 8] =
    ["config", "membership", "state", "pick", "attempt", "outcome", "metrics", "engine"];
const HELPERS: [&str; 4] = ["time", "rng", "hash", "rewrite"];

/// What the policy must not name, because its decisions must be repeatable.
const IMPURE: [&str; 12] = [
    "proxy_wasm",
    "std::time",
    "SystemTime",
    "Instant::now",
    "println!",
    "eprintln!",
    "log::",
    "std::fs",
    "std::env",
    "std::thread",
    "thread_local!",
    "static mut",
];

/// Beginnings of the headers that steer Envoy. Prefixes of whole families are no steering.
const STEERING: [&str; 5] = [
    "x-outrigger-endpoints",
    "x-envoy-retry",
    "x-envoy-max-retries",
    "x-envoy-upstream-rq",
    "x-envoy-hedge",
];

const STATS_TAG: &str = r"^wasmcustom\.outrigger\.(cluster\.(.*)\.)[a-z0-9_]+$";

/// First parts of a path that are built or fetched, so need not exist.
const MADE: [&str; 3] = ["dist", "target", ".cache"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A Rust file: its path inside the repository, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
            || name == "fake_host.rs"
    }
}

/// Every Rust file of the four packages.
fn sources() -> Vec<Source> {
    let root = root();
    let mut folders = vec![root.join("filter"), root.join("integration"), root.join("tools")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 30, "only {} files found: not the repository?", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn product_sources() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(|source| !source.is_test())
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// Fails with one line per complaint, each after the file's path.
fn expect_none(sources: impl Iterator<Item = Source>, rule: impl Fn(&str) -> Vec<String>) {
    let complaints: Vec<String> = sources
        .flat_map(|source| {
            let of_file = rule(&source.text).into_iter();
            of_file.map(move |complaint| format!("{}: {complaint}", source.path))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The part of a file before its inline tests.
fn without_tests(text: &str) -> &str {
    let starts = text.match_indices("#[cfg(test)]\nmod ");
    let mut inline = starts.filter(|(at, _)| {
        text.get(at + "#[cfg(test)]\n".len()..).unwrap().lines().next().unwrap().ends_with('{')
    });
    inline.next().map_or(text, |(at, _)| text.get(..at).unwrap())
}

/// Lines of code before the inline tests, without comments and blank lines.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = without_tests(text).lines();
    lines.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
}

fn long_file(text: &str) -> Vec<String> {
    let lines = code(text).count();
    let complaint = format!("{lines} lines of code, {CODE_LINES_MAX} at most");
    if lines > CODE_LINES_MAX { vec![complaint] } else { Vec::new() }
}

fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let modifier = |word: &str| {
        matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"") || word.starts_with("pub")
    };
    words.find(|word| !modifier(word)) == Some("fn")
}

fn long_functions(text: &str) -> Vec<String> {
    let lines: Vec<&str> = without_tests(text).lines().collect();
    let functions = lines.iter().enumerate().filter(|(_, line)| is_function(line));
    let mut complaints = Vec::new();
    for (start, line) in functions {
        let mut signature = lines[start..].iter();
        let ends_with =
            signature.find_map(|line| line.chars().last().filter(|c| "{};".contains(*c)));
        if ends_with == Some(';') {
            continue; // declared here, not written
        }
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == end).map_or(1, |at| at + 1);
        if length > FUNCTION_LINES_MAX {
            complaints.push(format!("{} is {length} lines long", line.trim()));
        }
    }
    complaints
}

fn wide_lines(text: &str) -> Vec<String> {
    let numbered = text.lines().enumerate();
    let wide = numbered.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    wide.map(|(at, line)| format!("line {} has {} columns", at + 1, line.chars().count())).collect()
}

fn without_module_doc(text: &str) -> Vec<String> {
    let missing = !text.starts_with("//!");
    missing
        .then(|| "does not start with `//!`: what, why this way, what not".into())
        .into_iter()
        .collect()
}

/// Lines of product code that hold one of these words.
fn naming(text: &str, words: &[&str]) -> Vec<String> {
    let bounded = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line.get(..at).unwrap().chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    };
    code(text)
        .filter(|line| words.iter().any(|word| bounded(line, word)))
        .map(|line| format!("names what it must not: {}", line.trim()))
        .collect()
}

fn unfinished(text: &str) -> Vec<String> {
    // Put together here, so that this file passes its own test.
    let marks =
        [concat!("FIX", "ME"), concat!("XX", "X"), concat!("db", "g!("), concat!("to", "do!(")];
    let found = text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark)));
    found.map(|line| format!("unfinished: {}", line.trim())).collect()
}

/// Modules that a text names by `crate::name` or `use crate::{name, ...}`.
fn modules_used(text: &str) -> Vec<String> {
    let all = code(text).collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (at, mark) in all.match_indices("crate::") {
        let rest = all.get(at + mark.len()..).unwrap();
        match rest.strip_prefix('{') {
            Some(group) => used.extend(top_level_names(group)),
            None => used.push(name_at_start(rest)),
        }
    }
    used
}

fn name_at_start(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names of `a::x, b::{y, z}, c}`.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut item, mut items) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {}
        }
        if depth == 0 && c != ',' {
            item.push(c);
        }
    }
    items.push(item);
    items.iter().map(|item| name_at_start(item.trim())).filter(|name| !name.is_empty()).collect()
}

/// What a module of the policy uses and may not.
fn out_of_order(module: &str, text: &str) -> Vec<String> {
    let rank = |name: &str| STAGES.iter().position(|stage| *stage == name);
    let allowed = |used: &str| match (rank(module), rank(used)) {
        (_, None) => !HELPERS.contains(&module) || HELPERS.contains(&used) || used == module,
        (None, Some(_)) => false,
        (Some(own), Some(other)) => other <= own,
    };
    let used = modules_used(text).into_iter().filter(|used| !allowed(used));
    used.map(|used| format!("{module} must not use {used}")).collect()
}

/// Paths in backticks that point into the repository.
fn paths_named(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for line in text.lines() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let first = quoted.split('/').next().unwrap();
            let known =
                root().join(first).exists() || quoted.split('.').nth(1).is_some_and(is_kind);
            let outside = quoted.starts_with('/') || MADE.contains(&first);
            if quoted.contains('/') && quoted.chars().all(plain) && known && !outside {
                paths.push(quoted.to_owned());
            }
        }
    }
    paths
}

fn is_kind(extension: &str) -> bool {
    matches!(extension, "rs" | "toml" | "yaml" | "yml" | "json" | "md" | "sh" | "py")
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let rule = vec!["---".to_owned(); header.len()];
    [header, rule].into_iter().chain(rows).map(|cells| line(&cells)).collect()
}

fn quoted(text: &str) -> String {
    format!("`{text}`")
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn metrics_table() -> String {
    let rows = METRICS.iter().map(|metric| {
        let place = match metric.scope {
            Scope::Process => String::new(),
            Scope::Cluster => "cluster.<cluster>.".to_owned(),
        };
        let name = quoted(&format!("wasmcustom.outrigger.{place}{}", metric.name));
        vec![name, format!("{:?}", metric.kind).to_lowercase(), escaped(metric.help)]
    });
    table(&["metric", "kind", "meaning"], rows)
}

fn config_table() -> String {
    let rows = FIELDS.iter().map(|field| {
        let (path, default) = (quoted(field.path), quoted(field.default));
        vec![path, escaped(&default), escaped(field.range), escaped(field.meaning)]
    });
    table(&["field", "default", "range", "meaning"], rows)
}

#[test]
fn no_file_of_the_product_is_longer_than_its_limit() {
    expect_none(product_sources(), long_file);
}

#[test]
fn no_function_is_longer_than_its_limit() {
    expect_none(product_sources(), long_functions);
}

#[test]
fn no_line_is_wider_than_a_page() {
    expect_none(sources().into_iter(), wide_lines);
}

#[test]
fn every_module_says_first_what_it_is() {
    expect_none(product_sources(), without_module_doc);
}

#[test]
fn nothing_is_left_unfinished() {
    expect_none(sources().into_iter(), unfinished);
}

#[test]
fn only_the_host_module_names_host_calls() {
    let filter = product_sources()
        .filter(|source| source.path.starts_with("filter/") && source.path != "filter/src/host.rs");
    expect_none(filter, |text| naming(text, &["hostcalls", "wasm_import_module"]));
}

#[test]
fn only_the_apply_module_names_the_headers_that_steer_envoy() {
    let filter = product_sources().filter(|source| {
        source.path.starts_with("filter/") && source.path != "filter/src/apply.rs"
    });
    expect_none(filter, |text| naming(text, &STEERING));
}

#[test]
fn the_policy_names_no_clock_no_output_and_no_proxy_wasm() {
    let policy = product_sources().filter(|source| source.path.starts_with("filter/policy/src/"));
    expect_none(policy, |text| naming(text, &IMPURE));
}

#[test]
fn a_stage_of_the_policy_uses_only_the_stages_before_it() {
    let stage = |path: &str| {
        let inside = path.strip_prefix("filter/policy/src/")?;
        Some(inside.split(['/', '.']).next()?.to_owned()).filter(|name| name != "lib")
    };
    let complaints: Vec<String> = product_sources()
        .filter_map(|source| Some((stage(&source.path)?, source)))
        .flat_map(|(module, source)| out_of_order(&module, &source.text))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_module_of_the_policy_is_a_stage_or_a_helper() {
    for entry in fs::read_dir(root().join("filter/policy/src")).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let known = STAGES.contains(&name) || HELPERS.contains(&name) || name == "lib";
        assert!(known, "{name}: give it a place in STAGES or HELPERS");
    }
}

#[test]
fn every_path_that_the_readme_names_exists() {
    let paths = paths_named(&readme());
    let missing: Vec<&String> = paths.iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_has_the_table_of_metrics_as_the_code_has_it() {
    let table = metrics_table();
    assert!(readme().contains(&table), "README.md needs exactly this table:\n{table}");
}

#[test]
fn the_readme_has_the_table_of_the_configuration_as_the_code_has_it() {
    let table = config_table();
    assert!(readme().contains(&table), "README.md needs exactly this table:\n{table}");
}

#[test]
fn every_shipped_bootstrap_of_the_plugin_tags_its_metrics() {
    let mut bootstraps = 0;
    for entry in fs::read_dir(root().join("envoy")).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("static_resources") && text.contains("outrigger_admin") {
            bootstraps += 1;
            assert!(text.contains(STATS_TAG), "{} lacks the stats tag", entry.path().display());
        }
    }
    assert!(bootstraps > 0, "no bootstrap with the plugin in envoy/");
}

/// Every rule is shown something that it must not accept.
mod samples {
    use super::*;

    #[test]
    fn comments_blank_lines_and_inline_tests_are_no_code() {
        let text = "//! doc\n\nfn a() {}\n// why\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(code(text).collect::<Vec<_>>(), ["fn a() {}"]);
        let elsewhere = "#[cfg(test)]\nmod tests;\nfn a() {}\n";
        assert_eq!(code(elsewhere).count(), 3);
    }

    #[test]
    fn a_file_over_the_limit_is_found() {
        assert!(long_file(&"let a = 1;\n".repeat(CODE_LINES_MAX)).is_empty());
        assert_eq!(long_file(&"let a = 1;\n".repeat(CODE_LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_function_over_the_limit_is_found_and_its_neighbours_are_not() {
        let function = |name: &str, body: usize| {
            format!("    pub(crate) const fn {name}() {{\n{}    }}\n", "        a;\n".repeat(body))
        };
        let declared = format!("        fn declared(a: u8);\n{}", "        a;\n".repeat(80));
        assert!(long_functions(&format!("extern {{\n{declared}}}\n")).is_empty());
        let text = function("short", 68) + &function("long", 69);
        let complaints = long_functions(&text);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("fn long() { is 71"), "{complaints:?}");
    }

    #[test]
    fn a_wide_line_is_found_by_characters_not_bytes() {
        assert!(wide_lines(&"é".repeat(COLUMNS_MAX)).is_empty());
        assert_eq!(wide_lines(&"e".repeat(COLUMNS_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_module_without_a_doc_is_found() {
        assert!(without_module_doc("//! What.\n").is_empty());
        assert_eq!(without_module_doc("use std::fs;\n").len(), 1);
    }

    #[test]
    fn a_forbidden_name_is_found_in_code_but_not_in_comments_or_longer_words() {
        assert_eq!(naming("let a = std::time::Instant::now();", &IMPURE).len(), 1);
        assert_eq!(naming("log::info!(\"x\");", &IMPURE).len(), 1);
        assert!(naming("// std::time is not used\ncatalog::read();", &IMPURE).is_empty());
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(unfinished(&format!("// {}: later", concat!("FIX", "ME"))).len(), 1);
        assert_eq!(unfinished(concat!("to", "do!()")).len(), 1);
    }

    #[test]
    fn a_later_stage_is_found_however_it_is_named() {
        for text in [
            "use crate::outcome::Outcome;",
            "use crate::{\n    config::Config,\n    outcome::{Outcome, feedback},\n};",
            "fn a(b: &crate::engine::Engine) {}",
        ] {
            assert_eq!(out_of_order("pick", text).len(), 1, "{text}");
        }
        assert!(out_of_order("pick", "use crate::{state::{Table, x}, time::Instant};").is_empty());
        assert_eq!(out_of_order("time", "use crate::config::Config;").len(), 1);
    }

    #[test]
    fn tests_may_use_any_stage() {
        let text = "#[cfg(test)]\nmod tests {\n    use crate::engine::Engine;\n}\n";
        assert!(out_of_order("pick", text).is_empty());
    }

    #[test]
    fn paths_are_told_from_other_quoted_text() {
        let text =
            "`integration/src/nope.rs`, `GET /clusters`, `dist/outrigger.wasm`, `a/b`, `/tmp/x.rs`";
        assert_eq!(paths_named(text), ["integration/src/nope.rs"]);
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let rows = [vec!["`x`".to_owned(), escaped("a|b")]];
        let text = table(&["name", "meaning"], rows.into_iter());
        assert_eq!(text, "| name | meaning |\n| --- | --- |\n| `x` | a\\|b |\n");
        assert_eq!(metrics_table().lines().count(), METRICS.len() + 2);
        assert_eq!(config_table().lines().count(), FIELDS.len() + 2);
    }
}
