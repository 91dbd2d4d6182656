//! Loads, stores, atomics and matrix loads, with the checks of every access: bounds, alignment, initialisation, races.

use super::counters::{load_wavefronts, sectors, wavefronts};
use super::memory::{self, Allocation, Nothing, SECTOR};
use super::registers::{File, LANES};
use super::shadow::{MANY, Wrong};
use super::warp::Warp;
use super::worker::{GlobalShadow, Region, Step, Worker};
use crate::arithmetic as math;
use crate::program::{Access, AccessSpace, Atomic, AtomicKind, LOCAL_WINDOW, Plane, SHARED_WINDOW};
use crate::{Fault, FaultKind};
use std::sync::Arc;

/// What an access does, for its report.
#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Reads,
    Writes,
    Updates,
}

impl Doing {
    fn word(self) -> &'static str {
        match self {
            Doing::Reads => "a read",
            Doing::Writes => "a write",
            Doing::Updates => "an atomic update",
        }
    }
}

/// Calls `f` for each lane of a mask.
#[inline(always)]
fn each(mask: u32, mut f: impl FnMut(usize) -> Step) -> Step {
    let mut rest = mask;
    while rest != 0 {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        f(lane)?;
    }
    Ok(())
}

/// Addresses of an access, lane by lane.
#[inline(always)]
fn addresses(file: &File, access: &Access) -> [u64; LANES] {
    match access.base {
        None => [access.offset as u64; LANES],
        // SAFETY: the decoder made the plane, of this width.
        Some(plane) if access.wide_base => {
            unsafe { file.lanes::<u64>(plane) }.map(|base| base.wrapping_add(access.offset as u64))
        }
        // SAFETY: as above. Addresses of 32 bits wrap within them.
        Some(plane) => {
            unsafe { file.lanes::<u32>(plane) }.map(|base| base.wrapping_add(access.offset as u32) as u64)
        }
    }
}

/// Writes a loaded value to a lane of a register, extended to its width.
///
/// # Safety
/// The plane lies in the file and has the access' width.
#[inline(always)]
unsafe fn put(file: &mut File, access: &Access, plane: Plane, lane: usize, value: u64) {
    let value = match (access.signed, access.element) {
        (true, 1) => value as u8 as i8 as i64 as u64,
        (true, 2) => value as u16 as i16 as i64 as u64,
        (true, 4) => value as u32 as i32 as i64 as u64,
        _ => value,
    };
    // SAFETY: the caller's promise.
    unsafe {
        if access.wide {
            file.lanes_mut::<u64>(plane)[lane] = value;
        } else {
            file.lanes_mut::<u32>(plane)[lane] = value as u32;
        }
    }
}

/// # Safety
/// The plane lies in the file and has the access' width.
#[inline(always)]
unsafe fn get(file: &File, access: &Access, plane: Plane, lane: usize) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        if access.wide { file.lanes::<u64>(plane)[lane] } else { file.lanes::<u32>(plane)[lane] as u64 }
    }
}

/// `size` bytes of value 1: how the notes of written bytes look where all are.
#[inline(always)]
fn all_valid(size: u32) -> u64 {
    0x0101_0101_0101_0101 >> (64 - 8 * size)
}

impl<'l> Worker<'l> {
    pub fn load(&mut self, warp: &mut Warp, place: u32, access: &Access, active: u32) -> Step {
        match access.space {
            AccessSpace::Parameter => self.load_parameter(warp, place, access, active),
            AccessSpace::Generic => self.by_space(warp, place, access, active, Worker::load_from),
            space => self.load_from(warp, place, access, space, &addresses(&warp.file, access), active),
        }
    }

    pub fn store(&mut self, warp: &mut Warp, place: u32, access: &Access, active: u32) -> Step {
        match access.space {
            AccessSpace::Parameter => Err(self
                .scene(warp, place, active)
                .fault(FaultKind::OutOfBounds, "a write to the kernel's parameters".to_string())),
            AccessSpace::Generic => self.by_space(warp, place, access, active, Worker::store_to),
            space => self.store_to(warp, place, access, space, &addresses(&warp.file, access), active),
        }
    }

    pub fn atomic(&mut self, warp: &mut Warp, place: u32, access: &Access, active: u32) -> Step {
        match access.space {
            AccessSpace::Generic => self.by_space(warp, place, access, active, Worker::update),
            space => self.update(warp, place, access, space, &addresses(&warp.file, access), active),
        }
    }

    /// Sorts the lanes of a generic access by the space that their addresses lie in.
    fn by_space(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        active: u32,
        run: fn(&mut Worker<'l>, &mut Warp, u32, &Access, AccessSpace, &[u64; LANES], u32) -> Step,
    ) -> Step {
        let generic = addresses(&warp.file, access);
        for (space, window) in [
            (AccessSpace::Global, 0),
            (AccessSpace::Shared, SHARED_WINDOW),
            (AccessSpace::Local, LOCAL_WINDOW),
        ] {
            let mut mask = 0;
            for lane in 0..LANES {
                let other =
                    generic[lane] >> 56 != SHARED_WINDOW >> 56 && generic[lane] >> 56 != LOCAL_WINDOW >> 56;
                let mine = if window == 0 { other } else { generic[lane] >> 56 == window >> 56 };
                mask |= (mine as u32) << lane;
            }
            if mask & active != 0 {
                run(
                    self,
                    warp,
                    place,
                    access,
                    space,
                    &generic.map(|address| address.wrapping_sub(window)),
                    mask & active,
                )?;
            }
        }
        Ok(())
    }

    fn load_parameter(&mut self, warp: &mut Warp, place: u32, access: &Access, active: u32) -> Step {
        let addresses = addresses(&warp.file, access);
        let size = access.element * access.count;
        let parameters = self.grid.parameters;
        each(active, |lane| {
            let at = addresses[lane];
            let end = at.checked_add(size as u64).filter(|end| *end <= parameters.len() as u64);
            if end.is_none() || !at.is_multiple_of(access.element as u64) {
                return Err(self.scene(warp, place, 1 << lane).fault(
                    FaultKind::OutOfBounds,
                    format!(
                        "a read of {size} bytes at offset {at} of {} bytes of parameters",
                        parameters.len()
                    ),
                ));
            }
            for element in 0..access.count {
                let start = at as usize + (element * access.element) as usize;
                let mut bytes = [0; 8];
                bytes[..access.element as usize]
                    .copy_from_slice(&parameters[start..start + access.element as usize]);
                if let Some(plane) = access.planes[element as usize] {
                    // SAFETY: the decoder made the plane.
                    unsafe { put(&mut warp.file, access, plane, lane, u64::from_le_bytes(bytes)) }
                }
            }
            Ok(())
        })
    }

    fn load_from(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        space: AccessSpace,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        match space {
            AccessSpace::Shared => self.load_shared(warp, place, access, at, active),
            AccessSpace::Local => self.load_local(warp, place, access, at, active),
            _ => self.load_global(warp, place, access, at, active),
        }
    }

    fn store_to(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        space: AccessSpace,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        match space {
            AccessSpace::Shared => self.store_shared(warp, place, access, at, active),
            AccessSpace::Local => self.store_local(warp, place, access, at, active),
            _ => self.store_global(warp, place, access, at, active),
        }
    }

    fn update(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        space: AccessSpace,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let Some(atomic) = access.atomic else { return Ok(()) };
        match space {
            AccessSpace::Shared => self.atomic_shared(warp, place, access, &atomic, at, active),
            AccessSpace::Local => Err(self
                .scene(warp, place, active)
                .fault(FaultKind::OutOfBounds, "an atomic update of local memory".to_string())),
            _ => self.atomic_global(warp, place, access, &atomic, at, active),
        }
    }

    /// The lanes whose address is no multiple of the access' size.
    #[inline(always)]
    fn aligned(
        &self,
        warp: &Warp,
        place: u32,
        at: &[u64; LANES],
        active: u32,
        size: u32,
        doing: Doing,
    ) -> Step {
        let mut odd = 0;
        for lane in 0..LANES {
            odd |= ((at[lane] & (size as u64 - 1) != 0) as u32) << lane;
        }
        if odd & active == 0 {
            return Ok(());
        }
        let lane = (odd & active).trailing_zeros() as usize;
        Err(self.scene(warp, place, odd & active).fault(
            FaultKind::Misaligned,
            format!(
                "{} of {size} bytes at address {:#x}, which is no multiple of {size}",
                doing.word(),
                at[lane]
            ),
        ))
    }

    // Shared memory.

    /// The array that an access of shared memory lies in, and the offset in the worker's buffer.
    #[inline(always)]
    fn shared_offset(&self, address: u64, size: u32) -> Option<usize> {
        self.regions.iter().find_map(|region| {
            let offset = address.wrapping_sub(region.address);
            (offset < region.bytes && region.bytes - offset >= size as u64)
                .then(|| region.offset + offset as usize)
        })
    }

    #[cold]
    fn shared_fault(
        &self,
        warp: &Warp,
        place: u32,
        lane: usize,
        address: u64,
        size: u32,
        doing: Doing,
    ) -> Box<Fault> {
        let name = |region: &Region| {
            let index = self.regions.iter().position(|r| r.address == region.address).unwrap_or(0);
            match self.program.shared.get(index) {
                Some(array) => format!("`{}`", array.name),
                None => format!(
                    "dynamic `{}`",
                    self.program.dynamic_shared.as_ref().map_or("", |(name, _)| name.as_str())
                ),
            }
        };
        let near = self.regions.iter().min_by_key(|region| {
            let before = region.address.saturating_sub(address);
            let after = address.saturating_sub(region.address + region.bytes.saturating_sub(1));
            before.max(after)
        });
        let what = match near {
            None => "the kernel has no shared memory".to_string(),
            Some(region) => format!(
                "byte {} of {}, which has {} bytes",
                address.wrapping_sub(region.address) as i64,
                name(region),
                region.bytes
            ),
        };
        self.scene(warp, place, 1 << lane).fault(
            FaultKind::OutOfBounds,
            format!("{} of {size} bytes of shared memory at {what}", doing.word()),
        )
    }

    /// Words for an address in shared memory.
    fn shared_name(&self, address: u64, size: u32, doing: Doing) -> String {
        for (index, region) in self.regions.iter().enumerate() {
            let offset = address.wrapping_sub(region.address);
            if offset < region.bytes {
                let name = match self.program.shared.get(index) {
                    Some(array) => array.name.as_str(),
                    None => self.program.dynamic_shared.as_ref().map_or("", |(name, _)| name.as_str()),
                };
                return format!("{} of {size} bytes of shared memory, `{name}` + {offset}", doing.word());
            }
        }
        format!("{} of {size} bytes of shared memory", doing.word())
    }

    /// Places all lanes' accesses in the worker's buffer.
    #[inline(always)]
    fn shared_offsets(
        &self,
        warp: &Warp,
        place: u32,
        at: &[u64; LANES],
        active: u32,
        size: u32,
        doing: Doing,
    ) -> Step<[u32; LANES]> {
        let mut offsets = [0; LANES];
        // All lanes in the array of the first is the usual case.
        let first = at[active.trailing_zeros() as usize];
        if let Some(region) =
            self.regions.iter().find(|region| first.wrapping_sub(region.address) < region.bytes)
        {
            let last = region.bytes.saturating_sub(size as u64 - 1);
            let mut outside = 0;
            for lane in 0..LANES {
                let offset = at[lane].wrapping_sub(region.address);
                outside |= ((offset >= last) as u32) << lane;
                offsets[lane] = (region.offset as u64).wrapping_add(offset) as u32;
            }
            if outside & active == 0 {
                return Ok(offsets);
            }
        }
        each(active, |lane| {
            offsets[lane] = self
                .shared_offset(at[lane], size)
                .ok_or_else(|| self.shared_fault(warp, place, lane, at[lane], size, doing))?
                as u32;
            Ok(())
        })?;
        Ok(offsets)
    }

    #[inline(always)]
    fn count_shared(&mut self, place: u32, (passes, ideal): (u64, u64), active: u32, size: u32) {
        let count = &mut self.counters.counts[place as usize];
        count.wavefronts += passes;
        count.ideal_wavefronts += ideal;
        count.bytes += active.count_ones() as u64 * size as u64;
    }

    fn load_shared(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element * access.count;
        self.aligned(warp, place, at, active, size, Doing::Reads)?;
        let offsets = self.shared_offsets(warp, place, at, active, size, Doing::Reads)?;
        self.count_shared(place, load_wavefronts(at, active, size as u64), active, size);
        self.check_shared(warp, place, &offsets, at, active, size, access.strong, Doing::Reads)?;
        self.meet_shared(warp, access, at, active);
        let shared = self.shared.as_ptr();
        for element in 0..access.count {
            let Some(plane) = access.planes[element as usize] else { continue };
            let shift = (element * access.element) as usize;
            // SAFETY: `shared_offsets` has found every active lane's bytes within the buffer; the decoder made the plane.
            unsafe {
                if access.element == 4 && !access.wide {
                    let to = warp.file.lanes_mut::<u32>(plane);
                    if active == !0 {
                        for lane in 0..LANES {
                            to[lane] =
                                shared.add(offsets[lane] as usize + shift).cast::<u32>().read_unaligned();
                        }
                    } else {
                        each(active, |lane| {
                            to[lane] =
                                shared.add(offsets[lane] as usize + shift).cast::<u32>().read_unaligned();
                            Ok(())
                        })?;
                    }
                } else {
                    each(active, |lane| {
                        let mut bytes = [0; 8];
                        std::ptr::copy_nonoverlapping(
                            shared.add(offsets[lane] as usize + shift),
                            bytes.as_mut_ptr(),
                            access.element as usize,
                        );
                        put(&mut warp.file, access, plane, lane, u64::from_le_bytes(bytes));
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The race check of an access to shared memory.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // One access and how it is done; a struct for one call would hide more than it tells.
    fn check_shared(
        &mut self,
        warp: &Warp,
        place: u32,
        offsets: &[u32; LANES],
        at: &[u64; LANES],
        active: u32,
        size: u32,
        strong: bool,
        doing: Doing,
    ) -> Step {
        let o = &self.program.code[place as usize];
        let stamp = self.stamp(warp, o);
        let log = self.shared_shadow.granule;
        let granules = (size >> log) as usize;
        let mut shadow = std::mem::take(&mut self.shared_shadow);
        let order = self.order(warp, None);
        let mut wrong: Option<(usize, Wrong)> = None;
        let first = active.trailing_zeros() as usize;
        let uniform = doing == Doing::Reads
            && (0..LANES).all(|lane| active >> lane & 1 == 0 || offsets[lane] == offsets[first]);
        let lanes = if uniform { 1 << first } else { active };
        let many = if uniform && active.count_ones() > 1 { MANY } else { 0 };
        let mut rest = lanes;
        'lanes: while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let start = (offsets[lane] >> log) as usize;
            for granule in start..start + granules {
                let verdict = match doing {
                    Doing::Reads => shadow.read::<false>(granule, stamp.lane(lane) | many, &order, strong),
                    Doing::Writes => shadow.write::<false>(granule, stamp.lane(lane), &order, strong),
                    Doing::Updates if !shadow.written(granule, &order) => Err(Wrong::Uninitialised),
                    Doing::Updates => shadow.write::<false>(granule, stamp.lane(lane), &order, true),
                };
                if let Err(found) = verdict {
                    wrong = Some((lane, found));
                    break 'lanes;
                }
            }
        }
        self.shared_shadow = shadow;
        match wrong {
            None => Ok(()),
            Some((lane, found)) => {
                let what = self.shared_name(at[lane], size, doing);
                Err(self.wrong(warp, place, lane, found, &what, doing != Doing::Reads))
            }
        }
    }

    fn store_shared(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element * access.count;
        self.aligned(warp, place, at, active, size, Doing::Writes)?;
        let offsets = self.shared_offsets(warp, place, at, active, size, Doing::Writes)?;
        self.count_shared(place, wavefronts(at, active, size as u64), active, size);
        self.check_shared(warp, place, &offsets, at, active, size, access.strong, Doing::Writes)?;
        self.meet_shared(warp, access, at, active);
        let shared = self.shared.as_mut_ptr();
        for element in 0..access.count {
            let Some(plane) = access.planes[element as usize] else { continue };
            let shift = (element * access.element) as usize;
            // SAFETY: as in `load_shared`.
            each(active, |lane| unsafe {
                let bytes = get(&warp.file, access, plane, lane).to_le_bytes();
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    shared.add(offsets[lane] as usize + shift),
                    access.element as usize,
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    fn atomic_shared(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        atomic: &Atomic,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element;
        self.aligned(warp, place, at, active, size, Doing::Updates)?;
        let offsets = self.shared_offsets(warp, place, at, active, size, Doing::Updates)?;
        self.count_shared(place, wavefronts(at, active, size as u64), active, size);
        self.check_shared(warp, place, &offsets, at, active, size, true, Doing::Updates)?;
        self.meet_shared(warp, access, at, active);
        each(active, |lane| {
            let from = offsets[lane] as usize;
            let mut bytes = [0; 8];
            bytes[..size as usize].copy_from_slice(&self.shared[from..from + size as usize]);
            let old = u64::from_le_bytes(bytes);
            // SAFETY: the decoder made the planes.
            let (operand, second) = unsafe {
                (get(&warp.file, access, atomic.operand, lane), get(&warp.file, access, atomic.second, lane))
            };
            let new = apply(atomic.kind, size, old, operand, second, false);
            self.shared[from..from + size as usize].copy_from_slice(&new.to_le_bytes()[..size as usize]);
            if let Some(plane) = access.planes[0] {
                // SAFETY: as above.
                unsafe { put(&mut warp.file, access, plane, lane, old) }
            }
            Ok(())
        })
    }

    /// `ldmatrix`: lanes 8i to 8i + 7 give the rows of matrix i; lane 4r + c gets elements 2c and 2c + 1 of row r.
    pub fn load_matrix(&mut self, warp: &mut Warp, place: u32, access: &Access) -> Step {
        let window = if access.space == AccessSpace::Generic { SHARED_WINDOW } else { 0 };
        let at = addresses(&warp.file, access).map(|address| address.wrapping_sub(window));
        let rows = access.matrices * 8;
        let active = if rows == 32 { !0 } else { (1 << rows) - 1 };
        self.aligned(warp, place, &at, active, 16, Doing::Reads)?;
        let offsets = self.shared_offsets(warp, place, &at, active, 16, Doing::Reads)?;
        self.count_shared(place, wavefronts(&at, active, 16), active, 16);
        // Any lane may read any row: the rows' reads stand for those of the lanes that get them.
        self.check_shared(warp, place, &offsets, &at, active, 16, false, Doing::Reads)?;
        for matrix in 0..access.matrices as usize {
            let Some(plane) = access.planes[matrix] else { continue };
            let mut values = [[0u16; 8]; 8];
            for (row, values) in values.iter_mut().enumerate() {
                let start = offsets[matrix * 8 + row] as usize;
                for (column, value) in values.iter_mut().enumerate() {
                    *value = u16::from_le_bytes([
                        self.shared[start + 2 * column],
                        self.shared[start + 2 * column + 1],
                    ]);
                }
            }
            // SAFETY: the decoder made the plane, of 32 bits.
            let to = unsafe { warp.file.lanes_mut::<u32>(plane) };
            for (lane, to) in to.iter_mut().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let (low, high) = match access.transposed {
                    false => (values[row][column], values[row][column + 1]),
                    true => (values[column][row], values[column + 1][row]),
                };
                *to = low as u32 | (high as u32) << 16;
            }
        }
        Ok(())
    }

    // Local memory.

    fn local_fault(
        &self,
        warp: &Warp,
        place: u32,
        lane: usize,
        address: u64,
        size: u32,
        doing: Doing,
    ) -> Box<Fault> {
        let variable = warp.local_variables.iter().min_by_key(|v| {
            v.address.saturating_sub(address).max(address.saturating_sub(v.address + v.bytes))
        });
        let what = match variable {
            None => format!("address {address:#x}: the kernel has none"),
            Some(v) => {
                format!("byte {} of {} that lie there", address.wrapping_sub(v.address) as i64, v.bytes)
            }
        };
        self.scene(warp, place, 1 << lane).fault(
            FaultKind::OutOfBounds,
            format!("{} of {size} bytes of local memory at {what}", doing.word()),
        )
    }

    fn load_local(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element * access.count;
        self.aligned(warp, place, at, active, size, Doing::Reads)?;
        self.counters.counts[place as usize].bytes += active.count_ones() as u64 * size as u64;
        each(active, |lane| {
            let Some(offset) = warp.local_offset(lane, at[lane], size as u64) else {
                return Err(self.local_fault(warp, place, lane, at[lane], size, Doing::Reads));
            };
            for element in 0..access.count as usize {
                let start = offset + element * access.element as usize;
                let range = start..start + access.element as usize;
                if warp.local_valid[range.clone()].contains(&0) {
                    return Err(self.scene(warp, place, 1 << lane).fault(
                        FaultKind::Uninitialised,
                        format!("a read of {size} bytes of local memory, which the thread has not written"),
                    ));
                }
                let mut bytes = [0; 8];
                bytes[..access.element as usize].copy_from_slice(&warp.local[range]);
                if let Some(plane) = access.planes[element] {
                    // SAFETY: the decoder made the plane.
                    unsafe { put(&mut warp.file, access, plane, lane, u64::from_le_bytes(bytes)) }
                }
            }
            Ok(())
        })
    }

    fn store_local(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element * access.count;
        self.aligned(warp, place, at, active, size, Doing::Writes)?;
        self.counters.counts[place as usize].bytes += active.count_ones() as u64 * size as u64;
        each(active, |lane| {
            let Some(offset) = warp.local_offset(lane, at[lane], size as u64) else {
                return Err(self.local_fault(warp, place, lane, at[lane], size, Doing::Writes));
            };
            for element in 0..access.count as usize {
                let Some(plane) = access.planes[element] else { continue };
                let start = offset + element * access.element as usize;
                let range = start..start + access.element as usize;
                // SAFETY: the decoder made the plane.
                let value = unsafe { get(&warp.file, access, plane, lane) };
                warp.local[range.clone()].copy_from_slice(&value.to_le_bytes()[..access.element as usize]);
                warp.local_valid[range].fill(1);
            }
            Ok(())
        })
    }

    /// A value in local memory, for what the system calls are given.
    pub fn local_value(&self, warp: &Warp, lane: usize, address: u64, size: u32) -> Option<u64> {
        let offset = warp.local_offset(lane, address, size as u64)?;
        let mut bytes = [0; 8];
        bytes[..size as usize].copy_from_slice(&warp.local[offset..offset + size as usize]);
        Some(u64::from_le_bytes(bytes))
    }

    // Global memory.

    #[cold]
    fn global_fault(
        &self,
        warp: &Warp,
        place: u32,
        lanes: u32,
        address: u64,
        size: u32,
        doing: Doing,
    ) -> Box<Fault> {
        let named = |variable: &Option<String>| {
            variable.as_ref().map_or(String::new(), |name| format!(" (variable `{name}`)"))
        };
        let what = match self.grid.memory.nothing(address) {
            Nothing::Near { base, bytes, variable } => {
                format!(
                    "byte {} of the allocation of {bytes} bytes at {base:#x}{}",
                    address.wrapping_sub(base) as i64,
                    named(&variable)
                )
            }
            Nothing::Freed { base, bytes } => format!(
                "byte {} of an allocation of {bytes} bytes that was freed",
                address.wrapping_sub(base) as i64
            ),
            Nothing::Unknown => "no allocation".to_string(),
        };
        self.scene(warp, place, lanes).fault(
            FaultKind::OutOfBounds,
            format!("{} of {size} bytes of global memory at address {address:#x}: {what}", doing.word()),
        )
    }

    fn global_name(&self, address: u64, size: u32, doing: Doing) -> String {
        let place = match self.grid.memory.at(address) {
            Some(a) => match &a.variable {
                Some(name) => format!("variable `{name}` + {}", address - a.base),
                None => format!(
                    "byte {} of the allocation of {} bytes at {:#x}",
                    address - a.base,
                    a.bytes,
                    a.base
                ),
            },
            None => "no allocation".to_string(),
        };
        format!("{} of {size} bytes of global memory at address {address:#x}, {place}", doing.word())
    }

    /// Lanes whose accesses lie in the allocation of the first, and that allocation.
    #[inline(always)]
    fn together(
        &self,
        warp: &Warp,
        place: u32,
        at: &[u64; LANES],
        active: u32,
        size: u32,
        doing: Doing,
    ) -> Step<(&'l Arc<Allocation>, u32)> {
        let first = at[active.trailing_zeros() as usize];
        let memory = self.grid.memory;
        let Some(allocation) = memory.find(first, size as u64) else {
            let mut lanes = 0;
            for lane in 0..LANES {
                lanes |= (memory.find(at[lane], size as u64).is_none() as u32) << lane;
            }
            return Err(self.global_fault(warp, place, lanes & active, first, size, doing));
        };
        let last = allocation.bytes - size as u64;
        let mut inside = 0;
        for lane in 0..LANES {
            inside |= ((at[lane].wrapping_sub(allocation.base) <= last) as u32) << lane;
        }
        Ok((allocation, inside & active))
    }

    #[inline(always)]
    fn count_global(&mut self, place: u32, at: &[u64; LANES], active: u32, size: u32) {
        let (touched, ideal) = sectors(at, active, size as u64);
        let count = &mut self.counters.counts[place as usize];
        count.sectors += touched;
        count.ideal_sectors += ideal;
        count.bytes += active.count_ones() as u64 * size as u64;
    }

    /// Notes which sectors of an allocation the lanes touch for the first time in this launch.
    #[inline(always)]
    fn count_footprint(&mut self, allocation: &Allocation, at: &[u64; LANES], active: u32, doing: Doing) {
        let launch = self.grid.number;
        let mut last = u64::MAX;
        let mut rest = active;
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // An access is no larger than a sector and aligned to its size.
            let sector = (at[lane] - allocation.base) / SECTOR;
            if sector == last {
                continue;
            }
            last = sector;
            let (touched, written) = allocation.stamp(sector * SECTOR, launch, doing != Doing::Reads);
            let footprint = &mut self.counters.footprint;
            if touched != launch && doing != Doing::Writes {
                let age = if touched == 0 { 0 } else { launch - touched };
                *footprint.read.entry(age).or_default() += 1;
            }
            footprint.written += (written != launch) as u64;
        }
    }

    /// The race check of accesses to one allocation.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // As `check_shared`.
    fn check_global(
        &mut self,
        warp: &Warp,
        place: u32,
        allocation: &Allocation,
        at: &[u64; LANES],
        active: u32,
        size: u32,
        strong: bool,
        doing: Doing,
    ) -> Step {
        let o = &self.program.code[place as usize];
        let stamp = self.stamp(warp, o);
        let log = self.program.global_granule;
        let mut entry = self.global[allocation.id].take().unwrap_or_default();
        let GlobalShadow { shadow, touched } = &mut *entry;
        let granules = (allocation.bytes >> log) as usize + 1;
        if shadow.granule != log || shadow.granules() != granules {
            shadow.size(allocation.bytes, log);
        }
        touched.resize(granules / 1024 + 1, 0);
        let acquired = |phase: u64| self.acquired(phase);
        let order = self.order(warp, if self.program.fenced { Some(&acquired) } else { None });
        let count = (size >> log) as usize;
        let first = active.trailing_zeros() as usize;
        let uniform =
            doing == Doing::Reads && (0..LANES).all(|lane| active >> lane & 1 == 0 || at[lane] == at[first]);
        let many = if uniform && active.count_ones() > 1 { MANY } else { 0 };
        let mut rest = if uniform { 1 << first } else { active };
        let mut wrong: Option<(usize, Wrong)> = None;
        'lanes: while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let start = ((at[lane] - allocation.base) >> log) as usize;
            touched[start / 1024] = 1;
            for granule in start..start + count {
                let verdict = match doing {
                    Doing::Reads => shadow.read::<true>(granule, stamp.lane(lane) | many, &order, strong),
                    Doing::Writes => shadow.write::<true>(granule, stamp.lane(lane), &order, strong),
                    Doing::Updates => shadow.write::<true>(granule, stamp.lane(lane), &order, true),
                };
                if let Err(found) = verdict {
                    wrong = Some((lane, found));
                    break 'lanes;
                }
            }
        }
        self.global[allocation.id] = Some(entry);
        match wrong {
            None => Ok(()),
            Some((lane, found)) => {
                let what = self.global_name(at[lane], size, doing);
                Err(self.wrong(warp, place, lane, found, &what, doing != Doing::Reads))
            }
        }
    }

    #[cold]
    fn global_uninitialised(
        &self,
        warp: &Warp,
        place: u32,
        lane: usize,
        address: u64,
        size: u32,
        doing: Doing,
    ) -> Box<Fault> {
        let what = self.global_name(address, size, doing);
        self.wrong(warp, place, lane, Wrong::Uninitialised, &what, false)
    }

    fn load_global(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element * access.count;
        self.aligned(warp, place, at, active, size, Doing::Reads)?;
        self.count_global(place, at, active, size);
        let mut rest = active;
        while rest != 0 {
            let (allocation, lanes) = self.together(warp, place, at, rest, size, Doing::Reads)?;
            self.check_global(warp, place, allocation, at, lanes, size, access.strong, Doing::Reads)?;
            self.count_footprint(allocation, at, lanes, Doing::Reads);
            self.meet_global(warp, access, at, lanes);
            for element in 0..access.count {
                let shift = (element * access.element) as u64;
                let valid = all_valid(access.element);
                let plane = access.planes[element as usize];
                each(lanes, |lane| {
                    let offset = at[lane] - allocation.base + shift;
                    // SAFETY: `together` has found the lane's bytes within the allocation, and they are aligned; the decoder
                    // made the plane.
                    unsafe {
                        if memory::load(allocation.valid(offset), access.element) != valid {
                            return Err(self.global_uninitialised(
                                warp,
                                place,
                                lane,
                                at[lane],
                                size,
                                Doing::Reads,
                            ));
                        }
                        if let Some(plane) = plane {
                            put(
                                &mut warp.file,
                                access,
                                plane,
                                lane,
                                memory::load(allocation.data(offset), access.element),
                            );
                        }
                    }
                    Ok(())
                })?;
            }
            rest &= !lanes;
        }
        Ok(())
    }

    fn store_global(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element * access.count;
        self.aligned(warp, place, at, active, size, Doing::Writes)?;
        self.count_global(place, at, active, size);
        let mut rest = active;
        while rest != 0 {
            let (allocation, lanes) = self.together(warp, place, at, rest, size, Doing::Writes)?;
            self.check_global(warp, place, allocation, at, lanes, size, access.strong, Doing::Writes)?;
            self.count_footprint(allocation, at, lanes, Doing::Writes);
            self.meet_global(warp, access, at, lanes);
            for element in 0..access.count {
                let Some(plane) = access.planes[element as usize] else { continue };
                let shift = (element * access.element) as u64;
                each(lanes, |lane| {
                    let offset = at[lane] - allocation.base + shift;
                    // SAFETY: as in `load_global`.
                    unsafe {
                        memory::store(
                            allocation.data(offset),
                            access.element,
                            get(&warp.file, access, plane, lane),
                        );
                        memory::store(allocation.valid(offset), access.element, all_valid(access.element));
                    }
                    Ok(())
                })?;
            }
            rest &= !lanes;
        }
        Ok(())
    }

    fn atomic_global(
        &mut self,
        warp: &mut Warp,
        place: u32,
        access: &Access,
        atomic: &Atomic,
        at: &[u64; LANES],
        active: u32,
    ) -> Step {
        let size = access.element;
        self.aligned(warp, place, at, active, size, Doing::Updates)?;
        self.count_global(place, at, active, size);
        let mut rest = active;
        while rest != 0 {
            let (allocation, lanes) = self.together(warp, place, at, rest, size, Doing::Updates)?;
            each(lanes, |lane| {
                // SAFETY: as in `load_global`.
                if unsafe { memory::load(allocation.valid(at[lane] - allocation.base), size) }
                    != all_valid(size)
                {
                    return Err(self.global_uninitialised(warp, place, lane, at[lane], size, Doing::Updates));
                }
                Ok(())
            })?;
            self.check_global(warp, place, allocation, at, lanes, size, true, Doing::Updates)?;
            self.count_footprint(allocation, at, lanes, Doing::Updates);
            self.meet_global(warp, access, at, lanes);
            each(lanes, |lane| {
                let data = allocation.data(at[lane] - allocation.base);
                // SAFETY: as in `load_global`.
                let (operand, second) = unsafe {
                    (
                        get(&warp.file, access, atomic.operand, lane),
                        get(&warp.file, access, atomic.second, lane),
                    )
                };
                let change = |old: u64| apply(atomic.kind, size, old, operand, second, true);
                // SAFETY: as in `load_global`.
                let old = unsafe { update(data, size, change) };
                if let Some(plane) = access.planes[0] {
                    // SAFETY: the decoder made the plane.
                    unsafe { put(&mut warp.file, access, plane, lane, old) }
                }
                Ok(())
            })?;
            rest &= !lanes;
        }
        Ok(())
    }

    /// Strong accesses of shared memory order the block's threads, if the kernel has fences.
    fn meet_shared(&mut self, warp: &mut Warp, access: &Access, at: &[u64; LANES], lanes: u32) {
        if access.strong && self.program.fenced_block {
            self.meet(warp, &at.map(|address| address.wrapping_add(SHARED_WINDOW)), lanes);
        }
    }

    /// Strong accesses of global memory order the block's threads, and blocks: what others have published is known from now on.
    fn meet_global(&mut self, warp: &mut Warp, access: &Access, at: &[u64; LANES], lanes: u32) {
        if !access.strong {
            return;
        }
        if self.program.fenced {
            let mut published = self.grid.publish();
            for lane in (0..LANES).filter(|lane| lanes >> lane & 1 != 0) {
                published.meet(at[lane], self.block_number);
            }
        }
        if self.program.fenced_block {
            self.meet(warp, at, lanes);
        }
    }

    /// Whether what the block of an earlier phase did is known to this block, by fences and atomics.
    fn acquired(&self, phase: u64) -> bool {
        self.block_of(phase).is_some_and(|other| self.grid.publish().knows(self.block_number, other))
    }

    /// The text at a generic address of global memory, up to its zero.
    pub fn text(&self, address: u64) -> Option<String> {
        let allocation = self.grid.memory.find(address, 1)?;
        let mut bytes = vec![0; (allocation.bytes - (address - allocation.base)) as usize];
        allocation.read(address - allocation.base, &mut bytes);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// Changes a value in global memory as one step; returns the old one.
///
/// # Safety
/// `data` is aligned to `size` (2, 4 or 8) and points to that many bytes of an allocation.
unsafe fn update(data: *mut u8, size: u32, change: impl Fn(u64) -> u64) -> u64 {
    use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's promise; all access to allocations during a launch is atomic.
    unsafe {
        match size {
            2 => AtomicU16::from_ptr(data.cast())
                .fetch_update(SeqCst, SeqCst, |old| Some(change(old as u64) as u16))
                .unwrap_or_else(|old| old) as u64,
            4 => AtomicU32::from_ptr(data.cast())
                .fetch_update(SeqCst, SeqCst, |old| Some(change(old as u64) as u32))
                .unwrap_or_else(|old| old) as u64,
            _ => AtomicU64::from_ptr(data.cast())
                .fetch_update(SeqCst, SeqCst, |old| Some(change(old)))
                .unwrap_or_else(|old| old),
        }
    }
}

/// What an atomic makes of a value: PTX ISA 9.7.13.
fn apply(kind: AtomicKind, size: u32, old: u64, operand: u64, second: u64, global: bool) -> u64 {
    let signed = |value: u64| if size == 4 { value as u32 as i32 as i64 } else { value as i64 };
    let result = match kind {
        AtomicKind::Add => old.wrapping_add(operand),
        AtomicKind::AddF16 => math::add_f16(old as u16, operand as u16) as u64,
        AtomicKind::AddF16x2 => {
            let low = math::add_f16(old as u16, operand as u16) as u64;
            low | (math::add_f16((old >> 16) as u16, (operand >> 16) as u16) as u64) << 16
        }
        // In global memory, not in shared, cards take subnormals for zero.
        AtomicKind::AddF32 => {
            let flush = |x: f32| if global { math::flush(x) } else { x };
            let sum = flush(f32::from_bits(old as u32)) + flush(f32::from_bits(operand as u32));
            math::canonical_f32(flush(sum)).to_bits() as u64
        }
        AtomicKind::AddF64 => (f64::from_bits(old) + f64::from_bits(operand)).to_bits(),
        AtomicKind::And => old & operand,
        AtomicKind::Or => old | operand,
        AtomicKind::Xor => old ^ operand,
        AtomicKind::Exchange => operand,
        AtomicKind::CompareAndSwap => {
            let mask = u64::MAX >> (64 - 8 * size);
            if old & mask == operand & mask { second } else { old }
        }
        AtomicKind::Increment => {
            if old >= operand {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old == 0 || old > operand {
                operand
            } else {
                old - 1
            }
        }
        AtomicKind::MinSigned => {
            if signed(operand) < signed(old) {
                operand
            } else {
                old
            }
        }
        AtomicKind::MaxSigned => {
            if signed(operand) > signed(old) {
                operand
            } else {
                old
            }
        }
        AtomicKind::MinUnsigned => old.min(operand),
        AtomicKind::MaxUnsigned => old.max(operand),
    };
    result & (u64::MAX >> (64 - 8 * size))
}
