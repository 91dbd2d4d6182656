//! The environment variables that set a simulated card up; `simulate` sets them for a program.

use std::ffi::OsString;
use std::path::PathBuf;

use simulator::Settings;

/// Order of blocks and warps; default 0, the natural one.
pub const SEED: &str = "SIMULATED_GPU_SEED";
/// Threads of the host that run blocks; default: all that there are.
pub const THREADS: &str = "SIMULATED_GPU_THREADS";
/// Instructions a warp may execute in one launch; default [`DEFAULT_WATCHDOG`].
pub const WATCHDOG: &str = "SIMULATED_GPU_WATCHDOG";
/// File that gets the launches' profiles as a JSON array, or `-` for a table on stderr.
pub const PROFILE: &str = "SIMULATED_GPU_PROFILE";
/// File that gets a line of JSON for every fault and leak.
pub const REPORT: &str = "SIMULATED_GPU_REPORT";

/// Bytes of memory on the simulated card, as on an RTX 2080 Ti.
pub const MEMORY: u64 = 11 << 30;
/// Some minutes of one warp: more than any kernel that ends, and an end for those that do not.
pub const DEFAULT_WATCHDOG: u64 = 10_000_000_000;

/// Where launch profiles go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileTarget {
    /// A table on stderr. Not on stdout, which belongs to the program.
    Table,
    /// A JSON array in this file.
    File(PathBuf),
}

/// All that the environment says.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The card's own settings.
    pub settings: Settings,
    /// Where profiles go, if anybody wants them.
    pub profile: Option<ProfileTarget>,
    /// Where reports go besides stderr.
    pub report: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables through `get`; the message names the variable and what it may be.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Environment, String> {
        let number = |name: &str, least: u64, default: u64| match get(name).filter(|value| !value.is_empty())
        {
            None => Ok(default),
            Some(value) => match value.to_str().and_then(|text| text.parse::<u64>().ok()) {
                Some(number) if number >= least => Ok(number),
                _ => Err(format!(
                    "{name} is \"{}\"; it must be a whole number from {least} up",
                    value.display()
                )),
            },
        };
        let path = |name: &str| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let threads = number(THREADS, 1, processors)?;
        if threads > 4096 {
            return Err(format!("{THREADS} is {threads}; it must be a whole number from 1 to 4096"));
        }
        Ok(Environment {
            settings: Settings {
                seed: number(SEED, 0, 0)?,
                threads: threads as usize,
                memory: MEMORY,
                watchdog: number(WATCHDOG, 1, DEFAULT_WATCHDOG)?,
            },
            profile: path(PROFILE).map(|path| match path.to_str() {
                Some("-") => ProfileTarget::Table,
                _ => ProfileTarget::File(path),
            }),
            report: path(REPORT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, String> {
        Environment::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn nothing_set_gives_the_natural_order() {
        let environment = read(&[]).unwrap();
        assert_eq!(environment.settings.seed, 0);
        assert!(environment.settings.threads >= 1);
        assert_eq!(environment.settings.memory, 11 << 30);
        assert_eq!(environment.profile, None);
        assert_eq!(environment.report, None);
    }

    #[test]
    fn all_variables_are_read() {
        let variables =
            [(SEED, "7"), (THREADS, "3"), (WATCHDOG, "99"), (PROFILE, "-"), (REPORT, "out.jsonl")];
        let environment = read(&variables).unwrap();
        assert_eq!(environment.settings.seed, 7);
        assert_eq!(environment.settings.threads, 3);
        assert_eq!(environment.settings.watchdog, 99);
        assert_eq!(environment.profile, Some(ProfileTarget::Table));
        assert_eq!(environment.report, Some(PathBuf::from("out.jsonl")));
    }

    #[test]
    fn an_empty_variable_is_as_none() {
        assert_eq!(read(&[(SEED, ""), (PROFILE, "")]).unwrap().profile, None);
    }

    #[test]
    fn bad_values_name_the_variable() {
        for variables in
            [[(SEED, "-1")], [(SEED, "one")], [(THREADS, "0")], [(THREADS, "5000")], [(WATCHDOG, "0")]]
        {
            let message = read(&variables).unwrap_err();
            assert!(message.contains(variables[0].0), "{message}");
        }
    }
}
