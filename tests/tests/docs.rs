//! What the documents claim of the tests is true.

use anyhow::{Context, Result, ensure};
use coracle_tests::root;

/// Whether the file has a test of this name, or a promise of it from which a macro makes one for each
/// data plane.
fn has_test(source: &str, name: &str) -> bool {
    let promises = source.split("in_both_modes!(").skip(1).filter_map(|rest| rest.split_once(')'));
    if promises.into_iter().any(|(names, _)| names.split(',').any(|promise| promise.trim() == name)) {
        return true;
    }
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let starts = [format!("fn {name}("), format!("async fn {name}(")];
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at].iter().rev().take_while(|above| above.starts_with('#'));
        let is_test = |a: &&str| a.starts_with("#[test]") || a.starts_with("#[tokio::test");
        starts.iter().any(|start| line.starts_with(start)) && attributes.into_iter().any(is_test)
    })
}

#[test]
fn each_defect_of_2014_has_one_row_and_tests_that_exist() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/v1beta1-defects.md"))?;
    let mut numbers = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, _, proof] = cells[..] else { anyhow::bail!("not four cells: {row}") };
        let Ok(number) = number.parse::<usize>() else { continue };
        numbers.push(number);
        if proof.starts_with("not applicable: ") {
            continue;
        }
        let tests: Vec<&str> = proof.split('`').filter(|part| part.contains("::")).collect();
        ensure!(!tests.is_empty(), "no proof of {number}");
        for test in tests {
            let (path, name) = test.split_once("::").context("path::name")?;
            let source = std::fs::read_to_string(root().join(path)).with_context(|| format!("{number}: {path}"))?;
            ensure!(has_test(&source, name), "{number}: there is no test {name} in {path}");
        }
    }
    ensure!(numbers == Vec::from_iter(1..=32), "the defects of spec section 10, in order: {numbers:?}");
    Ok(())
}

#[test]
fn a_test_is_told_from_what_only_looks_like_one() {
    for (source, is) in [
        ("#[test]\nfn a() {", true),
        ("    #[tokio::test(start_paused = true)]\n    async fn a() {", true),
        ("#[test]\nfn a(bytes in any()) {", true),
        ("fn a() {", false),
        ("#[test]\nfn ab() {", false),
        ("#[test]\nfn b() {}\nfn a() {", false),
        ("// fn a()", false),
        ("in_both_modes!(b, a);", true),
        ("in_both_modes!(\n    ab,\n);\nfn a() {", false),
    ] {
        assert_eq!(has_test(source, "a"), is, "{source}");
    }
}
