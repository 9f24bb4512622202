//! Places of events in a script, as people write them: `3,17-20,44`.

use std::fmt;
use std::str::FromStr;

/// Places in a script, rising, none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<usize>);

/// Why a text is no list of places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlaces(String);

impl std::error::Error for NoPlaces {}

impl fmt::Display for NoPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no list of rising places such as 3,17-20,44, or \"none\"", self.0)
    }
}

/// A script that fails without any event.
const NONE: &str = "none";
/// No script is so long. A range may not use up the memory.
const PLACE_MAX: usize = 100_000_000;

impl Places {
    /// The places.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl FromIterator<usize> for Places {
    fn from_iter<I: IntoIterator<Item = usize>>(places: I) -> Self {
        let mut places: Vec<usize> = places.into_iter().collect();
        places.sort_unstable();
        places.dedup();
        Places(places)
    }
}

impl FromStr for Places {
    type Err = NoPlaces;

    fn from_str(text: &str) -> Result<Self, NoPlaces> {
        let wrong = || NoPlaces(text.to_owned());
        if text == NONE {
            return Ok(Places::default());
        }
        let mut places: Vec<usize> = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) =
                (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
            let rises = places.last().is_none_or(|before| *before < first);
            if !rises || first > last || last > PLACE_MAX {
                return Err(wrong());
            }
            places.extend(first..=last);
        }
        Ok(Places(places))
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (number, range) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            match range {
                [first, .., last] => write!(f, "{first}-{last}")?,
                [only] => write!(f, "{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        for (places, shown) in [
            (vec![], "none"),
            (vec![0], "0"),
            (vec![3, 17, 18, 19, 20, 44], "3,17-20,44"),
            (vec![0, 1, 3, 4], "0-1,3-4"),
        ] {
            let places: Places = places.into_iter().collect();
            assert_eq!(places.to_string(), shown);
            assert_eq!(shown.parse(), Ok(places));
        }
        let unsorted: Places = [5, 3, 5].into_iter().collect();
        assert_eq!(unsorted.as_slice(), [3, 5]);
    }

    #[test]
    fn nothing_else_is_a_list_of_places() {
        for wrong in ["", ",", "1,", "a", "-1", "3-", "5-3", "3,3", "4,3", "1-3,2", "0-99999999999"]
        {
            assert!(wrong.parse::<Places>().is_err(), "{wrong:?}");
        }
    }
}
