//! The predicted step on an RTX 2080 Ti against the one that is written down: what got worse fails, kernel by kernel.
//!
//!     cargo test --test turing                      compares with tests/turing/*.json
//!     COIN_TURING=write cargo test --test turing    writes them anew
//!
//! A smaller model than the paper's, so that the simulated GPU is soon done: one stack, windows of 16. Its launches are made for a
//! batch of 512 as those of a real step are, so that kernels, grids and occupancy are the same.

use std::path::Path;
use std::process::Command;

use turing::report::Step;

/// Of a time; beyond it lies no noise, since nothing is measured, but what a change of the compiler's scheduling does.
const TOLERANCE: f64 = 0.03;

fn check(dtype: &str) {
    let written = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/turing/{dtype}.json"));
    let folder = tempfile::tempdir().unwrap();
    let now = folder.path().join("step.json");
    let dtype = format!("dtype={dtype}");
    let output = Command::new(env!("CARGO_BIN_EXE_coin"))
        .args(["bench", "--turing", "--data", "synthetic", "--modalities", "text", "--set", &dtype])
        .args([
            "--set",
            "stacks=1",
            "--set",
            "history_length=16",
            "--turing-samples",
            "32,64",
            "--turing-json",
        ])
        .arg(&now)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&now).unwrap();
    if std::env::var_os("COIN_TURING").is_some() {
        std::fs::write(&written, text).unwrap();
        return;
    }
    let now: Step = serde_json::from_str(&text).unwrap();
    // What each part of the card must do at least is less than the step.
    let least = serde_json::from_str::<serde_json::Value>(&text).unwrap()["least"].clone();
    for part in ["dram_microseconds", "tensor_microseconds", "fma_microseconds"] {
        let microseconds = least[part].as_f64().unwrap();
        let none = part.starts_with("tensor") && dtype.ends_with("f32");
        assert!((microseconds > 0.0 || none) && microseconds < now.microseconds, "{part}: {microseconds}");
    }
    let then: Step = serde_json::from_str(&std::fs::read_to_string(&written).unwrap()).unwrap();
    assert!(now.launches > 50 && now.microseconds > 100.0, "{now:?}");
    let worse = now.worse_than(&then, TOLERANCE);
    assert!(
        worse.is_empty(),
        "on an RTX 2080 Ti, as predicted, {dtype}:\n  {}\nIf that is meant: COIN_TURING=write cargo test --test turing\n\n{}",
        worse.join("\n  "),
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn a_step_in_float32_is_predicted_no_slower() {
    check("f32");
}

#[test]
fn a_step_in_mixed_precision_is_predicted_no_slower() {
    check("mixed");
}
