//! `hermes-bus-server`: the bus in the foreground.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use hermes_bus::arguments::server::Arguments;
use hermes_bus_daemon::root::Root;
use hermes_bus_daemon::server::{self, Mode, Origin};

/// For a process that lives for months and whose queues grow and empty; see docs/ARCHITECTURE.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mode = if arguments.detached { Mode::Detached } else { Mode::Foreground };
    let origin = if arguments.successor { Origin::Successor } else { Origin::New };
    let served =
        Root::find(arguments.root.as_deref()).map_err(anyhow::Error::from).and_then(|root| {
            let sources = arguments.adjustments.sources(&root);
            let serve = || server::run(&root, mode, origin, sources);
            if arguments.ephemeral { for_a_while(&root, serve) } else { serve() }
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hermes-bus-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves in a directory that goes away: as long as somebody holds this process's standard input open. The
/// directory is new, so that nothing is removed that somebody else has made.
fn for_a_while(root: &Root, serve: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let directory = root.directory();
    let shown = directory.display();
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make {shown}"))?;
    server::stop_at_end_of_input();
    let served = serve();
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {shown}"))?;
    served
}
