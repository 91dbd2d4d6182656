//! Two runs held against each other by what they left on disk.

use std::path::Path;

use coin::training::checkpoint::Checkpoint;
use coin::training::progress::EpochRecord;

pub fn metrics(path: &Path) -> Vec<EpochRecord> {
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn without_times(mut records: Vec<EpochRecord>) -> Vec<EpochRecord> {
    for record in &mut records {
        record.time.seconds = 0.0;
        record.time.utterances_per_second = 0.0;
    }
    records
}

pub fn last(path: &Path) -> Checkpoint {
    let mut last = Checkpoint::read(&path.join("last.safetensors")).unwrap();
    let progress = &mut last.training.as_mut().unwrap().progress;
    progress.history = without_times(std::mem::take(&mut progress.history));
    last
}

/// Both runs left the same on disk: the same bytes but for the times.
pub fn assert_same_run(one: &Path, two: &Path) {
    assert_eq!(without_times(metrics(one)), without_times(metrics(two)));
    for name in ["best.safetensors", "report.json", "report.txt", "config.toml"] {
        assert!(
            std::fs::read(one.join(name)).unwrap() == std::fs::read(two.join(name)).unwrap(),
            "{name} differs"
        );
    }
    assert_eq!(last(one), last(two));
}
