//! Threads that wait for work: a fixed team that shares out numbered tasks.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A team of threads, the caller's among them. Handing out work allocates nothing.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

type Task = dyn Fn(usize, usize) + Sync + 'static;

/// A slice's start that threads may share: they take disjoint pieces of it.
struct Start<T>(*mut T);

// SAFETY: only [`Pool::chunks`] makes one, and hands each piece to one task.
unsafe impl<T: Send> Sync for Start<T> {}

struct Shared {
    state: Mutex<State>,
    started: Condvar,
    finished: Condvar,
    next: AtomicUsize,
    /// Whether a job is under way.
    working: AtomicBool,
}

struct State {
    /// Numbers the jobs, so that a helper takes each once.
    job: u64,
    /// The job's closure, its lifetime erased: valid until `busy` is 0.
    task: Option<&'static Task>,
    tasks: usize,
    /// Helpers still on the job.
    busy: usize,
    panic: Option<Box<dyn std::any::Any + Send>>,
    closing: bool,
}

/// Every panic inside the lock's reach is caught before it; a poisoned lock still holds a whole state.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A team of `threads` (at least 1), the calling thread included.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { job: 0, task: None, tasks: 0, busy: 0, panic: None, closing: false }),
            started: Condvar::new(),
            finished: Condvar::new(),
            next: AtomicUsize::new(0),
            working: AtomicBool::new(false),
        });
        let mut pool = Self { shared, helpers: Vec::new() };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let name = format!("coin-{worker}");
            pool.helpers.push(std::thread::Builder::new().name(name).spawn(move || help(&shared, worker))?);
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `task(i, worker)` for every i in `0..tasks`, each once, in order of i as threads come free;
    /// `worker` is below [`Pool::threads`] and no two tasks that run at once share it. Returns when all are done.
    ///
    /// # Panics
    /// With a task's own panic, and when the team is at work already: no task, and no other thread, hands it a second
    /// job.
    pub fn run(&self, tasks: usize, task: impl Fn(usize, usize) + Sync) {
        if tasks == 0 {
            return;
        }
        if self.helpers.is_empty() || tasks == 1 {
            (0..tasks).for_each(|i| task(i, 0));
            return;
        }
        assert!(!self.shared.working.swap(true, Ordering::Acquire), "the pool has a job already");
        let task: &(dyn Fn(usize, usize) + Sync) = &task;
        // SAFETY: the reference is used only by helpers counted in `busy`, which count no other job, and this function
        // returns only once `busy` is 0 again, so it never outlives `task`.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static Task>(task) };
        self.shared.next.store(0, Ordering::Relaxed);
        {
            let mut state = lock(&self.shared.state);
            state.job += 1;
            state.task = Some(task);
            state.tasks = tasks;
            state.busy = self.helpers.len();
            self.shared.started.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| work(&self.shared, task, tasks, 0)));
        let mut state = lock(&self.shared.state);
        while state.busy > 0 {
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.task = None;
        let theirs = state.panic.take();
        drop(state);
        self.shared.working.store(false, Ordering::Release);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Pool {
    /// Cuts slices of one length into chunks of `len` and runs `task(i, chunks, worker)` for the i-th chunk of each.
    ///
    /// # Panics
    /// When the slices differ in length, or with a task's own panic.
    pub fn chunks<T: Send, const N: usize>(
        &self,
        slices: [&mut [T]; N],
        len: usize,
        task: impl Fn(usize, [&mut [T]; N], usize) + Sync,
    ) {
        let total = slices[0].len();
        assert!(slices.iter().all(|slice| slice.len() == total), "chunks of slices of different lengths");
        let starts = slices.map(|slice| Start(slice.as_mut_ptr()));
        self.run(total.div_ceil(len), |i, worker| {
            let (from, to) = (i * len, total.min((i + 1) * len));
            // SAFETY: every i is run once, and the ranges of different i are disjoint and within the slices, which
            // stay borrowed until `run` returns.
            let pieces = std::array::from_fn(|n| unsafe {
                let start: &Start<T> = &starts[n];
                std::slice::from_raw_parts_mut(start.0.add(from), to - from)
            });
            task(i, pieces, worker);
        });
    }
}

fn work(shared: &Shared, task: &Task, tasks: usize, worker: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            break;
        }
        task(i, worker);
    }
}

fn help(shared: &Shared, worker: usize) {
    let mut done = 0;
    loop {
        let mut state = lock(&shared.state);
        while state.job == done && !state.closing {
            state = shared.started.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closing {
            return;
        }
        done = state.job;
        let (task, tasks) = (state.task, state.tasks);
        drop(state);
        let result = match task {
            Some(task) => catch_unwind(AssertUnwindSafe(|| work(shared, task, tasks, worker))),
            None => Ok(()),
        };
        let mut state = lock(&shared.state);
        if let Err(panic) = result {
            state.panic = Some(panic);
        }
        state.busy -= 1;
        if state.busy == 0 {
            shared.finished.notify_all();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.started.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper's panics were handed to `run`; there is none left to report.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_and_workers_are_never_shared() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 3, 100] {
                let runs: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                let held: Vec<Mutex<()>> = (0..threads).map(|_| Mutex::new(())).collect();
                pool.run(tasks, |i, worker| {
                    let _alone = held[worker].try_lock().expect("a worker runs one task at a time");
                    runs[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|run| run.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn chunks_cover_every_scalar_once() {
        let pool = Pool::new(2).unwrap();
        let (mut a, mut b) = (vec![0u32; 1003], vec![7u32; 1003]);
        pool.chunks([&mut a, &mut b], 100, |i, [a, b], _| {
            for (x, y) in a.iter_mut().zip(b) {
                *x += i as u32;
                *y += 1;
            }
        });
        assert!(a.iter().enumerate().all(|(i, &x)| x == i as u32 / 100));
        assert!(b.iter().all(|&y| y == 8));
    }

    #[test]
    fn a_second_job_at_once_is_refused() {
        let pool = Pool::new(2).unwrap();
        let nested = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, |_, _| pool.run(2, |_, _| {}));
        }));
        assert!(nested.is_err());
        let runs = AtomicUsize::new(0);
        pool.run(3, |_, _| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.into_inner(), 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, |i, _| assert!(i != 20, "task twenty"));
        }));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, |i, _| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
