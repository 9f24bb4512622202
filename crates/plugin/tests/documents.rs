//! What the documents show as rules are rules.

use std::fs;

use hermes_bus_plugin::engine::Rulebook;

#[test]
fn the_examples_of_the_documents_are_without_a_mistake() {
    let mut examples = 0;
    for document in ["RULES.md", "BODY_TYPES.md"] {
        let path = format!("{}/../../docs/{document}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap();
        for example in text.split("```yaml\n").skip(1) {
            let example = example.split("```").next().unwrap();
            let rules =
                Rulebook::parse(example).unwrap_or_else(|mistakes| panic!("{path}: {mistakes:?}"));
            assert!(
                !rules.rules.is_empty() && rules.warnings.is_empty(),
                "{path}: {:?}",
                rules.warnings
            );
            examples += 1;
        }
    }
    assert_eq!(examples, 3);
}
