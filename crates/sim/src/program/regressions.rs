//! Runs that failed once, from `seeds.txt`: they are played before all others.

use anyhow::{Context, ensure};

use super::{Places, Run, World};

const LIST: &str = include_str!("../../seeds.txt");

/// What the lines of the durable world begin with.
const DURABLE: &str = "durable ";

/// Every run of the list that is of this world.
pub(super) fn all(world: World) -> anyhow::Result<Vec<Run>> {
    read(LIST, world)
}

/// A line is `[durable] seed steps [places]  # what it showed`.
fn read(list: &str, world: World) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for (number, line) in list.lines().enumerate() {
        let (numbers, what) = line.split_once('#').unwrap_or((line, ""));
        if numbers.trim().is_empty() {
            continue;
        }
        let of_durable = numbers.trim_start().strip_prefix(DURABLE);
        let of = if of_durable.is_some() { World::Durable } else { World::Live };
        let run = one(of_durable.unwrap_or(numbers))
            .with_context(|| format!("line {}: {line:?}", number + 1))?;
        ensure!(!what.trim().is_empty(), "line {} does not say what the run showed", number + 1);
        runs.extend(Some(run).filter(|_| of == world));
    }
    Ok(runs)
}

fn one(numbers: &str) -> anyhow::Result<Run> {
    let mut words = numbers.split_whitespace();
    let seed = words.next().context("the seed is missing")?.parse().context("the seed")?;
    let steps = words.next().context("the number of events is missing")?;
    let steps: usize = steps.parse().context("the number of events")?;
    let only: Option<Places> = words.next().map(str::parse).transpose()?;
    let last = only.as_ref().and_then(|places| places.as_slice().last());
    ensure!(last.is_none_or(|place| *place < steps), "a place is beyond the number of events");
    ensure!(words.next().is_none(), "there is more than a seed, a number and a list of places");
    Ok(Run { seed, steps, only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_the_crate_can_be_read() {
        all(World::Live).unwrap();
        all(World::Durable).unwrap();
    }

    #[test]
    fn a_line_is_a_run_and_says_what_it_showed() {
        let list = "# a comment\n\n7 1000  # one\n 18446744073709551615 30 3,5-6 # two\n";
        let only = Some([3, 5, 6].into_iter().collect());
        let expected =
            [Run { seed: 7, steps: 1000, only: None }, Run { seed: u64::MAX, steps: 30, only }];
        assert_eq!(read(list, World::Live).unwrap(), expected);
        let list = format!("{list} durable 9 10 # three\n");
        assert_eq!(read(&list, World::Live).unwrap(), expected);
        let of_durable = [Run { seed: 9, steps: 10, only: None }];
        assert_eq!(read(&list, World::Durable).unwrap(), of_durable);
        for wrong in
            ["7 1000", "7 # x", "x 3 # x", "7 -3 # x", "7 3 5-4 # x", "7 3 1 1 # x", "7 3 3 # x"]
        {
            let error =
                format!("{:#}", read(&format!("# fine\n{wrong}\n"), World::Live).unwrap_err());
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
