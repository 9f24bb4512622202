//! `hermes-bus completions` and `hermes-bus man`: made from the definitions that are parsed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use hermes_bus::arguments::programs;
use hermes_bus::failure::Failure;
use hermes_bus::screen::say;

pub(crate) fn completions(shell: clap_complete::Shell, program: &str) -> anyhow::Result<ExitCode> {
    let mut definition = find(program)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition, program, &mut script);
    if shell == clap_complete::Shell::Bash {
        script = name_cases_alike(&String::from_utf8_lossy(&script), program).into_bytes();
    }
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// The generator calls the subcommands of a program with a dash in its name one thing where it finds
/// out which is meant, and another where it says what they take.
fn name_cases_alike(script: &str, program: &str) -> String {
    let other = format!("{}__subcmd__", program.replace('-', "__subcmd__"));
    script.replace(&other, &format!("{}__subcmd__", program.replace('-', "__")))
}

pub(crate) fn page(program: &str) -> anyhow::Result<ExitCode> {
    // As it is prepared where all pages are written.
    let mut definition = find(program)?.disable_help_subcommand(true);
    definition.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(definition).render(&mut page)?;
    io::stdout().lock().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn write_pages(directory: &Path) -> anyhow::Result<ExitCode> {
    let shown = directory.display();
    fs::create_dir_all(directory).with_context(|| format!("cannot create {shown}"))?;
    for program in programs() {
        clap_mangen::generate_to(program, directory)
            .with_context(|| format!("cannot write manual pages to {shown}"))?;
    }
    say(&format!("manual pages written to {shown}"))?;
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str) -> Result<Command, Failure> {
    let all = programs();
    let names: Vec<String> = all.iter().map(|program| program.get_name().to_owned()).collect();
    all.into_iter().find(|program| program.get_name() == name).ok_or_else(|| {
        let text = format!("there is no program '{name}'; there are {}", names.join(", "));
        Failure::new("no_such_program", text)
    })
}
