//! The card's memory: one allocation, taken up front and laid out by a plan, so that nothing is allocated in a step and every
//! address is known when a step is captured.
//!
//! Everything a run has of its own lies in one stretch of the same layout; the stretches of runs side by side follow each other,
//! [`Plan::run_stride`] bytes apart.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::card::{Card, failed};
use crate::error::Result;

/// Every buffer begins at a multiple of this: whole sectors and any vector access.
const ALIGNMENT: usize = 256;

/// What a buffer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Element {
    /// float32, or 32-bit integers.
    #[default]
    Word,
    /// f16.
    Half,
    /// float64.
    Double,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::Word => 4,
            Element::Half => 2,
            Element::Double => 8,
        }
    }
}

/// A buffer in the first run's stretch: its address, how many elements it has, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffer {
    pub address: u64,
    pub len: usize,
    pub element: Element,
}

impl Buffer {
    /// The same buffer of a run, where runs are `run_stride` bytes apart.
    pub fn of_run(self, run: usize, run_stride: usize) -> Buffer {
        Buffer { address: self.address + (run * run_stride) as u64, ..self }
    }

    /// `len` words at an address.
    pub fn words(address: u64, len: usize) -> Buffer {
        Buffer { address, len, element: Element::Word }
    }

    /// The part from an element on.
    pub fn from(self, first: usize) -> Buffer {
        assert!(first <= self.len, "a part that begins behind its buffer");
        self.part(first, self.len - first)
    }

    /// `len` elements from one on.
    pub fn part(self, first: usize, len: usize) -> Buffer {
        assert!(first + len <= self.len, "a part that ends behind its buffer");
        Buffer { address: self.address + (first * self.element.bytes()) as u64, len, ..self }
    }
}

/// A range in the first run's stretch, which each further run has `run_stride` bytes behind the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub address: u64,
    pub bytes: usize,
    pub run_stride: usize,
}

/// The largest distance between runs that the driver copies over at once.
pub const LARGEST_STRIDE: usize = i32::MAX as usize;

/// Lays buffers out one behind the other.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    base: u64,
    end: usize,
}

impl Plan {
    /// A plan whose addresses begin at `base`.
    pub fn at(base: u64) -> Plan {
        Plan { base, end: 0 }
    }

    /// Room for `len` elements.
    pub fn take(&mut self, element: Element, len: usize) -> Buffer {
        let address = self.base + self.end as u64;
        self.end += (len * element.bytes()).max(1).next_multiple_of(ALIGNMENT);
        Buffer { address, len, element }
    }

    /// Room for `len` float32 or 32-bit integers.
    pub fn words(&mut self, len: usize) -> Buffer {
        self.take(Element::Word, len)
    }

    /// Room for `len` float64.
    pub fn doubles(&mut self, len: usize) -> Buffer {
        self.take(Element::Double, len)
    }

    /// Bytes of a run, which is also the distance to the next run's.
    pub fn run_stride(&self) -> usize {
        self.end
    }
}

/// An allocation on a card; freed when dropped.
pub struct Memory {
    card: Arc<Card>,
    pub address: u64,
    pub bytes: usize,
}

impl Memory {
    /// `bytes` of the card's memory, all zero.
    pub fn zeros(card: &Arc<Card>, bytes: usize) -> Result<Memory> {
        card.bind().map_err(|error| failed("take its context", error))?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(|error| failed(&format!("allocate {:.2} GB", bytes as f64 / 1e9), error))?;
        let memory = Memory { card: Arc::clone(card), address, bytes: bytes.max(1) };
        memory.clear(address, memory.bytes).map_err(|error| failed("clear its memory", error))?;
        Ok(memory)
    }

    /// Sets bytes to zero, in the stream's order.
    pub fn clear(&self, address: u64, bytes: usize) -> std::result::Result<(), DriverError> {
        self.check(address, bytes);
        self.card.bind()?;
        // SAFETY: the range lies in the allocation.
        unsafe { result::memset_d8_async(address, 0, bytes, self.card.stream.cu_stream()) }
    }

    /// Sets a range of each of `runs` runs to zero, in the stream's order.
    pub fn clear_runs(&self, range: Range, runs: usize) -> std::result::Result<(), DriverError> {
        let pitch = self.check_runs(range, runs);
        self.card.bind()?;
        // SAFETY: the ranges lie in the allocation.
        unsafe {
            sys::cuMemsetD2D8Async(range.address, pitch, 0, range.bytes, runs, self.card.stream.cu_stream())
        }
        .result()
    }

    /// Writes `values` at an address; returns when they are there.
    pub fn write<T: bytemuck::NoUninit>(&self, address: u64, values: &[T]) -> Result<()> {
        self.check(address, size_of_val(values));
        if values.is_empty() {
            return Ok(());
        }
        let stream = self.card.stream.cu_stream();
        self.card
            .bind()
            // SAFETY: the range lies in the allocation; `values` outlives the copy, which is waited for.
            .and_then(|()| unsafe { result::memcpy_htod_async(address, values, stream) })
            .and_then(|()| self.card.stream.synchronize())
            .map_err(|error| failed("take data", error))
    }

    /// Reads values from an address; waits for the stream.
    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        address: u64,
        len: usize,
    ) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); len];
        self.check(address, size_of_val(values.as_slice()));
        if len == 0 {
            return Ok(values);
        }
        let stream = self.card.stream.cu_stream();
        self.card
            .bind()
            // SAFETY: the range lies in the allocation; `values` outlives the copy, which is waited for.
            .and_then(|()| unsafe { result::memcpy_dtoh_async(&mut values, address, stream) })
            .and_then(|()| self.card.stream.synchronize())
            .map_err(|error| failed("give results", error))?;
        Ok(values)
    }

    /// Copies a range of each of `runs` runs from pinned host memory, where they lie one behind the other, in the stream's order;
    /// does not wait.
    ///
    /// # Safety
    /// `from` is not written to until the stream has passed this copy.
    pub unsafe fn upload_runs(
        &self,
        range: Range,
        from: &Pinned,
        runs: usize,
    ) -> std::result::Result<(), DriverError> {
        let pitch = self.check_runs(range, runs);
        assert!(range.bytes * runs <= from.words.len() * 4);
        self.card.bind()?;
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: from.words.as_ptr().cast::<c_void>(),
            srcDevice: 0,
            srcArray: std::ptr::null_mut(),
            srcPitch: range.bytes,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: range.address,
            dstArray: std::ptr::null_mut(),
            dstPitch: pitch,
            WidthInBytes: range.bytes,
            Height: runs,
        };
        // SAFETY: both ranges are valid; the caller keeps the source.
        unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.card.stream.cu_stream()) }.result()
    }

    /// The distance between runs as the driver takes it.
    fn check_runs(&self, range: Range, runs: usize) -> usize {
        let Range { address, bytes, run_stride } = range;
        assert!(runs > 0 && bytes <= run_stride, "ranges of runs that lie over each other");
        self.check(address, (runs - 1) * run_stride + bytes);
        if runs == 1 { bytes } else { run_stride }
    }

    fn check(&self, address: u64, bytes: usize) {
        let inside = address >= self.address && address + bytes as u64 <= self.address + self.bytes as u64;
        assert!(inside, "a range outside of the card's memory");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Nothing can be done about an error here; the context's end frees the memory too.
        let _ = self.card.bind();
        let _ = self.card.stream.synchronize();
        // SAFETY: the allocation is this object's own, and the stream is done with it.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Host memory that a card copies from by itself.
pub struct Pinned {
    card: Arc<Card>,
    words: &'static mut [u32],
}

impl Pinned {
    /// `words` words, zero.
    pub fn zeros(card: &Arc<Card>, words: usize) -> Result<Pinned> {
        card.bind().map_err(|error| failed("take its context", error))?;
        let words = words.max(1);
        // SAFETY: the context is current.
        let pointer = unsafe { result::malloc_host(words * 4, sys::CU_MEMHOSTALLOC_WRITECOMBINED) }
            .map_err(|error| failed("pin host memory", error))?;
        // SAFETY: the driver gave that many bytes, aligned to a page, and they are this object's alone until it drops.
        let words = unsafe {
            pointer.cast::<u32>().write_bytes(0, words);
            std::slice::from_raw_parts_mut(pointer.cast::<u32>(), words)
        };
        Ok(Pinned { card: Arc::clone(card), words })
    }

    pub fn words(&mut self) -> &mut [u32] {
        self.words
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.card.bind();
        let _ = self.card.stream.synchronize();
        // SAFETY: it came from `malloc_host`, and the stream is done with it.
        let _ = unsafe { result::free_host(self.words.as_mut_ptr().cast()) };
    }
}
