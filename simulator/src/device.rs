//! The simulated card as a program sees it: memory, modules, launches.

use crate::machine;
use crate::machine::launch::Grid;
use crate::machine::memory::{Allocation, Memory, Nothing};
use crate::machine::worker::Remains;
use crate::profile::Profile;
use crate::program::{self, Addresses, Isa, Program};
use crate::ptx;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How a card behaves; the same settings, program and inputs give the same results and reports.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Order of blocks and warps: 0 is the natural one, every other seed is a permutation of its own.
    pub seed: u64,
    /// Threads of the host that run blocks. With 1 a run is reproducible even where blocks meet in atomics.
    pub threads: usize,
    /// Bytes of global memory: 11 GiB as on a 2080 Ti.
    pub memory: u64,
    /// Instructions a warp may execute in one launch before it counts as an endless loop.
    pub watchdog: u64,
}

/// Sizes of a grid or a block.
pub type Dimensions = [u32; 3];

/// One launch of a kernel.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    pub grid: Dimensions,
    pub block: Dimensions,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameters' bytes, laid out as [`Function::parameters`] says.
    pub parameters: &'a [u8],
}

/// What went wrong in a launch or an access from the host. `Display` is the full report, several lines.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: FaultKind,
    /// Kernel, source line, block, thread, address: everything known, ready to print.
    pub report: String,
}

/// Kinds of faults; the driver maps them to CUDA errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Sizes of a launch that the card refuses.
    InvalidLaunch,
    OutOfMemory,
    /// An address that the host gave and that is in no allocation, or a range that leaves it.
    InvalidAddress,
    OutOfBounds,
    Misaligned,
    Uninitialised,
    Race,
    /// A barrier or a warp-wide instruction that not all of its threads reach.
    Divergence,
    /// `trap`, `__assertfail`
    Trap,
    /// The watchdog's limit.
    Timeout,
    /// An instruction that is not modelled.
    Unsupported,
}

/// Text that is no PTX, or PTX with an instruction that is not modelled.
#[derive(Debug, Clone)]
pub struct LoadError {
    pub message: String,
}

/// A simulated card. All functions may be called from several threads; launches run one after the other.
pub struct Device {
    settings: Settings,
    memory: RwLock<Memory>,
    /// What the host's threads keep from launch to launch.
    workers: Mutex<Vec<Remains>>,
    /// Launches made.
    launches: AtomicU32,
    isa: Isa,
}

/// A loaded module; its variables live in the device's memory until it is unloaded.
#[derive(Clone)]
pub struct Module {
    kernels: Arc<BTreeMap<String, Function>>,
    variables: Arc<BTreeMap<String, (u64, u64)>>,
}

/// A kernel of a module.
#[derive(Clone)]
pub struct Function {
    program: Arc<Program>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Settings {
    fn default() -> Settings {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Settings { seed: 0, threads, memory: 11 << 30, watchdog: 1 << 32 }
    }
}

impl Device {
    pub fn new(settings: Settings) -> Arc<Device> {
        Device::of(settings, Isa::detect())
    }

    /// A card that is computed with these vector instructions; `None` where this processor has them not.
    pub fn with_isa(settings: Settings, isa: Isa) -> Option<Arc<Device>> {
        isa.supported().then(|| Device::of(settings, isa))
    }

    fn of(settings: Settings, isa: Isa) -> Arc<Device> {
        Arc::new(Device {
            settings,
            memory: Default::default(),
            workers: Default::default(),
            launches: AtomicU32::new(0),
            isa,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A fresh allocation of `bytes` (at least 1), aligned to 512; its content is uninitialised.
    pub fn allocate(&self, bytes: u64) -> Result<u64, Fault> {
        self.allocate_named(bytes, None).map(|allocation| allocation.base)
    }

    fn allocate_named(&self, bytes: u64, variable: Option<String>) -> Result<Arc<Allocation>, Fault> {
        let mut memory = write(&self.memory);
        let fits = bytes > 0 && memory.used().saturating_add(bytes) <= self.settings.memory;
        let allocation = if fits { memory.allocate(bytes, variable) } else { None };
        allocation.ok_or_else(|| Fault {
            kind: FaultKind::OutOfMemory,
            report: format!(
                "no room for {bytes} bytes: {} of {} are used",
                memory.used(),
                self.settings.memory
            ),
        })
    }

    /// Frees what `allocate` gave. The address is not given again soon, so that a late use is found.
    pub fn free(&self, address: u64) -> Result<(), Fault> {
        write(&self.memory).free(address).map_err(|nothing| {
            let what = match nothing {
                Nothing::Freed { .. } => "it was freed before",
                Nothing::Near { .. } => "an allocation begins elsewhere in its neighbourhood",
                Nothing::Unknown => "nothing was ever allocated there",
            };
            Fault { kind: FaultKind::InvalidAddress, report: format!("{address:#x} cannot be freed: {what}") }
        })
    }

    /// Runs `f` with the allocation that a range of the host's lies in.
    fn with<T>(
        &self,
        memory: &Memory,
        address: u64,
        bytes: u64,
        doing: &str,
        f: impl FnOnce(&Allocation) -> T,
    ) -> Result<T, Fault> {
        match memory.find(address, bytes) {
            Some(allocation) => Ok(f(allocation)),
            None => {
                let what = match memory.nothing(address) {
                    Nothing::Near { base, bytes, .. } => {
                        format!(
                            "byte {} of the allocation of {bytes} bytes at {base:#x}",
                            address.wrapping_sub(base) as i64
                        )
                    }
                    Nothing::Freed { bytes, .. } => format!("an allocation of {bytes} bytes that was freed"),
                    Nothing::Unknown => "no allocation".to_string(),
                };
                Err(Fault {
                    kind: FaultKind::InvalidAddress,
                    report: format!("the host {doing} {bytes} bytes at address {address:#x}: {what}"),
                })
            }
        }
    }

    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        let memory = write(&self.memory);
        self.with(&memory, to, bytes.len() as u64, "writes", |allocation| {
            allocation.write(to - allocation.base, bytes)
        })
    }

    /// Copies out. Bytes that nothing has written are no fault: the host may copy padding. They read as zero.
    pub fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let memory = write(&self.memory);
        self.with(&memory, from, bytes.len() as u64, "reads", |allocation| {
            allocation.read(from - allocation.base, bytes)
        })
    }

    /// Copies within the device; what is uninitialised stays so. The ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        let memory = write(&self.memory);
        let source =
            self.with(&memory, from, bytes, "copies", |a| (a.data(from - a.base), a.valid(from - a.base)))?;
        let target =
            self.with(&memory, to, bytes, "copies to", |a| (a.data(to - a.base), a.valid(to - a.base)))?;
        // SAFETY: both ranges lie in live allocations, which the lock keeps, and no launch runs meanwhile.
        unsafe {
            std::ptr::copy(source.0, target.0, bytes as usize);
            std::ptr::copy(source.1, target.1, bytes as usize);
        }
        Ok(())
    }

    /// Repeats `pattern` (1, 2 or 4 bytes) `count` times.
    pub fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        let memory = write(&self.memory);
        let bytes = (pattern.len() as u64).saturating_mul(count);
        self.with(&memory, to, bytes, "fills", |allocation| {
            // A piece at a time: the whole may be large.
            let piece = pattern.repeat((1 << 16) / pattern.len().max(1));
            let mut offset = to - allocation.base;
            let end = offset + bytes;
            while offset < end {
                let length = piece.len().min((end - offset) as usize);
                allocation.write(offset, &piece[..length]);
                offset += length as u64;
            }
        })
    }

    /// The allocation that an address lies in: its start and size.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        read(&self.memory).find(address, 1).map(|allocation| (allocation.base, allocation.bytes))
    }

    /// Allocations that were not freed (address, bytes), modules' variables left out.
    pub fn live(&self) -> Vec<(u64, u64)> {
        read(&self.memory).live().filter(|a| a.variable.is_none()).map(|a| (a.base, a.bytes)).collect()
    }

    /// Bytes allocated now.
    pub fn used(&self) -> u64 {
        read(&self.memory).used()
    }

    /// Reads PTX text, gives every instruction a meaning, places its variables.
    pub fn load(&self, text: &str) -> Result<Module, LoadError> {
        let tree = ptx::parse(text).map_err(|e| LoadError { message: e.to_string() })?;
        let mut placed: Vec<(&ptx::Variable, Arc<Allocation>)> = Vec::new();
        let result = self.place(&tree, &mut placed).and_then(|addresses| {
            let text: Arc<str> = text.into();
            let mut kernels = BTreeMap::new();
            for kernel in tree.functions.iter().filter(|f| f.entry && f.body.is_some()) {
                let program = program::decode(&tree, kernel, &addresses, text.clone(), self.isa)
                    .map_err(|message| LoadError { message })?;
                kernels.insert(kernel.name.clone(), Function { program: Arc::new(program) });
            }
            Ok(kernels)
        });
        match result {
            Ok(kernels) => {
                let variables = placed.iter().map(|(v, a)| (v.name.clone(), (a.base, a.bytes))).collect();
                Ok(Module { kernels: Arc::new(kernels), variables: Arc::new(variables) })
            }
            Err(error) => {
                for (_, allocation) in placed {
                    // It was allocated above, so it can be freed.
                    let _ = write(&self.memory).free(allocation.base);
                }
                Err(error)
            }
        }
    }

    /// Allocates a module's variables and writes their initial values.
    fn place<'t>(
        &self,
        tree: &'t ptx::Module,
        placed: &mut Vec<(&'t ptx::Variable, Arc<Allocation>)>,
    ) -> Result<Addresses, LoadError> {
        let mut addresses = Addresses::new();
        for variable in &tree.variables {
            if !matches!(variable.space, ptx::Space::Global | ptx::Space::Const) {
                continue;
            }
            let (false, Some(size)) = (variable.external, variable.size) else {
                return Err(LoadError {
                    message: format!(
                        "variable `{}` is defined in another module: linking is not modelled",
                        variable.name
                    ),
                });
            };
            let allocation =
                self.allocate_named(size.max(1), Some(variable.name.clone())).map_err(|fault| LoadError {
                    message: format!("variable `{}`: {}", variable.name, fault.report),
                })?;
            addresses.insert(variable.name.clone(), allocation.base);
            placed.push((variable, allocation));
        }
        for (variable, allocation) in placed.iter() {
            // Variables without an initialiser begin as zero (PTX ISA 5.4.4).
            let mut bytes = variable.initial.clone().unwrap_or_default();
            bytes.resize(allocation.bytes as usize, 0);
            for relocation in &variable.relocations {
                let Some(address) = addresses.get(&relocation.symbol) else {
                    let message = format!(
                        "variable `{}` holds the address of `{}`, which has none",
                        variable.name, relocation.symbol
                    );
                    return Err(LoadError { message });
                };
                let at = relocation.offset as usize;
                if let Some(place) = bytes.get_mut(at..at + 8) {
                    place.copy_from_slice(&address.wrapping_add_signed(relocation.addend).to_le_bytes());
                }
            }
            let _exclusive = write(&self.memory);
            allocation.write(0, &bytes);
        }
        Ok(addresses)
    }

    /// Frees a module's variables.
    pub fn unload(&self, module: &Module) {
        for (base, _) in module.variables.values() {
            // A second unloading finds them gone already.
            let _ = write(&self.memory).free(*base);
        }
    }

    /// Runs a kernel to its end.
    pub fn launch(&self, function: &Function, launch: &Launch) -> Result<Profile, Fault> {
        let program = &*function.program;
        self.accepts(program, launch)?;
        let memory = read(&self.memory);
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let grid = Grid {
            program,
            memory: &memory,
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            parameters: launch.parameters,
            seed: self.settings.seed,
            watchdog: self.settings.watchdog,
            number: self.launches.fetch_add(1, Ordering::Relaxed) + 1,
            published: Default::default(),
        };
        let start = std::time::Instant::now();
        let counters =
            machine::launch::run(&grid, self.settings.threads, &mut workers).map_err(|fault| *fault)?;
        Ok(Profile::new(program, &counters, launch, start.elapsed()))
    }

    /// What a card of compute capability 7.5 refuses to launch.
    fn accepts(&self, program: &Program, launch: &Launch) -> Result<(), Fault> {
        let refuse = |what: String| {
            Err(Fault {
                kind: FaultKind::InvalidLaunch,
                report: format!("kernel `{}`: {what}", program.name),
            })
        };
        let threads =
            launch.block.iter().try_fold(1u32, |product, n| product.checked_mul(*n)).unwrap_or(u32::MAX);
        for (what, sizes, limits) in [
            ("grid", launch.grid, [i32::MAX as u32, 65535, 65535]),
            ("block", launch.block, [1024, 1024, 64]),
        ] {
            if sizes.contains(&0) || sizes.iter().zip(limits).any(|(size, limit)| *size > limit) {
                return refuse(format!("a {what} of {sizes:?}: each must be from 1 to {limits:?}"));
            }
        }
        if threads > function_threads(program) {
            return refuse(format!(
                "blocks of {threads} threads: it takes {} at the most",
                function_threads(program)
            ));
        }
        if let Some(required) = program.required_threads
            && required != launch.block
        {
            return refuse(format!("blocks of {:?}: it requires {required:?}", launch.block));
        }
        if let Some(registers) = program.max_registers
            && registers * threads > 65536
        {
            return refuse(format!("{threads} threads of {registers} registers: a multiprocessor has 65536"));
        }
        let shared = program.static_shared as u64 + launch.dynamic_shared as u64;
        if shared > 65536 {
            return refuse(format!("{shared} bytes of shared memory: a block may have 65536"));
        }
        if launch.parameters.len() as u64 != program.parameter_bytes {
            return refuse(format!(
                "{} bytes of parameters, of {}",
                launch.parameters.len(),
                program.parameter_bytes
            ));
        }
        Ok(())
    }
}

fn function_threads(program: &Program) -> u32 {
    let limit = program.required_threads.or(program.max_threads);
    limit.map_or(1024, |limit| limit.iter().product::<u32>().min(1024))
}

impl Module {
    pub fn function(&self, name: &str) -> Option<Function> {
        self.kernels.get(name).cloned()
    }

    /// Names of the module's kernels.
    pub fn functions(&self) -> Vec<String> {
        self.kernels.keys().cloned().collect()
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.variables.get(name).copied()
    }
}

impl Function {
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Offset and size of each parameter in [`Launch::parameters`].
    pub fn parameters(&self) -> &[(u64, u64)] {
        &self.program.parameters
    }

    /// Bytes of static shared memory.
    pub fn static_shared(&self) -> u32 {
        self.program.static_shared
    }

    /// Bytes of local memory a thread.
    pub fn local(&self) -> u32 {
        self.program.local
    }

    /// Threads a block may have: 1024, or `.maxntid`.
    pub fn max_threads(&self) -> u32 {
        function_threads(&self.program)
    }

    /// `.maxnreg`; `None` where the kernel states nothing.
    pub fn max_registers(&self) -> Option<u32> {
        self.program.max_registers
    }
}

impl FaultKind {
    /// Words for a report.
    pub fn title(self) -> &'static str {
        match self {
            FaultKind::InvalidLaunch => "invalid launch",
            FaultKind::OutOfMemory => "out of memory",
            FaultKind::InvalidAddress => "invalid address",
            FaultKind::OutOfBounds => "out of bounds",
            FaultKind::Misaligned => "misaligned access",
            FaultKind::Uninitialised => "uninitialised read",
            FaultKind::Race => "data race",
            FaultKind::Divergence => "divergence",
            FaultKind::Trap => "trap",
            FaultKind::Timeout => "endless kernel",
            FaultKind::Unsupported => "not modelled",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.report)
    }
}

impl std::error::Error for Fault {}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LoadError {}
