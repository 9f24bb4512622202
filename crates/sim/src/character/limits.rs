//! The router's limits in a run: the usual ones, or some that are soon reached.

use std::time::Duration;

use hermes_bus_core::{Config, Protection};

use super::{GUEST, OWNER, STRANGER};
use crate::draw::Dice;

/// The token that protected names have, where they have one.
pub(crate) const TOKEN: &str = "sesame";

/// Draws values, and keeps the usual ones as often as the run wants it.
struct Limits {
    dice: Dice,
    /// Of 4 values, how many stay as they are.
    usual: u32,
}

impl Limits {
    fn is_usual(&mut self) -> bool {
        self.dice.below(4) < self.usual
    }

    fn bytes(&mut self, usual: usize, others: &[usize]) -> usize {
        if self.is_usual() { usual } else { self.dice.pick(others) }
    }

    fn ms(&mut self, usual: Duration, others_ms: &[u64]) -> Duration {
        if self.is_usual() { usual } else { Duration::from_millis(self.dice.pick(others_ms)) }
    }
}

/// The limits of a seed, for clients that use these names.
pub(crate) fn limits(seed: u64, names: &[String]) -> Config {
    let mut dice = Dice::new(seed);
    let usual = dice.pick(&[0, 1, 1, 2, 3, 4]);
    let mut limits = Limits { dice, usual };
    let mut config = Config {
        owner_uid: OWNER,
        admin_ops: &["reload"],
        allow_uids: vec![GUEST],
        ..Config::default()
    };
    who_may_what(&mut limits, &mut config, names);
    delays(&mut limits, &mut config);
    sizes(&mut limits, &mut config);
    config
}

fn who_may_what(limits: &mut Limits, config: &mut Config, names: &[String]) {
    if !limits.is_usual() {
        config.allow_uids =
            limits.dice.pick(&[&[][..], &[GUEST], &[GUEST, STRANGER], &[GUEST, 7]]).to_vec();
        config.strict_from = limits.dice.one_in(2);
        config.impatient_pongs = !limits.dice.one_in(4);
    }
    let protections = if limits.is_usual() { 0 } else { limits.dice.below(3) };
    for _ in 0..protections {
        let name = names[limits.dice.below(names.len() as u32) as usize].clone();
        let uid = limits.dice.pick(&[None, Some(OWNER), Some(GUEST)]);
        let token = limits.dice.pick(&[None, Some(TOKEN), Some("other")]).map(str::to_owned);
        config.protected.push(Protection { name, uid, token });
    }
    if !limits.is_usual() {
        config.messages_per_s = limits.dice.pick(&[None, None, Some(20), Some(300)]);
        config.bytes_per_s = limits.dice.pick(&[None, None, Some(100_000), Some(1_000_000)]);
    }
}

fn delays(limits: &mut Limits, config: &mut Config) {
    config.heartbeat = limits.ms(config.heartbeat, &[900, 5_000, 20_000]);
    config.frame_deadline = limits.ms(config.frame_deadline, &[100, 1_000, 5_000]);
    config.linger = limits.ms(config.linger, &[0, 50, 500, 30_000]);
    config.stall = limits.ms(config.stall, &[50, 500, 800, 10_000]);
    // Mostly shorter than the stall, but not always.
    config.answer = limits.ms(config.answer, &[20, 100, 400, 1_500]);
    config.drain = limits.ms(config.drain, &[50, 500, 10_000]);
    if !limits.is_usual() {
        config.fight_replacements = limits.dice.below(5) as usize;
        config.fight_window = Duration::from_millis(limits.dice.pick(&[100, 3_000, 60_000]));
        config.fight_pause = Duration::from_millis(limits.dice.pick(&[1, 100, 400]));
        config.fight_pause_max = Duration::from_millis(limits.dice.pick(&[400, 1_000, 5_000]));
    }
}

fn sizes(limits: &mut Limits, config: &mut Config) {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    let queue = limits.bytes(config.queue_bytes_max, &[KIB, 4 * KIB, 16 * KIB, 64 * KIB, MIB]);
    config.queue_bytes_max = queue;
    // Sometimes less for all than for one, so that it is the budget that decides.
    let shared = [queue / 2, queue, queue + queue / 2, 2 * queue, 8 * queue];
    config.queue_bytes_user_max = limits.bytes(config.queue_bytes_user_max, &shared);
    config.queue_bytes_total_max = limits.bytes(config.queue_bytes_total_max, &shared);
    config.queue_bytes_reserved =
        limits.bytes(config.queue_bytes_reserved, &[0, 300, 2 * KIB, queue / 4, queue]);
    config.held_bytes_max = limits.bytes(config.held_bytes_max, &[0, 400, 2 * KIB, 64 * KIB]);
    let held = config.held_bytes_max;
    config.held_bytes_total_max =
        limits.bytes(config.held_bytes_total_max, &[held / 2, held, held + held / 2, 4 * held]);
    config.answer_bytes_max = limits.bytes(config.answer_bytes_max, &[1, 200, 4 * KIB, 64 * KIB]);
    let answers = config.answer_bytes_max;
    config.answer_bytes_total_max =
        limits.bytes(config.answer_bytes_total_max, &[answers, 2 * answers, 300, 8 * KIB]);
    config.intake_bytes_user_max =
        limits.bytes(config.intake_bytes_user_max, &[300, 4 * KIB, 100 * KIB, 4 * MIB]);
    config.intake_bytes_total_max =
        limits.bytes(config.intake_bytes_total_max, &[500, 6 * KIB, 150 * KIB, 8 * MIB]);
}
