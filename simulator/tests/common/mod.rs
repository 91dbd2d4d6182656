//! What tests that run kernels share: a card, buffers on it, launches, random numbers and numbers of 16 bits.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use simulator::{Device, Fault, Function, Launch, Profile, Settings};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The text that `build.rs` compiled `kernels/<name>.cu` to.
pub fn ptx(name: &str) -> String {
    let folder = env!("SIMULATOR_KERNELS");
    assert!(
        !folder.is_empty(),
        "the kernels were not compiled because there was no nvcc: run scripts/install-nvcc, which needs no GPU, and run the tests again"
    );
    let path = Path::new(folder).join(name).with_extension("ptx");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where the source of a kernel file lies.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(name).with_extension("cu")
}

/// A simulated card for one test.
pub struct Card {
    pub device: Arc<Device>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Parameter {
    Address(u64),
    Word(u32),
}

impl Card {
    /// A card whose blocks and warps run in the order that `seed` stands for, on one thread: its reports are reproducible.
    pub fn new(seed: u64) -> Card {
        Card { device: Device::new(Settings { seed, threads: 1, memory: 1 << 30, watchdog: 1 << 24 }) }
    }

    pub fn with(settings: Settings) -> Card {
        Card { device: Device::new(settings) }
    }

    /// A kernel of a file under `kernels`.
    pub fn kernel(&self, file: &str, name: &str) -> Function {
        let module = self.device.load(&ptx(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        module.function(name).unwrap_or_else(|| panic!("{file} has no kernel {name}"))
    }

    /// A buffer that nothing has been written to.
    pub fn allocate(&self, bytes: usize) -> u64 {
        self.device.allocate(bytes as u64).unwrap_or_else(|fault| panic!("{fault}"))
    }

    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.write(address, bytes);
        address
    }

    pub fn write(&self, to: u64, bytes: &[u8]) {
        self.device.write(to, bytes).unwrap_or_else(|fault| panic!("{fault}"));
    }

    pub fn read(&self, from: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.device.read(from, &mut bytes).unwrap_or_else(|fault| panic!("{fault}"));
        bytes
    }

    pub fn launch(
        &self,
        function: &Function,
        grid: [u32; 2],
        block: u32,
        dynamic_shared: u32,
        parameters: &[Parameter],
    ) -> Result<Profile, Fault> {
        let parameters = pack(function, parameters);
        let launch = Launch {
            grid: [grid[0], grid[1], 1],
            block: [block, 1, 1],
            dynamic_shared,
            parameters: &parameters,
        };
        self.device.launch(function, &launch)
    }
}

/// A kernel's parameters in the layout that its PTX states.
pub fn pack(function: &Function, parameters: &[Parameter]) -> Vec<u8> {
    let layout = function.parameters();
    assert_eq!(layout.len(), parameters.len(), "parameters of {}", function.name());
    let mut bytes = Vec::new();
    for (&(offset, size), parameter) in layout.iter().zip(parameters) {
        bytes.resize(offset as usize, 0);
        match *parameter {
            Parameter::Address(address) => bytes.extend(address.to_le_bytes()),
            Parameter::Word(word) => bytes.extend(word.to_le_bytes()),
        }
        assert_eq!(bytes.len() as u64, offset + size, "a parameter of {}: {parameter:?}", function.name());
    }
    bytes
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn u32_bytes(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Rounds to f16.
pub fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f16_bits(f64::from(*value)).to_le_bytes()).collect()
}

pub fn to_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

pub fn to_u32(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

pub fn f16_to_f64(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(2).map(|half| f16_value(u16::from_le_bytes([half[0], half[1]]))).collect()
}

/// The f16 that is nearest to a finite number within f16's range; of two, the even one.
pub fn f16_bits(value: f64) -> u16 {
    assert!(value.abs() < 65520.0, "{value} is no finite f16");
    let exponent = ((value.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(-14);
    // In units of the last place; what this rounds up to 2048 carries into the exponent.
    let units = (value.abs() * 2f64.powi(10 - exponent)).round_ties_even() as u16;
    ((value.is_sign_negative() as u16) << 15) | ((((exponent + 14) as u16) << 10) + units)
}

/// The value of a finite f16.
pub fn f16_value(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 => panic!("{bits:#x} is no finite f16"),
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// The nearest number that f16 has.
pub fn round_to_f16(value: f64) -> f64 {
    f16_value(f16_bits(value))
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// 0 to `end`, without `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }
    /// Evenly from -`scale` to `scale`.
    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale).collect()
    }
    /// The same, in numbers that f16 has.
    pub fn halves(&mut self, count: usize, scale: f32) -> Vec<f32> {
        self.floats(count, scale).into_iter().map(|value| round_to_f16(f64::from(value)) as f32).collect()
    }
}
