//! How inputs stand for documents.
//!
//! An input that begins with `FE` is a row of choices for [`grammar`]. Any other is a text, with a way to
//! write long ones in few bytes, so that limits of hundreds of levels and thousands of digits are one
//! mutation away.
//!
//! `FF`, a number of repetitions (two bytes, big-endian), the length of a piece (one byte, its lower
//! four bits count), the piece: the piece that many times. Every other byte stands for itself. The
//! two bytes were chosen because no valid document holds them; eleven others that break UTF-8 are left.

use crate::grammar;

const CHOICES: u8 = 0xfe;
const REPEAT: u8 = 0xff;

/// Most bytes that an input may stand for: what is longer is cut.
const EXPANDED_BYTES_MAX: usize = 16 * 1024;

/// The document that `input` stands for.
pub(crate) fn document(input: &[u8]) -> Vec<u8> {
    match input {
        [CHOICES, choices @ ..] => grammar::document(choices),
        text => expand(text),
    }
}

/// Writes out the repetitions in `input`. What is left of one that is cut off stands for nothing.
pub(crate) fn expand(mut input: &[u8]) -> Vec<u8> {
    let mut expanded = Vec::with_capacity(input.len());
    while let Some(at) = input.iter().position(|byte| *byte == REPEAT) {
        expanded.extend_from_slice(&input[..at]);
        input = &input[at + 1..];
        let Some((&[high, low, length], rest)) = input.split_first_chunk() else {
            input = &[];
            break;
        };
        let (piece, rest) = rest.split_at(usize::from(length & 0x0f).min(rest.len()));
        let room = EXPANDED_BYTES_MAX.saturating_sub(expanded.len());
        let fitting = room.checked_div(piece.len()).unwrap_or(0);
        let repetitions = usize::from(u16::from_be_bytes([high, low])).min(fitting);
        expanded.extend_from_slice(&piece.repeat(repetitions));
        input = rest;
    }
    expanded.extend_from_slice(input);
    expanded.truncate(EXPANDED_BYTES_MAX);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_written_out_and_the_rest_stands_for_itself() {
        assert_eq!(expand(b"a\xff\x00\x03\x02[,b"), b"a[,[,[,b");
        assert_eq!(expand(b"a\xff\x01\x00\xf1[]"), [&b"a"[..], &[b'['; 256], b"]"].concat());
        assert_eq!(expand(b"\xff\x00"), b"");
        assert_eq!(expand(b"x\xff\x00\x02\x05ab"), b"xabab");
        assert_eq!(expand(b"\xff\x00\x02\x00y"), b"y");
    }

    #[test]
    fn no_input_stands_for_more_than_the_limit() {
        let input = b"\xff\xff\xff\x0faaaaaaaaaaaaaaa".repeat(20);
        assert!((EXPANDED_BYTES_MAX - 15..=EXPANDED_BYTES_MAX).contains(&expand(&input).len()));
    }
}
