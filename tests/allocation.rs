//! A warm training step allocates nothing, on any thread. Alone in its file: the counter sees the whole process.

mod talk;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coin::data::standardise::Standardisation;
use coin::model::config::{AdversarialNorm, Config, Precision, StackInput};
use coin::model::device::Compute;
use coin::model::{Engine, engine};
use coin::random::{Stream, purpose};

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    if COUNTS.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of every thread while `work` runs.
fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    COUNTS.store(true, Ordering::SeqCst);
    let result = work();
    COUNTS.store(false, Ordering::SeqCst);
    (ALLOCATIONS.load(Ordering::SeqCst), result)
}

/// An epoch: every utterance once, in batches, the last one shorter.
fn epoch(engine: &mut dyn Engine, utterances: u32, batch_size: usize, number: u64) -> Vec<usize> {
    let mut targets: Vec<u32> = (0..utterances).collect();
    Stream::indexed(1, purpose::TEST, number).shuffle(&mut targets);
    let steps = targets.chunks(batch_size).enumerate().map(|(i, targets)| {
        let step = number * 1000 + i as u64;
        let (count, loss) = allocations(|| engine.train_step(targets, step, 1e-3));
        loss.unwrap();
        count
    });
    steps.collect()
}

#[test]
fn a_warm_step_allocates_nothing() {
    // The counter counts at all.
    assert!(allocations(|| std::hint::black_box(vec![1u8; 100])).0 > 0);

    let lengths: Vec<usize> = (0..40).map(|i| 1 + i * 7 % 45).collect();
    let corpus = talk::corpus(1, &lengths, 3, 20, 6);
    let utterances = corpus.len() as u32;
    let standardisation = Standardisation::none(corpus.width());
    let base =
        Config { embedding_size: 10, history_length: 20, stacks: 2, dropout_keep: 0.7, ..Config::default() };
    for (batch_size, threads, dtype, adversarial_norm, stack_input) in [
        (100, 2, Precision::F32, AdversarialNorm::Sample, StackInput::Attention),
        (100, 5, Precision::F64, AdversarialNorm::Utterance, StackInput::Gru),
        (utterances as usize, 3, Precision::F32, AdversarialNorm::Batch, StackInput::Attention),
        (600, 2, Precision::F64, AdversarialNorm::Sample, StackInput::Attention),
        (7, 1, Precision::F32, AdversarialNorm::Sample, StackInput::Attention),
    ] {
        let config = Config { batch_size, dtype, adversarial_norm, stack_input, ..base.clone() };
        let mut engine = engine(&config, &corpus, &standardisation, Compute::cpu(threads)).unwrap();
        let cold = epoch(&mut *engine, utterances, batch_size, 0);
        assert!(cold[0] > 0, "the first step takes the memory");
        for number in 1..4 {
            let counts = epoch(&mut *engine, utterances, batch_size, number);
            assert!(
                counts.iter().all(|&count| count == 0),
                "batches of {batch_size} on {threads} threads, epoch {number}: allocations of each step {counts:?}"
            );
        }
    }
}
