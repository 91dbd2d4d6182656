//! Graphs: recorded work that is launched as often as wanted.
//!
//! A graph's nodes are kept in the order of their capture, which fulfils every dependency, and are run in it.

use std::ffi::c_char;
use std::sync::Arc;

use crate::capture::Place;
use crate::error::{CUresult, Outcome, call, explain};
use crate::operation::{Operation, run};
use crate::state::{State, state, work};
use crate::types::*;

pub(crate) struct Node {
    pub handle: CUgraphNode,
    pub operation: Arc<Operation>,
    pub dependencies: Vec<CUgraphNode>,
}

pub(crate) struct Graph {
    pub context: CUcontext,
    pub nodes: Vec<Node>,
    /// Still growing: it belongs to its capture and cannot be destroyed.
    pub capturing: bool,
    /// Addresses that it allocates.
    pub memory: Vec<u64>,
}

pub(crate) struct Executable {
    pub context: CUcontext,
    pub operations: Vec<Arc<Operation>>,
    pub flags: u64,
    pub memory: Vec<u64>,
}

impl Graph {
    pub fn new(context: CUcontext, capturing: bool) -> Graph {
        Graph { context, nodes: Vec::new(), capturing, memory: Vec::new() }
    }
}

impl State {
    /// Takes a graph off the tables.
    pub fn remove_graph(&mut self, graph: CUgraph) {
        if let Some(graph) = self.graphs.remove(&graph) {
            self.disown_memory(&graph.memory);
        }
    }

    /// Gives up a graph's claim to addresses. Memory that is allocated now is the program's to free, as if it had never
    /// been a graph's; the rest goes back.
    fn disown_memory(&mut self, addresses: &[u64]) {
        for address in addresses {
            let Some(allocation) = self.allocations.get_mut(address) else { continue };
            let Some(memory) = &mut allocation.graph else { continue };
            memory.owners -= 1;
            if memory.owners == 0 {
                if memory.live {
                    allocation.graph = None;
                } else {
                    self.release_memory(*address);
                }
            }
        }
    }

    /// A launch reaches the node that allocates this memory.
    pub fn begin_graph_memory(&mut self, address: u64, auto_free: bool) -> Outcome {
        let memory = self.allocations.get_mut(&address).and_then(|allocation| allocation.graph.as_mut());
        match memory {
            Some(memory) if !memory.live || auto_free => {
                memory.live = true;
                Ok(())
            }
            _ => {
                explain(
                    "cuGraphLaunch",
                    "memory of the launch before was not freed, and the graph has no AUTO_FREE_ON_LAUNCH",
                );
                Err(CUresult::INVALID_VALUE)
            }
        }
    }

    /// A captured allocation: the graph that is captured owns the address.
    pub fn own_graph_memory(&mut self, capture: u64, address: u64) {
        let graph = self.captures.get(&capture).map(|capture| capture.graph);
        if let Some(graph) = graph.and_then(|graph| self.graphs.get_mut(&graph)) {
            graph.memory.push(address);
        }
    }

    /// A graph that a program may use.
    fn graph(&self, graph: CUgraph) -> Outcome<&Graph> {
        self.graphs.get(&graph).ok_or(CUresult::INVALID_VALUE)
    }

    /// The node with this handle, and the graph that it is in.
    fn node(&self, handle: CUgraphNode) -> Outcome<(&Graph, &Node)> {
        let in_graph = |graph: &&Graph| graph.nodes.iter().any(|node| node.handle == handle);
        let graph = self.graphs.values().find(in_graph).ok_or(CUresult::INVALID_VALUE)?;
        let node = graph.nodes.iter().find(|node| node.handle == handle).ok_or(CUresult::INVALID_VALUE)?;
        Ok((graph, node))
    }
}

fn instantiate(name: &str, executable: Out<CUgraphExec>, graph: CUgraph, flags: u64) -> Outcome {
    executable.check()?;
    let mut state = state()?;
    state.current()?;
    // Device launch needs a card that launches from kernels: not this one.
    if flags & !(GRAPH_AUTO_FREE_ON_LAUNCH | GRAPH_UPLOAD | GRAPH_USE_NODE_PRIORITY) != 0 {
        explain(name, "flags that are unknown, or a launch from the device, which is not simulated");
        return Err(CUresult::INVALID_VALUE);
    }
    let source = state.graph(graph)?;
    if source.capturing {
        return Err(CUresult::INVALID_VALUE);
    }
    let operations = source.nodes.iter().map(|node| node.operation.clone()).collect();
    let (context, memory) = (source.context, source.memory.clone());
    for address in &memory {
        if let Some(memory) =
            state.allocations.get_mut(address).and_then(|allocation| allocation.graph.as_mut())
        {
            memory.owners += 1;
        }
    }
    let handle = CUgraphExec(state.fresh());
    state.executables.insert(handle, Executable { context, operations, flags, memory });
    executable.set(handle)
}

/// Makes a graph without nodes.
///
/// # Safety
/// `graph` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: Out<CUgraph>, flags: u32) -> CUresult {
    call("cuGraphCreate", || {
        graph.check()?;
        let mut state = state()?;
        let context = state.current()?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let handle = CUgraph(state.fresh());
        state.graphs.insert(handle, Graph::new(context, false));
        graph.set(handle)
    })
}

/// Adds a node that does nothing; it is reached after the nodes that it depends on.
///
/// # Safety
/// `node` is null or may be written; `dependencies` has `count` handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddEmptyNode(
    node: Out<CUgraphNode>,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
) -> CUresult {
    call("cuGraphAddEmptyNode", || {
        node.check()?;
        let mut state = state()?;
        state.current()?;
        if dependencies.is_null() && count > 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the caller promises `count` handles, and a null pointer is only read for none.
        let dependencies =
            if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(dependencies, count) } };
        let known = |state: &State, handle| {
            state.graph(graph).map(|graph| graph.nodes.iter().any(|node| node.handle == handle))
        };
        for dependency in dependencies {
            if !known(&state, *dependency)? {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        let handle = CUgraphNode(state.fresh());
        let graph = state.graphs.get_mut(&graph).ok_or(CUresult::INVALID_VALUE)?;
        graph.nodes.push(Node {
            handle,
            operation: Arc::new(Operation::Empty),
            dependencies: dependencies.to_vec(),
        });
        node.set(handle)
    })
}

/// Destroys a graph; executable graphs made from it stay.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    call("cuGraphDestroy", || {
        let _work = work();
        let mut state = state()?;
        if state.graph(graph)?.capturing {
            return Err(CUresult::INVALID_VALUE);
        }
        state.remove_graph(graph);
        Ok(())
    })
}

/// The graph's nodes, or with a null array their number.
///
/// # Safety
/// `count` is null or may be read and written; `nodes` is null or has as many places as `count` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(
    graph: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    call("cuGraphGetNodes", || {
        let found: Vec<CUgraphNode> = state()?.graph(graph)?.nodes.iter().map(|node| node.handle).collect();
        // SAFETY: as the caller promises.
        unsafe { list(&found, nodes, count) }
    })
}

/// The nodes that depend on none, or with a null array their number.
///
/// # Safety
/// As for [`cuGraphGetNodes`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetRootNodes(
    graph: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    call("cuGraphGetRootNodes", || {
        let state = state()?;
        let roots = state.graph(graph)?.nodes.iter().filter(|node| node.dependencies.is_empty());
        let found: Vec<CUgraphNode> = roots.map(|node| node.handle).collect();
        // SAFETY: as the caller promises.
        unsafe { list(&found, nodes, count) }
    })
}

/// The nodes that a node depends on, or with a null array their number.
///
/// # Safety
/// As for [`cuGraphGetNodes`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetDependencies(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    call("cuGraphNodeGetDependencies", || {
        let found = state()?.node(node)?.1.dependencies.clone();
        // SAFETY: as the caller promises.
        unsafe { list(&found, nodes, count) }
    })
}

/// Writes handles into a caller's array, as the API's listing functions do: without an array the number, else as many as
/// fit, and null in the places left.
///
/// # Safety
/// `count` is null or may be read and written; `places` is null or has as many places as `count` says.
unsafe fn list(found: &[CUgraphNode], places: *mut CUgraphNode, count: *mut usize) -> Outcome {
    if count.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: neither is null here, and the caller promises the rest.
    unsafe {
        if !places.is_null() {
            for index in 0..*count {
                places.add(index).write(found.get(index).copied().unwrap_or(CUgraphNode::NULL));
            }
            if *count < found.len() {
                return Ok(());
            }
        }
        *count = found.len();
    }
    Ok(())
}

/// What a node does.
///
/// # Safety
/// `kind` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetType(node: CUgraphNode, kind: Out<u32>) -> CUresult {
    call("cuGraphNodeGetType", || kind.set(state()?.node(node)?.1.operation.node_type()))
}

/// Makes a graph that can be launched.
///
/// # Safety
/// `executable` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: Out<CUgraphExec>,
    graph: CUgraph,
    flags: u64,
) -> CUresult {
    call("cuGraphInstantiateWithFlags", || {
        instantiate("cuGraphInstantiateWithFlags", executable, graph, flags)
    })
}

/// The older form, with a log that stays empty.
///
/// # Safety
/// The pointers are null or may be written; `log` has `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate_v2(
    executable: Out<CUgraphExec>,
    graph: CUgraph,
    node: Out<CUgraphNode>,
    log: *mut c_char,
    bytes: usize,
) -> CUresult {
    call("cuGraphInstantiate_v2", || {
        node.set_if_wanted(CUgraphNode::NULL);
        if !log.is_null() && bytes > 0 {
            // SAFETY: the caller promises `bytes` bytes.
            unsafe { log.write(0) };
        }
        instantiate("cuGraphInstantiate_v2", executable, graph, 0)
    })
}

/// The form with parameters in a structure.
///
/// # Safety
/// `executable` is null or may be written; `parameters` is null or may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithParams(
    executable: Out<CUgraphExec>,
    graph: CUgraph,
    parameters: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> CUresult {
    call("cuGraphInstantiateWithParams", || {
        // SAFETY: the caller promises that it may be read and written.
        let parameters = unsafe { parameters.as_mut() }.ok_or(CUresult::INVALID_VALUE)?;
        let result = instantiate("cuGraphInstantiateWithParams", executable, graph, parameters.flags);
        parameters.hErrNode_out = CUgraphNode::NULL;
        // `CUDA_GRAPH_INSTANTIATE_SUCCESS` and `CUDA_GRAPH_INSTANTIATE_ERROR`
        parameters.result_out = if result.is_ok() { 0 } else { 1 };
        result
    })
}

/// The flags that an executable graph was made with.
///
/// # Safety
/// `flags` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecGetFlags(executable: CUgraphExec, flags: Out<u64>) -> CUresult {
    call("cuGraphExecGetFlags", || {
        flags.set(state()?.executables.get(&executable).ok_or(CUresult::INVALID_VALUE)?.flags)
    })
}

/// Prepares a launch: there is nothing to prepare.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: CUgraphExec, stream: CUstream) -> CUresult {
    call("cuGraphUpload", || {
        let mut state = state()?;
        let context = state.current()?;
        let stream = state.stream(context, stream)?;
        if !state.executables.contains_key(&executable) {
            return Err(CUresult::INVALID_VALUE);
        }
        match state.place(stream)? {
            Place::Now => Ok(()),
            Place::Captured(capture) => {
                state.invalidate(&[capture]);
                Err(CUresult::STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    })
}

/// Runs all nodes; in a stream that is captured, adds them as one node.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    call("cuGraphLaunch", || {
        let (context, operations, auto_free) = {
            let mut state = state()?;
            let current = state.current()?;
            let stream = state.stream(current, stream)?;
            let graph = state.executables.get(&executable).ok_or(CUresult::INVALID_VALUE)?;
            let (context, operations) = (graph.context, graph.operations.clone());
            let auto_free = graph.flags & GRAPH_AUTO_FREE_ON_LAUNCH != 0;
            if let Place::Captured(capture) = state.place(stream)? {
                state.add_node(capture, stream, Arc::new(Operation::Graph(operations)));
                return Ok(());
            }
            (context, operations, auto_free)
        };
        run("cuGraphLaunch", context, &operations, auto_free)
    })
}

/// Destroys an executable graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    call("cuGraphExecDestroy", || {
        let _work = work();
        let mut state = state()?;
        let executable = state.executables.remove(&executable).ok_or(CUresult::INVALID_VALUE)?;
        state.disown_memory(&executable.memory);
        Ok(())
    })
}
