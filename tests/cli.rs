//! The program as a user meets it: what it prints, what it refuses, how it exits, and that a run killed at any
//! moment and resumed is the run that was never killed.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use coin::data::synthetic::{SyntheticOptions, generate};
use coin::data::{Corpus, ReadOptions, conversations};
use coin::metrics::cross_entropy;
use coin::model::Values;
use coin::model::config::Config;
use coin::random::{Stream, purpose};
use coin::training::checkpoint::Checkpoint;
use coin::training::report::{RunReport, Summary, SweepSummary, Together};
use coin::training::run_folder::RunFolder;
use coin::training::settings;
use common::{assert_same_run, metrics};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small model: tens of steps a second even unoptimised.
const SMALL: [&str; 12] = [
    "--embedding-size",
    "6",
    "--history-length",
    "8",
    "--stacks",
    "2",
    "--batch-size",
    "16",
    "--learning-rate",
    "0.01",
    "--threads",
    "1",
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coin"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn coin(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn succeeds(arguments: &[&str]) -> Output {
    let output = coin(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    output
}

/// Refused with exit code 2, with a message that holds each of `parts`.
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = coin(arguments);
    let message = err(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(message.starts_with("coin: error: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A folder with small.jsonl in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        conversations::write(&generate(&SyntheticOptions::small()), &place.path("small.jsonl")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    fn data(&self) -> String {
        self.text("small.jsonl")
    }

    fn corpus(&self) -> Corpus {
        coin::data::read(&self.path("small.jsonl"), &ReadOptions::default()).unwrap()
    }

    /// Arguments that train a small model on the data for so many epochs.
    fn training(&self, name: &str, epochs: &str, more: &[&str]) -> Vec<String> {
        let (data, out) = (self.data(), self.text(name));
        let mut arguments = vec!["train", "--data", &data, "--out", &out, "--epochs", epochs];
        arguments.extend(["--patience", epochs]);
        arguments.extend(SMALL);
        arguments.extend(more);
        arguments.iter().map(ToString::to_string).collect()
    }

    fn train(&self, name: &str, epochs: &str, more: &[&str]) -> Output {
        succeeds(&texts(&self.training(name, epochs, more)))
    }
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn help_and_version_are_there() {
    let version = succeeds(&["--version"]);
    assert_eq!(out(&version), format!("coin {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["train", "evaluate", "predict", "convert", "init", "step"] {
        let help = succeeds(&[command, "--help"]);
        assert!(out(&help).contains("Example"), "{command}: {}", out(&help));
    }
    let help = succeeds(&["train", "--help"]);
    for setting in settings::RUN.iter().chain(settings::MODEL) {
        let flag = format!("--{} ", setting.key.replace('_', "-"));
        assert!(out(&help).contains(&flag), "{flag}");
    }
    assert_eq!(coin(&["train", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(coin(&[]).status.code(), Some(2));
}

#[test]
fn a_run_leaves_its_folder_and_evaluate_says_the_same_of_it() {
    let place = Place::new();
    let output = place.train("run", "3", &[]);
    let run = place.text("run");
    assert!(out(&output).contains("weighted F1"), "{}", out(&output));
    assert!(out(&output).contains("confusion matrix"));
    assert_eq!(err(&output).lines().filter(|line| line.starts_with("epoch ")).count(), 3);
    assert!(err(&output).contains("utterances/s") && err(&output).contains(" left"), "{}", err(&output));
    let report: RunReport = read_json(&place.path("run/report.json"));
    assert!(out(&output).ends_with(&format!("{}\n", report.text())));

    for (split, expected) in [("test", report.test.as_ref()), ("validation", Some(&report.validation))] {
        let arguments = ["evaluate", "--checkpoint", &run, "--data", &place.data(), "--split", split];
        let evaluated = succeeds(&arguments);
        assert_eq!(out(&evaluated), expected.unwrap().text());
        assert_eq!(err(&evaluated), "");
        let json = succeeds(&[&arguments[..], &["--json"]].concat());
        let json: Value = serde_json::from_str(out(&json)).unwrap();
        let expected = serde_json::to_value(expected.unwrap()).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&json[key], value, "{key}");
        }
        // IEMOCAP's classes, and other conversations: the paper's figures are not of them.
        assert!(json["paper"].is_null());
    }
    let train = succeeds(&["evaluate", "--checkpoint", &run, "--data", &place.data(), "--split", "train"]);
    assert!(out(&train).starts_with("train: "));

    let quiet = place.train("quiet", "2", &["--quiet"]);
    assert_eq!(err(&quiet), "");
    assert!(out(&quiet).contains("weighted F1"));
}

#[test]
fn a_folder_that_holds_a_run_is_refused() {
    let place = Place::new();
    place.train("run", "1", &[]);
    let before = std::fs::read(place.path("run/last.safetensors")).unwrap();
    let again = place.training("run", "1", &[]);
    refused(&texts(&again), &["holds a run already", "--resume", "--out"]);
    assert_eq!(std::fs::read(place.path("run/last.safetensors")).unwrap(), before);
}

#[test]
fn a_folder_that_holds_what_a_run_would_write_over_is_refused() {
    let place = Place::new();
    for (name, text) in [("report.txt", "mine"), ("config.toml", "title = 'mine'\n")] {
        let folder = format!("of-{name}");
        std::fs::create_dir(place.path(&folder)).unwrap();
        std::fs::write(place.path(&folder).join(name), text).unwrap();
        let expected =
            format!("{folder}: holds a {name}, which a run would write over, and no run to go on with");
        refused(&texts(&place.training(&folder, "1", &[])), &[&expected, "--out"]);
        refused(&["train", "--resume", &place.text(&folder)], &["holds no run to resume"]);
        assert_eq!(std::fs::read_to_string(place.path(&folder).join(name)).unwrap(), text);
        assert_eq!(std::fs::read_dir(place.path(&folder)).unwrap().count(), 1);
    }
    std::fs::write(place.path("README.md"), "mine").unwrap();
    refused(
        &texts(&place.training("README.md", "1", &[])),
        &["README.md: cannot make the folder: there is a file of that name: name another"],
    );
}

#[test]
fn without_a_name_runs_are_named_after_their_data_and_numbered() {
    let place = Place::new();
    for name in ["runs/small", "runs/small-2"] {
        let data = place.data();
        let mut train = command(&["train", "--data", &data, "--epochs", "1"]);
        let output = train.args(SMALL).current_dir(place.0.path()).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        assert!(place.path(name).join("report.json").exists());
        assert!(err(&output).contains(&format!("run folder: {name}\n")));
    }
}

#[test]
fn the_resolved_configuration_makes_the_same_run_again() {
    let place = Place::new();
    std::fs::write(place.path("c.toml"), "d = 5\nepochs = 9\nseed = 4\nadversarial_norm = \"batch\"\n")
        .unwrap();
    let (config, one, two) = (place.text("c.toml"), place.text("one"), place.text("two"));
    let data = place.data();
    succeeds(&[
        "train",
        "--config",
        &config,
        "--data",
        &data,
        "--epochs",
        "2",
        "--out",
        &one,
        "--stacks",
        "1",
        "--history-length",
        "6",
        "--modalities",
        "text,visual",
    ]);
    let resolved = std::fs::read_to_string(place.path("one/config.toml")).unwrap();
    for line in ["embedding_size = 5", "epochs = 2", "seed = 4", "modalities = [\"text\", \"visual\"]"] {
        assert!(resolved.lines().any(|found| found == line), "{line} is not in {resolved}");
    }
    let resolved = place.text("one/config.toml");
    succeeds(&["train", "--config", &resolved, "--out", &two]);
    assert_same_run(&place.path("one"), &place.path("two"));
    let checkpoint = Checkpoint::read(&place.path("one/best.safetensors")).unwrap();
    assert_eq!(checkpoint.modality_names(), ["text", "visual"]);
}

#[test]
fn mistaken_settings_are_named() {
    let place = Place::new();
    std::fs::write(place.path("c.toml"), "dropout = 0.5\n").unwrap();
    let (config, data, run) = (place.text("c.toml"), place.data(), place.text("run"));
    refused(&["train", "--config", &config], &["c.toml: unknown setting \"dropout\"", "dropout_keep"]);
    refused(&["train", "--epochs", "many"], &["--epochs: epochs is a whole number, not \"many\""]);
    refused(&["train", "--epsilon", "-1"], &["epsilon is -1; it must be 0 to 1000000"]);
    refused(&["train", "--epsilon", "1e38"], &["; it must be 0 to 1000000"]);
    refused(
        &["train", "--dtype", "f16"],
        &["coin: error: --dtype: dtype is one of f32, f64, mixed, not f16"],
    );
    refused(&["train", "--device", "gpu"], &["coin: error: --device: device is cpu, cuda or cuda:N"]);
    refused(&["train", "--batch-size", "-1"], &["--batch-size: batch_size is -1; it must be 1 to 1000000"]);
    refused(
        &["train", "--data", "no-such.pkl"],
        &["no-such.pkl: cannot read: there is no file of that name"],
    );
    refused(&["train", "--data", &data, "--modalities", "smell", "--out", &run], &["small.jsonl", "smell"]);
    refused(
        &["train", "--modalities", "smell", "--out", &run],
        &["synthetic: there is no modality \"smell\""],
    );
    refused(&["train", "--resume", &run], &["run: holds no run to resume"]);
    assert!(!place.path("run").exists(), "a mistake left a folder behind");
}

#[test]
fn without_data_it_trains_on_synthetic_conversations_and_says_so() {
    let place = Place::new();
    let mut train =
        command(&["train", "--epochs", "1", "--batch-size", "512", "--modalities", "text", "--quiet"]);
    train.args([
        "--embedding-size",
        "4",
        "--history-length",
        "3",
        "--stacks",
        "1",
        "--learning-rate",
        "0.01",
    ]);
    let output = train.current_dir(place.0.path()).output().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        out(&output).starts_with("data: synthetic conversations, made by a generator"),
        "{}",
        out(&output)
    );
    let run = place.text("runs/synthetic");
    let report: RunReport = read_json(&place.path("runs/synthetic/report.json"));
    let evaluated = succeeds(&["evaluate", "--checkpoint", &run, "--data", "synthetic"]);
    assert_eq!(out(&evaluated), report.test.unwrap().text());
}

#[test]
fn the_paper_preset_is_the_papers_values() {
    let place = Place::new();
    place.train("run", "1", &["--preset", "paper"]);
    let checkpoint = Checkpoint::read(&place.path("run/best.safetensors")).unwrap();
    let Config { dropout_keep, anneal_epochs, adversarial, embedding_size, .. } = checkpoint.config;
    // The flags of the small model are over the preset.
    assert_eq!((dropout_keep, anneal_epochs, adversarial, embedding_size), (0.3, 60, true, 6));
}

#[test]
fn several_seeds_are_several_runs_and_a_summary() {
    let place = Place::new();
    let output = place.train("seeds", "2", &["--seeds", "2"]);
    place.train("single", "2", &["--seed", "2"]);
    assert_same_run(&place.path("single"), &place.path("seeds/seed-2"));
    let summary: Summary = read_json(&place.path("seeds/summary.json"));
    assert_eq!(summary.seeds, [1, 2]);
    let accuracies = summary.runs.iter().map(|run| run.test.as_ref().unwrap().figures.accuracy);
    let accuracies: Vec<f64> = accuracies.collect();
    assert_eq!(summary.accuracy.mean, (accuracies[0] + accuracies[1]) / 2.0);
    assert!(out(&output).ends_with(&summary.text()), "{}", out(&output));
    assert!(out(&output).contains("test, mean and standard deviation over 2 seeds"));
    assert!(err(&output).contains("\nseed 2  epoch 1/2 "), "{}", err(&output));

    // What was finished is not trained again; what is missing is.
    std::fs::remove_dir_all(place.path("seeds/seed-2")).unwrap();
    std::fs::remove_file(place.path("seeds/summary.json")).unwrap();
    let resumed = succeeds(&["train", "--resume", &place.text("seeds")]);
    assert!(err(&resumed).contains("seed-1: this run is over already"), "{}", err(&resumed));
    assert!(err(&resumed).contains("\n1 run trained, ") && err(&resumed).contains(" runs an hour\n"));
    assert_same_run(&place.path("single"), &place.path("seeds/seed-2"));
    assert_eq!(read_json::<Summary>(&place.path("seeds/summary.json")), summary);
    let over = succeeds(&["train", "--resume", &place.text("seeds")]);
    assert!(!err(&over).contains("runs an hour"), "{}", err(&over));
}

/// A run that is over is in the summary whoever has its folder; one that cannot be gone on with is named there.
#[test]
fn a_run_in_another_process_is_in_the_summary_or_named_as_left_out() {
    let place = Place::new();
    let output = place.train("seeds", "1", &["--seeds", "2"]);
    let summary = std::fs::read(place.path("seeds/summary.json")).unwrap();
    let seeds = place.text("seeds");
    let (held, _) = RunFolder::open(&place.path("seeds/seed-2")).unwrap();
    let resumed = succeeds(&["train", "--resume", &seeds]);
    assert_eq!(out(&resumed), out(&output));
    assert_eq!(std::fs::read(place.path("seeds/summary.json")).unwrap(), summary);

    std::fs::remove_file(place.path("seeds/seed-2/report.json")).unwrap();
    let resumed = coin(&["train", "--resume", &seeds]);
    assert_eq!(resumed.status.code(), Some(2));
    assert!(
        err(&resumed).contains("seed-2: another process is training in this folder"),
        "{}",
        err(&resumed)
    );
    assert!(out(&resumed).ends_with("\nleft out, since not at their end: seed-2\n"), "{}", out(&resumed));
    let left: Together<Summary> = read_json(&place.path("seeds/summary.json"));
    assert_eq!(
        (left.summary.seeds.as_slice(), left.left_out.as_slice()),
        (&[1][..], &["seed-2".to_string()][..])
    );
    assert!(std::fs::read_to_string(place.path("seeds/summary.txt")).unwrap().ends_with(": seed-2\n"));

    drop(held);
    succeeds(&["train", "--resume", &seeds]);
    assert_eq!(std::fs::read(place.path("seeds/summary.json")).unwrap(), summary);
}

/// What is given with --resume is in the settings of the runs that begin then; one of several runs is to be chosen.
#[test]
fn of_several_runs_one_is_chosen_and_a_later_one_has_what_resuming_gave() {
    let place = Place::new();
    place.train("seeds", "1", &["--seeds", "3"]);
    let (seeds, data) = (place.text("seeds"), place.data());
    for command in ["evaluate", "predict"] {
        refused(
            &[command, "--checkpoint", &seeds, "--data", &data],
            &[
                "seeds: holds several runs (seed-1, seed-2, seed-3): choose one, as in --checkpoint ",
                "seeds/seed-1",
            ],
        );
    }
    let nothing = place.text(".");
    refused(
        &["evaluate", "--checkpoint", &nothing, "--data", &data],
        &[
            "there is no best.safetensors in it: name a checkpoint file, or the folder of a run that has made an epoch",
        ],
    );

    std::fs::remove_dir_all(place.path("seeds/seed-3")).unwrap();
    succeeds(&["train", "--resume", &seeds, "--threads", "2", "--checkpoint-minutes", "3"]);
    let settings = |run: &str| RunFolder::settings_of(&place.path(run)).unwrap().run;
    let (before, later) = (settings("seeds/seed-2"), settings("seeds/seed-3"));
    assert_eq!((before.threads, before.checkpoint_minutes), (Some(1), 10.0));
    assert_eq!((later.threads, later.checkpoint_minutes), (Some(2), 3.0));
    assert_eq!(later.data, before.data);
}

#[test]
fn a_sweep_is_a_run_for_each_combination_and_one_that_diverges_is_told_of() {
    let place = Place::new();
    let sweep =
        ["--sweep", "eps=1,0.5", "--sweep", "learning_rate=0.01,1e39", "--seeds", "2", "--at-once", "3"];
    let arguments = place.training("grid", "2", &sweep);
    // The flag of the small model is beneath the sweep.
    let output = coin(&texts(&arguments));
    let message = err(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("\n8 runs, 3 at once\n"), "{message}");
    assert!(message.contains("\nepsilon=1,learning_rate=1e39,seed=2  training diverged: "), "{message}");
    assert!(message.contains("\n4 runs trained, ") && message.contains(" runs an hour\n"), "{message}");
    assert!(message.ends_with("grid: 4 of 8 runs failed, as told above; the others are done\n"), "{message}");
    place.train("single", "2", &["--seed", "2", "--epsilon", "0.5"]);
    assert_same_run(&place.path("single"), &place.path("grid/epsilon=0.5,learning_rate=0.01,seed=2"));
    let summary: SweepSummary = read_json(&place.path("grid/summary.json"));
    let left: Together<SweepSummary> = read_json(&place.path("grid/summary.json"));
    assert_eq!(left.left_out.len(), 4);
    assert_eq!(left.left_out[0], "epsilon=1,learning_rate=1e39,seed=1");
    let [one, half] = &summary.combinations[..] else { panic!("{summary:?}") };
    assert_eq!(one.settings, "epsilon=1,learning_rate=0.01");
    assert_eq!((half.summary.seeds.as_slice(), half.summary.runs.len()), (&[1, 2][..], 2));
    assert!(out(&output).ends_with(&(summary.text() + &left.left_out_text())), "{}", out(&output));
    assert!(summary.text().contains("\nepsilon=0.5,learning_rate=0.01      2  "), "{}", summary.text());

    for (sweep, expected) in [
        ("stacks=1,2", "--sweep: sweep stacks=1,2: stacks cannot be swept, only epsilon, dropout_keep,"),
        ("epsilon=1,1", "1 is given twice"),
        ("epsilon=0,-0", "-0 is given twice"),
        ("seed=1,9223372036854775807", "seed 9223372036854775807 is too large"),
        ("epsilon", "write a setting and its values, as in epsilon=1,3,5"),
    ] {
        refused(
            &["train", "--sweep", sweep, "--out", &place.text("never")],
            &[expected.trim_start_matches("--sweep: ")],
        );
    }
    let off = ["train", "--adversarial", "false", "--out", &place.text("never")];
    refused(
        &[&off[..], &["--sweep", "eps=1,3"]].concat(),
        &["sweep eps=1,3: without the adversarial pass epsilon changes nothing", "set adversarial to true"],
    );
    refused(&["train", "--at-once", "0"], &["at_once is 0; it must be 1 to 10000"]);
    assert!(!place.path("never").exists());
}

#[test]
fn a_sweep_over_seeds_is_summed_up_by_what_else_is_swept_and_keeps_its_data() {
    let place = Place::new();
    place.train("grid", "1", &["--sweep", "seed=1,2", "--sweep", "epsilon=1,0.5"]);
    let summary: SweepSummary = read_json(&place.path("grid/summary.json"));
    let found: Vec<_> = summary
        .combinations
        .iter()
        .map(|one| (one.settings.as_str(), one.summary.seeds.as_slice()))
        .collect();
    assert_eq!(found, [("epsilon=1", &[1, 2][..]), ("epsilon=0.5", &[1, 2])]);

    // Other data are refused before a run that is missing is trained on them, and the summary stays.
    let missing = place.path("grid/seed=2,epsilon=0.5");
    std::fs::remove_dir_all(&missing).unwrap();
    let other = place.text("other.jsonl");
    succeeds(&["convert", "synthetic", "--seed", "9", "--conversations", "20", "--out", &other]);
    let resume = ["train", "--resume", &place.text("grid"), "--data", &other];
    refused(&resume, &["its checkpoint was trained on other data"]);
    assert!(!missing.exists());
    assert_eq!(read_json::<SweepSummary>(&place.path("grid/summary.json")), summary);
    succeeds(&resume[..3]);
    assert_eq!(read_json::<SweepSummary>(&place.path("grid/summary.json")), summary);

    // A run that lies where one of several would is nobody's to take over.
    place.train("px/seed-2", "1", &["--epsilon", "0.05", "--seed", "2"]);
    let arguments = place.training("px", "1", &["--seeds", "2"]);
    refused(&texts(&arguments), &["seed-2: holds a run already; go on with it by --resume"]);
    assert!(!place.path("px/config.toml").exists());
    // Nor may it change between resumes.
    let config = place.path("grid/seed=1,epsilon=1/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("epochs = 1", "epochs = 2")).unwrap();
    let output = coin(&resume[..3]);
    assert_eq!(output.status.code(), Some(2));
    let message = err(&output);
    assert!(message.contains("epochs is 2 in its config.toml and 1 in this training"), "{message}");
    assert!(message.contains("grid: 1 of 4 runs failed"), "{message}");
}

/// Lines of a child's standard error, as they come.
fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(unix)]
#[test]
fn interrupted_it_saves_exits_130_and_says_how_to_go_on() {
    let place = Place::new();
    let epochs = "200";
    place.train("whole", epochs, &[]);
    for signal in ["INT", "TERM"] {
        let arguments = place.training(signal, epochs, &[]);
        let mut child = command(&texts(&arguments)).spawn().unwrap();
        let lines = lines_of(&mut child);
        while !lines.recv_timeout(PATIENCE).unwrap().starts_with("epoch 2/") {}
        // Twice at once, as a program and its group are signalled, is one request.
        let kill = format!("kill -{signal} {0} && sleep 0.02 && kill -{signal} {0} 2>&- || true", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let rest: Vec<String> = lines.iter().collect();
        assert!(rest.iter().any(|line| line.starts_with("interrupted and saved: epoch ")), "{rest:?}");
        let say = rest.last().unwrap().strip_prefix("To go on: coin ").unwrap();
        assert!(!place.path(signal).join("report.json").exists());
        let say: Vec<&str> = say.split(' ').collect();
        succeeds(&say);
        assert_same_run(&place.path("whole"), &place.path(signal));
    }
    // Of several runs all are saved, and go on with another number at once.
    let several = ["--seeds", "3", "--at-once", "2"];
    let arguments = place.training("several", epochs, &several);
    let mut child = command(&texts(&arguments)).spawn().unwrap();
    let lines = lines_of(&mut child);
    while !lines.recv_timeout(PATIENCE).unwrap().starts_with("seed 2  epoch 3/") {}
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest: Vec<String> = lines.iter().collect();
    for seed in 1..3 {
        let saved = format!("seed {seed}  interrupted and saved: epoch ");
        assert!(rest.iter().any(|line| line.starts_with(&saved)), "{rest:?}");
    }
    succeeds(&["train", "--resume", &place.text("several"), "--at-once", "3", "--quiet"]);
    assert_same_run(&place.path("whole"), &place.path("several/seed-1"));
}

#[test]
fn killed_at_random_moments_and_resumed_it_is_the_run_never_killed() {
    let place = Place::new();
    let epochs = "40";
    let began = std::time::Instant::now();
    place.train("whole", epochs, &["--quiet"]);
    // Three lives at least, whatever the machine's speed.
    let longest_life = began.elapsed().as_millis() as usize / 3 + 1;
    // A new seed each time; it is told when the test fails.
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let mut moments = Stream::new(seed, purpose::TEST);
    let run = place.text("run");
    let begin = place.training("run", epochs, &["--checkpoint-minutes", "0.00001"]);
    let (mut kills, mut saved) = (0, 0);
    for attempt in 0.. {
        let resume = ["train", "--resume", &run].map(str::to_string).to_vec();
        let arguments = if place.path("run/config.toml").exists() { resume } else { begin.clone() };
        let mut child =
            command(&texts(&arguments)).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        // At last it is left alone.
        if attempt < 25 {
            std::thread::sleep(Duration::from_millis(moments.below(longest_life) as u64));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
        }
        let status = child.wait().unwrap();
        saved += usize::from(place.path("run/last.safetensors").exists() && status.code().is_none());
        if status.success() {
            break;
        }
        assert_eq!(status.code(), None, "seed {seed}: it failed instead of being killed");
    }
    assert!(kills >= 2 && saved > 0, "seed {seed}: {kills} kills, {saved} after a checkpoint");
    // How often it saves is a setting of its own, the one in which the two configurations differ.
    for name in ["whole", "run"] {
        let path = place.path(name).join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("checkpoint_minutes")).collect();
        std::fs::write(path, kept.join("\n")).unwrap();
    }
    println!("seed {seed}: {kills} kills");
    assert_same_run(&place.path("whole"), &place.path("run"));
}

#[test]
fn a_resumed_run_keeps_its_settings_and_its_data() {
    let place = Place::new();
    place.train("run", "2", &[]);
    let run = place.text("run");
    let resume = |more: &[&str], parts: &[&str]| {
        refused(&[&["train", "--resume", &run, "--quiet"], more].concat(), parts)
    };
    resume(&["--epochs", "3"], &["epochs is 2 in the run and 3 here", "leave --epochs out"]);
    resume(&["--seeds", "2"], &["seeds is 1 in the run and 2 here"]);
    resume(&["--out", "elsewhere"], &["--out: a resumed run goes on in its own folder"]);
    succeeds(&["train", "--resume", &run, "--epochs", "2", "--threads", "2"]);

    let mut corpus = place.corpus();
    corpus.features[0] += 1.0;
    conversations::write(&corpus, &place.path("other.jsonl")).unwrap();
    // A run that is over says no report of other data, and one that is not does not go on with them.
    resume(&["--data", &place.text("other.jsonl")], &["trained on other data", "fingerprint"]);
    std::fs::remove_file(place.path("run/report.json")).unwrap();
    resume(&["--data", &place.text("other.jsonl")], &["trained on other data", "fingerprint"]);
    let config = place.path("run/config.toml");
    let edited = std::fs::read_to_string(&config).unwrap().replace("epochs = 2", "epochs = 4");
    std::fs::write(&config, edited).unwrap();
    resume(&[], &["run: its checkpoint was trained under other settings than its config.toml says"]);
}

#[test]
fn a_model_that_does_not_fit_leaves_no_folder() {
    let place = Place::new();
    let (data, run) = (place.data(), place.text("run"));
    let train =
        ["train", "--data", &data, "--out", &run, "--history-length", "3", "--embedding-size", "100000"];
    refused(&train, &["the model needs about", "embedding_size 100000", "history_length 3"]);
    // The size that it says is one that fits, or would if the machine had nothing else to do.
    let output = coin(&train);
    let (_, fits) = err(&output).split_once("beside the others an embedding_size of ").unwrap();
    let fits: usize = fits.split_once(" fits").unwrap().0.parse().unwrap();
    assert!((100..100_000).contains(&fits), "{fits}");
    assert!(!place.path("run").exists());
}

#[test]
fn sizes_of_synthetic_conversations_that_contradict_each_other_are_refused() {
    let place = Place::new();
    let out = place.text("made.jsonl");
    let convert = |more: &[&str], parts: &[&str]| {
        refused(&[&["convert", "synthetic", "--out", &out], more].concat(), parts)
    };
    convert(
        &["--min-utterances", "9", "--max-utterances", "3"],
        &["--min-utterances 9 is more than --max-utterances 3"],
    );
    convert(
        &["--conversations", "3", "--test-conversations", "9"],
        &["--test-conversations 9 is more than there are --conversations: 3"],
    );
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let place = Place::new();
    place.train("run", "1", &[]);
    let best = place.path("run/best.safetensors");
    let bytes = std::fs::read(&best).unwrap();
    std::fs::write(&best, &bytes[..bytes.len() / 2]).unwrap();
    let (run, data) = (place.text("run"), place.data());
    refused(
        &["evaluate", "--checkpoint", &run, "--data", &data],
        &["best.safetensors: not a safetensors file, or one that is cut short or damaged"],
    );
    let another = ": name a checkpoint that coin train or coin init wrote, or a run's folder";
    refused(&["predict", "--checkpoint", &data], &["small.jsonl: not a safetensors file: ", &another[2..]]);
    // The features' own file is a safetensors file and no checkpoint.
    let side = place.text("small.safetensors");
    refused(&["predict", "--checkpoint", &side], &["small.safetensors: not a checkpoint of coin", another]);
}

#[test]
fn a_run_that_cannot_go_on_says_what_is_left_of_it() {
    let place = Place::new();
    place.train("run", "2", &[]);
    for name in ["report.txt", "report.json"] {
        std::fs::remove_file(place.path("run").join(name)).unwrap();
    }
    let (run, config) = (place.text("run"), place.text("run/config.toml"));
    let last = place.path("run/last.safetensors");
    let bytes = std::fs::read(&last).unwrap();
    let best = std::fs::read(place.path("run/best.safetensors")).unwrap();
    let anew = format!("coin train --config {config} --out ANOTHER trains it anew");
    let weights = "best.safetensors has its best weights so far, for coin evaluate and coin predict";
    for (damaged, expected) in [
        (&bytes[..bytes.len() / 2], "last.safetensors: not a safetensors file, or one that is cut short"),
        (b"not a checkpoint", "last.safetensors: not a safetensors file. "),
        (&best, "run: its last checkpoint has no optimiser to go on with. "),
    ] {
        std::fs::write(&last, damaged).unwrap();
        refused(&["train", "--resume", &run, "--quiet"], &[expected, &anew, weights]);
        assert_eq!(std::fs::read(&last).unwrap(), damaged);
    }
    // What it says is so.
    succeeds(&["evaluate", "--checkpoint", &run, "--data", &place.data()]);
    succeeds(&["train", "--config", &config, "--out", &place.text("anew"), "--quiet"]);
    assert_eq!(std::fs::read(place.path("anew/best.safetensors")).unwrap(), best);
    std::fs::remove_file(place.path("run/best.safetensors")).unwrap();
    let output = coin(&["train", "--resume", &run, "--quiet"]);
    assert!(err(&output).contains(&anew) && !err(&output).contains(weights), "{}", err(&output));
}

#[test]
fn data_that_do_not_fit_the_checkpoint_are_refused() {
    let place = Place::new();
    place.train("run", "1", &[]);
    let (run, data) = (place.text("run"), place.data());
    let mut corpus = place.corpus();
    corpus.classes.swap(0, 1);
    conversations::write(&corpus, &place.path("classes.jsonl")).unwrap();
    let classes = place.text("classes.jsonl");
    refused(
        &["evaluate", "--checkpoint", &run, "--data", &classes],
        &["its classes are sad, happy", "happy, sad"],
    );
    let narrow = generate(&SyntheticOptions {
        modalities: coin::data::synthetic::widths(5, 3, 9),
        ..SyntheticOptions::small()
    });
    conversations::write(&narrow, &place.path("wide.jsonl")).unwrap();
    let wide = place.text("wide.jsonl");
    for command in ["evaluate", "predict"] {
        refused(&[command, "--checkpoint", &run, "--data", &wide], &["wide.jsonl: ", "visual 9", "visual 4"]);
    }
    let mut unlabelled = place.corpus();
    for conversation in &mut unlabelled.conversations {
        conversation.utterances.iter_mut().for_each(|utterance| utterance.label = None);
    }
    conversations::write(&unlabelled, &place.path("unlabelled.jsonl")).unwrap();
    let unlabelled = place.text("unlabelled.jsonl");
    refused(
        &["evaluate", "--checkpoint", &run, "--data", &unlabelled],
        &["unlabelled.jsonl: no labelled utterance in its test conversations"],
    );
    // Labels are not needed to predict, and have no say.
    let predict = |data: &str| succeeds(&["predict", "--checkpoint", &run, "--data", data]).stdout;
    assert_eq!(predict(&unlabelled), predict(&data));
    assert_eq!(predict(&unlabelled), predict(&classes));
    // Other data under a split that training drew: allowed, and said.
    let mut renamed = place.corpus();
    renamed.features[0] += 1.0;
    conversations::write(&renamed, &place.path("changed.jsonl")).unwrap();
    let changed = place.text("changed.jsonl");
    let output = succeeds(&["evaluate", "--checkpoint", &run, "--data", &changed, "--split", "validation"]);
    assert!(err(&output).contains("changed.jsonl is not the data that"), "{}", err(&output));
}

/// Each utterance of a corpus as a line with its features in it, mixed over conversations.
fn live_lines(corpus: &Corpus) -> Vec<(String, String, String)> {
    let width = corpus.width();
    let mut lines = Vec::new();
    let longest = corpus.conversations.iter().map(|one| one.utterances.len()).max().unwrap();
    for place in 0..longest {
        for conversation in corpus.conversations.iter().filter(|one| place < one.utterances.len()) {
            let utterance = &conversation.utterances[place];
            let mut row = &corpus.features[(conversation.first + place) * width..][..width];
            let mut features = serde_json::Map::new();
            for modality in &corpus.modalities {
                features.insert(modality.name.clone(), json!(row[..modality.width]));
                row = &row[modality.width..];
            }
            let line = json!({
                "conversation": conversation.id,
                "utterance": utterance.id,
                "speaker": utterance.speaker,
                "features": features,
            });
            lines.push((conversation.id.clone(), utterance.id.clone(), line.to_string()));
        }
    }
    lines
}

#[test]
fn a_live_conversation_is_answered_line_by_line_as_the_whole_file_is() {
    let place = Place::new();
    place.train("run", "2", &[]);
    let run = place.text("run");
    let corpus = place.corpus();
    let whole = succeeds(&["predict", "--checkpoint", &run, "--data", &place.data(), "--threads", "1"]);
    let whole: Vec<Value> = out(&whole).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(whole.len(), corpus.len());
    assert!(whole.iter().any(|answer| answer["attention"].as_array().unwrap().len() == 8));

    let mut child = command(&["predict", "--checkpoint", &run]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, answers) = mpsc::channel();
    std::thread::spawn(move || {
        output.lines().map_while(Result::ok).for_each(|line| sender.send(line).unwrap())
    });
    for (conversation, utterance, line) in live_lines(&corpus) {
        writeln!(input, "{line}").unwrap();
        // Answered before the next line is written.
        let answer: Value = serde_json::from_str(&answers.recv_timeout(PATIENCE).unwrap()).unwrap();
        let expected =
            whole.iter().find(|one| one["conversation"] == conversation && one["utterance"] == utterance);
        let expected = expected.unwrap();
        assert_eq!(answer["class"], expected["class"]);
        let numbers = |answer: &Value| -> Vec<(String, f64)> {
            let classes = answer["probabilities"].as_object().unwrap().iter();
            let classes = classes.map(|(class, value)| (class.clone(), value.as_f64().unwrap()));
            let history = answer["attention"].as_array().unwrap().iter();
            let name = |one: &Value| one["utterance"].as_str().unwrap().to_string();
            classes.chain(history.map(|one| (name(one), one["weight"].as_f64().unwrap()))).collect()
        };
        let (ours, theirs) = (numbers(&answer), numbers(expected));
        assert_eq!(ours.len(), theirs.len());
        for ((name, one), (other_name, other)) in ours.iter().zip(&theirs) {
            assert_eq!(name, other_name);
            assert!((one - other).abs() < 1e-5, "{conversation} {utterance} {name}: {one} {other}");
        }
        let sum: f64 = ours[..6].iter().map(|(_, probability)| probability).sum();
        assert!((sum - 1.0).abs() < 1e-9);
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_bad_line_is_named_and_ends_it() {
    let place = Place::new();
    let checkpoint = place.text("c.safetensors");
    succeeds(&[
        "init",
        "--data",
        &place.data(),
        "--out",
        &checkpoint,
        "--set",
        "d=4",
        "--modalities",
        "text",
    ]);
    let good =
        json!({"conversation": "c", "utterance": "u", "speaker": "A", "features": {"text": [1, 2, 3, 4, 5]}});
    let mut short = good.clone();
    short["utterance"] = json!("v");
    short["features"]["text"] = json!([1, 2]);
    let cases = [
        ("not json".to_string(), "line 3: column"),
        (short.to_string(), "line 3: features of \"text\" are 2 wide, 5 are expected"),
        (good.to_string(), "line 3: conversation c: utterance u has been there already"),
        (json!({"conversation": "c", "speaker": "A", "row": 3}).to_string(), "line 3: "),
    ];
    for (bad, expected) in cases {
        let mut child =
            command(&["predict", "--checkpoint", &checkpoint]).stdin(Stdio::piped()).spawn().unwrap();
        write!(child.stdin.take().unwrap(), "{good}\n\n{bad}\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(err(&output).contains(&format!("standard input: {expected}")), "{}", err(&output));
        assert_eq!(out(&output).lines().count(), 1, "what was good is answered");
    }
}

#[test]
fn an_output_that_nobody_reads_is_quiet() {
    let place = Place::new();
    let checkpoint = place.text("c.safetensors");
    succeeds(&[
        "init",
        "--data",
        &place.data(),
        "--out",
        &checkpoint,
        "--set",
        "d=4",
        "--set",
        "batch_size=1",
    ]);
    // Each answer is written by itself; the pipe is closed after the first byte.
    let mut child =
        command(&["predict", "--checkpoint", &checkpoint, "--data", &place.data()]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output)), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_machine_that_fails_is_exit_code_1() {
    let place = Place::new();
    let checkpoint = place.text("c.safetensors");
    succeeds(&["init", "--data", &place.data(), "--out", &checkpoint, "--set", "d=4"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut predict = command(&["predict", "--checkpoint", &checkpoint, "--data", &place.data()]);
    let output = predict.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("coin: error: standard output: cannot write: "), "{}", err(&output));
}

#[test]
fn init_writes_what_training_would_begin_with() {
    let place = Place::new();
    let (data, path) = (place.data(), place.text("c.safetensors"));
    succeeds(&["init", "--data", &data, "--out", &path, "--seed", "7", "--set", "d=4", "--set", "dtype=f64"]);
    let checkpoint = Checkpoint::read(Path::new(&path)).unwrap();
    let config = Config { embedding_size: 4, seed: 7, dtype: "f64".parse().unwrap(), ..Config::default() };
    assert_eq!(checkpoint.config, config);
    let corpus = place.corpus();
    let setup = coin::training::setup::Setup::new(config, &corpus, &corpus.fingerprint()).unwrap();
    assert_eq!(checkpoint.origin, setup.origin);
    refused(
        &["init", "--data", &data, "--out", &path, "--set", "threads=2"],
        &["unknown setting \"threads\""],
    );
    refused(
        &["init", "--data", &data, "--out", &place.text("no/c.safetensors")],
        &["c.safetensors: cannot write: there is no folder ", "/no: mend the path, or make it"],
    );
}

/// The arrays of a step's file.
struct Step(Vec<u8>);

impl Step {
    fn of(place: &Place, more: &[&str]) -> Step {
        let (checkpoint, data, to) =
            (place.text("c.safetensors"), place.data(), place.text("step.safetensors"));
        let arguments = ["step", "--checkpoint", &checkpoint, "--data", &data, "--out", &to];
        succeeds(&[&arguments[..], more].concat());
        Step(std::fs::read(to).unwrap())
    }

    fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let mut names: Vec<String> = file.names().into_iter().map(str::to_string).collect();
        names.sort();
        names
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        match view.dtype() {
            safetensors::Dtype::F64 => {
                view.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
            }
            safetensors::Dtype::F32 => {
                view.data().as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect()
            }
            _ => view.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as f64).collect(),
        }
    }
}

#[test]
fn a_step_writes_the_objective_and_its_gradient() {
    let place = Place::new();
    let path = place.path("c.safetensors");
    succeeds(&["init", "--data", &place.data(), "--out", path.to_str().unwrap(), "--set", "d=4"]);
    let checkpoint = Checkpoint::read(&path).unwrap();
    let step = Step::of(&place, &["--samples", "3..40", "--dtype", "f64"]);
    let mut expected: Vec<String> =
        checkpoint.parameters.iter().map(|tensor| format!("gradient.{}", tensor.name)).collect();
    let others = ["input_gradient_norm", "logits", "logits_adversarial", "loss_adversarial", "loss_clean"];
    expected.extend(others.map(str::to_string));
    expected.push("sample_index".to_string());
    expected.sort();
    assert_eq!(step.names(), expected);
    assert_eq!(step.shape("logits"), [37, 6]);
    assert_eq!(step.shape("loss_clean"), [1]);
    assert_eq!(step.numbers("sample_index"), (3..40).map(f64::from).collect::<Vec<_>>());
    for tensor in &checkpoint.parameters {
        assert_eq!(step.shape(&format!("gradient.{}", tensor.name)), tensor.shape);
    }
    assert!(step.numbers("input_gradient_norm").iter().all(|norm| norm.is_finite() && *norm > 0.0));

    // Samples are all labelled utterances before the test conversations, in the order of the corpus.
    let corpus = place.corpus();
    let labels = corpus.conversations[..9].iter().flat_map(|one| &one.utterances);
    let labels: Vec<usize> = labels.map(|utterance| utterance.label.unwrap()).collect();
    for (logits, loss) in [("logits", "loss_clean"), ("logits_adversarial", "loss_adversarial")] {
        let rows = step.numbers(logits);
        let losses = rows.chunks_exact(6).zip(&labels[3..]).map(|(row, &label)| cross_entropy(row, label));
        let mean = losses.sum::<f64>() / 37.0;
        assert!((mean - step.numbers(loss)[0]).abs() < 1e-12);
    }

    // In single precision it is the same computation to single precision.
    let single = Step::of(&place, &["--samples", "3..40"]);
    assert_eq!(single.names(), expected);
    for name in ["logits", "loss_adversarial", "gradient.classifier.weight"] {
        for (one, other) in single.numbers(name).iter().zip(step.numbers(name)) {
            assert!((one - other).abs() < 1e-4, "{name}: {one} {other}");
        }
    }
}

#[test]
fn a_steps_gradient_is_the_slope_of_its_loss() {
    let place = Place::new();
    let path = place.path("c.safetensors");
    let made = ["init", "--data", &place.data(), "--out", path.to_str().unwrap(), "--set", "d=4"];
    succeeds(&[&made[..], &["--set", "dtype=f64"]].concat());
    let checkpoint = Checkpoint::read(&path).unwrap();
    let clean = ["--set", "adversarial=false"];
    let step = Step::of(&place, &clean);
    assert!(!step.names().iter().any(|name| name.contains("adversarial")), "{:?}", step.names());
    let total: usize = place.corpus().conversations[..9].iter().map(|one| one.utterances.len()).sum();
    assert_eq!(step.shape("logits"), [total, 6]);
    for name in ["classifier.bias", "context.0.query.weight", "history_embedding.weight"] {
        let slope = |by: f64| {
            let mut moved = checkpoint.clone();
            let tensor = moved.parameters.iter_mut().find(|tensor| tensor.name == name).unwrap();
            let Values::F64(values) = &mut tensor.values else { panic!("not f64") };
            values[1] += by;
            moved.write(&path).unwrap();
            Step::of(&place, &clean).numbers("loss_clean")[0]
        };
        let numerical = (slope(1e-5) - slope(-1e-5)) / 2e-5;
        let exact = step.numbers(&format!("gradient.{name}"))[1];
        assert!((numerical - exact).abs() < 1e-9, "{name}: {numerical} {exact}");
    }
}

#[test]
fn a_step_that_cannot_be_made_is_refused() {
    let place = Place::new();
    let (checkpoint, data, to) = (place.text("c.safetensors"), place.data(), place.text("step.safetensors"));
    succeeds(&["init", "--data", &data, "--out", &checkpoint, "--set", "d=4"]);
    let step = ["step", "--checkpoint", &checkpoint, "--data", &data, "--out", &to];
    let refused = |more: &[&str], parts: &[&str]| refused(&[&step[..], more].concat(), parts);
    refused(&["--samples", "0..100000"], &["--samples 0..100000: ", "samples"]);
    refused(
        &["--set", "d=5"],
        &["--set embedding_size=5: the checkpoint's parameters are of embedding_size 4"],
    );
    refused(&["--set", "colour=red"], &["--set colour=red: unknown setting"]);
    refused(&["--modalities", "text"], &["its features are text 5 wide", "text 5, audio 3, visual 4"]);
    assert!(!place.path("step.safetensors").exists());
    assert_eq!(coin(&[&step[..], &["--samples", "5..2"]].concat()).status.code(), Some(2));
}

#[test]
fn a_run_whose_parameters_overflow_keeps_the_checkpoint_from_before() {
    let place = Place::new();
    let mut arguments = place.training("run", "2", &["--checkpoint-minutes", "0.0000001", "--quiet"]);
    for argument in &mut arguments {
        if argument == "0.01" {
            *argument = "1e39".to_string();
        }
    }
    refused(&texts(&arguments), &["training diverged: ", " is not finite in epoch 1, after update 1"]);
    assert!(!place.path("run/last.safetensors").exists());
}

/// The loss of an epoch's only step is from before its update: what that did shows in the validation.
#[test]
fn a_run_that_diverges_in_an_epochs_only_step_is_told_so() {
    let place = Place::new();
    let one_batch = ["--quiet", "--epsilon", "1"];
    let mut arguments = place.training("run", "2", &one_batch);
    for argument in &mut arguments {
        match argument.as_str() {
            "16" => *argument = "4096".to_string(),
            "0.01" => *argument = "1e30".to_string(),
            _ => {}
        }
    }
    refused(
        &texts(&arguments),
        &[
            "training diverged: the model's output for utterance ",
            " is not finite at the end of epoch 1, after update 1. The checkpoints in ",
            "Try a lower learning_rate",
        ],
    );
    assert!(!place.path("run/best.safetensors").exists());
}

#[test]
fn features_too_large_to_standardise_are_refused() {
    let place = Place::new();
    let mut corpus = place.corpus();
    let width = corpus.width();
    corpus.features.chunks_exact_mut(width).for_each(|row| row[1] *= 1e300);
    conversations::write(&corpus, &place.path("large.jsonl")).unwrap();
    refused(
        &["init", "--data", &place.text("large.jsonl"), "--out", &place.text("x.safetensors")],
        &["large.jsonl: feature 1 of the ", "too large to standardise"],
    );
    assert!(!place.path("x.safetensors").exists());
}

#[test]
fn a_seed_that_no_setting_can_hold_is_refused() {
    let place = Place::new();
    let arguments = ["init", "--data", &place.data(), "--seed", "18446744073709551615", "--out"];
    refused(&[&arguments[..], &[&place.text("x.safetensors")]].concat(), &["seed is 18446744073709551615"]);
}

#[test]
fn convert_leaves_features_alone_that_are_not_its_outputs() {
    let place = Place::new();
    let before = std::fs::read(place.path("small.safetensors")).unwrap();
    let convert = ["convert", "synthetic", "--out", &place.data()];
    // Alone, and beside conversations that have their features in their lines.
    std::fs::rename(place.path("small.jsonl"), place.path("moved.jsonl")).unwrap();
    refused(&convert, &["small.safetensors: is there already"]);
    let inline = json!({
        "format": "coin-conversations", "version": 1, "classes": ["sad"], "modalities": {"text": 1},
    });
    std::fs::write(place.path("small.jsonl"), inline.to_string()).unwrap();
    refused(&convert, &["small.safetensors: is there already"]);
    assert_eq!(std::fs::read(place.path("small.safetensors")).unwrap(), before);
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let place = Place::new();
    let data = place.data();
    // Lines before the header are blank where there are some.
    let (blank, blank_features) = (place.text("blank.jsonl"), place.text("features.safetensors"));
    let lines = std::fs::read_to_string(&data).unwrap().replace("small.safetensors", "features.safetensors");
    std::fs::write(&blank, format!("\n \n{lines}")).unwrap();
    std::fs::copy(place.path("small.safetensors"), &blank_features).unwrap();
    // What convert writes beside its --out is the features of its input here.
    std::fs::copy(&data, place.path("features.jsonl")).unwrap();
    let features = place.text("small.safetensors");
    let fresh = place.text("fresh.safetensors");
    succeeds(&["init", "--data", &data, "--out", &fresh, "--set", "embedding_size=4"]);
    let files = [&data, &features, &blank, &blank_features, &fresh];
    let before = files.map(|file| std::fs::read(file).unwrap());
    let refused = |arguments: &[&str], name: &str| {
        refused(arguments, &[&format!("{name}: is an input, whose place the output would take")]);
    };
    refused(&["convert", &data, "--modalities", "text", "--out", &data], "small.jsonl");
    refused(&["convert", &blank, "--out", &place.text("features.jsonl")], "features.safetensors");
    for (data, input) in [(&data, &data), (&data, &features), (&blank, &blank), (&blank, &blank_features)] {
        refused(&["init", "--data", data, "--out", input], input);
        refused(&["bench", "--data", data, "--json", input], input);
        refused(&["step", "--checkpoint", &fresh, "--data", data, "--out", input], input);
    }
    refused(&["step", "--checkpoint", &fresh, "--data", &data, "--out", &fresh], "fresh.safetensors");
    assert!(files.map(|file| std::fs::read(file).unwrap()) == before);
}

#[test]
fn convert_writes_conversations_that_are_read_back() {
    let place = Place::new();
    let (data, to) = (place.data(), place.text("text.jsonl"));
    let output = succeeds(&["convert", &data, "--modalities", "text,visual", "--out", &to]);
    let corpus = place.corpus();
    let line = format!("12 conversations, {} utterances, text 5, visual 4\n", corpus.len());
    assert!(out(&output).ends_with(&line), "{}", out(&output));
    let modalities = Some(vec!["text".to_string(), "visual".to_string()]);
    let expected =
        coin::data::read(Path::new(&data), &ReadOptions { modalities, ..ReadOptions::default() }).unwrap();
    let converted = coin::data::read(Path::new(&to), &ReadOptions::default()).unwrap();
    assert_eq!(converted.fingerprint(), expected.fingerprint());

    let made = place.text("made.jsonl");
    let sizes =
        ["--conversations", "6", "--test-conversations", "2", "--widths", "3,0,2", "--max-utterances", "9"];
    succeeds(&[&["convert", "synthetic", "--out", &made, "--seed", "3"], &sizes[..]].concat());
    let made = coin::data::read(Path::new(&made), &ReadOptions::default()).unwrap();
    let generated = generate(&SyntheticOptions {
        seed: 3,
        conversations: 6,
        test_conversations: 2,
        max_utterances: 9,
        modalities: coin::data::synthetic::widths(3, 0, 2),
        ..SyntheticOptions::default()
    });
    assert_eq!(made.fingerprint(), generated.fingerprint());
    refused(&["convert", &data, "--seed", "3", "--out", &to], &["are for the input synthetic only"]);
    refused(&["convert", "synthetic", "--conversations", "99999999999", "--out", &to], &["take fewer"]);
}

/// No history to read anywhere: every window is empty.
#[test]
fn conversations_of_one_utterance_are_trained_on_too() {
    let place = Place::new();
    let data = place.text("single.jsonl");
    let sizes =
        ["--conversations", "40", "--min-utterances", "1", "--max-utterances", "1", "--widths", "4,0,0"];
    succeeds(&[&["convert", "synthetic", "--out", &data], &sizes[..]].concat());
    let run = place.text("run");
    succeeds(&[&["train", "--data", &data, "--out", &run, "--epochs", "2"], &SMALL[..]].concat());
    assert_eq!(metrics(&place.path("run")).len(), 2);
    let answers = succeeds(&["predict", "--checkpoint", &run, "--data", &data]);
    assert!(out(&answers).lines().all(|line| line.ends_with("\"attention\":[]}")));
}

/// Flags of a model that is timed in no time.
const TIMED: [&str; 13] = [
    "--threads",
    "1",
    "--steps",
    "3",
    "--set",
    "d=6",
    "--set",
    "K=4",
    "--set",
    "L=2",
    "--set",
    "B=16",
    "--json",
];

#[test]
fn bench_measures_and_compares() {
    let place = Place::new();
    let (data, file) = (place.text("small.jsonl"), place.text("old.json"));
    let output = succeeds(&[&["bench", "--data", &data], &TIMED[..], &[&file]].concat());
    let table = out(&output);
    for part in [
        "step, f32, clean, real windows",
        "step, f32, adversarial, full windows",
        "predict, f32",
        "live utterance, f32",
        "start-up: first step",
        "a step by part: f32, adversarial, full windows",
        "stacks' GRU, backward",
        "together",
    ] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let all = report["measurements"].as_array().unwrap();
    let step = all.iter().find(|m| m["of"]["what"] == "step" && m["of"]["adversarial"] == true).unwrap();
    assert!(step["times"]["median"].as_f64().unwrap() > 0.0 && step["times"]["repeats"] == 3);
    assert_eq!(step["utterances"], 16);
    // The parts are the step: their time is its time, their work its work.
    let sum = |what: &dyn Fn(&Value) -> f64| {
        let parts =
            all.iter().filter(|m| m["of"]["what"] == "part of a step" && m["of"]["windows"] == "real");
        parts.map(what).sum::<f64>()
    };
    let seconds = sum(&|m| m["times"]["median"].as_f64().unwrap());
    let share = seconds / step["times"]["median"].as_f64().unwrap();
    assert!((0.1..10.0).contains(&share), "{share}");
    assert!(sum(&|m| m["work"]["flops"].as_f64().unwrap()) > 1e5);

    // The same file twice; one that is slower; and what is not comparable.
    let compare = |new: &str| coin(&["bench", "--compare", &file, new]);
    let output = compare(&file);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("0 slower, 0 faster"), "{}", out(&output));
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut report = report.clone();
        change(&mut report);
        std::fs::write(place.path(name), report.to_string()).unwrap();
        place.text(name)
    };
    let times = |factor: f64| {
        move |report: &mut Value| {
            let all = report["measurements"].as_array_mut().unwrap();
            let step = all.iter_mut().find(|m| m["of"]["what"] == "step").unwrap();
            // Without a spread: that of a busy machine would grow with the factor.
            let time = step["times"]["median"].as_f64().unwrap() * factor;
            for key in ["median", "low", "high"] {
                step["times"][key] = time.into();
            }
        }
    };
    let output = compare(&changed("slow.json", &times(1000.0)));
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(out(&output).contains("1 slower, 0 faster") && out(&output).contains("step, f32, clean, real"));
    let output = compare(&changed("fast.json", &times(1e-3)));
    assert_eq!(output.status.code(), Some(0));
    let other = changed("other.json", &|report| report["settings"]["batch_size"] = 17.into());
    refused(&["bench", "--compare", &file, &other], &["old.json and ", "batch_size is 16 in the one and 17"]);
    let form = changed("form.json", &|report| report["coin_bench"] = 99.into());
    refused(&["bench", "--compare", &file, &form], &["form.json", "its coin_bench is 99", "measure again"]);
    let odd = changed("odd.json", &|report| report["measurements"][0]["times"]["median"] = (-1.0).into());
    refused(&["bench", "--compare", &odd, &file], &["odd.json", "start-up: read"]);
    refused(&["bench", "--compare", &file, &data], &["small.jsonl", "is no report of coin bench"]);
    refused(&["bench", "--compare", &file, &place.text("none.json")], &["none.json: cannot read"]);
    let output = coin(&["bench"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--data <FILE>"), "{}", err(&output));
    let long = ["bench", "--data", &data, "--windows", "full", "--set", "K=900"];
    refused(&long, &["full windows", "take a smaller history_length"]);
}

#[test]
fn bench_takes_turns_with_another_program() {
    let place = Place::new();
    let data = place.text("small.jsonl");
    let arguments = [
        "bench",
        "--data",
        &data,
        "--worker",
        "--threads",
        "1",
        "--set",
        "d=6",
        "--set",
        "K=4",
        "--set",
        "L=1",
    ];
    let mut child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"targets\": [0, 5, 2]}\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let lines: Vec<Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0]["ready"] == true && lines[0]["gemm_peak_gflops"].as_f64().unwrap() > 0.0);
    assert!(lines[1]["seconds"].as_f64().unwrap() > 0.0 && lines[1]["loss_adversarial"].is_number());
}

#[test]
fn gradcheck_agrees_lists_and_fails() {
    let output = succeeds(&["gradcheck", "--configuration", "smallest", "--threads", "1"]);
    let text = out(&output);
    assert!(text.starts_with("smallest: d = 1, K = 1") && text.contains("features"), "{text}");
    assert!(text.contains(" in 1 configuration: the worst relative error is ") && !text.contains("FAIL"));
    let list = succeeds(&["gradcheck", "--list"]);
    assert!(out(&list).lines().count() >= 18 && out(&list).starts_with("paper "), "{}", out(&list));
    // No differences are this good.
    let failed = coin(&["gradcheck", "--configuration", "smallest", "--tolerance", "1e-18"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(out(&failed).contains("FAIL\n"), "{}", out(&failed));
    assert!(err(&failed).contains("the gradient disagrees with central differences by more than 1e-18 in "));
    refused(&["gradcheck", "--configuration", "smalest"], &["\"smalest\" is unknown", "paper, no-history"]);
    refused(&["gradcheck", "--tolerance", "nan"], &["--tolerance is NaN; it must be above 0"]);
}
