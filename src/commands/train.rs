//! `coin train`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgMatches, ValueEnum};

use super::output::{note, print};
use super::source::{self, SYNTHETIC};
use super::{Outcome, model};
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::metrics::report::amount;
use crate::model::config::Config;
use crate::model::device::Compute;
use crate::model::{check_memory, engine};
use crate::training::display::Display;
use crate::training::interrupt::Interrupt;
use crate::training::partition::Partition;
use crate::training::report::{RunReport, Summary};
use crate::training::run_folder::RunFolder;
use crate::training::settings::{self, Layer, RunSettings, Setting, Settings};
use crate::training::setup::Setup;
use crate::training::trainer::{self, Surroundings, train};

/// Train a model, with its checkpoints, metrics and report in a run folder
///
/// Settings come from the defaults, the preset, the file and the flags, each over the one before. A file holds
/// them by name, as in `embedding_size = 50` for --embedding-size 50; the paper's d, K, L, B and eps are names
/// for the settings they stand for. Without data the synthetic conversations are trained on.
///
/// The first Ctrl-C finishes the step and saves; the second one does not wait. A resumed run goes on as if it had
/// never been interrupted, to the last bit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin train
  coin train --data IEMOCAP_features_raw.pkl --modalities text,audio --out runs/iemocap
  coin train --preset paper --data IEMOCAP_features_raw.pkl --seeds 5
  coin train --config runs/iemocap/config.toml --embedding-size 50 --out runs/narrow
  coin train --resume runs/iemocap")]
pub struct Arguments {
    /// TOML file of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Begin from the paper's values, its printed dropout keep rate of 0.3 among them
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    Paper,
}

/// A flag for every setting: its name with hyphens.
#[derive(Debug, Clone, Default)]
struct Flags(Vec<(&'static str, String)>);

impl clap::Args for Flags {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        let groups = [("Run", settings::RUN), ("Model and optimisation", settings::MODEL)];
        for (heading, settings) in groups {
            for Setting { key, help } in settings {
                let default = settings::default_of(key).map(|value| format!(" [default: {value}]"));
                let arg = Arg::new(*key)
                    .long(flag(key))
                    .value_name("VALUE")
                    .help(format!("{help}{}", default.unwrap_or_default()))
                    .help_heading(heading)
                    .allow_negative_numbers(true);
                command = command.arg(arg);
            }
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let keys = settings::RUN.iter().chain(settings::MODEL).map(|setting| setting.key);
        let given = keys.filter_map(|key| Some((key, matches.get_one::<String>(key)?.clone())));
        Ok(Flags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(key: &str) -> String {
    key.replace('_', "-")
}

impl Flags {
    fn layer(&self) -> Result<Layer> {
        let mut layer = Layer::default();
        for (key, text) in &self.0 {
            layer.set_text(key, text).map_err(|error| Error::input(format!("--{}: {error}", flag(key))))?;
        }
        Ok(layer)
    }
}

pub fn run(arguments: Arguments) -> Result<Outcome> {
    let mut layers = Vec::new();
    if arguments.preset == Some(Preset::Paper) {
        layers.push(Layer::paper());
    }
    if let Some(path) = &arguments.config {
        layers.push(Layer::file(path)?);
    }
    layers.push(arguments.flags.layer()?);

    let job = match &arguments.resume {
        Some(path) => Job::resumed(path, &layers)?,
        None => Job::new(Settings::resolve(&layers)?)?,
    };
    let interrupt = Interrupt::install()?;
    let mut display = Display::new(arguments.quiet);
    let outcome = job.run(&mut display, &interrupt);
    display.end();
    // What the machine did to it can be mended; what is wrong with the input would be met again.
    if matches!(outcome, Ok(Outcome::Interrupted) | Err(Error::System(_))) {
        note(&format!("To go on: coin train --resume {}", quoted(job.folder.path())));
    }
    outcome
}

fn compute(run: &RunSettings) -> Compute {
    Compute { device: run.device, threads: model::threads(run.threads) }
}

/// A run of one seed or several, with its folder and its data.
struct Job {
    settings: Settings,
    folder: RunFolder,
    corpus: Corpus,
    fingerprint: String,
}

impl Job {
    /// The data are read and the memory foreseen first: a mistake there leaves no folder behind.
    fn new(mut settings: Settings) -> Result<Self> {
        let corpus = read(&settings.run)?;
        Partition::draw(&corpus, &settings.config)?;
        check_memory(&settings.config, &corpus, compute(&settings.run))?;
        settings.run.modalities =
            Some(corpus.modalities.iter().map(|modality| modality.name.clone()).collect());
        if let Some(data) = settings.run.data.as_mut().filter(|data| *data != SYNTHETIC) {
            // The run may be resumed, or its configuration used again, from another folder.
            *data = std::path::absolute(&data)
                .map_err(|error| Error::io("resolve", Path::new(&*data), &error))?
                .display()
                .to_string();
        }
        let folder = match &settings.run.out {
            Some(path) => RunFolder::create(Path::new(path), &settings)?,
            None => RunFolder::create_numbered(Path::new("runs"), &name_of(&settings.run), &settings)?,
        };
        Ok(Job { fingerprint: corpus.fingerprint(), settings, folder, corpus })
    }

    /// Of what is given beside --resume, all must be as the run has it but for where the data lie (their
    /// fingerprint is held against the checkpoint's), the device, the threads and how often to save.
    fn resumed(path: &Path, layers: &[Layer]) -> Result<Self> {
        let (folder, own) = RunFolder::open(path)?;
        let path = path.display();
        if layers.iter().flat_map(Layer::keys).any(|key| key == "out") {
            return Err(Error::input(format!("--out: a resumed run goes on in its own folder, {path}")));
        }
        let settings = layers.iter().try_fold(own.clone(), |settings, layer| settings.with(layer))?;
        const FREE: [&str; 5] = ["data", "format", "device", "threads", "checkpoint_minutes"];
        let differences = own.differences(&settings)?;
        if let Some((key, own, given)) = differences.iter().find(|(key, ..)| !FREE.contains(&key.as_str())) {
            return Err(Error::input(format!(
                "{path}: {key} is {own} in the run and {given} here; a resumed run keeps its settings: leave \
                 --{} out, or begin a new run with --config {path}/config.toml and the change",
                flag(key)
            )));
        }
        let corpus = read(&settings.run)?;
        Ok(Job { fingerprint: corpus.fingerprint(), settings, folder, corpus })
    }

    fn run(&self, display: &mut Display, interrupt: &Interrupt) -> Result<Outcome> {
        let source = match &self.settings.run.data {
            Some(data) if data != SYNTHETIC => format!("data: {data}"),
            _ => "data: synthetic conversations, made by a generator (name real ones by --data)".to_string(),
        };
        display.line(&source);
        display.line(&format!("run folder: {}", self.folder.path().display()));
        let seeds: Vec<u64> = seeds(&self.settings).collect();
        let mut reports = Vec::new();
        for &seed in &seeds {
            let report = if seeds.len() == 1 {
                self.run_seed(&self.settings, &self.folder, display, interrupt)?
            } else {
                display.set_label(format!("seed {seed}  "));
                let settings = of_seed(&self.settings, seed);
                let path = self.folder.of_seed(seed);
                let folder = if RunFolder::exists(&path) {
                    RunFolder::open(&path)?.0
                } else {
                    RunFolder::create(&path, &settings)?
                };
                self.run_seed(&settings, &folder, display, interrupt)?
            };
            let Some(report) = report else {
                return Ok(Outcome::Interrupted);
            };
            // That nobody reads the reports is no reason to stop training: they are in the folder.
            print(&format!("{source}\n{}\n", report.text()))?;
            reports.push(report);
        }
        if let Some(summary) = Summary::new(reports).filter(|_| seeds.len() > 1) {
            self.folder.write_summary(&summary)?;
            print(&summary.text())?;
        }
        display.line(&format!("all of it is in {}", self.folder.path().display()));
        Ok(Outcome::Done)
    }

    /// That a finished run's data are those given.
    fn check_data(&self, folder: &RunFolder) -> Result<()> {
        let last = folder.last()?;
        last.map_or(Ok(()), |last| {
            last.check_fingerprint(folder.path(), &self.corpus.source, &self.fingerprint)
        })
    }

    /// The report of one seed's run, from where it stands; `None` when interrupted.
    fn run_seed(
        &self,
        settings: &Settings,
        folder: &RunFolder,
        display: &mut Display,
        interrupt: &Interrupt,
    ) -> Result<Option<RunReport>> {
        if let Some(report) = folder.report()? {
            self.check_data(folder)?;
            display.line(&format!("{}: this run is over already", folder.path().display()));
            return Ok(Some(report));
        }
        let setup = Setup::new(settings.config.clone(), &self.corpus, &self.fingerprint)?;
        let compute = compute(&settings.run);
        let mut engine = engine(&setup.config, &self.corpus, &setup.origin.standardisation, compute)?;
        let parts = [&setup.partition.train, &setup.partition.validation, &setup.partition.test];
        let [train_on, validate_on, test_on] =
            parts.map(|part| amount(setup.targets(part).len(), part.len()));
        display.line(&format!(
            "training on {train_on}, validating on {validate_on}, testing on {test_on}; {compute}"
        ));
        let minutes = settings.run.checkpoint_minutes;
        let surroundings = Surroundings {
            setup: &setup,
            folder,
            cadence: (minutes > 0.0).then(|| Duration::from_secs_f64(60.0 * minutes)),
            display,
            interrupt,
        };
        match train(&mut *engine, surroundings)? {
            trainer::Outcome::Finished(report) => Ok(Some(*report)),
            trainer::Outcome::Interrupted { epoch, steps } => {
                note(&format!("interrupted and saved: epoch {epoch}, {steps} of its steps made"));
                Ok(None)
            }
        }
    }
}

fn read(run: &RunSettings) -> Result<Corpus> {
    let data = run.data.as_deref().unwrap_or(SYNTHETIC);
    source::read(data, run.format.as_deref(), run.modalities.clone())
}

fn seeds(settings: &Settings) -> impl Iterator<Item = u64> + use<> {
    let first = settings.config.seed;
    (0..settings.run.seeds as u64).map(move |index| first + index)
}

fn of_seed(settings: &Settings, seed: u64) -> Settings {
    Settings {
        run: RunSettings { seeds: 1, ..settings.run.clone() },
        config: Config { seed, ..settings.config.clone() },
    }
}

/// The data's name, for the folder of a run that was given none.
fn name_of(run: &RunSettings) -> String {
    let stem = run.data.as_deref().and_then(|data| Path::new(data).file_stem());
    stem.map_or_else(|| SYNTHETIC.to_string(), |stem| stem.to_string_lossy().into_owned())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=,@%:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted(Path::new("runs/a-1.b")), "runs/a-1.b");
        assert_eq!(quoted(Path::new("my runs/x")), "'my runs/x'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }

    #[test]
    fn a_run_is_named_after_its_data() {
        let named =
            |data: &str| name_of(&RunSettings { data: Some(data.to_string()), ..RunSettings::default() });
        assert_eq!(named("/a/IEMOCAP_features_raw.pkl"), "IEMOCAP_features_raw");
        assert_eq!(name_of(&RunSettings::default()), "synthetic");
        assert_eq!(named("synthetic"), "synthetic");
    }
}
