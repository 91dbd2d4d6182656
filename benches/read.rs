//! Getting conversations: made by the generator, read and written in the project's format (7,360 utterances, 712 wide),
//! and read from the file that `COIN_READ` names, if it names one.
//!
//!     python tests/fixtures/make_fixtures.py --large /tmp/large.pkl
//!     COIN_READ=/tmp/large.pkl cargo bench --bench read

use std::path::Path;

use coin::data::synthetic::{SyntheticOptions, generate};
use coin::data::{ReadOptions, conversations, read};
use criterion::{Criterion, criterion_group, criterion_main};

fn data(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("data");
    group.sample_size(10);
    group.bench_function("generate", |bench| bench.iter(|| generate(&SyntheticOptions::default())));

    let corpus = generate(&SyntheticOptions::default());
    let folder = tempfile::tempdir().expect("a folder to write to");
    let path = folder.path().join("synthetic.jsonl");
    group.bench_function("fingerprint", |bench| bench.iter(|| corpus.fingerprint()));
    group.bench_function("write", |bench| bench.iter(|| conversations::write(&corpus, &path)));
    let options = ReadOptions::default();
    group.bench_function("read", |bench| bench.iter(|| read(&path, &options)));
    if let Some(file) = std::env::var_os("COIN_READ") {
        if let Err(error) = read(Path::new(&file), &options) {
            panic!("{error}");
        }
        group.bench_function("read COIN_READ", |bench| bench.iter(|| read(Path::new(&file), &options)));
    }
    group.finish();
}

criterion_group!(benches, data);
criterion_main!(benches);
