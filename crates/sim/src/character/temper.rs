//! What clients are like. A client is no state machine: its temper makes some actions likely.

use crate::script::Kind;

/// What a client mostly does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// Registers, reads, answers.
    Receiver,
    /// Registers, and reads slowly.
    Slow,
    /// Registers, and never reads.
    Mute,
    /// Sends hundreds of messages.
    Flooder,
    /// Connects, sends one message, waits.
    Caller,
    /// Sends several frames and ends its side.
    Scripter,
    /// Takes the names of others.
    Thief,
    /// Sends what is no frame.
    Garbler,
    /// Sends byte by byte, and stops in the middle.
    Dripper,
    /// Asks and asks, and does not read the answers.
    Asker,
    /// Leaves when it hears nothing, and comes back.
    Impatient,
    /// Closes and resets connections.
    Breaker,
    /// Asks for what only the owner may ask for.
    Admin,
    /// May not connect.
    Stranger,
    /// Sends what is unusual and yet right.
    Odd,
}

impl Temper {
    pub(crate) const ALL: &[Temper] = &[
        Temper::Receiver,
        Temper::Receiver,
        Temper::Receiver,
        Temper::Slow,
        Temper::Slow,
        Temper::Mute,
        Temper::Mute,
        Temper::Flooder,
        Temper::Flooder,
        Temper::Flooder,
        Temper::Caller,
        Temper::Caller,
        Temper::Caller,
        Temper::Scripter,
        Temper::Thief,
        Temper::Garbler,
        Temper::Dripper,
        Temper::Asker,
        Temper::Impatient,
        Temper::Breaker,
        Temper::Admin,
        Temper::Stranger,
        Temper::Odd,
    ];

    /// How likely an action is, compared with the others.
    pub(crate) fn weight(self, kind: Kind) -> u32 {
        for (likely, weight) in self.likely() {
            if *likely == kind {
                return *weight;
            }
        }
        match kind {
            Kind::Pass => 200,
            Kind::Sleep => 15,
            Kind::PassToTimer => 40,
            Kind::SetWallClock => 3,
            Kind::Turn => 100,
            Kind::Configure | Kind::TakeTapped | Kind::AnswerAdmin => 6,
            Kind::Crash | Kind::Stop | Kind::Restart => 1,
            Kind::Register => 40,
            Kind::Send | Kind::Read | Kind::ReadOn => 20,
            Kind::Connect => 10,
            Kind::Visit | Kind::Ping | Kind::Flow => 8,
            Kind::Close
            | Kind::HalfClose
            | Kind::ReadNot
            | Kind::Pause
            | Kind::List
            | Kind::StopReading => 5,
            Kind::Drip | Kind::Die | Kind::Garbage | Kind::Odd | Kind::Admin | Kind::Tire => 3,
        }
    }

    /// What is likelier than usual, or less likely.
    fn likely(self) -> &'static [(Kind, u32)] {
        match self {
            Temper::Receiver => &[(Kind::Register, 150), (Kind::Send, 100), (Kind::Ping, 30)],
            Temper::Slow => &[
                (Kind::Register, 150),
                (Kind::Read, 200),
                (Kind::ReadOn, 5),
                (Kind::HalfClose, 20),
            ],
            Temper::Mute => &[
                (Kind::Register, 200),
                (Kind::ReadOn, 8),
                (Kind::Read, 60),
                (Kind::Ping, 30),
                (Kind::HalfClose, 40),
            ],
            Temper::Flooder => &[(Kind::Send, 400), (Kind::Visit, 60)],
            Temper::Caller => &[(Kind::Visit, 300), (Kind::Register, 4)],
            Temper::Scripter => {
                &[(Kind::Send, 200), (Kind::HalfClose, 100), (Kind::Visit, 80), (Kind::Register, 4)]
            }
            Temper::Thief => &[(Kind::Connect, 200), (Kind::Register, 400)],
            Temper::Garbler => &[(Kind::Garbage, 150), (Kind::Register, 60), (Kind::Odd, 30)],
            Temper::Dripper => {
                &[(Kind::Pause, 150), (Kind::Drip, 60), (Kind::Send, 200), (Kind::Flow, 60)]
            }
            Temper::Asker => {
                &[(Kind::List, 150), (Kind::Ping, 150), (Kind::Register, 60), (Kind::ReadOn, 3)]
            }
            Temper::Impatient => &[(Kind::Tire, 120), (Kind::Register, 60)],
            Temper::Breaker => &[
                (Kind::Close, 150),
                (Kind::StopReading, 60),
                (Kind::Die, 100),
                (Kind::HalfClose, 100),
                (Kind::Register, 150),
                (Kind::Send, 150),
            ],
            Temper::Admin => &[(Kind::Admin, 150), (Kind::List, 30), (Kind::AnswerAdmin, 60)],
            Temper::Stranger => &[(Kind::Connect, 100), (Kind::Send, 60)],
            Temper::Odd => &[(Kind::Odd, 300), (Kind::Register, 60)],
        }
    }
}
