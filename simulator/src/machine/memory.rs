//! Global memory: allocations far apart from each other, with a note of which bytes were ever written.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Addresses are given in slots of 4 GiB, each for one allocation, so that an index that runs out of one, by little or by
/// much, meets nothing else.
const SLOT_LOG: u32 = 32;
/// First slot's number.
const FIRST_SLOT: u64 = 0x100;
/// An allocation begins this far into its slot: what lies before it is guarded too.
const MARGIN: u64 = 1 << 28;
/// Slots before the first is used again, freed ones of long ago first.
const MOST_SLOTS: usize = 1 << 20;

/// A piece of global memory.
pub struct Allocation {
    pub base: u64,
    pub bytes: u64,
    /// Index among all allocations of the device, live and freed.
    pub id: usize,
    /// The module's variable that it holds.
    pub variable: Option<String>,
    data: *mut u8,
    /// One byte for each of `data`: 1 where it was written.
    valid: *mut u8,
    layout: Layout,
    /// For each sector of `data` the number of the launch that last touched it, and of the one that last wrote it; 0: none.
    stamps: *mut u32,
    stamps_layout: Layout,
}

/// Bytes of a sector of global memory: the least that a card moves.
pub const SECTOR: u64 = 32;

// SAFETY: its buffers belong to the allocation alone and are accessed through atomics only, except where `&mut` or the
// absence of launches (the table's write lock) makes access exclusive.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: all came from `alloc_zeroed` with these layouts and are freed once.
        unsafe {
            dealloc(self.data, self.layout);
            dealloc(self.valid, self.layout);
            dealloc(self.stamps.cast(), self.stamps_layout);
        }
    }
}

impl Allocation {
    fn new(base: u64, bytes: u64, id: usize, variable: Option<String>) -> Option<Allocation> {
        let layout = Layout::from_size_align(usize::try_from(bytes).ok()?.next_multiple_of(64), 4096).ok()?;
        let stamps_layout = Layout::array::<[u32; 2]>(usize::try_from(bytes.div_ceil(SECTOR)).ok()?).ok()?;
        // SAFETY: the layout has a size above zero, since `bytes` is at least 1.
        let data = unsafe { alloc_zeroed(layout) };
        if data.is_null() {
            return None;
        }
        // SAFETY: as above.
        let valid = unsafe { alloc_zeroed(layout) };
        if valid.is_null() {
            // SAFETY: `data` came from `alloc_zeroed` with this layout.
            unsafe { dealloc(data, layout) };
            return None;
        }
        // SAFETY: as above.
        let stamps: *mut u32 = unsafe { alloc_zeroed(stamps_layout) }.cast();
        if stamps.is_null() {
            // SAFETY: both came from `alloc_zeroed` with this layout.
            unsafe {
                dealloc(data, layout);
                dealloc(valid, layout);
            }
            return None;
        }
        Some(Allocation { base, bytes, id, variable, data, valid, layout, stamps, stamps_layout })
    }

    /// Stamps the sector at an offset with the number of a launch. Returns the launch that touched it last, and the one that
    /// wrote it last.
    #[inline(always)]
    pub fn stamp(&self, offset: u64, launch: u32, writes: bool) -> (u32, u32) {
        debug_assert!(offset < self.bytes);
        let place = self.stamps.wrapping_add(2 * (offset / SECTOR) as usize);
        // A sector is met many times in a launch: looking is cheaper than swapping.
        let meet = |stamp: &AtomicU32| match stamp.load(Ordering::Relaxed) {
            same if same == launch => launch,
            _ => stamp.swap(launch, Ordering::Relaxed),
        };
        // SAFETY: the sector lies within the allocation, which has two stamps for each of its sectors.
        unsafe {
            let touched = meet(AtomicU32::from_ptr(place));
            let written = if writes { meet(AtomicU32::from_ptr(place.wrapping_add(1))) } else { launch };
            (touched, written)
        }
    }

    /// Whether `[address, address + size)` lies within.
    #[inline(always)]
    pub fn contains(&self, address: u64, size: u64) -> bool {
        address >= self.base
            && address - self.base <= self.bytes
            && size <= self.bytes - (address - self.base)
    }

    /// Pointer to the bytes at an offset.
    #[inline(always)]
    pub fn data(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.bytes);
        self.data.wrapping_add(offset as usize)
    }

    /// Pointer to the notes of which bytes were written, at an offset.
    #[inline(always)]
    pub fn valid(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.bytes);
        self.valid.wrapping_add(offset as usize)
    }

    /// Copies bytes in, from the host.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        debug_assert!(self.contains(self.base + offset, bytes.len() as u64));
        // SAFETY: the range is within (checked by the caller, who found this allocation by it); no launch runs, since the
        // caller holds the table's write lock.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data(offset), bytes.len());
            std::ptr::write_bytes(self.valid(offset), 1, bytes.len());
        }
    }

    /// Copies bytes out, to the host.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        debug_assert!(self.contains(self.base + offset, bytes.len() as u64));
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.data(offset), bytes.as_mut_ptr(), bytes.len()) }
    }
}

/// Reads a value of 1, 2, 4 or 8 bytes.
///
/// # Safety
/// `from` is aligned to the size and points to that many bytes of an allocation.
#[inline(always)]
pub unsafe fn load(from: *const u8, size: u32) -> u64 {
    // Relaxed atomics are plain loads of the processor, and keep a kernel's race from being one of this program.
    // SAFETY: the caller's promise; all access to allocations during a launch is atomic.
    unsafe {
        match size {
            1 => AtomicU8::from_ptr(from.cast_mut()).load(Ordering::Relaxed) as u64,
            2 => AtomicU16::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed) as u64,
            4 => AtomicU32::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed) as u64,
            _ => AtomicU64::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed),
        }
    }
}

/// Writes a value of 1, 2, 4 or 8 bytes.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn store(to: *mut u8, size: u32, value: u64) {
    // SAFETY: as in `load`.
    unsafe {
        match size {
            1 => AtomicU8::from_ptr(to).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(to.cast()).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(to.cast()).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(to.cast()).store(value, Ordering::Relaxed),
        }
    }
}

enum Slot {
    Live(Arc<Allocation>),
    Freed { base: u64, bytes: u64 },
}

/// All allocations of a card.
#[derive(Default)]
pub struct Memory {
    slots: Vec<Slot>,
    /// Where the next allocation goes once all slots were used.
    next: usize,
    allocated: usize,
    used: u64,
}

/// What lies at an address where no live allocation does.
pub enum Nothing {
    Freed {
        base: u64,
        bytes: u64,
    },
    /// The nearest live allocation below or above: base, bytes, name.
    Near {
        base: u64,
        bytes: u64,
        variable: Option<String>,
    },
    Unknown,
}

impl Memory {
    /// `None` where the host has no memory left.
    pub fn allocate(&mut self, bytes: u64, variable: Option<String>) -> Option<Arc<Allocation>> {
        let slots = ((bytes + 2 * MARGIN) >> SLOT_LOG) as usize + 1;
        let place = if self.slots.len() + slots <= MOST_SLOTS {
            self.slots.len()
        } else {
            // The oldest run of freed slots.
            let from = self.next;
            let all = self.slots.len();
            let free = |start: usize| {
                start + slots <= all
                    && self.slots[start..start + slots].iter().all(|slot| matches!(slot, Slot::Freed { .. }))
            };
            let found = (from..all).chain(0..from).find(|start| free(*start))?;
            self.next = found + slots;
            found
        };
        let base = ((FIRST_SLOT + place as u64) << SLOT_LOG) + MARGIN;
        let allocation = Arc::new(Allocation::new(base, bytes, self.allocated, variable)?);
        self.allocated += 1;
        self.used += bytes;
        for slot in place..place + slots {
            let entry = Slot::Live(allocation.clone());
            if slot < self.slots.len() { self.slots[slot] = entry } else { self.slots.push(entry) }
        }
        Some(allocation)
    }

    fn slot(&self, address: u64) -> Option<&Slot> {
        self.slots.get(((address >> SLOT_LOG).checked_sub(FIRST_SLOT)?) as usize)
    }

    /// The live allocation whose slot an address lies in; the address may be outside its bytes.
    #[inline]
    pub fn at(&self, address: u64) -> Option<&Arc<Allocation>> {
        match self.slot(address) {
            Some(Slot::Live(allocation)) => Some(allocation),
            _ => None,
        }
    }

    /// The live allocation that a range lies in.
    pub fn find(&self, address: u64, size: u64) -> Option<&Arc<Allocation>> {
        self.at(address).filter(|allocation| allocation.contains(address, size))
    }

    /// What to say of an address that is in no live allocation.
    pub fn nothing(&self, address: u64) -> Nothing {
        match self.slot(address) {
            Some(Slot::Live(a)) => {
                Nothing::Near { base: a.base, bytes: a.bytes, variable: a.variable.clone() }
            }
            Some(Slot::Freed { base, bytes }) => Nothing::Freed { base: *base, bytes: *bytes },
            None => Nothing::Unknown,
        }
    }

    /// Frees the allocation that begins at an address; `Err` where none does, with what was freed there before.
    pub fn free(&mut self, address: u64) -> Result<(), Nothing> {
        let allocation = match self.at(address) {
            Some(allocation) if allocation.base == address => allocation.clone(),
            _ => return Err(self.nothing(address)),
        };
        self.used -= allocation.bytes;
        for slot in &mut self.slots {
            if matches!(slot, Slot::Live(a) if a.base == address) {
                *slot = Slot::Freed { base: allocation.base, bytes: allocation.bytes };
            }
        }
        Ok(())
    }

    /// Live allocations, each once.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let mut last = None;
        self.slots.iter().filter_map(move |slot| match slot {
            Slot::Live(a) if last != Some(a.id) => {
                last = Some(a.id);
                Some(a)
            }
            _ => None,
        })
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    /// Number of allocations ever made: an allocation's id is below it.
    pub fn count(&self) -> usize {
        self.allocated
    }
}
