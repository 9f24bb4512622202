//! Decisions out of a seed. Every number is drawn as 32 or 64 bits, so that a seed decides the same on
//! every machine.

/// A stream of decisions.
#[derive(Clone, Debug)]
pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    /// The stream of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Dice(fastrand::Rng::with_seed(seed))
    }

    /// 64 bits: the seed of something else.
    pub(crate) fn seed(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0.u32(..bound)
    }

    /// A number from `from` to `to`, both included.
    pub(crate) fn between(&mut self, from: u32, to: u32) -> u32 {
        self.0.u32(from..=to)
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    /// True with a probability of `per_256` in 256.
    pub(crate) fn chance(&mut self, per_256: u16) -> bool {
        // A sure thing draws nothing, so that a driver without a liberty is cheap.
        per_256 > 0 && (per_256 >= 256 || self.below(256) < u32::from(per_256))
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// An amount of any order of magnitude: below two to the power of `bits_max`, with each number of
    /// bits as likely as the others.
    pub(crate) fn magnitude(&mut self, bits_max: u32) -> u32 {
        let bits = self.below(bits_max + 1);
        self.below(1 << bits)
    }

    /// Any order of a few things.
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in 1..things.len() {
            let other = self.below(last as u32 + 1) as usize;
            things.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_same_everywhere() {
        let mut dice = Dice::new(7);
        let drawn: Vec<u32> = (0..6).map(|_| dice.below(1_000)).collect();
        assert_eq!(drawn, [439, 269, 402, 658, 975, 222]);
    }
}
