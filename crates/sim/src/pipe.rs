//! One direction of a socket: a bounded buffer.
