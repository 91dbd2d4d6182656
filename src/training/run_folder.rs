//! A run's folder.
//!
//! | file | holds |
//! |---|---|
//! | `config.toml` | the settings as resolved; `coin train --config` takes it again |
//! | `metrics.jsonl` | a line for each epoch |
//! | `last.safetensors` | where the run stands: `coin train --resume` goes on from it |
//! | `best.safetensors` | the weights with the best validation loss |
//! | `report.txt`, `report.json` | validation and test of the best weights, once the run is over |
//!
//! Several runs at once have a folder like this for each, named `seed-N`, or `setting=value,..` in a sweep, beside their
//! `config.toml`, `summary.txt` and `summary.json`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkpoint::Checkpoint;
use super::progress::EpochRecord;
use super::report::{RunReport, listed};
use super::settings::{Layer, Settings};
use crate::atomic_file;
use crate::error::{Error, Result};

const LOCK: &str = ".lock";
const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const LAST: &str = "last.safetensors";
const BEST: &str = "best.safetensors";
const REPORT: &str = "report";
const SUMMARY: &str = "summary";

#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    /// One process at a time works in the folder; one that is killed leaves the file and no lock on it.
    _lock: Arc<File>,
}

impl RunFolder {
    /// A new run at `path`, which is made where it does not exist. A folder that holds anything of a run's names is
    /// refused.
    pub fn create(path: &Path, settings: &Settings) -> Result<Self> {
        // What is refused is left as it is, without a lock; what another process began since is found under the lock.
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(|error| Error::io("make the folder", path, &error))?;
        let folder = Self::locked(path)?;
        Self::check_free(path)?;
        let head = "# Settings of this run, all of them. `coin train --config FILE` takes them again.\n";
        atomic_file::write(&folder.file(CONFIG), format!("{head}{}", settings.to_toml()?).as_bytes())?;
        Ok(folder)
    }

    /// Refuses a folder that holds a run, or a file whose place one would take.
    pub fn check_free(path: &Path) -> Result<()> {
        let both = |name| [format!("{name}.txt"), format!("{name}.json")];
        let written = [CONFIG, LAST, BEST, METRICS].map(str::to_string);
        let mut written = written.into_iter().chain(both(REPORT)).chain(both(SUMMARY));
        let Some(found) = written.find(|name| fs::symlink_metadata(path.join(name)).is_ok()) else {
            return Ok(());
        };
        let run = Self::settings_of(path).is_ok();
        let path = path.display();
        Err(Error::input(match run {
            true => format!(
                "{path}: holds a run already; go on with it by --resume {path}, or name another folder by --out"
            ),
            false => format!(
                "{path}: holds a {found}, which a run would write over, and no run to go on with: name another folder \
                 by --out, or move that file away"
            ),
        }))
    }

    /// A new run in the first of `parent/name`, `parent/name-2`, `parent/name-3`, ... that is not there yet.
    pub fn create_numbered(parent: &Path, name: &str, settings: &Settings) -> Result<Self> {
        fs::create_dir_all(parent).map_err(|error| Error::io("make the folder", parent, &error))?;
        let mut path = parent.join(name);
        for number in 2.. {
            match fs::create_dir(&path) {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    path = parent.join(format!("{name}-{number}"));
                }
                Err(error) => return Err(Error::io("make the folder", &path, &error)),
            }
        }
        Self::create(&path, settings)
    }

    /// The run at `path`, to go on with, and its settings.
    pub fn open(path: &Path) -> Result<(Self, Settings)> {
        if !path.join(CONFIG).is_file() {
            let path = path.display();
            return Err(Error::input(format!("{path}: holds no run to resume: there is no {CONFIG} in it")));
        }
        // Nothing is done to a folder that is not a run's.
        let settings = Self::settings_of(path)?;
        let folder = Self::locked(path)?;
        atomic_file::remove_leftovers(path)?;
        Ok((folder, settings))
    }

    /// Settings of the run at `path`, which need not be this process's.
    pub fn settings_of(path: &Path) -> Result<Settings> {
        let settings = Layer::file(&path.join(CONFIG)).and_then(|layer| Settings::resolve(&[layer]));
        let path = path.display();
        settings.map_err(|error| {
            error.said(|message| {
                format!("{path}: holds no run to resume; its {CONFIG} cannot be read as a run's settings: {message}")
            })
        })
    }

    /// Whether there is a run at `path` that [`RunFolder::open`] opens.
    pub fn exists(path: &Path) -> bool {
        path.join(CONFIG).is_file()
    }

    fn locked(path: &Path) -> Result<Self> {
        let lock = path.join(LOCK);
        let file = OpenOptions::new().create(true).append(true).open(&lock);
        let file = file.map_err(|error| match lock.exists() {
            true => Error::io("write", &lock, &error),
            false => Error::io("write in this folder", path, &error),
        })?;
        match file.try_lock() {
            Ok(()) => Ok(RunFolder { path: path.to_path_buf(), _lock: Arc::new(file) }),
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                Err(Error::input(format!("{path}: another process is training in this folder")))
            }
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &lock, &error)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the run stands; `None` before it was first saved.
    pub fn last(&self) -> Result<Option<Checkpoint>> {
        Self::last_of(&self.path)
    }

    /// Where the run at `path` stands, which need not be this process's.
    pub fn last_of(path: &Path) -> Result<Option<Checkpoint>> {
        let last = path.join(LAST);
        if !last.exists() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::read(&last);
        checkpoint.map(Some).map_err(|error| error.said(|message| Self::stuck(path, &message)))
    }

    /// What is said of a last checkpoint that the run at `path` cannot go on from, and of what is left of it.
    pub fn stuck(path: &Path, why: &str) -> String {
        let best = match Checkpoint::read(&path.join(BEST)) {
            Ok(_) => format!("{BEST} has its best weights so far, for coin evaluate and coin predict; "),
            Err(_) => String::new(),
        };
        let config = path.join(CONFIG);
        format!(
            "{why}. The run cannot go on from there; {best}coin train --config {} --out ANOTHER trains it anew",
            config.display()
        )
    }

    pub fn best(&self) -> Result<Checkpoint> {
        Checkpoint::read(&self.file(BEST))
    }

    /// The file of the best weights of the run at `path`, which need not be this process's.
    ///
    /// # Errors
    /// Where there are none; where there are several runs it names those that have some.
    pub fn best_of(path: &Path) -> Result<PathBuf> {
        let best = path.join(BEST);
        if best.is_file() {
            return Ok(best);
        }
        let entries = fs::read_dir(path).map_err(|error| Error::io("read", path, &error))?;
        let folders = entries.flatten().filter(|entry| entry.path().join(BEST).is_file());
        let mut runs: Vec<String> =
            folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        // seed-2 before seed-10.
        runs.sort_by_key(|name| (name.len(), name.clone()));
        let shown = path.display();
        Err(Error::input(match runs.first() {
            Some(first) => format!(
                "{shown}: holds several runs ({}): choose one, as in --checkpoint {}",
                listed(&runs),
                path.join(first).display()
            ),
            None => format!(
                "{shown}: there is no {BEST} in it: name a checkpoint file, or the folder of a run that has made an epoch"
            ),
        }))
    }

    pub fn write_last(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.write(&self.file(LAST))
    }

    pub fn write_best(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.write(&self.file(BEST))
    }

    /// All of the run's records: whatever the file held beyond them was of steps that are made again.
    pub fn write_metrics(&self, records: &[EpochRecord]) -> Result<()> {
        let mut text = String::new();
        for record in records {
            text.push_str(&serde_json::to_string(record).map_err(|error| unwritable(&error))?);
            text.push('\n');
        }
        atomic_file::write(&self.file(METRICS), text.as_bytes())
    }

    pub fn write_report(&self, report: &RunReport) -> Result<()> {
        self.write_text_and_json(REPORT, &report.text(), report)
    }

    /// The report of the run at `path` if that is over, which need not be this process's; `None` while it is not.
    pub fn report_of(path: &Path) -> Result<Option<RunReport>> {
        let path = path.join(format!("{REPORT}.json"));
        path.exists().then(|| read_json(&path)).transpose()
    }

    /// Of several runs.
    pub fn write_summary(&self, text: &str, summary: &impl Serialize) -> Result<()> {
        self.write_text_and_json(SUMMARY, text, summary)
    }

    /// The JSON last: where it stands, both are whole.
    fn write_text_and_json(&self, name: &str, text: &str, value: &impl Serialize) -> Result<()> {
        atomic_file::write(&self.file(&format!("{name}.txt")), text.as_bytes())?;
        let mut json = serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?;
        json.push('\n');
        atomic_file::write(&self.file(&format!("{name}.json")), json.as_bytes())
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    serde_json::from_str(&text).map_err(|error| Error::input(format!("{}: {error}", path.display())))
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::System(format!("cannot write as JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_a_run_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/a");
        let settings = Settings::default();
        drop(RunFolder::create(&path, &settings).unwrap());
        let before = fs::read(path.join(CONFIG)).unwrap();
        let error = RunFolder::create(&path, &settings).unwrap_err().to_string();
        assert!(error.contains("holds a run already; go on with it by --resume"), "{error}");
        assert_eq!(fs::read(path.join(CONFIG)).unwrap(), before);
        // Weights alone are a run too.
        let weights = folder.path().join("b");
        fs::create_dir(&weights).unwrap();
        fs::write(weights.join(BEST), "precious").unwrap();
        assert!(RunFolder::create(&weights, &settings).is_err());
        assert_eq!(fs::read(weights.join(BEST)).unwrap(), b"precious");
    }

    #[test]
    fn what_a_run_would_write_over_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("report.txt", "mine"),
            ("report.json", "{}"),
            ("summary.txt", "mine"),
            ("summary.json", "{}"),
            (METRICS, ""),
            (LAST, "mine"),
            (CONFIG, "title = 'mine'"),
            (CONFIG, "mine {"),
        ] {
            let path = folder.path().join("a");
            fs::create_dir(&path).unwrap();
            fs::write(path.join(name), text).unwrap();
            let error = RunFolder::create(&path, &Settings::default()).unwrap_err();
            let expected =
                format!("a: holds a {name}, which a run would write over, and no run to go on with");
            assert!(error.to_string().contains(&expected), "{error}");
            assert_eq!(error.exit_code(), 2);
            assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
            assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text);
            let error = RunFolder::open(&path).unwrap_err().to_string();
            assert!(error.contains("a: holds no run to resume"), "{error}");
            assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
            fs::remove_dir_all(&path).unwrap();
        }
        // Other files are no hindrance.
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        RunFolder::create(folder.path(), &Settings::default()).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_is_told_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("README.md");
        fs::write(&file, "mine").unwrap();
        let error = RunFolder::create(&file, &Settings::default()).unwrap_err().to_string();
        let expected = "README.md: cannot make the folder: there is a file of that name: name another";
        assert!(error.ends_with(expected), "{error}");
        let error = RunFolder::locked(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none: cannot write in this folder: "), "{error}");
    }

    #[test]
    fn a_run_is_opened_with_its_settings_by_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.config.epochs = 3;
        let first = RunFolder::create(folder.path(), &settings).unwrap();
        fs::write(folder.path().join(".last.safetensors.1.tmp"), "half").unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another process is training in this folder"), "{error}");
        drop(first);
        let (opened, read) = RunFolder::open(folder.path()).unwrap();
        assert_eq!(read, settings);
        assert!(!folder.path().join(".last.safetensors.1.tmp").exists());
        assert_eq!(opened.last().unwrap(), None);
        assert_eq!(RunFolder::report_of(opened.path()).unwrap(), None);
    }

    #[test]
    fn nothing_to_open_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no run to resume: there is no config.toml"), "{error}");
    }

    #[test]
    fn names_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let names = (0..3).map(|_| {
            let run = RunFolder::create_numbered(folder.path(), "data", &Settings::default()).unwrap();
            run.path().file_name().unwrap().to_string_lossy().into_owned()
        });
        assert_eq!(names.collect::<Vec<_>>(), ["data", "data-2", "data-3"]);
    }
}
