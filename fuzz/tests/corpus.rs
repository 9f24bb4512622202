//! Every input that is kept goes through its target's check, without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hermes_bus_fuzz::TARGETS;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("a readable directory").path()).collect()
}

fn stems(directory: &Path) -> BTreeSet<String> {
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    entries(directory).into_iter().map(stem).collect()
}

#[test]
fn the_corpus_passes() {
    for (target, check) in TARGETS {
        let inputs = entries(&directory("corpus").join(target));
        assert!(inputs.len() >= 4, "{target} has too few inputs");
        for input in inputs {
            // What fails says what failed; this says with which input.
            println!("{}", input.display());
            check(&fs::read(&input).expect("a readable input"));
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: BTreeSet<String> =
        TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(stems(&directory("fuzz_targets")), targets);
    assert_eq!(stems(&directory("corpus")), targets);
}
