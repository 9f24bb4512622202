//! What clients do when the script says so.

use super::World;
use super::link::{Link, LinkId};
use crate::call::Violation;
use crate::character::Reads;
use crate::draw::Dice;
use crate::script::{Action, Then, To};

/// A client that wants to send more than this waits, as one whose socket is full does.
const WISH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Connections that there may be at a time.
const OPEN_MAX: usize = 48;

impl World<'_> {
    /// A client does something.
    pub(super) fn play_client(&mut self, client: u8, action: Action) -> Result<(), Violation> {
        match action {
            Action::Connect { beside } => {
                self.connect(client, beside);
            }
            Action::Register { name } => {
                self.say(client, |words, out, dice| words.register(out, name, dice));
            }
            Action::Send { to, count, bytes } => {
                let id = self.link_to_send(client);
                self.send(id, to, count, bytes);
            }
            Action::Visit { to, count, bytes, then } => {
                let id = self.visit(client);
                self.send(id, to, count, bytes);
                self.link(id).then(then);
            }
            Action::Ping { count } => {
                self.say_often(client, count, |words, out, _| words.ping(out));
            }
            Action::List { count } => {
                self.say_often(client, count, |words, out, dice| words.list(out, dice));
            }
            Action::Admin { count } => {
                self.say_often(client, count, |words, out, dice| words.admin(out, dice));
            }
            Action::Odd => self.say(client, |words, out, dice| words.odd(out, dice)),
            Action::Garbage => self.say(client, |words, out, dice| words.garbage(out, dice)),
            Action::Tire { name, silence_us, away_us } => {
                return self.tire(client, name, silence_us, away_us);
            }
            action => self.change(client, action),
        }
        Ok(())
    }

    /// A client does something with the connection that it has.
    fn change(&mut self, client: u8, action: Action) {
        let Some(id) = self.current(client) else { return };
        let link = self.link(id);
        match action {
            Action::Read { bytes } => {
                link.read_at_far_end(bytes as usize);
            }
            Action::ReadOn => link.reads(Reads::Everything),
            Action::ReadNot => link.reads(Reads::Nothing),
            Action::Drip { bytes } => link.drip(Some(bytes as usize)),
            Action::Pause { bytes } => link.pause_after(Some(bytes as usize)),
            Action::Flow => {
                link.pause_after(None);
                link.drip(None);
            }
            Action::HalfClose { at_once } => {
                if at_once {
                    link.give_up();
                }
                link.then(Then::HalfClose);
            }
            Action::StopReading => link.far.read_shut = true,
            Action::Die { bytes } => link.die_after(bytes as usize),
            Action::Close { at_once: true } => link.close(),
            Action::Close { at_once: false } => link.then(Then::Close),
            _ => {}
        }
    }

    /// Registers, hears nothing, leaves, and comes back.
    fn tire(
        &mut self,
        client: u8,
        name: u8,
        silence_us: u32,
        away_us: u32,
    ) -> Result<(), Violation> {
        let register = |world: &mut Self| {
            let id = world.connect(client, false);
            world.link(id).reads(Reads::Everything);
            world.say(client, |words, out, dice| words.register(out, name, dice));
            id
        };
        let id = register(self);
        self.turn_until_quiet()?;
        self.pass(u64::from(silence_us))?;
        self.link(id).close();
        self.turn_until_quiet()?;
        self.pass(u64::from(away_us))?;
        register(self);
        self.turn_until_quiet()
    }

    /// The connection of a client, if neither side has closed it.
    fn current(&self, client: u8) -> Option<LinkId> {
        let id = self.current.get(usize::from(client)).copied()??;
        self.links[id.0].is_open().then_some(id)
    }

    /// A further connection; the client goes on with the one that it has, if it has one.
    fn visit(&mut self, client: u8) -> LinkId {
        let before = self.current(client);
        if self.open.len() >= OPEN_MAX {
            self.links[self.open[0].0].close();
        }
        let id = self.connect(client, true);
        if before.is_some() {
            self.current[usize::from(client)] = before;
        }
        id
    }

    /// A new connection. The one before it is closed, or stays as it is.
    pub(super) fn connect(&mut self, client: u8, beside: bool) -> LinkId {
        if let Some(before) = self.current(client)
            && !(beside && self.open.len() < OPEN_MAX)
        {
            self.link(before).then(Then::Close);
            if self.open.len() >= OPEN_MAX {
                self.link(before).close();
            }
        }
        let id = LinkId(self.links.len());
        let traits = &self.script.character.clients[usize::from(client)];
        self.links.push(Link::new(client, traits, id.0 as u32 + 1));
        self.open.push(id);
        self.door.push_back(id);
        self.current[usize::from(client)] = Some(id);
        id
    }

    /// A connection on which this client can still say something.
    fn link_to_send(&mut self, client: u8) -> LinkId {
        match self.current(client) {
            Some(id) if self.links[id.0].can_send() => id,
            // It has had its last word there: it stays to hear the answer.
            _ => self.connect(client, true),
        }
    }

    fn send(&mut self, id: LinkId, to: To, count: u16, bytes: u32) {
        let bytes_max = self.wish_bytes_max(id);
        // The largest messages occur only where everything is wide.
        let bytes = match bytes as usize {
            huge if bytes_max == WISH_BYTES_MAX => huge,
            bytes => bytes.min(bytes_max),
        };
        for _ in 0..count {
            self.put(id, |words, out, dice| words.message(out, to, bytes, dice));
        }
    }

    fn say(&mut self, client: u8, write: impl Fn(&mut super::Words, &mut Vec<u8>, &mut Dice)) {
        self.say_often(client, 1, write);
    }

    fn say_often(
        &mut self,
        client: u8,
        count: u16,
        write: impl Fn(&mut super::Words, &mut Vec<u8>, &mut Dice),
    ) {
        let id = self.link_to_send(client);
        for _ in 0..count {
            self.put(id, &write);
        }
    }

    /// Where everything goes byte by byte, there is less of it: a run must not take forever.
    fn wish_bytes_max(&self, id: LinkId) -> usize {
        let client = &self.script.character.clients[usize::from(self.links[id.0].client)];
        let read_bytes_max = self.script.character.driver.read_bytes_max;
        let narrowest = client.to_bus_bytes_max.min(read_bytes_max) as usize;
        (narrowest * 200).clamp(1_000, WISH_BYTES_MAX)
    }

    /// A client wants to send what is written here, if it does not want to send too much already.
    fn put(&mut self, id: LinkId, write: impl Fn(&mut super::Words, &mut Vec<u8>, &mut Dice)) {
        if self.links[id.0].wished_bytes() > self.wish_bytes_max(id) {
            return;
        }
        let mut said = std::mem::take(&mut self.said);
        said.clear();
        write(&mut self.words, &mut said, &mut self.dice);
        self.link(id).wish(&said);
        said.shrink_to(1 << 20);
        self.said = said;
    }
}
