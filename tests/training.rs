//! The training loop with the CPU engine on small synthetic conversations: what it writes, when it stops, and
//! that a run cut and resumed is, bit for bit, the run that was never cut.

mod common;

use coin::data::Corpus;
use coin::data::synthetic::{SyntheticOptions, generate};
use coin::error::Result;
use coin::model::config::{Config, Precision};
use coin::model::device::Compute;
use coin::model::{Engine, Values, engine, room};
use coin::training::checkpoint::Checkpoint;
use coin::training::interrupt::Interrupt;
use coin::training::progress::Stop;
use coin::training::report::RunReport;
use coin::training::run_folder::RunFolder;
use coin::training::setup::Setup;
use coin::training::trainer::Outcome;
use common::{Event, Tampered, assert_same_run, last, metrics, together, without_times};
use std::path::{Path, PathBuf};

fn corpus() -> Corpus {
    generate(&SyntheticOptions::small())
}

/// Six steps an epoch, dropout and the adversarial pass on.
fn config() -> Config {
    Config {
        embedding_size: 6,
        history_length: 8,
        stacks: 2,
        batch_size: 16,
        learning_rate: 0.01,
        epochs: 3,
        validation_fraction: 0.25,
        ..Config::default()
    }
}

struct Run<'a> {
    corpus: &'a Corpus,
    config: Config,
    threads: usize,
    /// Save after every step.
    always_save: bool,
}

impl<'a> Run<'a> {
    fn new(corpus: &'a Corpus, config: &Config) -> Self {
        Run { corpus, config: config.clone(), threads: 1, always_save: false }
    }

    fn setup(&self) -> Result<Setup<'a>> {
        Setup::new(self.config.clone(), self.corpus, &self.corpus.fingerprint())
    }

    fn engine(&self) -> Box<dyn Engine> {
        let standardisation = self.setup().unwrap().origin.standardisation;
        engine(&self.config, self.corpus, &standardisation, Compute::cpu(self.threads)).unwrap()
    }

    /// Begins or goes on in `path`.
    fn go(&self, path: &Path, engine: &mut dyn Engine, interrupt: &Interrupt) -> Result<Outcome> {
        let runs = [(self.config.clone(), path.to_path_buf())];
        match together(engine, self.corpus, &runs, self.always_save, interrupt)?.remove(0) {
            Outcome::Failed(error) => Err(error),
            outcome => Ok(outcome),
        }
    }

    /// From where it stands to the end.
    fn finish(&self, path: &Path) -> Result<RunReport> {
        match self.go(path, &mut *self.engine(), &Interrupt::default())? {
            Outcome::Finished(report) => Ok(*report),
            interrupted => panic!("{interrupted:?}"),
        }
    }

    fn cut(&self, path: &Path, at: usize, what: Event, interrupt: &Interrupt) -> Result<Outcome> {
        let mut engine = Tampered { engine: self.engine(), steps: 0, at, what };
        self.go(path, &mut engine, interrupt)
    }
}

#[test]
fn a_run_learns_and_leaves_everything_in_its_folder() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let config = Config { epochs: 12, adversarial: false, dropout_keep: 1.0, ..config() };
    let run = Run::new(&corpus, &config);
    let report = run.finish(folder.path()).unwrap();
    let records = metrics(folder.path());
    assert_eq!(records.len(), report.epochs);
    assert!(records.last().unwrap().loss_clean < 0.6 * records[0].loss_clean, "{records:?}");
    assert_eq!(records[0].loss_adversarial, None);
    // Six classes: a guess is right once in six.
    assert!(report.test.as_ref().unwrap().figures.accuracy > 0.3, "{}", report.text());

    let best = records.iter().min_by(|a, b| a.validation_loss.total_cmp(&b.validation_loss)).unwrap();
    assert_eq!(report.best_epoch, best.epoch);
    assert_eq!(report.validation.loss, best.validation_loss);
    assert_eq!(report.validation.figures.weighted_f1, best.validation_weighted_f1);
    let setup = run.setup().unwrap();
    let labelled = |part: &[usize]| setup.targets(part).len() as u64;
    assert_eq!(report.test.as_ref().unwrap().figures.support, labelled(&setup.partition.test));
    assert_eq!(report.validation.figures.support, labelled(&setup.partition.validation));

    let json = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<RunReport>(&json).unwrap(), report);
    assert_eq!(std::fs::read_to_string(folder.path().join("report.txt")).unwrap(), report.text());
    let best = Checkpoint::read(&folder.path().join("best.safetensors")).unwrap();
    assert_eq!((best.config, best.origin, best.training), (config, setup.origin, None));
    let (_, settings) = RunFolder::open(folder.path()).unwrap();
    assert_eq!(settings.config, run.config);
}

#[test]
fn every_batch_is_the_shuffled_targets_of_its_epoch() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(&corpus, &config());
    run.finish(folder.path()).unwrap();
    let setup = run.setup().unwrap();
    let targets = setup.targets(&setup.partition.train);
    let steps = targets.len().div_ceil(16) as u64;
    assert!(!targets.len().is_multiple_of(16), "the last batch should be a shorter one");
    let updates: Vec<u64> = metrics(folder.path()).iter().map(|record| record.updates).collect();
    assert_eq!(updates, [steps, 2 * steps, 3 * steps]);
    assert_eq!(last(folder.path()).training.unwrap().progress.updates, 3 * steps);
}

#[test]
fn the_same_seed_is_the_same_run_whatever_the_threads_and_another_seed_is_not() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let [one, two, three] = ["one", "two", "three"].map(|name| folder.path().join(name));
    let run = Run::new(&corpus, &config());
    run.finish(&one).unwrap();
    Run { threads: 3, ..Run::new(&corpus, &config()) }.finish(&two).unwrap();
    assert_same_run(&one, &two);
    let other = Config { seed: 2, ..config() };
    Run::new(&corpus, &other).finish(&three).unwrap();
    assert_ne!(without_times(metrics(&one)), without_times(metrics(&three)));
}

#[test]
fn interrupted_after_any_step_and_resumed_it_is_the_run_never_interrupted() {
    for dtype in [Precision::F32, Precision::F64] {
        let corpus = corpus();
        let folder = tempfile::tempdir().unwrap();
        let config = Config { dtype, ..config() };
        let run = Run::new(&corpus, &config);
        let whole = folder.path().join("whole");
        run.finish(&whole).unwrap();
        let steps = metrics(&whole)[0].updates as usize;
        // Within the first epoch, at its very end (before validation), at the start of the next, later on.
        for at in [1, 3, steps, steps + 1, 2 * steps + 2, 3 * steps] {
            let path = folder.path().join(format!("cut-{at}"));
            let interrupt = Interrupt::default();
            let outcome = run.cut(&path, at, Event::Interrupt(interrupt.clone()), &interrupt).unwrap();
            let expected = Outcome::Interrupted { epoch: (at - 1) / steps + 1, steps: (at - 1) % steps + 1 };
            assert_eq!(outcome, expected);
            assert!(!path.join("report.json").exists());
            run.finish(&path).unwrap();
            assert_same_run(&whole, &path);
        }
    }
}

#[test]
fn interrupted_again_and_again_it_is_still_the_same_run() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(&corpus, &config());
    let [whole, path] = ["whole", "cut"].map(|name| folder.path().join(name));
    run.finish(&whole).unwrap();
    let mut cuts = 0;
    loop {
        let interrupt = Interrupt::default();
        match run.cut(&path, 2, Event::Interrupt(interrupt.clone()), &interrupt).unwrap() {
            Outcome::Interrupted { .. } => cuts += 1,
            Outcome::Finished(_) => break,
            Outcome::Failed(error) => panic!("{error}"),
        }
        assert!(cuts < 100, "the run does not come to an end");
    }
    assert!(cuts > 5);
    assert_same_run(&whole, &path);
}

#[test]
fn cut_without_warning_it_goes_on_from_the_last_checkpoint() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let mut run = Run::new(&corpus, &config());
    run.finish(&whole).unwrap();
    let steps = metrics(&whole)[0].updates as usize;
    for (always_save, at) in [(false, 2), (false, steps + 2), (true, 4), (true, steps + 3)] {
        run.always_save = always_save;
        let path = folder.path().join(format!("cut-{at}"));
        let error = run.cut(&path, at, Event::Fail, &Interrupt::default()).unwrap_err();
        assert_eq!(error.to_string(), "the plug was pulled");
        let saved = path.join("last.safetensors").exists();
        assert_eq!(saved, always_save || at > steps);
        if saved {
            let progress = last(&path).training.unwrap().progress;
            let expected = if always_save { at - 1 } else { at / steps * steps };
            assert_eq!(progress.updates, expected as u64);
        }
        run.finish(&path).unwrap();
        assert_same_run(&whole, &path);
    }
}

/// What a kill between the files written at an epoch's end leaves behind: best weights and metrics of an epoch
/// that the last checkpoint does not know of.
#[test]
fn cut_between_the_files_of_an_epochs_end_it_makes_the_end_again() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let [whole, path, ahead] = ["whole", "cut", "ahead"].map(|name| folder.path().join(name));
    let run = Run::new(&corpus, &config());
    run.finish(&whole).unwrap();
    let steps = metrics(&whole)[0].updates as usize;
    run.cut(&path, steps + 2, Event::Fail, &Interrupt::default()).unwrap_err();
    run.cut(&ahead, 2 * steps + 2, Event::Fail, &Interrupt::default()).unwrap_err();
    for name in ["best.safetensors", "metrics.jsonl"] {
        std::fs::copy(ahead.join(name), path.join(name)).unwrap();
    }
    std::fs::write(path.join(".last.safetensors.77.tmp"), "half a checkpoint").unwrap();
    assert_eq!(metrics(&path).len(), 2);
    run.finish(&path).unwrap();
    assert_same_run(&whole, &path);
    assert!(!path.join(".last.safetensors.77.tmp").exists());
}

#[test]
fn a_finished_run_resumed_reports_the_same_again() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(&corpus, &config());
    let report = run.finish(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("report.json")).unwrap();
    assert_eq!(run.finish(folder.path()).unwrap(), report);
}

#[test]
fn patience_stops_a_run_that_gets_no_better_and_the_best_weights_are_tested() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    // Far too large a step: the first epochs are the best ones.
    let config = Config { learning_rate: 0.5, patience: 2, epochs: 60, ..config() };
    let run = Run::new(&corpus, &config);
    let report = run.finish(folder.path()).unwrap();
    assert_eq!(report.stopped, Stop::Patience);
    assert_eq!(report.epochs, report.best_epoch + 2);
    assert!(report.epochs < 60);
    let records = metrics(folder.path());
    assert_eq!(records[report.best_epoch - 1].validation_loss, report.validation.loss);
    assert!(records.last().unwrap().validation_loss >= report.validation.loss);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_saves_nothing() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let run = Run { always_save: true, ..Run::new(&corpus, &config()) };
    let whole = folder.path().join("whole");
    run.finish(&whole).unwrap();
    let steps = metrics(&whole)[0].updates as usize;
    let path = folder.path().join("cut");
    let error = run.cut(&path, steps + 2, Event::Diverge(0), &Interrupt::default()).unwrap_err();
    let message = error.to_string();
    let place = format!("the adversarial loss is NaN in epoch 2, step 2 (update {})", steps + 2);
    assert!(message.contains(&place) && message.contains("lower learning_rate"), "{message}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!(last(&path).training.unwrap().progress.updates, steps as u64 + 1);
    assert_eq!(metrics(&path).len(), 1);
    run.finish(&path).unwrap();
    assert_same_run(&whole, &path);
}

#[test]
fn a_run_goes_on_under_its_own_settings_and_data_only() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(&corpus, &config());
    let steps = |at| {
        let interrupt = Interrupt::default();
        run.cut(folder.path(), at, Event::Interrupt(interrupt.clone()), &interrupt).unwrap()
    };
    steps(2);
    let mut changed = corpus.clone();
    changed.features[7] += 1.0;
    let error = Run::new(&changed, &config()).finish(folder.path()).unwrap_err().to_string();
    assert!(error.contains("was trained on other data: synthetic has fingerprint"), "{error}");
    let other = Config { epsilon: 0.5, ..config() };
    let error = Run::new(&corpus, &other).finish(folder.path()).unwrap_err().to_string();
    assert!(error.contains("was trained under other settings than its config.toml says"), "{error}");
}

#[test]
fn unlabelled_utterances_are_history_and_never_targets() {
    let mut corpus = corpus();
    for conversation in &mut corpus.conversations {
        conversation.utterances.iter_mut().step_by(2).for_each(|utterance| utterance.label = None);
    }
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(&corpus, &config());
    let report = run.finish(folder.path()).unwrap();
    let labelled = |split| {
        let conversations = corpus.conversations.iter().filter(|one| one.split == split);
        conversations.flat_map(|one| &one.utterances).filter(|one| one.label.is_some()).count() as u64
    };
    assert_eq!(report.test.unwrap().figures.support, labelled(coin::data::Split::Test));
}

#[test]
fn data_without_test_conversations_are_reported_on_validation() {
    let corpus = generate(&SyntheticOptions { test_conversations: 0, ..SyntheticOptions::small() });
    let folder = tempfile::tempdir().unwrap();
    let report = Run::new(&corpus, &config()).finish(folder.path()).unwrap();
    assert_eq!(report.test, None);
    assert!(report.validation.figures.support > 0);
}

/// A sample that the model is all but certain of has a gradient of 1e-40 or so, which is a number in single precision
/// while `eps / norm` is none.
#[test]
fn a_gradient_too_small_to_normalise_perturbs_nothing() {
    let corpus = corpus();
    let run = Run::new(&corpus, &Config { batch_size: 4, ..config() });
    let mut engine = run.engine();
    let fresh = engine.state().unwrap();
    let utterances = corpus.conversations.iter().flat_map(|conversation| &conversation.utterances);
    let of_first_class = (0..).zip(utterances).filter(|(_, utterance)| utterance.label == Some(0));
    let targets: Vec<u32> = of_first_class.map(|(row, _)| row).take(4).collect();
    let mut smallest = f64::MAX;
    for certainty in (70..110).map(|step| step as f32) {
        let mut state = fresh.clone();
        let bias = state.parameters.iter_mut().find(|tensor| tensor.name == "classifier.bias").unwrap();
        let Values::F32(values) = &mut bias.values else { panic!("not f32") };
        values[0] = certainty;
        engine.restore(&state).unwrap();
        let objective = engine.objective(&targets).unwrap();
        assert!(objective.loss.adversarial.unwrap().is_finite(), "certainty {certainty}");
        assert!(objective.gradient.iter().all(|tensor| tensor.values.all_finite()), "certainty {certainty}");
        let norms = objective.input_gradient_norm.into_iter().filter(|&norm| norm > 0.0);
        smallest = norms.fold(smallest, f64::min);
    }
    assert!(smallest < 1e-38, "the smallest gradient was {smallest}");
}

/// Three runs of one shape that stop in epochs of their own, each trained alone, in folders `alone-0` to `alone-2`.
fn three_runs(corpus: &Corpus, folder: &Path) -> Vec<Config> {
    let base = Config { epochs: 9, patience: 1, ..config() };
    let of = |seed, epsilon, dropout_keep, learning_rate| Config {
        seed,
        epsilon,
        dropout_keep,
        learning_rate,
        ..base.clone()
    };
    let configs = vec![of(1, 3.0, 0.7, 0.3), of(5, 0.5, 1.0, 0.01), of(2, 1.0, 0.5, 0.05)];
    let epochs: Vec<usize> = (0..)
        .zip(&configs)
        .map(|(i, config)| {
            Run::new(corpus, config).finish(&folder.join(format!("alone-{i}"))).unwrap().epochs
        })
        .collect();
    assert!(
        epochs[0] != epochs[1] && epochs[1] != epochs[2],
        "the test wants runs of different lengths: {epochs:?}"
    );
    configs
}

fn folders(folder: &Path, name: &str, configs: &[Config]) -> Vec<(Config, PathBuf)> {
    (0..).zip(configs).map(|(i, config)| (config.clone(), folder.join(format!("{name}-{i}")))).collect()
}

fn assert_as_alone(folder: &Path, runs: &[(Config, PathBuf)]) {
    for (i, (_, path)) in runs.iter().enumerate() {
        assert_same_run(&folder.join(format!("alone-{i}")), path);
    }
}

#[test]
fn runs_side_by_side_are_what_each_is_alone() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let configs = three_runs(&corpus, folder.path());
    // With a place for each, with fewer places than runs, and one after the other; with more threads than runs, and fewer.
    for (at_once, threads) in [(3, 2), (3, 7), (2, 1), (1, 2)] {
        let runs = folders(folder.path(), &format!("{at_once}-{threads}"), &configs);
        let mut engine = room(&configs[0], &corpus, Compute::cpu(threads), at_once).unwrap();
        let ended = together(&mut *engine, &corpus, &runs, false, &Interrupt::default()).unwrap();
        assert!(ended.iter().all(|ended| matches!(ended, Outcome::Finished(_))), "{ended:?}");
        assert_as_alone(folder.path(), &runs);
    }
}

#[test]
fn runs_side_by_side_are_resumed_from_wherever_each_was_cut() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let configs = three_runs(&corpus, folder.path());
    let runs = folders(folder.path(), "cut", &configs);
    // One has made some steps alone, so that the others are behind it; then all are cut again and again.
    let interrupt = Interrupt::default();
    let alone = Run::new(&corpus, &configs[1]);
    alone.cut(&runs[1].1, 9, Event::Interrupt(interrupt.clone()), &interrupt).unwrap();
    let mut lives = 0;
    loop {
        let interrupt = Interrupt::default();
        let engine = room(&configs[0], &corpus, Compute::cpu(2), 3 - lives % 2).unwrap();
        let mut engine = Tampered { engine, steps: 0, at: 5, what: Event::Interrupt(interrupt.clone()) };
        // Runs that are over are not begun again.
        let left: Vec<_> =
            runs.iter().filter(|(_, path)| !path.join("report.json").exists()).cloned().collect();
        if left.is_empty() {
            break;
        }
        let ended = together(&mut engine, &corpus, &left, false, &interrupt).unwrap();
        assert!(ended.iter().all(|ended| !matches!(ended, Outcome::Failed(_))), "{ended:?}");
        lives += 1;
        assert!(lives < 60, "the runs do not come to an end");
    }
    assert!(lives > 5);
    assert_as_alone(folder.path(), &runs);
    // And without warning.
    let runs = folders(folder.path(), "plug", &configs);
    let engine = room(&configs[0], &corpus, Compute::cpu(2), 3).unwrap();
    let mut engine = Tampered { engine, steps: 0, at: 8, what: Event::Fail };
    let error = together(&mut engine, &corpus, &runs, false, &Interrupt::default()).unwrap_err();
    assert_eq!(error.to_string(), "the plug was pulled");
    let mut engine = room(&configs[0], &corpus, Compute::cpu(2), 3).unwrap();
    together(&mut *engine, &corpus, &runs, false, &Interrupt::default()).unwrap();
    assert_as_alone(folder.path(), &runs);
}

#[test]
fn a_run_that_diverges_leaves_the_others_alone() {
    let corpus = corpus();
    let folder = tempfile::tempdir().unwrap();
    let configs = three_runs(&corpus, folder.path());
    let runs = folders(folder.path(), "diverges", &configs);
    let engine = room(&configs[0], &corpus, Compute::cpu(2), 2).unwrap();
    let mut engine = Tampered { engine, steps: 0, at: 8, what: Event::Diverge(1) };
    let ended = together(&mut engine, &corpus, &runs, false, &Interrupt::default()).unwrap();
    let Outcome::Failed(error) = &ended[1] else { panic!("{ended:?}") };
    assert!(
        error.to_string().contains("training diverged: the adversarial loss is NaN in epoch 2"),
        "{error}"
    );
    assert_eq!(last(&runs[1].1).training.unwrap().progress.history.len(), 1);
    for (i, ended) in ended.iter().enumerate().filter(|(i, _)| *i != 1) {
        assert!(matches!(ended, Outcome::Finished(_)), "{ended:?}");
        assert_same_run(&folder.path().join(format!("alone-{i}")), &runs[i].1);
    }
    // Tried again, it goes on from before.
    let mut engine = room(&configs[0], &corpus, Compute::cpu(2), 1).unwrap();
    together(&mut *engine, &corpus, &runs[1..2], false, &Interrupt::default()).unwrap();
    assert_as_alone(folder.path(), &runs);
}
