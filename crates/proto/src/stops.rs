//! Where a JSON string may end, for 64 bytes at a time: one bit for each quote, backslash and control
//! character.
//!
//! Envelopes are many short strings, so the bits of a block are found once and then serve every string in
//! it. A long string goes on in whole blocks, of which only is asked whether anything stops in them. Both
//! also say whether they have seen anything but ASCII, which saves a pass over the text.

use wide::u8x16;

/// How many bytes are looked at together.
pub(crate) const BLOCK_BYTES: usize = 64;
/// How many of them fit into one register, on every processor with vectors.
const LANE_BYTES: usize = 16;

/// What is known of a block.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// Bit `i` is set where byte `i` ends a plain run.
    pub(crate) stops: u64,
    /// Whether every byte is ASCII.
    pub(crate) is_ascii: bool,
}

/// Looks at the block of `text` that begins at `start`. Behind the end of the text every byte is a stop.
#[inline]
pub(crate) fn block(text: &[u8], start: usize) -> Block {
    match text[start..].first_chunk() {
        Some(whole) => whole_block(whole),
        None => last_block(&text[start..]),
    }
}

#[inline]
fn last_block(rest: &[u8]) -> Block {
    // 0 is a control character.
    let mut padded = [0; BLOCK_BYTES];
    padded[..rest.len()].copy_from_slice(rest);
    whole_block(&padded)
}

#[inline(always)]
fn whole_block(block: &[u8; BLOCK_BYTES]) -> Block {
    let lanes = lanes(block);
    let bits = lanes.map(|lane| u64::from(stops(lane).to_bitmask()));
    Block {
        stops: bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48,
        is_ascii: is_ascii(any(lanes)),
    }
}

/// The first place from `at` on where no whole block without a stop begins, and whether everything before
/// it is ASCII.
#[inline]
pub(crate) fn pass_plain_blocks(text: &[u8], mut at: usize) -> (usize, bool) {
    let mut seen = u8x16::default();
    let (blocks, _) = text[at..].as_chunks();
    for block in blocks {
        let lanes = lanes(block);
        if any(lanes.map(stops)).to_bitmask() != 0 {
            break;
        }
        seen |= any(lanes);
        at += BLOCK_BYTES;
    }
    (at, is_ascii(seen))
}

#[inline(always)]
fn lanes(block: &[u8; BLOCK_BYTES]) -> [u8x16; BLOCK_BYTES / LANE_BYTES] {
    let (lanes, _) = block.as_chunks::<LANE_BYTES>();
    core::array::from_fn(|i| u8x16::new(lanes[i]))
}

/// All bits of a byte are set where it is a quote, a backslash or a control character.
#[inline(always)]
fn stops(lane: u8x16) -> u8x16 {
    // A quote becomes 0x20, and what is below that stays below.
    let low = lane ^ u8x16::splat(b'"' ^ b' ');
    let is_low = low.min(u8x16::splat(b' ')).simd_eq(low);
    is_low | lane.simd_eq(u8x16::splat(b'\\'))
}

#[inline(always)]
fn any([a, b, c, d]: [u8x16; BLOCK_BYTES / LANE_BYTES]) -> u8x16 {
    (a | b) | (c | d)
}

#[inline(always)]
fn is_ascii(bytes: u8x16) -> bool {
    bytes.to_bitmask() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_stop(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    /// Every byte in every place, beside neighbours of all kinds.
    #[test]
    fn each_stop_has_its_bit_and_nothing_else_has() {
        for neighbour in [b'x', b'"', b'\\', 0x00, 0x1f, 0x20, 0x7f, 0x80, 0xff] {
            for byte in 0..=u8::MAX {
                for place in 0..BLOCK_BYTES {
                    let mut text = [neighbour; BLOCK_BYTES];
                    text[place] = byte;
                    let bit = |i: usize| u64::from(is_stop(text[i])) << i;
                    let expected = (0..BLOCK_BYTES).fold(0, |bits, i| bits | bit(i));
                    let found = block(&text, 0);
                    assert_eq!(found.stops, expected, "{byte:#x} at {place} in {neighbour:#x}");
                    assert_eq!(found.is_ascii, text.is_ascii());
                }
            }
        }
    }

    #[test]
    fn behind_the_end_of_a_text_everything_stops() {
        for length in 0..BLOCK_BYTES {
            let found = block(&[b'x'; BLOCK_BYTES][..length], 0);
            assert_eq!(found.stops, u64::MAX << length, "{length} bytes");
            assert!(found.is_ascii);
        }
        assert_eq!(block(b"x", 1).stops, u64::MAX, "at the very end");
    }

    #[test]
    fn plain_blocks_are_passed_up_to_the_one_that_has_a_stop() {
        let plain = [b'x'; 5 * BLOCK_BYTES + 7];
        for at in [0, 1, BLOCK_BYTES, 5 * BLOCK_BYTES + 7] {
            let whole = (plain.len() - at) / BLOCK_BYTES * BLOCK_BYTES;
            assert_eq!(pass_plain_blocks(&plain, at), (at + whole, true));
        }
        for place in 0..5 * BLOCK_BYTES {
            for byte in [b'"', b'\\', 0x1f] {
                let mut text = plain;
                text[place] = byte;
                let until = place / BLOCK_BYTES * BLOCK_BYTES;
                assert_eq!(pass_plain_blocks(&text, 0), (until, true));
            }
            let mut text = plain;
            text[place] = 0xe4;
            assert_eq!(pass_plain_blocks(&text, 0), (5 * BLOCK_BYTES, false));
        }
    }
}
