//! Captures: streams whose work becomes a graph instead of being done.
//!
//! A capture begins on one stream. Another stream joins it by waiting for an event that was recorded in it, and must be
//! joined back, by an event of its own that the first stream waits for, before the capture ends. What would make the order
//! of captured and other work depend on each other is an error and invalidates the capture, as with the driver.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::ThreadId;

use crate::error::{CUresult, Outcome, explain};
use crate::graph::{Graph, Node};
use crate::operation::Operation;
use crate::state::{Record, State, thread_capture_mode};
use crate::types::*;

pub(crate) struct Capture {
    pub context: CUcontext,
    pub mode: u32,
    /// The thread that began it.
    pub thread: ThreadId,
    /// The stream that it began on.
    pub origin: CUstream,
    /// The graph that grows.
    pub graph: CUgraph,
    /// For every stream that takes part: the nodes that its next one will depend on.
    pub tails: HashMap<CUstream, Vec<CUgraphNode>>,
    /// A rule was broken; nothing but the end is possible.
    pub invalid: bool,
}

/// Where a stream's next work goes.
pub(crate) enum Place {
    Now,
    Captured(u64),
}

impl State {
    /// Where work for this stream goes now. An error for a stream that must not have any.
    pub fn place(&mut self, stream: CUstream) -> Outcome<Place> {
        let Some(entry) = self.streams.get(&stream) else { return Err(CUresult::INVALID_HANDLE) };
        if let Some(id) = entry.capture {
            return match self.captures.get(&id) {
                Some(capture) if !capture.invalid => Ok(Place::Captured(id)),
                _ => Err(CUresult::STREAM_CAPTURE_INVALIDATED),
            };
        }
        self.refuse_legacy(stream, true)?;
        Ok(Place::Now)
    }

    /// Refuses the legacy stream while a blocking stream of its context is captured: the two would have to wait for each
    /// other.
    pub fn refuse_legacy(&mut self, stream: CUstream, invalidate: bool) -> Outcome {
        let Some(context) = self.contexts.values().find(|context| context.legacy == stream) else {
            return Ok(());
        };
        let legacy = context.legacy;
        let Some(owner) = self.streams.get(&legacy).map(|stream| stream.context) else { return Ok(()) };
        let blocking = |stream: &CUstream| self.streams.get(stream).is_some_and(|stream| stream.blocking());
        let conflicts: Vec<u64> = self
            .captures
            .iter()
            .filter(|(_, capture)| capture.context == owner && capture.tails.keys().any(blocking))
            .map(|(id, _)| *id)
            .collect();
        if conflicts.is_empty() {
            return Ok(());
        }
        if invalidate {
            self.invalidate(&conflicts);
        }
        Err(CUresult::STREAM_CAPTURE_IMPLICIT)
    }

    /// Refuses a call that a capture cannot hold, by the rules of `cuThreadExchangeStreamCaptureMode`.
    pub fn refuse_in_capture(&mut self, name: &str) -> Outcome {
        let mode = thread_capture_mode().get();
        if mode == CAPTURE_RELAXED {
            return Ok(());
        }
        let thread = std::thread::current().id();
        let prohibits = |capture: &Capture| {
            let own = capture.thread == thread && capture.mode != CAPTURE_RELAXED;
            own || (mode == CAPTURE_GLOBAL && capture.mode == CAPTURE_GLOBAL)
        };
        let conflicts: Vec<u64> =
            self.captures.iter().filter(|(_, capture)| prohibits(capture)).map(|(id, _)| *id).collect();
        if conflicts.is_empty() {
            return Ok(());
        }
        explain(name, "not permitted while a stream is captured; the capture is now invalid");
        self.invalidate(&conflicts);
        Err(CUresult::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses to wait for a stream that is captured, and invalidates the capture.
    pub fn refuse_captured_stream(&mut self, stream: CUstream) -> Outcome {
        match self.streams.get(&stream).and_then(|stream| stream.capture) {
            None => Ok(()),
            Some(id) => {
                self.invalidate(&[id]);
                Err(CUresult::STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Marks captures as broken.
    pub fn invalidate(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(capture) = self.captures.get_mut(id) {
                capture.invalid = true;
            }
        }
    }

    /// Begins a capture on a stream that is in none.
    pub fn begin_capture(&mut self, stream: CUstream, mode: u32) -> Outcome {
        let entry = self.streams.get(&stream).ok_or(CUresult::INVALID_HANDLE)?;
        let context = entry.context;
        if self.contexts.values().any(|context| context.legacy == stream) {
            return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
        }
        if entry.capture.is_some() {
            return Err(CUresult::ILLEGAL_STATE);
        }
        let id = self.fresh() as u64;
        let graph = CUgraph(self.fresh());
        self.graphs.insert(graph, Graph::new(context, true));
        let capture = Capture {
            context,
            mode,
            thread: std::thread::current().id(),
            origin: stream,
            graph,
            tails: HashMap::from([(stream, Vec::new())]),
            invalid: false,
        };
        self.captures.insert(id, capture);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = Some(id);
        }
        Ok(())
    }

    /// Ends a capture and gives its graph, or the reason why there is none.
    pub fn end_capture(&mut self, stream: CUstream) -> Outcome<CUgraph> {
        let entry = self.streams.get(&stream).ok_or(CUresult::INVALID_HANDLE)?;
        let id = entry.capture.ok_or(CUresult::ILLEGAL_STATE)?;
        let capture = self.captures.get(&id).ok_or(CUresult::STREAM_CAPTURE_INVALIDATED)?;
        if capture.origin != stream {
            self.invalidate(&[id]);
            return Err(CUresult::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != CAPTURE_RELAXED && capture.thread != std::thread::current().id() {
            return Err(CUresult::STREAM_CAPTURE_WRONG_THREAD);
        }
        let graph = capture.graph;
        let result = if capture.invalid {
            Err(CUresult::STREAM_CAPTURE_INVALIDATED)
        } else if self.unjoined(id) {
            Err(CUresult::STREAM_CAPTURE_UNJOINED)
        } else {
            Ok(graph)
        };
        self.close_capture(id);
        match result {
            Ok(_) => {
                if let Some(graph) = self.graphs.get_mut(&graph) {
                    graph.capturing = false;
                }
            }
            Err(_) => self.remove_graph(graph),
        }
        result
    }

    /// Takes a capture off the tables; its streams are ordinary ones again.
    fn close_capture(&mut self, id: u64) {
        self.captures.remove(&id);
        for stream in self.streams.values_mut().filter(|stream| stream.capture == Some(id)) {
            stream.capture = None;
        }
    }

    /// Drops the capture that began on a stream, because the stream is destroyed. Work of other streams stays in theirs,
    /// and their tails too, so that the end of the capture still sees what nobody waits for.
    pub fn abandon_capture(&mut self, stream: CUstream) {
        let Some(id) = self.streams.get(&stream).and_then(|stream| stream.capture) else { return };
        let Some(capture) = self.captures.get(&id) else { return };
        if capture.origin == stream {
            let graph = capture.graph;
            self.close_capture(id);
            self.remove_graph(graph);
        }
    }

    /// Whether a stream of the capture has work that the first stream does not wait for.
    fn unjoined(&self, id: u64) -> bool {
        let Some(capture) = self.captures.get(&id) else { return false };
        let Some(graph) = self.graphs.get(&capture.graph) else { return false };
        let dependencies: HashMap<CUgraphNode, &[CUgraphNode]> =
            graph.nodes.iter().map(|node| (node.handle, node.dependencies.as_slice())).collect();
        let mut reached = HashSet::new();
        let mut open: Vec<CUgraphNode> = capture.tails.get(&capture.origin).cloned().unwrap_or_default();
        while let Some(node) = open.pop() {
            if reached.insert(node) {
                open.extend(dependencies.get(&node).copied().unwrap_or_default());
            }
        }
        capture.tails.values().flatten().any(|tail| !reached.contains(tail))
    }

    /// Adds a node after the stream's last ones.
    pub fn add_node(&mut self, id: u64, stream: CUstream, operation: Arc<Operation>) {
        let handle = CUgraphNode(self.fresh());
        let Some(capture) = self.captures.get_mut(&id) else { return };
        let Some(graph) = self.graphs.get_mut(&capture.graph) else { return };
        let dependencies = capture.tails.insert(stream, vec![handle]).unwrap_or_default();
        graph.nodes.push(Node { handle, operation, dependencies });
    }

    /// The record that an event gets in a capture.
    pub fn captured_record(&self, id: u64, stream: CUstream) -> Record {
        let tail = self.captures.get(&id).and_then(|capture| capture.tails.get(&stream)).cloned();
        Record::Captured(id, tail.unwrap_or_default())
    }

    /// Makes a stream wait for an event that was last recorded in a capture.
    pub fn join_capture(&mut self, stream: CUstream, id: u64, nodes: &[CUgraphNode]) -> Outcome {
        let Some(capture) = self.captures.get(&id) else { return Err(CUresult::CAPTURED_EVENT) };
        if capture.invalid {
            return Err(CUresult::STREAM_CAPTURE_INVALIDATED);
        }
        let context = capture.context;
        let entry = self.streams.get(&stream).ok_or(CUresult::INVALID_HANDLE)?;
        match entry.capture {
            Some(own) if own != id => {
                self.invalidate(&[own, id]);
                return Err(CUresult::STREAM_CAPTURE_MERGE);
            }
            Some(_) => {}
            None if self.contexts.values().any(|context| context.legacy == stream)
                || entry.context != context =>
            {
                self.invalidate(&[id]);
                return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
            }
            None => {}
        }
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = Some(id);
        }
        if let Some(capture) = self.captures.get_mut(&id) {
            let tail = capture.tails.entry(stream).or_default();
            for node in nodes {
                if !tail.contains(node) {
                    tail.push(*node);
                }
            }
        }
        Ok(())
    }
}
