//! What tests of single kernels share: a simulated card with checks on, buffers with guards around them, launches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use simulator::{Device, Fault, Launch, Module, Profile, Settings};

/// The modules that `build.rs` compiled, by name.
const MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Orders of blocks and warps that a kernel's result must not depend on.
pub const SEEDS: [u64; 3] = [0, 1, 2];

/// A simulated card with the project's kernels.
pub struct Card {
    pub device: Arc<Device>,
    modules: RefCell<HashMap<&'static str, Module>>,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    Address(u64),
    Unsigned(u32),
    Float(f32),
    Wide(u64),
}

impl Argument {
    fn bytes(self) -> Vec<u8> {
        match self {
            Argument::Address(x) | Argument::Wide(x) => x.to_le_bytes().to_vec(),
            Argument::Unsigned(x) => x.to_le_bytes().to_vec(),
            Argument::Float(x) => x.to_le_bytes().to_vec(),
        }
    }
}

impl Card {
    pub fn new(seed: u64) -> Card {
        assert!(
            !MODULES.is_empty(),
            "the kernels were not compiled because there was no nvcc: run scripts/install-nvcc, which needs no GPU, and run the tests again"
        );
        let settings = Settings { seed, threads: 1, memory: 1 << 30, watchdog: 1 << 28 };
        Card { device: Device::new(settings), modules: RefCell::default() }
    }

    /// Memory that nothing has been written to: a kernel that reads it fails, and its end is guarded.
    pub fn allocate<T>(&self, count: usize) -> u64 {
        self.device.allocate((count * size_of::<T>()).max(1) as u64).unwrap_or_else(|fault| panic!("{fault}"))
    }

    pub fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> u64 {
        let address = self.allocate::<T>(values.len());
        if !values.is_empty() {
            self.device
                .write(address, bytemuck::cast_slice(values))
                .unwrap_or_else(|fault| panic!("{fault}"));
        }
        address
    }

    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, from: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        if count > 0 {
            let bytes = bytemuck::cast_slice_mut(&mut values);
            self.device.read(from, bytes).unwrap_or_else(|fault| panic!("{fault}"));
        }
        values
    }

    /// Launches, and panics with the report of a fault. Arguments in the kernel's order; a struct is an argument of its own
    /// through [`Card::launch_raw`].
    pub fn launch(
        &self,
        module: &'static str,
        kernel: &str,
        (grid, block, shared): ([u32; 3], u32, u32),
        arguments: &[Argument],
    ) -> Profile {
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
    ) -> Result<Profile, Fault> {
        let mut modules = self.modules.borrow_mut();
        let loaded = modules.entry(module).or_insert_with(|| {
            let found = MODULES.iter().find(|(name, _)| *name == module);
            let (_, fatbin) = found.unwrap_or_else(|| panic!("there is no kernels/{module}.cu"));
            let ptx =
                simulated_cuda::image::ptx_in(fatbin).unwrap_or_else(|error| panic!("{module}: {error:?}"));
            self.device.load(&ptx).unwrap_or_else(|error| panic!("{module}: {error}"))
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
        self.device.launch(&function, &launch)
    }
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
