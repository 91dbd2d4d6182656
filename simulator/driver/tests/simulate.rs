//! The launcher: what it gives a program, and what it makes of the program's end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{SigHandler, Signal, kill};
use nix::unistd::Pid;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    for name in ["SEED", "THREADS", "WATCHDOG", "PROFILE", "REPORT"] {
        command.env_remove(format!("SIMULATED_GPU_{name}"));
    }
    command.args(arguments);
    command
}

fn simulate(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// Runs a line of shell.
fn shell(options: &[&str], line: &str) -> Output {
    simulate(&[options, &["--", "sh", "-c", line]].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn the_program_gets_its_library_and_settings() {
    let line = "echo $SIMULATED_GPU_SEED $SIMULATED_GPU_THREADS $SIMULATED_GPU_WATCHDOG; \
                cd ${LD_LIBRARY_PATH%%:*} && ls libcuda.so libcuda.so.1 && test -s libcuda.so.1";
    let output = shell(&["--seed", "5", "--threads", "2", "--watchdog", "1000"], line);
    ends(&output, 0);
    assert_eq!(text(&output.stdout), "5 2 1000\nlibcuda.so\nlibcuda.so.1\n");
}

#[test]
fn the_temporary_folder_is_removed() {
    let output = shell(&[], "echo ${LD_LIBRARY_PATH%%:*}");
    ends(&output, 0);
    assert!(!Path::new(text(&output.stdout).trim()).exists());
}

#[test]
fn the_exit_code_is_the_programs() {
    ends(&shell(&[], "exit 7"), 7);
    ends(&shell(&[], "kill -9 $$"), 137);
}

/// Sends a signal to a launcher when its program, a loop after `before`, says on stderr where its folder is; the end of it, and the
/// folder.
fn signalled(options: &[&str], signal: Signal, before: &str) -> (Output, PathBuf) {
    let line = format!("{before} echo ${{LD_LIBRARY_PATH%%:*}} >&2; while :; do sleep 0.02; done");
    let mut launcher = command(&[options, &["--", "sh", "-c", &line]].concat());
    // A shell can trap nothing that was ignored when it began, as signals are in the background of another shell.
    let as_usual = || {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: no handler is set.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls, and allocates nothing.
    unsafe { launcher.pre_exec(as_usual) };
    let mut launcher = launcher.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(launcher.stderr.take().unwrap());
    let mut folder = String::new();
    errors.read_line(&mut folder).unwrap();
    kill(Pid::from_raw(launcher.id() as i32), signal).unwrap();
    let mut stderr = Vec::new();
    errors.read_to_end(&mut stderr).unwrap();
    (Output { stderr, ..launcher.wait_with_output().unwrap() }, PathBuf::from(folder.trim()))
}

#[test]
fn the_program_gets_the_signals_and_ends_in_its_own_way() {
    for (name, signal, code) in
        [("INT", Signal::SIGINT, 130), ("TERM", Signal::SIGTERM, 143), ("HUP", Signal::SIGHUP, 129)]
    {
        let (output, folder) = signalled(&[], signal, &format!("trap 'echo saved; exit 42' {name};"));
        ends(&output, 42);
        assert_eq!(text(&output.stdout), "saved\n");
        assert!(!folder.exists());
        let (output, folder) = signalled(&[], signal, "");
        ends(&output, code);
        assert!(!folder.exists());
    }
}

#[test]
fn a_signal_ends_the_comparison_of_schedules() {
    let (output, folder) = signalled(&["--schedules", "3"], Signal::SIGTERM, "");
    ends(&output, 143);
    assert!(!folder.exists());
    assert!(text(&output.stderr).contains("a signal stopped it at seed 0, of 3 schedules"));
}

#[test]
fn findings_make_the_exit_code_an_error() {
    let fault = r#"echo '{"event":"fault"}' >> $SIMULATED_GPU_REPORT"#;
    let output = shell(&[], fault);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("reported: 1 fault and 0 leaks"), "{}", text(&output.stderr));
    ends(&shell(&[], &format!("{fault}; exit 7")), 7);
    ends(&shell(&[], r#"echo '{"event":"leak"}' >> $SIMULATED_GPU_REPORT"#), 1);
    // A stream that is still alive is no fault.
    ends(&shell(&[], r#"echo '{"event":"alive"}' >> $SIMULATED_GPU_REPORT"#), 0);
}

#[test]
fn an_old_report_is_emptied_and_a_new_one_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.jsonl");
    std::fs::write(&path, "{\"event\":\"fault\"}\n").unwrap();
    let report = path.to_str().unwrap();
    ends(&shell(&["--report", report], "true"), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    ends(&shell(&["--report", report], "cd /; echo '{\"event\":\"leak\"}' >> $SIMULATED_GPU_REPORT"), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"event\":\"leak\"}\n");
}

#[test]
fn schedules_compare_what_is_printed() {
    let output = shell(&["--schedules", "3"], "echo same $SIMULATED_GPU_THREADS");
    ends(&output, 0);
    assert_eq!(text(&output.stdout), "same 1\n");
    assert!(text(&output.stderr).contains("3 schedules: stdout was identical"));
    let output =
        shell(&["--schedules", "3", "--threads", "4"], "echo $SIMULATED_GPU_SEED $SIMULATED_GPU_THREADS");
    ends(&output, 1);
    assert_eq!(text(&output.stdout), "0 4\n");
    assert!(text(&output.stderr).contains("for 2 seeds: 1, 2"), "{}", text(&output.stderr));
    ends(&shell(&["--schedules", "2"], "test $SIMULATED_GPU_SEED = 0"), 1);
}

#[test]
fn bad_input_is_told() {
    for (arguments, message) in [
        (&["--", "/nothing/here"][..], "cannot run /nothing/here"),
        (&["--seed", "x", "--", "true"], "--seed"),
        (&["--threads", "0", "--", "true"], "--threads"),
        (&["--schedules", "0", "--", "true"], "--schedules"),
        (&["--seed", "1", "--schedules", "2", "--", "true"], "--schedules"),
        (&["--report", "/nothing/here/report", "--", "true"], "cannot write /nothing/here/report"),
        (&["--profile", "/nothing/here/profile", "--", "true"], "cannot write /nothing/here/profile"),
        (&[], "PROGRAM"),
    ] {
        let output = simulate(arguments);
        ends(&output, 2);
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

/// The example program, built with these tests.
fn example() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_simulate")).parent().unwrap().join("examples/vector_add")
}

#[test]
fn a_bad_variable_is_told_by_the_library() {
    let program = example();
    let output = shell(&[], &format!("SIMULATED_GPU_SEED=first {}", program.display()));
    assert_ne!(output.status.code(), Some(0));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("SIMULATED_GPU_SEED is \"first\"; it must be a whole number from 0 up"),
        "{errors}"
    );
}

#[test]
fn an_ordinary_program_runs() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile.json");
    let output = simulate(&["--profile", profile.to_str().unwrap(), "--", example().to_str().unwrap()]);
    ends(&output, 0);
    let printed = text(&output.stdout);
    assert_eq!(printed, "NVIDIA GeForce RTX 2080 Ti (simulated) (7, 5)\nsums [0.0, 16.0, 32.0, 48.0]\n");
    let launches: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(profile).unwrap()).unwrap();
    assert_eq!(launches.as_array().map(Vec::len), Some(4));
    assert_eq!(launches[0]["kernel"], "add");

    let table = simulate(&["--profile", "-", "--", example().to_str().unwrap()]);
    ends(&table, 0);
    assert!(text(&table.stderr).contains("add"), "{}", text(&table.stderr));

    ends(&simulate(&["--schedules", "3", "--", example().to_str().unwrap()]), 0);
}

#[test]
fn leaks_and_faults_of_a_program_are_found() {
    let program = example();
    let program = program.to_str().unwrap();
    let output = simulate(&["--", program, "leak"]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("leaked 4000 bytes in 1 allocation\n"), "{}", text(&output.stderr));

    let output = simulate(&["--", program, "beyond"]);
    ends(&output, 1);
    assert!(text(&output.stdout).contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("reported: 1 fault and 0 leaks"), "{}", text(&output.stderr));
}
