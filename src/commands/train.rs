//! `coin train`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, ValueEnum};
use serde::Serialize;

use super::output::{note, print};
use super::source::{self, SYNTHETIC};
use super::{Outcome, model};
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::metrics::report::{amount, counted};
use crate::model::config::Config;
use crate::model::device::{Compute, Device};
use crate::model::{fitting, room};
use crate::training::display::Display;
use crate::training::interrupt::Interrupt;
use crate::training::partition::Partition;
use crate::training::report::{Combination, RunReport, Summary, SweepSummary, Together};
use crate::training::run_folder::RunFolder;
use crate::training::settings::{self, Layer, RunSettings, SEPARATOR, Setting, Settings};
use crate::training::setup::Setup;
use crate::training::sweep::{self, Planned};
use crate::training::trainer::{self, Queue, Run, Surroundings, train};

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
  coin train --device cuda --sweep epsilon=1,3,5 --sweep dropout_keep=0.3,0.7 --seeds 8
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
                let arg = if *key == "sweep" { arg.action(ArgAction::Append) } else { arg };
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
        let given = keys.filter_map(|key| {
            let values: Vec<&str> = matches.get_many::<String>(key)?.map(String::as_str).collect();
            Some((key, values.join(SEPARATOR)))
        });
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
    let display = Display::new(arguments.quiet);
    let outcome = job.run(&display, &interrupt);
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

/// Runs with their folder and their data.
struct Job {
    settings: Settings,
    /// Those of the engine.
    computed: Config,
    /// One, or several seeds and combinations.
    runs: Vec<Planned>,
    /// How many are trained side by side.
    at_once: usize,
    folder: RunFolder,
    corpus: Corpus,
    fingerprint: String,
}

impl Job {
    /// The data are read and the memory foreseen first: a mistake there leaves no folder behind.
    fn new(mut settings: Settings) -> Result<Self> {
        let corpus = read(&settings.run)?;
        Partition::draw(&corpus, &settings.config)?;
        settings.run.modalities =
            Some(corpus.modalities.iter().map(|modality| modality.name.clone()).collect());
        settings.run = anywhere(settings.run)?;
        let runs = sweep::runs(&settings)?;
        let at_once = at_once(&settings.run, runs.len(), &settings.config, &corpus)?;
        let folder = match &settings.run.out {
            Some(path) => {
                let path = Path::new(path);
                let mut several = runs.iter().filter(|run| !run.name.is_empty());
                several.try_for_each(|run| RunFolder::check_free(&path.join(&run.name)))?;
                RunFolder::create(path, &settings)?
            }
            None => RunFolder::create_numbered(Path::new("runs"), &name_of(&settings.run), &settings)?,
        };
        Ok(Job {
            runs,
            computed: settings.config.clone(),
            at_once,
            fingerprint: corpus.fingerprint(),
            settings,
            folder,
            corpus,
        })
    }

    /// Of what is given beside --resume, all must be as the run has it but for where the data lie (their
    /// fingerprint is held against the checkpoint's), the device, the threads, how many runs at once and how often to save.
    fn resumed(path: &Path, layers: &[Layer]) -> Result<Self> {
        let (folder, own) = RunFolder::open(path)?;
        let path = path.display();
        if layers.iter().flat_map(Layer::keys).any(|key| key == "out") {
            return Err(Error::input(format!("--out: a resumed run goes on in its own folder, {path}")));
        }
        let mut settings = own.with(layers)?;
        const FREE: [&str; 6] = ["data", "format", "device", "threads", "at_once", "checkpoint_minutes"];
        let differences = own.differences(&settings)?;
        if let Some((key, own, given)) = differences.iter().find(|(key, ..)| !FREE.contains(&key.as_str())) {
            return Err(Error::input(format!(
                "{path}: {key} is {own} in the run and {given} here; a resumed run keeps its settings: leave \
                 --{} out, or begin a new run with --config {path}/config.toml and the change",
                flag(key)
            )));
        }
        let corpus = read(&settings.run)?;
        settings.run = anywhere(settings.run)?;
        let computed = compute(&settings.run).settings(&settings.config);
        let (runs, fingerprint) = (sweep::runs(&settings)?, corpus.fingerprint());
        // Of several runs those that have not begun have nothing to hold other data against: one that has speaks for all.
        for path in runs.iter().filter(|run| !run.name.is_empty()).map(|run| folder.path().join(&run.name)) {
            if let Ok(Some(last)) = RunFolder::last_of(&path) {
                last.check_fingerprint(&path, &corpus.source, &fingerprint)?;
                break;
            }
        }
        Ok(Job {
            at_once: at_once(&settings.run, runs.len(), &computed, &corpus)?,
            runs,
            computed,
            fingerprint,
            settings,
            folder,
            corpus,
        })
    }

    fn run(&self, display: &Display, interrupt: &Interrupt) -> Result<Outcome> {
        let source = match &self.settings.run.data {
            Some(data) if data != SYNTHETIC => format!("data: {data}"),
            _ => "data: synthetic conversations, made by a generator (name real ones by --data)".to_string(),
        };
        display.line(&source);
        display.line(&format!("run folder: {}", self.folder.path().display()));
        let (trained, computed) = (self.settings.config.dtype, self.computed.dtype);
        if trained != computed {
            display.line(&format!("dtype {trained} needs tensor cores: it goes on in {computed} on the CPU"));
        }
        if self.runs.len() > 1 {
            display.line(&format!("{} runs, {} at once", self.runs.len(), self.at_once));
        }
        let mut work = Work {
            job: self,
            display,
            source: &source,
            next: 0,
            ready: None,
            ended: self.runs.iter().map(|_| None).collect(),
            trained: 0,
        };
        let began = Instant::now();
        work.ready = work.look_up()?;
        if work.ready.is_some() {
            let compute = compute(&self.settings.run);
            let mut engine = room(&self.computed, &self.corpus, compute, self.at_once)?;
            let minutes = self.settings.run.checkpoint_minutes;
            let surroundings = Surroundings {
                cadence: (minutes > 0.0).then(|| Duration::from_secs_f64(60.0 * minutes)),
                display,
                interrupt,
            };
            train(&mut *engine, &mut work, surroundings)?;
        }
        let Work { ended, trained, .. } = work;
        if ended.iter().any(|ended| matches!(ended, None | Some(trainer::Outcome::Interrupted { .. }))) {
            return Ok(Outcome::Interrupted);
        }
        if self.runs.len() > 1 {
            self.summarise(&ended)?;
            // All may have been over before.
            if trained > 0 {
                let hours = began.elapsed().as_secs_f64() / 3600.0;
                let rate = trained as f64 / hours.max(f64::MIN_POSITIVE);
                display.line(&format!("{} trained, {rate:.1} runs an hour", counted(trained, "run")));
            }
        }
        let failed = ended.into_iter().filter_map(|ended| match ended {
            Some(trainer::Outcome::Failed(error)) => Some(error),
            _ => None,
        });
        let failed: Vec<Error> = failed.collect();
        if !failed.is_empty() && self.runs.len() > 1 {
            let (all, count) = (counted(self.runs.len(), "run"), failed.len());
            let failures = match count == self.runs.len() {
                true => format!("all {all} failed, as told above"),
                false => format!("{count} of {all} failed, as told above; the others are done"),
            };
            let message = format!("{}: {failures}", self.folder.path().display());
            // What can be mended counts: the runs can go on then.
            return Err(match failed.iter().any(|error| matches!(error, Error::System(_))) {
                true => Error::System(message),
                false => Error::Input(message),
            });
        }
        if let Some(error) = failed.into_iter().next() {
            return Err(error);
        }
        display.line(&format!("all of it is in {}", self.folder.path().display()));
        Ok(Outcome::Done)
    }

    /// Mean and deviation over the seeds, of each combination in a sweep; of the runs that ended well.
    fn summarise(&self, ended: &[Option<trainer::Outcome>]) -> Result<()> {
        let mut combinations: Vec<(&str, Vec<RunReport>)> = Vec::new();
        let mut left_out = Vec::new();
        for (run, ended) in self.runs.iter().zip(ended) {
            let Some(trainer::Outcome::Finished(report)) = ended else {
                left_out.push(run.name.clone());
                continue;
            };
            match combinations.iter_mut().find(|(combination, _)| *combination == run.combination) {
                Some((_, reports)) => reports.push((**report).clone()),
                None => combinations.push((&run.combination, vec![(**report).clone()])),
            }
        }
        let combinations = combinations.into_iter().filter_map(|(settings, reports)| {
            Some(Combination { settings: settings.to_string(), summary: Summary::new(reports)? })
        });
        let combinations: Vec<Combination> = combinations.collect();
        // A summary of earlier times is more than one of nothing.
        if combinations.is_empty() {
            return Ok(());
        }
        if self.settings.run.sweep.is_empty() {
            let Some(Combination { summary, .. }) = combinations.into_iter().next() else { return Ok(()) };
            self.tell(summary.text(), &Together { summary, left_out })
        } else {
            let summary = SweepSummary { combinations };
            self.tell(summary.text(), &Together { summary, left_out })
        }
    }

    /// Writes and prints a summary, whose own text comes first.
    fn tell<S: Serialize>(&self, text: String, all: &Together<S>) -> Result<()> {
        let text = text + &all.left_out_text();
        self.folder.write_summary(&text, all)?;
        print(&text).map(drop)
    }
}

/// The runs of a job, as they are trained.
struct Work<'a> {
    job: &'a Job,
    display: &'a Display,
    source: &'a str,
    /// The first that has not been looked at.
    next: usize,
    /// What has been taken out already.
    ready: Option<Run<'a>>,
    ended: Vec<Option<trainer::Outcome>>,
    /// Runs that this process has brought to their end.
    trained: usize,
}

impl<'a> Work<'a> {
    /// The next run that is not over.
    fn look_up(&mut self) -> Result<Option<Run<'a>>> {
        while let Some(planned) = self.job.runs.get(self.next) {
            let index = self.next;
            self.next += 1;
            match self.open(index, planned) {
                Ok(Ok(run)) => return Ok(Some(run)),
                Ok(Err(report)) => self.end(index, trainer::Outcome::Finished(report))?,
                Err(error) => self.end(index, trainer::Outcome::Failed(error))?,
            }
        }
        Ok(None)
    }

    /// A run, or its report where it is over.
    fn open(
        &self,
        index: usize,
        planned: &'a Planned,
    ) -> Result<std::result::Result<Run<'a>, Box<RunReport>>> {
        let Job { folder: all, corpus, fingerprint, .. } = self.job;
        let path = match planned.name.as_str() {
            "" => all.path().to_path_buf(),
            name => all.path().join(name),
        };
        let (single, begun) = (planned.name.is_empty(), RunFolder::exists(&path));
        if !single && begun {
            let own = Settings { run: planned.settings.run.clone(), ..RunFolder::settings_of(&path)? };
            if let Some((key, wanted, found)) = planned.settings.differences(&own)?.first() {
                return Err(Error::input(format!(
                    "{}: {key} is {found} in its config.toml and {wanted} in this training: put back what was \
                     changed there, or begin anew in another folder",
                    path.display()
                )));
            }
        }
        // One that is over is read alone, whichever process has its folder.
        if let Some(report) = RunFolder::report_of(&path)? {
            if let Some(last) = RunFolder::last_of(&path)? {
                last.check_fingerprint(&path, &corpus.source, fingerprint)?;
            }
            self.display.line(&format!("{}: this run is over already", path.display()));
            return Ok(Err(Box::new(report)));
        }
        let folder = match (single, begun) {
            (true, _) => all.clone(),
            (false, true) => RunFolder::open(&path)?.0,
            (false, false) => RunFolder::create(&path, &planned.settings)?,
        };
        let setup = Setup::new(planned.settings.config.clone(), corpus, fingerprint)?;
        let parts = [&setup.partition.train, &setup.partition.validation, &setup.partition.test];
        let [train_on, validate_on, test_on] =
            parts.map(|part| amount(setup.targets(part).len(), part.len()));
        let label = label(planned);
        self.display.line(&format!(
            "{label}training on {train_on}, validating on {validate_on}, testing on {test_on}; {}",
            compute(&self.job.settings.run)
        ));
        Ok(Ok(Run { index, setup, dtype: self.job.computed.dtype, folder, label }))
    }

    fn end(&mut self, index: usize, outcome: trainer::Outcome) -> Result<()> {
        let planned = &self.job.runs[index];
        let label = label(planned);
        match &outcome {
            // That nobody reads the reports is no reason to stop training: they are in the folder.
            trainer::Outcome::Finished(report) => {
                let combination = match planned.combination.as_str() {
                    "" => String::new(),
                    combination => format!("{combination}\n"),
                };
                print(&format!("{}\n{combination}{}\n", self.source, report.text())).map(drop)?;
            }
            trainer::Outcome::Interrupted { epoch, steps } => {
                note(&format!("{label}interrupted and saved: epoch {epoch}, {steps} of its steps made"));
            }
            // Of a single run it is what the program ends with.
            trainer::Outcome::Failed(error) if self.job.runs.len() > 1 => note(&format!("{label}{error}")),
            trainer::Outcome::Failed(_) => {}
        }
        self.ended[index] = Some(outcome);
        Ok(())
    }
}

impl<'a> Queue<'a> for Work<'a> {
    fn next(&mut self) -> Result<Option<Run<'a>>> {
        match self.ready.take() {
            Some(run) => Ok(Some(run)),
            None => self.look_up(),
        }
    }

    fn ended(&mut self, run: Run<'a>, outcome: trainer::Outcome) -> Result<()> {
        self.trained += usize::from(matches!(outcome, trainer::Outcome::Finished(_)));
        self.end(run.index, outcome)
    }
}

/// Before every line about one run of several.
fn label(run: &Planned) -> String {
    match run.name.as_str() {
        "" => String::new(),
        name => format!("{}  ", name.replace("seed-", "seed ")),
    }
}

/// Side by side on a card, where nothing is said: more of them fill it no better.
const ON_A_CARD: usize = 16;

/// How many of `runs` are trained side by side, computed with `config`: as many as are wanted, or of use, and fit.
fn at_once(settings: &RunSettings, runs: usize, config: &Config, corpus: &Corpus) -> Result<usize> {
    let compute = compute(settings);
    let wanted = settings.at_once;
    let most = wanted.unwrap_or(match compute.device {
        Device::Cpu => compute.threads,
        Device::Cuda(_) => ON_A_CARD,
    });
    let most = most.min(runs).max(1);
    let fit = fitting(config, corpus, compute, most)?;
    if wanted.is_some() && fit < most {
        return Err(Error::input(format!(
            "at_once is {most}, and the memory that is free holds {fit} such runs: take at_once {fit}, or leave it out"
        )));
    }
    Ok(fit)
}

fn read(run: &RunSettings) -> Result<Corpus> {
    let data = run.data.as_deref().unwrap_or(SYNTHETIC);
    source::read(data, run.format.as_deref(), run.modalities.clone())
}

/// Settings that mean the same in another folder, from where a run may be resumed, or its configuration used again.
fn anywhere(mut run: RunSettings) -> Result<RunSettings> {
    if let Some(data) = run.data.as_mut().filter(|data| *data != SYNTHETIC) {
        *data = std::path::absolute(&data)
            .map_err(|error| Error::io("resolve", Path::new(&*data), &error))?
            .display()
            .to_string();
    }
    Ok(run)
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
