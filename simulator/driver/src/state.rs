//! What the driver knows: tables of everything that has a handle, and the locks around it.
//!
//! Two locks: [`work`] is held while the device computes or copies, so that work never overlaps and a synchronisation is
//! the taking of this lock; [`state`] guards the tables, only ever for moments. `work` is taken first where both are needed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::ThreadId;
use std::time::Instant;

use simulator::{Device, Profile};

use crate::capture::Capture;
use crate::error::{CUresult, Outcome};
use crate::graph::{Executable, Graph};
use crate::report::{self, Leftovers};
use crate::settings::Environment;
use crate::types::*;

/// A context: what belongs to it refers to it by its handle.
pub(crate) struct Context {
    pub flags: u32,
    pub id: u64,
    /// The code of the fault that broke it; every later call gives it again.
    pub error: Option<CUresult>,
    /// Values by `CUlimit`.
    pub limits: [usize; 7],
    pub cache: u32,
    /// The stream that handles 0 and 1 mean.
    pub legacy: CUstream,
}

/// Which of the three sorts of streams it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Legacy,
    PerThread,
    Created,
}

pub(crate) struct Stream {
    pub context: CUcontext,
    pub sort: Sort,
    pub flags: u32,
    pub priority: i32,
    pub id: u64,
    /// The capture that it takes part in.
    pub capture: Option<u64>,
}

impl Stream {
    /// Whether the legacy stream and this one wait for each other.
    pub fn blocking(&self) -> bool {
        self.flags & STREAM_NON_BLOCKING == 0
    }
}

/// What an event was last recorded as.
#[derive(Clone)]
pub(crate) enum Record {
    Never,
    /// Work is done when its call returns, so the event had happened at once.
    At(Instant),
    /// In a capture: its identity, and the nodes that the event stands for.
    Captured(u64, Vec<CUgraphNode>),
}

pub(crate) struct Event {
    pub context: CUcontext,
    pub flags: u32,
    pub record: Record,
}

pub(crate) struct Module {
    pub context: CUcontext,
    pub module: simulator::Module,
    /// Handles of the kernels that were asked for.
    pub functions: HashMap<String, CUfunction>,
}

pub(crate) struct Function {
    pub context: CUcontext,
    pub module: CUmodule,
    pub function: simulator::Function,
    /// The name for `cuFuncGetName`, whose caller keeps the pointer while the module lives.
    pub name: CString,
    pub max_dynamic_shared: u32,
    pub carveout: i32,
}

/// Memory on the device.
pub(crate) struct Allocation {
    pub bytes: u64,
    pub context: CUcontext,
    pub pool: Option<CUmemoryPool>,
    pub id: u64,
    /// Set for memory that was allocated in a capture.
    pub graph: Option<GraphMemory>,
}

/// Memory that graphs allocate: its place is fixed when it is captured, and launches only mark it.
pub(crate) struct GraphMemory {
    /// Graphs and executable graphs that still may use the address.
    pub owners: usize,
    /// Allocated by a launch and not yet freed.
    pub live: bool,
}

impl Allocation {
    /// Whether the program still has to free it.
    pub fn live(&self) -> bool {
        self.graph.as_ref().is_none_or(|graph| graph.live)
    }
}

/// Memory of the host that the driver knows.
pub(crate) struct HostMemory {
    pub bytes: usize,
    pub context: CUcontext,
    pub flags: u32,
    /// Allocated by the driver, not only registered.
    pub owned: bool,
}

#[derive(Default)]
pub(crate) struct Pool {
    pub release_threshold: u64,
    /// Values of the three attributes that govern reuse; nothing is reused here.
    pub reuse: [i32; 3],
    pub used: u64,
    pub used_high: u64,
}

pub(crate) struct State {
    pub environment: Environment,
    device: Option<Arc<Device>>,
    last: usize,
    pub contexts: HashMap<CUcontext, Context>,
    pub streams: HashMap<CUstream, Stream>,
    pub per_thread: HashMap<(CUcontext, ThreadId), CUstream>,
    pub events: HashMap<CUevent, Event>,
    pub modules: HashMap<CUmodule, Module>,
    pub functions: HashMap<CUfunction, Function>,
    pub libraries: HashMap<CUlibrary, CUmodule>,
    pub graphs: HashMap<CUgraph, Graph>,
    pub executables: HashMap<CUgraphExec, Executable>,
    pub captures: HashMap<u64, Capture>,
    pub pools: HashMap<CUmemoryPool, Pool>,
    pub default_pool: CUmemoryPool,
    pub current_pool: CUmemoryPool,
    pub allocations: BTreeMap<u64, Allocation>,
    pub host: BTreeMap<usize, HostMemory>,
    /// The primary context's handle, the same for the life of the process.
    pub primary: CUcontext,
    pub primary_references: u32,
    pub primary_flags: u32,
    pub profiles: Vec<Profile>,
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();
static WORK: Mutex<()> = Mutex::new(());

thread_local! {
    /// The thread's stack of contexts; the last one is current. Never dropped: destructors of the program's own thread-local
    /// values may still call, in any order.
    static CONTEXTS: ManuallyDrop<RefCell<Vec<CUcontext>>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
    /// The thread's interaction mode, see `cuThreadExchangeStreamCaptureMode`.
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(CAPTURE_GLOBAL) };
}

/// The tables, or the code for a program that did not call `cuInit`.
pub(crate) fn state() -> Outcome<MutexGuard<'static, State>> {
    let state = STATE.get().ok_or(CUresult::NOT_INITIALIZED)?;
    // A panic under the lock was reported as one; the tables are valid in themselves after every statement.
    Ok(state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waits for all work and keeps more from starting.
pub(crate) fn work() -> MutexGuard<'static, ()> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the tables up, once; a second call changes nothing.
pub(crate) fn initialise() -> Result<(), String> {
    if STATE.get().is_none() {
        let environment = Environment::read(|name| std::env::var_os(name))?;
        STATE.get_or_init(|| Mutex::new(State::new(environment)));
    }
    Ok(())
}

/// The contexts of the calling thread, for `body` to read or change.
pub(crate) fn thread_contexts<T>(body: impl FnOnce(&mut Vec<CUcontext>) -> T) -> T {
    CONTEXTS.with(|contexts| body(&mut contexts.borrow_mut()))
}

/// The calling thread's interaction mode.
pub(crate) fn thread_capture_mode() -> &'static std::thread::LocalKey<Cell<u32>> {
    &CAPTURE_MODE
}

/// Tells at the end of the process what is still alive, and writes the profiles.
///
/// Called by the dynamic linker after all exit handlers, so after the program's own destructors have freed what they hold.
extern "C" fn at_exit() {
    let ended = std::panic::catch_unwind(|| {
        let Some(state) = STATE.get() else { return };
        let state = match state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread is in the middle of a call and will never finish it.
            Err(TryLockError::WouldBlock) => return,
        };
        let mut left = Leftovers::default();
        for context in state.contexts.keys() {
            state.add_leftovers(*context, &mut left);
        }
        report::leftovers(&state.environment, "end of the process", &left);
        report::profiles(&state.environment, &state.profiles);
    });
    // The panic was printed by its hook, and there is nobody left to tell.
    drop(ended);
}

// SAFETY: `.fini_array` holds pointers to functions of this type, which the dynamic linker calls once.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

impl State {
    fn new(environment: Environment) -> State {
        let mut state = State {
            environment,
            device: None,
            // Far from small numbers and from addresses: what is no handle should not look like one.
            last: 0x51_0000_0000,
            contexts: HashMap::new(),
            streams: HashMap::new(),
            per_thread: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            libraries: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            captures: HashMap::new(),
            pools: HashMap::new(),
            default_pool: CUmemoryPool::NULL,
            current_pool: CUmemoryPool::NULL,
            allocations: BTreeMap::new(),
            host: BTreeMap::new(),
            primary: CUcontext::NULL,
            primary_references: 0,
            primary_flags: 0,
            profiles: Vec::new(),
        };
        state.primary = CUcontext(state.fresh());
        state.default_pool = CUmemoryPool(state.fresh());
        state.current_pool = state.default_pool;
        state.pools.insert(state.default_pool, Pool { reuse: [1; 3], ..Pool::default() });
        state
    }

    /// A number that no handle had before; handles are not used again, so that a stale one is always found.
    pub fn fresh(&mut self) -> usize {
        self.last += 16;
        self.last
    }

    /// The simulated card. Made when the first memory or module needs it.
    pub fn device(&mut self) -> Arc<Device> {
        let settings = &self.environment.settings;
        self.device.get_or_insert_with(|| Device::new(settings.clone())).clone()
    }

    /// The calling thread's context, which must be alive and unbroken.
    pub fn current(&self) -> Outcome<CUcontext> {
        let handle = thread_contexts(|contexts| contexts.last().copied()).ok_or(CUresult::INVALID_CONTEXT)?;
        self.usable(handle)?;
        Ok(handle)
    }

    /// Checks that a context is alive and unbroken.
    pub fn usable(&self, handle: CUcontext) -> Outcome {
        let context = self.contexts.get(&handle).ok_or(CUresult::CONTEXT_IS_DESTROYED)?;
        context.error.map_or(Ok(()), Err)
    }

    /// Makes a context with the given handle.
    pub fn create_context(&mut self, handle: CUcontext, flags: u32) {
        let id = self.fresh() as u64;
        let legacy = self.create_stream(handle, Sort::Legacy, 0, 0);
        // Stack, printf buffer, heap, two of dynamic parallelism, L2 fetch and L2 persistence, as a fresh context has them.
        let limits = [1024, 1 << 20, 8 << 20, 2, 2048, 128, 0];
        let context = Context { flags, id, error: None, limits, cache: 0, legacy };
        self.contexts.insert(handle, context);
    }

    /// Makes a stream.
    pub fn create_stream(&mut self, context: CUcontext, sort: Sort, flags: u32, priority: i32) -> CUstream {
        let handle = CUstream(self.fresh());
        let stream = Stream { context, sort, flags, priority, id: handle.0 as u64 / 16, capture: None };
        self.streams.insert(handle, stream);
        handle
    }

    /// The stream that a program means by a handle: the table's own handle for it.
    pub fn stream(&mut self, current: CUcontext, handle: CUstream) -> Outcome<CUstream> {
        match handle {
            CUstream::NULL | CU_STREAM_LEGACY => {
                Ok(self.contexts.get(&current).ok_or(CUresult::CONTEXT_IS_DESTROYED)?.legacy)
            }
            CU_STREAM_PER_THREAD => {
                let key = (current, std::thread::current().id());
                if let Some(stream) = self.per_thread.get(&key) {
                    return Ok(*stream);
                }
                let stream = self.create_stream(current, Sort::PerThread, 0, 0);
                self.per_thread.insert(key, stream);
                Ok(stream)
            }
            _ => match self.streams.get(&handle) {
                // The inner handles of the two streams above are no business of a program's.
                Some(stream) if stream.sort == Sort::Created => {
                    self.usable(stream.context)?;
                    Ok(handle)
                }
                _ => Err(CUresult::INVALID_HANDLE),
            },
        }
    }

    /// The allocation that an address lies in.
    pub fn allocation_at(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (start, allocation) = self.allocations.range(..=address).next_back()?;
        (address - start < allocation.bytes).then_some((*start, allocation))
    }

    /// The host memory that an address lies in.
    pub fn host_at(&self, address: usize) -> Option<(usize, &HostMemory)> {
        let (start, memory) = self.host.range(..=address).next_back()?;
        (address - start < memory.bytes).then_some((*start, memory))
    }

    /// Adds what a context still holds. Nothing for a broken one: its program could not free anything.
    fn add_leftovers(&self, handle: CUcontext, left: &mut Leftovers) {
        if self.contexts.get(&handle).is_none_or(|context| context.error.is_some()) {
            return;
        }
        let live = self
            .allocations
            .iter()
            .filter(|(_, allocation)| allocation.context == handle && allocation.live());
        left.memory.extend(live.map(|(address, allocation)| (*address, allocation.bytes)));
        let pinned = self.host.values().filter(|memory| memory.context == handle && memory.owned);
        left.host += pinned.map(|memory| memory.bytes as u64).sum::<u64>();
        let created = |stream: &&Stream| stream.context == handle && stream.sort == Sort::Created;
        left.streams += self.streams.values().filter(created).count();
        left.events += self.events.values().filter(|event| event.context == handle).count();
        left.graphs += self.graphs.values().filter(|graph| graph.context == handle).count();
        left.graphs += self.executables.values().filter(|graph| graph.context == handle).count();
        left.modules += self.modules.values().filter(|module| module.context == handle).count();
    }

    /// Ends a context with all that it holds, after telling what that is. The caller holds the work lock.
    pub fn destroy_context(&mut self, handle: CUcontext, place: &str) {
        let mut left = Leftovers::default();
        self.add_leftovers(handle, &mut left);
        report::leftovers(&self.environment, place, &left);
        report::profiles_so_far(&self.environment, &self.profiles);

        let addresses: Vec<u64> =
            self.allocations.iter().filter(|(_, a)| a.context == handle).map(|(at, _)| *at).collect();
        for address in addresses {
            self.release_memory(address);
        }
        let pinned: Vec<usize> =
            self.host.iter().filter(|(_, memory)| memory.context == handle).map(|(at, _)| *at).collect();
        for address in pinned {
            crate::memory::release_host(self, address);
        }
        let modules: Vec<CUmodule> =
            self.modules.iter().filter(|(_, m)| m.context == handle).map(|(module, _)| *module).collect();
        for module in modules {
            self.unload(module);
        }
        self.captures.retain(|_, capture| capture.context != handle);
        self.streams.retain(|_, stream| stream.context != handle);
        self.per_thread.retain(|(context, _), _| *context != handle);
        self.events.retain(|_, event| event.context != handle);
        self.graphs.retain(|_, graph| graph.context != handle);
        self.executables.retain(|_, graph| graph.context != handle);
        self.contexts.remove(&handle);
    }

    /// Takes an allocation off the tables and gives it back to the device.
    pub fn release_memory(&mut self, address: u64) {
        if let Some(allocation) = self.allocations.remove(&address) {
            if let Some(pool) = allocation.pool.and_then(|pool| self.pools.get_mut(&pool)) {
                pool.used -= allocation.bytes;
            }
            if let Err(fault) = self.device().free(address) {
                crate::error::explain("free", &fault.report);
            }
        }
    }

    /// Takes a module and its kernels off the tables.
    pub fn unload(&mut self, handle: CUmodule) {
        if let Some(module) = self.modules.remove(&handle) {
            self.functions.retain(|_, function| function.module != handle);
            self.libraries.retain(|_, module| *module != handle);
            self.device().unload(&module.module);
        }
    }
}
