use super::*;

#[test]
fn the_same_script_plays_the_same() {
    for seed in 0..12 {
        let script = Script::draw(seed, 150);
        assert_eq!(play(&script), play(&script), "seed {seed}");
    }
}
