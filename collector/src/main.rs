//! The collector's program.

use std::process::ExitCode;

use clap::Parser;
use weighbridge_collector::command::{Arguments, run};

fn main() -> ExitCode {
    run(Arguments::parse())
}
