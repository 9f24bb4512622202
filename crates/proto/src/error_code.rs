//! The one table of error codes: it makes the enum, the words on the wire and the documentation.

/// Makes the enum, its wire names and [`ErrorCode::ALL`] from one table.
macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $wire:literal,)+) => {
        /// Why the bus refused something, as the `code` of an `error` frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl ErrorCode {
            /// Every code with its meaning, in the order of the documentation.
            pub const ALL: &'static [(ErrorCode, &'static str)] =
                &[$((ErrorCode::$variant, concat!($($doc),+)),)+];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $wire,)+ }
            }
        }
    };
}

error_codes! {
    /// No endpoint of that name is connected, and nobody came back for it.
    EndpointNotFound = "endpoint_not_found",
    /// Not JSON that Python's `json` module reads: syntax, UTF-8, nesting or digits. The connection is closed.
    InvalidJson = "invalid_json",
    /// A frame without content, or JSON that is not an object. The connection is closed.
    InvalidFrame = "invalid_frame",
    /// A field of the wrong type or out of range; the detail names it.
    InvalidField = "invalid_field",
    /// A `type` that the bus does not know (level 2 only; level 1 ignores it).
    UnknownType = "unknown_type",
    /// A frame over 10 MiB, or one that would be over it with the fields that the bus adds.
    FrameTooLarge = "frame_too_large",
    /// The request needs a registered session of level 2.
    NotRegistered = "not_registered",
    /// The name is in use, and the session asked not to replace its holder.
    NameTaken = "name_taken",
    /// The name cannot be an endpoint's name.
    NameInvalid = "name_invalid",
    /// The peer may not do this.
    Forbidden = "forbidden",
    /// The name is not for this user: it is protected and the token is missing or wrong, or what waits for it is another user's.
    Unauthorized = "unauthorized",
    /// The receiver's mailbox is over its quota.
    MailboxFull = "mailbox_full",
    /// A queue or quota is full; the detail says whose.
    OverLimit = "over_limit",
    /// The message's time to live ran out.
    Expired = "expired",
    /// The receiver refused the message for good, or the daemon an `admin` request; the detail says why.
    Rejected = "rejected",
    /// Delivered too often without being acknowledged.
    DeliveriesExceeded = "deliveries_exceeded",
    /// The receiver went away without acknowledging, and has no mailbox.
    ReceiverGone = "receiver_gone",
    /// The receipt asked for cannot be given by this receiver.
    ReceiptImpossible = "receipt_impossible",
    /// Forwarded too often: a loop.
    HopsExceeded = "hops_exceeded",
    /// The disk cannot take the message now.
    StoreUnavailable = "store_unavailable",
    /// The bus is going down.
    ShuttingDown = "shutting_down",
}

impl core::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_document_lists_every_code_with_its_meaning() {
        let document =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PROTOCOL.md"))
                .expect("docs/PROTOCOL.md stands beside the crates");
        for (code, meaning) in ErrorCode::ALL {
            let row = format!("| `{code}` | {} |", meaning.trim());
            assert!(document.contains(&row), "docs/PROTOCOL.md lacks the row:\n{row}");
        }
    }
}
