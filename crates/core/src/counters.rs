//! What happened, counted: nothing is dropped or refused without a number going up here.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Every counter of the router, since it began.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Every counter with its name, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// What was counted since `earlier`, a look at the same router's counters.
            #[must_use]
            pub fn since(&self, earlier: &Counters) -> Counters {
                Counters { $($name: self.$name.wrapping_sub(earlier.$name)),+ }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections,
    /// Registrations that succeeded.
    registrations,
    /// Live sessions that lost their name to a newer one.
    replaced,
    /// Messages that the router took.
    messages,
    /// Bytes of their payloads.
    message_bytes,
    /// Messages written into a receiver's socket, one for each receiver.
    handed_over,
    /// Bytes of those frames.
    handed_over_bytes,
    /// Messages to everyone.
    broadcasts,
    /// Messages held for a name that was away for a moment.
    held,
    /// Held messages that went to the endpoint when it came back.
    held_delivered,
    /// Receipts given: those that senders have asked for, and courtesy receipts.
    receipts,
    /// Times that a sender was kept waiting: for a receiver's queue, or for the disk.
    sender_waits,
    /// Times that a sender was kept waiting because it sent more in a second than it may.
    pace_waits,
    /// Messages refused: no such endpoint.
    refused_endpoint_not_found,
    /// Messages refused: over 10 MiB with the fields that the bus adds.
    refused_frame_too_large,
    /// Connections ended for a frame that is no valid frame.
    refused_frames,
    /// Connections ended for a field of the wrong type, or a name that cannot be.
    refused_fields,
    /// Connections of users who may not connect.
    refused_users,
    /// Registrations refused: of a protected name without its token, by a user who is not its own; or of
    /// a name for which another user's messages wait.
    refused_unauthorized,
    /// Messages refused: their `from` was not the sender's own name, where that is demanded.
    refused_from,
    /// Requests refused that only the daemon's own user may make.
    refused_admin,
    /// Messages dropped: the receiver does not read, and its queue stayed full.
    dropped_receiver_stalled,
    /// Broadcasts dropped for one receiver: its queue was full.
    dropped_broadcast,
    /// Messages dropped: the receiver's session ended and nobody came back for its name.
    dropped_receiver_gone,
    /// Messages dropped: cut off in the middle when the receiver's connection ended.
    dropped_cut_off,
    /// Held messages dropped to make room for newer ones.
    dropped_held_overflow,
    /// Messages dropped: the disk did not take them, and nobody was told; and dead letters that were too
    /// much on their way to a disk that takes nothing.
    dropped_store_failed,
    /// Topics' messages dropped for a subscriber whose queue is full.
    dropped_topic,
    /// Messages not shown to somebody who looks on and does not read.
    dropped_tap,
    /// Endpoints that came or went while somebody who watches them left too much unread to hear of it.
    presence_left_out,
    /// Messages to topics.
    published,
    /// Messages that were to be kept on disk.
    kept,
    /// Messages that went to the disk because their receiver is slow.
    spilled,
    /// Messages whose writing the disk has confirmed.
    stored,
    /// Messages that a receiver has acknowledged.
    acked,
    /// Messages that a receiver has given back.
    nacked,
    /// Messages that went to another member of their group.
    rerouted,
    /// Messages that were sent again and recognised.
    repeated,
    /// Messages that were taken and then given up: expired, refused by the receiver, delivered too
    /// often, or their receiver gone. Whoever waited was told.
    given_up,
    /// Those of them whose time to live ran out.
    expired,
    /// Messages that the bus's owner removed.
    purged,
    /// Dead letters that were taken in once more.
    retried,
    /// Messages that became dead letters.
    dead_letters,
    /// Messages refused at the door for what they ask, or where they go.
    refused_messages,
    /// Messages refused: the receiver's mailbox is full.
    refused_mailbox_full,
    /// Messages refused: the disk cannot take them.
    refused_store_unavailable,
    /// Requests of level 2 sessions refused.
    refused_requests,
    /// Registrations refused because the name was in use.
    refused_name_taken,
    /// Frames with a `type` that the bus does not know.
    ignored_unknown_type,
    /// Second `register` of a session.
    ignored_register,
    /// Connections ended because a frame was not completed in time.
    timeout_frame,
    /// Sessions ended for silence.
    timeout_heartbeat,
    /// Connections ended because the peer did not read what was left for it.
    timeout_drain,
    /// Unsolicited pongs to impatient clients.
    impatient_pongs,
}

impl Counters {
    /// Messages that were accepted and then dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_receiver_stalled
            + self.dropped_broadcast
            + self.dropped_receiver_gone
            + self.dropped_cut_off
            + self.dropped_held_overflow
            + self.dropped_store_failed
            + self.dropped_topic
    }
}
