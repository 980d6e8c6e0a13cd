//! Threads that compute one region after another, hundreds of times per token.
//!
//! A region is a number of tasks that may run in any order. Threads that have just worked spin for a while, so that
//! the next region costs them less than a microsecond; then they sleep. A thread that comes late finds nothing left
//! to do and holds nobody up.

use std::cell::Cell;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread without work spins before it sleeps: longer than the pauses inside a step.
const SPIN: Duration = Duration::from_micros(200);
/// Spins between two looks at the clock, or before the processor is offered to others.
const SPINS: u32 = 256;

thread_local! {
    /// Whether this thread is inside a region: regions do not nest, an inner one runs where it is.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A fixed number of threads, the calling one included.
pub(super) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by whoever runs a region.
    turn: Mutex<()>,
}

/// One region: a closure of unknown type, called once for each task.
#[derive(Clone, Copy)]
struct Region {
    call: unsafe fn(*const (), usize),
    task: *const (),
    tasks: usize,
}

struct Shared {
    gate: Gate,
    region: std::cell::UnsafeCell<Region>,
    next: AtomicUsize,
    failed: AtomicBool,
    ended: AtomicBool,
    asleep: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `region` is written by the thread that holds the turn while the gate is shut and nobody is inside, and read
// by threads that are inside. Its pointer stands for a closure that is `Sync` and outlives the region.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Who may enter the current region: its number, whether it is open, and how many threads are inside, in one word.
#[derive(Default)]
struct Gate(AtomicU64);

const OPEN: u64 = 1 << 31;
const NUMBER: u32 = 32;

impl Gate {
    fn open(&self) {
        let number = (self.0.load(Ordering::Relaxed) >> NUMBER) + 1;
        self.0.store(number << NUMBER | OPEN, Ordering::SeqCst);
    }

    /// Lets nobody in any more and waits for those inside.
    fn shut(&self) {
        self.0.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spins = 0;
        while self.0.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            spins += 1;
            if spins % SPINS == 0 { std::thread::yield_now() } else { spin_loop() }
        }
    }

    /// Enters an open region other than `last` and returns its number.
    fn enter(&self, last: u64) -> Option<u64> {
        let seen = self.0.load(Ordering::SeqCst);
        let number = seen >> NUMBER;
        if number == last || seen & OPEN == 0 {
            return None;
        }
        self.0.compare_exchange(seen, seen + 1, Ordering::SeqCst, Ordering::Relaxed).ok().map(|_| number)
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Threads {
    /// `count` threads; 0: as many as the machine has cores.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let count = if count == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { count };
        let shared = Arc::new(Shared {
            gate: Gate::default(),
            region: std::cell::UnsafeCell::new(Region { call: nothing, task: std::ptr::null(), tasks: 0 }),
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut threads = Self { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for i in 1..count {
            let shared = threads.shared.clone();
            let name = format!("smolvlm-{i}");
            threads.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.work())?);
        }
        Ok(threads)
    }

    /// How many threads compute.
    pub(super) fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(tasks - 1)`, on any thread, in any order, and returns when all are done.
    ///
    /// # Panics
    /// When a task panics.
    pub(super) fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        if tasks <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..tasks).for_each(task);
            return;
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: the turn is ours and the gate is shut, so nobody reads the region now.
        unsafe { *shared.region.get() = Region { call: call::<F>, task: (&raw const task).cast(), tasks } };
        shared.next.store(0, Ordering::Relaxed);
        shared.failed.store(false, Ordering::Relaxed);
        shared.gate.open();
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.sleep));
            shared.wake.notify_all();
        }
        // `task` must outlive every thread inside, also when it panics here.
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.compute()));
        shared.gate.shut();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(!shared.failed.load(Ordering::Relaxed), "a compute thread panicked");
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Takes tasks of the current region until none is left.
    fn compute(&self) {
        // SAFETY: whoever calls this is inside the region, or opened it.
        let region = unsafe { *self.region.get() };
        INSIDE.set(true);
        let _outside = Outside;
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= region.tasks {
                return;
            }
            // SAFETY: the region's pointer stands for a closure of the type that `call` expects, alive until the gate
            // is shut and everybody has left.
            unsafe { (region.call)(region.task, task) };
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut last = 0;
        while let Some(number) = self.wait(last) {
            last = number;
            if catch_unwind(AssertUnwindSafe(|| self.compute())).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.gate.leave();
        }
    }

    /// Enters the region after `last`; none when the threads are to end.
    fn wait(&self, last: u64) -> Option<u64> {
        let mut since = None;
        loop {
            for _ in 0..SPINS {
                if let Some(number) = self.gate.enter(last) {
                    return Some(number);
                }
                spin_loop();
            }
            if self.ended.load(Ordering::Relaxed) {
                return None;
            }
            if since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                continue;
            }
            self.doze(last);
            since = None;
        }
    }

    /// Sleeps until a region other than `last` may have been opened.
    fn doze(&self, last: u64) {
        let guard = lock(&self.sleep);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let seen = self.gate.0.load(Ordering::SeqCst);
        let nothing_new = seen >> NUMBER == last || seen & OPEN == 0;
        if nothing_new && !self.ended.load(Ordering::SeqCst) {
            drop(self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner()));
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Marks this thread as outside again, also when a task panics.
struct Outside;

impl Drop for Outside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// # Safety
/// `task` points to a living `F`.
unsafe fn call<F: Fn(usize)>(task: *const (), index: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*task.cast::<F>())(index) }
}

/// # Safety
/// None: it reads nothing.
unsafe fn nothing(_: *const (), _: usize) {}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_region() {
        for count in [1, 2, 5] {
            let threads = Threads::new(count).expect("threads");
            for tasks in [0, 1, 2, 3, 17, 400] {
                for _ in 0..50 {
                    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    threads.run(tasks, |i| {
                        runs[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(
                        runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1),
                        "{count} threads, {tasks} tasks"
                    );
                }
            }
        }
    }

    #[test]
    fn threads_that_fell_asleep_wake_up_again() {
        let threads = Threads::new(2).expect("threads");
        for _ in 0..3 {
            std::thread::sleep(SPIN * 10);
            let both = AtomicUsize::new(0);
            // Each task waits for the other, so one thread alone would never end.
            threads.run(2, |_| {
                both.fetch_add(1, Ordering::SeqCst);
                while both.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_region_inside_a_region_runs_where_it_is() {
        let threads = Threads::new(3).expect("threads");
        let total = AtomicUsize::new(0);
        threads.run(4, |_| {
            threads.run(5, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        let threads = Threads::new(2).expect("threads");
        for guilty in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| threads.run(8, |i| assert_ne!(i, guilty))));
            assert!(outcome.is_err());
        }
        threads.run(8, |_| ());
    }
}
