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

/// Longest level 2 endpoint name, group, topic or pattern, in bytes of UTF-8.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Longest string `id` by which a repetition of a message is recognised, in bytes.
pub const DEDUP_ID_BYTES_MAX: usize = 255;

/// A message that was passed on automatically more often than this is taken to run in circles.
pub const HOPS_MAX: u32 = 16;

/// Longest time to live; a longer one counts as this: ten years.
pub const TTL_MAX: core::time::Duration = core::time::Duration::from_secs(10 * 365 * 24 * 3600);

/// Most bytes of JSON in the `meta` of a session.
pub const META_BYTES_MAX: usize = 4 * 1024;

/// How much larger than [`PAYLOAD_BYTES_MAX`] a message to a level 2 session may be, for the fields
/// that the bus adds.
pub const ADDED_BYTES_MAX: usize = 64 * 1024;

/// Messages that an acknowledging session takes at a time where it does not say.
pub const IN_FLIGHT_DEFAULT: u32 = 64;

/// Most that it may ask for.
pub const IN_FLIGHT_MAX: u32 = 65_536;

/// Most groups, and most patterns, that one endpoint may hold.
pub const SUBSCRIPTIONS_MAX: usize = 1_024;

/// Most messages that one `ack` may list: as many as a session may have unacknowledged.
pub const ACK_ENTRIES_MAX: usize = IN_FLIGHT_MAX as usize;

/// Longest `reason` of a `nack`, in bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 4 * 1024;

/// Longest `req` that an answer repeats, and longest `id` of a `trace`, in bytes of JSON.
pub const ECHOED_BYTES_MAX: usize = 64 * 1024;
