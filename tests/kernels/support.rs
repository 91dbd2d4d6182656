//! What tests of single kernels share: a card, buffers with guards around them, launches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use coin::device::cuda;
use coin::device::cuda::card::Shape;
use coin::device::cuda::memory::Memory;
use coin::ops::cuda::KERNELS;
use simulator::{Device, Fault, Launch, Module, Profile, Settings};

/// The modules that `build.rs` compiled, by name.
const MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Orders of blocks and warps that a kernel's result must not depend on.
pub const SEEDS: [u64; 3] = [0, 1, 2];

/// A card with the project's kernels: the simulated one or, where COIN_TEST_CARD is `real`, this machine's.
pub struct Card(Kind);

enum Kind {
    Simulated { device: Arc<Device>, modules: RefCell<HashMap<&'static str, Module>> },
    Real { card: Arc<cuda::card::Card>, live: RefCell<HashMap<u64, Guarded>> },
}

/// An allocation of a real card with guards around it, all of it NaN at first: what reads or writes beside its data shows.
struct Guarded {
    memory: Memory,
    bytes: usize,
}

/// Bytes of a guard, a multiple of every alignment.
const GUARD: usize = 512;

impl Guarded {
    fn check(&self) {
        for (at, bytes) in [(0, GUARD), (GUARD + self.bytes, self.memory.bytes - GUARD - self.bytes)] {
            let guard: Vec<u8> = self.memory.read(self.memory.address + at as u64, bytes).unwrap();
            assert!(
                guard.iter().all(|byte| *byte == 0xff),
                "a kernel has written beside a buffer of {} bytes",
                self.bytes
            );
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    Address(u64),
    Unsigned(u32),
    Float(f32),
    Wide(u64),
    Words([u32; 7]),
}

impl Argument {
    fn bytes(self) -> Vec<u8> {
        match self {
            Argument::Address(x) | Argument::Wide(x) => x.to_le_bytes().to_vec(),
            Argument::Unsigned(x) => x.to_le_bytes().to_vec(),
            Argument::Float(x) => x.to_le_bytes().to_vec(),
            Argument::Words(x) => bytemuck::cast_slice(&x).to_vec(),
        }
    }
}

impl Card {
    /// `seed` is the simulated card's schedule; a real one has its own.
    pub fn new(seed: u64) -> Card {
        assert!(
            !MODULES.is_empty(),
            "the kernels were not compiled because there was no nvcc: run scripts/install-nvcc, which needs no GPU, and run the tests again"
        );
        if std::env::var_os("COIN_TEST_CARD").is_some_and(|card| card == "real") {
            let kernels = [KERNELS, cuda::peak::KERNELS].concat();
            let card = cuda::card::Card::open(0, &kernels).unwrap_or_else(|error| panic!("{error}"));
            return Card(Kind::Real { card, live: RefCell::default() });
        }
        let settings = Settings { seed, threads: 1, memory: 1 << 30, watchdog: 1 << 28 };
        Card(Kind::Simulated { device: Device::new(settings), modules: RefCell::default() })
    }

    /// Memory that nothing has been written to: a kernel that reads it fails, and its end is guarded.
    pub fn allocate<T>(&self, count: usize) -> u64 {
        let bytes = (count * size_of::<T>()).max(1);
        match &self.0 {
            Kind::Simulated { device, .. } => {
                device.allocate(bytes as u64).unwrap_or_else(|fault| panic!("{fault}"))
            }
            Kind::Real { card, live } => {
                let memory = Memory::zeros(card, bytes + 2 * GUARD).unwrap();
                memory.write(memory.address, &vec![0xffu8; memory.bytes]).unwrap();
                let address = memory.address + GUARD as u64;
                live.borrow_mut().insert(address, Guarded { memory, bytes });
                address
            }
        }
    }

    pub fn free(&self, address: u64) {
        match &self.0 {
            Kind::Simulated { device, .. } => device.free(address).unwrap_or_else(|fault| panic!("{fault}")),
            Kind::Real { live, .. } => {
                live.borrow_mut()
                    .remove(&address)
                    .unwrap_or_else(|| panic!("nothing at {address:#x}"))
                    .check();
            }
        }
    }

    pub fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> u64 {
        let address = self.allocate::<T>(values.len());
        self.write(address, bytemuck::cast_slice(values));
        address
    }

    /// Writes within one allocation.
    pub fn write(&self, to: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match &self.0 {
            Kind::Simulated { device, .. } => {
                device.write(to, bytes).unwrap_or_else(|fault| panic!("{fault}"))
            }
            Kind::Real { live, .. } => within(&live.borrow(), to).memory.write(to, bytes).unwrap(),
        }
    }

    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, from: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        if count == 0 {
            return values;
        }
        match &self.0 {
            Kind::Simulated { device, .. } => {
                let bytes = bytemuck::cast_slice_mut(&mut values);
                device.read(from, bytes).unwrap_or_else(|fault| panic!("{fault}"));
                values
            }
            Kind::Real { live, .. } => {
                let live = live.borrow();
                let guarded = within(&live, from);
                guarded.check();
                guarded.memory.read(from, count).unwrap()
            }
        }
    }

    /// Launches, and panics with the report of a fault. Arguments in the kernel's order; a struct is an argument of its own
    /// through [`Card::launch_raw`]. A real card counts nothing.
    pub fn launch(
        &self,
        module: &'static str,
        kernel: &str,
        (grid, block, shared): ([u32; 3], u32, u32),
        arguments: &[Argument],
    ) -> Option<Profile> {
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.bytes()).collect();
        self.launch_raw(module, kernel, (grid, block, shared), &arguments)
            .unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// Launches with each argument's bytes.
    pub fn launch_raw(
        &self,
        module: &'static str,
        kernel: &str,
        (grid, block, shared): ([u32; 3], u32, u32),
        arguments: &[Vec<u8>],
    ) -> Result<Option<Profile>, Fault> {
        let (device, modules) = match &self.0 {
            Kind::Simulated { device, modules } => (device, modules),
            Kind::Real { card, .. } => {
                card.allow_shared(kernel, shared as usize).unwrap();
                // Aligned for any argument.
                let words: Vec<Vec<u64>> = arguments
                    .iter()
                    .map(|bytes| {
                        let mut words = vec![0u64; bytes.len().div_ceil(8)];
                        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
                        words
                    })
                    .collect();
                let mut pointers: Vec<*mut std::ffi::c_void> =
                    words.iter().map(|words| words.as_ptr().cast_mut().cast()).collect();
                // SAFETY: the same arguments have passed the simulated card, which checks their sizes and every address.
                unsafe { card.launch(kernel, Shape { grid, block, shared }, &mut pointers) }
                    .and_then(|()| card.stream.synchronize())
                    .unwrap_or_else(|error| panic!("{kernel}: {error}"));
                return Ok(None);
            }
        };
        let mut modules = modules.borrow_mut();
        let loaded = modules.entry(module).or_insert_with(|| {
            let found = MODULES.iter().find(|(name, _)| *name == module);
            let (_, fatbin) = found.unwrap_or_else(|| panic!("there is no kernels/{module}.cu"));
            let ptx =
                simulated_cuda::image::ptx_in(fatbin).unwrap_or_else(|error| panic!("{module}: {error:?}"));
            device.load(&ptx).unwrap_or_else(|error| panic!("{module}: {error}"))
        });
        let function = loaded.function(kernel).unwrap_or_else(|| panic!("{module}.cu has no {kernel}"));
        let layout = function.parameters();
        assert_eq!(layout.len(), arguments.len(), "arguments of {kernel}");
        let mut parameters = Vec::new();
        for (&(offset, size), argument) in layout.iter().zip(arguments) {
            assert_eq!(size as usize, argument.len(), "size of an argument of {kernel}");
            parameters.resize(offset as usize, 0);
            parameters.extend(argument);
        }
        let launch = Launch { grid, block: [block, 1, 1], dynamic_shared: shared, parameters: &parameters };
        device.launch(&function, &launch).map(Some)
    }
}

/// The allocation that an address lies in.
fn within(live: &HashMap<u64, Guarded>, address: u64) -> &Guarded {
    live.iter()
        .find(|(start, guarded)| (**start..**start + guarded.bytes.max(1) as u64).contains(&address))
        .map(|(_, guarded)| guarded)
        .unwrap_or_else(|| panic!("no allocation at {address:#x}"))
}

/// SplitMix64, for inputs.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Evenly from `-scale` to `scale`.
    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale).collect()
    }
}
