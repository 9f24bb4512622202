//! A router with one sender and some receivers, and a driver that keeps nothing: it does what the daemon does between two
//! waits for readiness, without sockets. The same as in the core's test of allocations, and a disk.

use hermes_bus_core::storage::{Answer, Recovered, Ticket};
use hermes_bus_core::{
    Config, Credentials, Effect, Moment, Next, Now, Payload, Probed, Router, SessionKey,
};
use hermes_bus_proto::frame::{self, Decoded};

const UNIX_US: u64 = 1_716_307_200_123_456;

pub(crate) struct Bus {
    router: Router,
    now_us: u64,
    pub(crate) sender: SessionKey,
    pub(crate) receivers: Vec<SessionKey>,
    pub(crate) delivered_bytes: usize,
    /// The last order for the disk that has not been answered.
    ordered: Option<Ticket>,
}

impl Bus {
    /// `registrations`: the frames with which the receivers take their names. There is a disk that keeps everything at once.
    pub(crate) fn new(registrations: &[&str]) -> Self {
        let config = Config { owner_uid: 1000, store: true, ..Config::default() };
        let mut router = Router::new(config, 42);
        router.begin_turn(Now { moment: Moment::from_micros(0), unix_us: UNIX_US });
        router.recover(Recovered::default());
        let mut connect = || router.connected(Credentials { uid: 1000, pid: 7 });
        let sender = connect();
        let receivers: Vec<SessionKey> = registrations.iter().map(|_| connect()).collect();
        let mut bus =
            Bus { router, now_us: 0, sender, receivers, delivered_bytes: 0, ordered: None };
        bus.turn(sender, &framed(r#"{"type":"register","endpoint":"sender"}"#));
        for (number, registration) in registrations.iter().enumerate() {
            bus.turn(bus.receivers[number], &framed(registration));
        }
        bus
    }

    /// A turn: what was read is routed, what was queued is written, what was ordered is stored.
    pub(crate) fn turn(&mut self, from: SessionKey, read: &[u8]) {
        self.now_us += 10;
        let moment = Moment::from_micros(self.now_us);
        self.router.begin_turn(Now { moment, unix_us: UNIX_US + self.now_us });
        if let Some(ticket) = self.ordered.take() {
            self.router.storage(Answer::Stored(ticket));
        }
        let mut rest = read;
        while let Decoded::Frame { payload, frame_bytes } = frame::decode(rest) {
            let next = self.router.frame(from, Payload::Borrowed(payload), Probed::No);
            assert!(matches!(next, Next::Taken | Next::TakenThenHold), "{next:?}");
            rest = &rest[frame_bytes..];
        }
        assert!(rest.is_empty(), "whole frames");
        self.write(moment);
        self.carry_out_effects();
        assert!(self.router.receipts_due().is_empty());
        self.router.end_turn();
        self.write(moment);
        self.carry_out_effects();
    }

    fn write(&mut self, at: Moment) {
        let dirty = self.router.take_dirty();
        for key in &dirty {
            loop {
                let bytes = self.router.next_write(*key).map(<[u8]>::len).sum();
                if bytes == 0 {
                    break;
                }
                self.router.written(*key, bytes, at);
                self.delivered_bytes += bytes;
            }
        }
        self.router.recycle_dirty(dirty);
    }

    fn carry_out_effects(&mut self) {
        for effect in self.router.take_effects() {
            if let Effect::Store(ticket, _) = effect {
                self.ordered = Some(ticket);
            }
        }
    }
}

pub(crate) fn framed(payload: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::append(&mut frame, |out| out.extend_from_slice(payload.as_bytes()));
    frame
}
