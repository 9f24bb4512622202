//! Every limit of the wire. Sources: the published protocol (payload size) and what the Python
//! `json` module of released clients can read (nesting, digits), measured on CPython 3.11.

/// Bytes of a frame's header: the payload's length, big-endian.
pub const HEADER_BYTES: usize = 4;

/// Most bytes of JSON in one frame (10 MiB), in both directions on level 1.
pub const PAYLOAD_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Deepest nesting of arrays and objects, the frame's own object included. CPython's parser gives
/// up at about 990 levels, depending on how deep its caller already is.
pub const NESTING_MAX: usize = 950;

/// Most digits of an integer. CPython refuses to read longer ones (`sys.get_int_max_str_digits`).
pub const INTEGER_DIGITS_MAX: usize = 4_300;

/// Longest level 1 endpoint name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 8 * 1024;

/// Names that begin like this belong to the bus itself.
pub const RESERVED_NAME_PREFIX: &str = "bus.";
