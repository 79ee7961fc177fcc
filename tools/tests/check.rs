//! `outrigger-tools check` as users run it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn check(files: &[PathBuf]) -> Output {
    let program = env!("CARGO_BIN_EXE_outrigger-tools");
    Command::new(program).arg("check").args(files).output().unwrap()
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_value_out_of_range_is_named_with_its_path() {
    let path = file(
        "range.json",
        r#"{"clusters": [{"name": "a", "retry": {"budget": {"percent": 250}}}]}"#,
    );
    let output = check(std::slice::from_ref(&path));
    assert_eq!(output.status.code(), Some(1));
    let line = printed(&output);
    let expected = "range.json: clusters[0].retry.budget.percent: must be 0..100, got 250";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn the_shipped_samples_are_good() {
    let samples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("samples");
    let files: Vec<PathBuf> =
        std::fs::read_dir(samples).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2);
    let output = check(&files);
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(printed(&output).matches(": ok (").count(), files.len());
}

#[test]
fn one_bad_file_fails_the_check_and_the_others_are_still_read() {
    let bad = file("bad.json", "{");
    let good = file("good.json", "{}");
    let missing = PathBuf::from("no/such/file.json");
    let output = check(&[bad, missing, good]);
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    assert_eq!(text.lines().count(), 3);
    assert!(text.contains("no/such/file.json: cannot read it: "), "{text}");
    assert!(text.contains("good.json: ok (no cluster named"), "{text}");
}
