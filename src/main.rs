use std::io::Write;
use std::process::ExitCode;

use coin::commands::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::of_command_line()) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            // A standard error that is closed leaves the exit code to speak.
            let _ = writeln!(std::io::stderr(), "coin: error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
