// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork generate`

use std::fs;
use std::io;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::args::{Args, Generate, Generated};
use crate::failure::Failure;

pub(super) fn run(args: &Generate) -> Result<u8, Failure> {
    fs::create_dir_all(&args.directory)
        .and_then(|()| match args.what {
            Generated::Man => man_pages(&args.directory),
            Generated::Completions => completions(&args.directory),
        })
        .map_err(Failure::io(args.directory.display().to_string()))?;
    Ok(0)
}

fn man_pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Args::command(), directory)?;
    // What follows the options has this heading otherwise.
    let page = directory.join("fullfork.1");
    let text = fs::read_to_string(&page)?.replace(".SH EXTRA", ".SH EXAMPLES AND EXIT STATUS");
    fs::write(page, text)
}

fn completions(directory: &Path) -> io::Result<()> {
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut Args::command(), "fullfork", directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_a_page_per_command() {
        let directory = tempfile::tempdir().unwrap();
        let args = Generate { what: Generated::Man, directory: directory.path().to_owned() };
        run(&args).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("fullfork.1").contains(".SH EXAMPLES AND EXIT STATUS"));
        assert!(page("fullfork-copy.1").contains("keep"));
    }

    #[test]
    fn writes_completions_for_every_shell() {
        let directory = tempfile::tempdir().unwrap();
        let args =
            Generate { what: Generated::Completions, directory: directory.path().to_owned() };
        run(&args).unwrap();
        assert!(fs::read_dir(directory.path()).unwrap().count() >= 3);
    }
}
