//! Work for a stream: done at once, or kept as a node of a graph while the stream is captured.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

use simulator::{Device, Dimensions, Fault, Launch};

use crate::capture::Place;
use crate::error::{CUresult, Outcome, breaks_context, code_of, explain, in_host_function};
use crate::report;
use crate::state::{Record, State, state, work};
use crate::types::*;

/// One piece of work. Addresses of the host are numbers here, because work is kept and moved between threads.
#[derive(Clone)]
pub(crate) enum Operation {
    Launch {
        function: simulator::Function,
        grid: Dimensions,
        block: Dimensions,
        dynamic_shared: u32,
        parameters: Vec<u8>,
    },
    /// Host to device.
    Write {
        to: u64,
        from: usize,
        bytes: usize,
    },
    /// Device to host.
    Read {
        to: usize,
        from: u64,
        bytes: usize,
    },
    /// Device to device.
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    /// Host to host.
    HostCopy {
        to: usize,
        from: usize,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: u64,
    },
    /// Rows of a rectangle: one node of a graph, several accesses.
    Rows {
        copy: bool,
        rows: Vec<Operation>,
    },
    Call {
        function: CUhostFn,
        argument: usize,
    },
    /// A graph launched while a stream was captured.
    Graph(Vec<Arc<Operation>>),
    /// An event recorded by a graph's launch.
    Record(CUevent),
    /// A wait for an event outside of the graph: it has always happened.
    Wait,
    /// Memory that a graph allocates or frees.
    Allocate(u64),
    Free(u64),
    Empty,
}

/// Why a piece of work ended early.
enum Stop {
    Fault(Fault),
    Code(CUresult),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

impl From<CUresult> for Stop {
    fn from(code: CUresult) -> Stop {
        Stop::Code(code)
    }
}

/// What a piece of work is done with.
struct Runner {
    device: OnceCell<Arc<Device>>,
    auto_free: bool,
}

impl Runner {
    fn device(&self) -> Outcome<&Device> {
        match self.device.get() {
            Some(device) => Ok(device),
            None => {
                let device = state()?.device();
                Ok(self.device.get_or_init(|| device))
            }
        }
    }
}

impl Operation {
    /// `CUgraphNodeType`
    pub fn node_type(&self) -> u32 {
        match self {
            Operation::Launch { .. } => 0,
            Operation::Write { .. }
            | Operation::Read { .. }
            | Operation::Copy { .. }
            | Operation::HostCopy { .. } => 1,
            Operation::Rows { copy: true, .. } => 1,
            Operation::Fill { .. } | Operation::Rows { copy: false, .. } => 2,
            Operation::Call { .. } => 3,
            Operation::Graph(_) => 4,
            Operation::Empty => 5,
            Operation::Wait => 6,
            Operation::Record(_) => 7,
            Operation::Allocate(_) => 10,
            Operation::Free(_) => 11,
        }
    }

    /// Refuses ranges on the device that are in no allocation. Done when the work is given, as the driver does, although
    /// captured work runs later.
    pub fn check(&self, device: &Device) -> Outcome {
        let inside = |address: u64, bytes: u64| match device.allocation(address) {
            _ if bytes == 0 => Ok(()),
            Some((start, size)) if bytes <= size - (address - start) => Ok(()),
            _ => Err(CUresult::INVALID_VALUE),
        };
        let given = |address: usize, bytes: usize| {
            if address == 0 && bytes > 0 { Err(CUresult::INVALID_VALUE) } else { Ok(()) }
        };
        match self {
            Operation::Write { to, from, bytes } => {
                given(*from, *bytes)?;
                inside(*to, *bytes as u64)
            }
            Operation::Read { to, from, bytes } => {
                given(*to, *bytes)?;
                inside(*from, *bytes as u64)
            }
            Operation::Copy { to, from, bytes } => {
                inside(*from, *bytes)?;
                inside(*to, *bytes)
            }
            Operation::HostCopy { to, from, bytes } => {
                given(*to, *bytes)?;
                given(*from, *bytes)
            }
            Operation::Fill { to, pattern, count } => {
                let bytes = count.checked_mul(pattern.len() as u64).ok_or(CUresult::INVALID_VALUE)?;
                if to % pattern.len() as u64 != 0 {
                    return Err(CUresult::INVALID_VALUE);
                }
                inside(*to, bytes)
            }
            Operation::Rows { rows, .. } => rows.iter().try_for_each(|row| row.check(device)),
            _ => Ok(()),
        }
    }

    /// Whether it is work for the card: a program that has none should not pay for the card's memory.
    fn needs_device(&self) -> bool {
        !matches!(
            self,
            Operation::Call { .. }
                | Operation::Graph(_)
                | Operation::Record(_)
                | Operation::Wait
                | Operation::Allocate(_)
                | Operation::Free(_)
                | Operation::Empty
        )
    }

    /// Does the work. The caller holds the work lock, and not the state's.
    fn perform(&self, runner: &Runner) -> Result<(), Stop> {
        match self {
            Operation::Launch { function, grid, block, dynamic_shared, parameters } => {
                let launch =
                    Launch { grid: *grid, block: *block, dynamic_shared: *dynamic_shared, parameters };
                let profile = runner.device()?.launch(function, &launch)?;
                let mut state = state()?;
                if state.environment.profile.is_some() {
                    state.profiles.push(profile);
                }
            }
            Operation::Write { bytes: 0, .. }
            | Operation::Read { bytes: 0, .. }
            | Operation::HostCopy { bytes: 0, .. } => {}
            Operation::Write { to, from, bytes } => {
                // SAFETY: the caller of the copy promised that so many bytes may be read until the work is done; null
                // pointers were refused by `check`.
                let source =
                    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(*from), *bytes) };
                runner.device()?.write(*to, source)?;
            }
            Operation::Read { to, from, bytes } => {
                // SAFETY: as for `Write`, with bytes that may be written; they may be uninitialised, but `u8` is only written
                // to here.
                let target = unsafe {
                    std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(*to), *bytes)
                };
                runner.device()?.read(*from, target)?;
            }
            Operation::Copy { bytes: 0, .. } => {}
            Operation::Copy { to, from, bytes } => runner.device()?.copy(*to, *from, *bytes)?,
            Operation::HostCopy { to, from, bytes } => {
                // SAFETY: the caller promised both ranges; `copy` allows an overlap.
                unsafe {
                    let source: *const u8 = std::ptr::with_exposed_provenance(*from);
                    std::ptr::copy(source, std::ptr::with_exposed_provenance_mut(*to), *bytes);
                }
            }
            Operation::Fill { count: 0, .. } => {}
            Operation::Fill { to, pattern, count } => runner.device()?.fill(*to, pattern, *count)?,
            Operation::Rows { rows, .. } => rows.iter().try_for_each(|row| row.perform(runner))?,
            Operation::Call { function, argument } => {
                in_host_function(|| {
                    // SAFETY: the program gave the function for this call with this argument.
                    unsafe { function(std::ptr::with_exposed_provenance_mut(*argument)) }
                });
            }
            Operation::Graph(operations) => operations.iter().try_for_each(|inner| inner.perform(runner))?,
            Operation::Record(event) => {
                if let Some(event) = state()?.events.get_mut(event) {
                    event.record = Record::At(Instant::now());
                }
            }
            Operation::Wait | Operation::Empty => {}
            Operation::Allocate(address) => state()?.begin_graph_memory(*address, runner.auto_free)?,
            Operation::Free(address) => crate::memory::free_in_graph(&mut *state()?, *address)?,
        }
        Ok(())
    }
}

/// Does work now, one piece after the other. The caller holds no lock.
pub(crate) fn run(name: &str, context: CUcontext, operations: &[Arc<Operation>], auto_free: bool) -> Outcome {
    let _work = work();
    // While this thread waited for the lock, the work of another may have broken the context.
    state()?.usable(context)?;
    let runner = Runner { device: OnceCell::new(), auto_free };
    for operation in operations {
        match operation.perform(&runner) {
            Ok(()) => {}
            Err(Stop::Code(code)) => return Err(code),
            Err(Stop::Fault(fault)) => return Err(fail(&mut *state()?, name, context, &fault)),
        }
    }
    Ok(())
}

/// Reports a fault, breaks the context if the card would be in an unknown state, and gives the code.
pub(crate) fn fail(state: &mut State, name: &str, context: CUcontext, fault: &Fault) -> CUresult {
    let code = code_of(fault.kind);
    if breaks_context(fault.kind) {
        report::fault(&state.environment, name, code, fault);
        if let Some(context) = state.contexts.get_mut(&context) {
            context.error = Some(code);
        }
    } else {
        explain(name, &fault.report);
    }
    code
}

/// Gives work to a stream.
pub(crate) fn submit(name: &str, stream: CUstream, operation: Operation) -> Outcome {
    let context = {
        let mut state = state()?;
        let context = state.current()?;
        let stream = state.stream(context, stream)?;
        let place = state.place(stream)?;
        check(&mut state, name, &operation)?;
        if let Place::Captured(capture) = place {
            state.add_node(capture, stream, Arc::new(operation));
            return Ok(());
        }
        state.streams.get(&stream).map_or(context, |stream| stream.context)
    };
    run(name, context, &[Arc::new(operation)], false)
}

/// Checks work's addresses, and says which call has wrong ones.
fn check(state: &mut State, name: &str, operation: &Operation) -> Outcome {
    if !operation.needs_device() {
        return Ok(());
    }
    let device = state.device();
    operation.check(&device).inspect_err(|_| {
        explain(
            name,
            "a range that is in no allocation, a null pointer, or a fill that is not aligned to its pattern",
        )
    })
}

/// Does a copy or fill that returns when it is done: the calls without a stream.
pub(crate) fn submit_synchronous(name: &str, operation: Operation) -> Outcome {
    let context = {
        let mut state = state()?;
        let context = state.current()?;
        let legacy = state.stream(context, CUstream::NULL)?;
        // In this order: what would wait for a capturing stream is told apart from what merely cannot be captured.
        state.place(legacy)?;
        state.refuse_in_capture(name)?;
        check(&mut state, name, &operation)?;
        context
    };
    run(name, context, &[Arc::new(operation)], false)
}
