//! Launches of single kernels under everything that must not change their result.
//!
//! A [`Work`] holds the buffers of two runs and the launches on them. [`Work::check`] does it for each run alone, every buffer an
//! allocation of its own whose unwritten end faults when it is read, under three schedules; then for both runs at once, one arena behind
//! the other as the engine has them. All results must have the same bits.

use std::cell::RefCell;

use bytemuck::{AnyBitPattern, NoUninit};

use coin::device::cuda::memory::Element;
use coin::ops::cuda::KERNELS;
use simulator::Profile;

use crate::half;
use crate::support::{Argument, Card, SEEDS};

/// What fills memory that a kernel must not touch: no computation gives these NaNs.
pub const UNTOUCHED: f32 = f32::from_bits(0x7fc0_beef);
pub const UNTOUCHED_WIDE: f64 = f64::from_bits(0x7ff8_0000_dead_beef);
const UNTOUCHED_HALF: u16 = 0x7ead;

/// What the values of rows and pairs are in memory.
pub const ELEMENTS: [Element; 2] = [Element::Word, Element::Half];

/// The kernel of this name for an element.
pub fn of_element(kernel: &'static str, element: Element) -> &'static str {
    let name = if element == Element::Half { format!("{kernel}_f16") } else { kernel.to_string() };
    let known = KERNELS.iter().flat_map(|(_, names)| names.iter()).find(|known| **known == name);
    known.unwrap_or_else(|| panic!("there is no {name}"))
}

/// Values that an element holds exactly.
pub fn held(element: Element, mut values: Vec<f32>) -> Vec<f32> {
    if element == Element::Half {
        // A NaN stays the one that it is.
        values.iter_mut().filter(|x| !x.is_nan()).for_each(|x| *x = half::round(*x));
    }
    values
}

/// A buffer of a [`Work`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

#[derive(Clone, Copy)]
pub enum Arg {
    At(Place),
    Null,
    Unsigned(usize),
    Float(f32),
    Double(f64),
    /// A structure.
    Words([u32; 7]),
}

impl From<Place> for Arg {
    fn from(place: Place) -> Arg {
        Arg::At(place)
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Arg {
        Arg::Unsigned(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg::Float(value)
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Arg {
        Arg::Double(value)
    }
}

impl From<[u32; 7]> for Arg {
    fn from(value: [u32; 7]) -> Arg {
        Arg::Words(value)
    }
}

impl From<Option<Place>> for Arg {
    fn from(place: Option<Place>) -> Arg {
        place.map_or(Arg::Null, Arg::At)
    }
}

/// A list of arguments of different kinds.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::work::Arg::from($value)),*] };
}
pub(crate) use args;

struct Buffer {
    bytes: usize,
    contents: [Vec<u8>; 2],
}

struct Launch {
    module: &'static str,
    kernel: &'static str,
    grid: [usize; 2],
    block: usize,
    shared: usize,
    arguments: Vec<Arg>,
}

/// Two runs' buffers and the launches on them.
#[derive(Default)]
pub struct Work {
    buffers: Vec<Buffer>,
    launches: Vec<Launch>,
}

/// What the buffers of each run held at the end, and what the first run's launches cost.
pub struct Results([Vec<Vec<u8>>; 2], Vec<Profile>);

impl Results {
    pub fn of<T: AnyBitPattern>(&self, run: usize, place: Place) -> Vec<T> {
        self.0[run][place.0].chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Of a buffer of an element; what is untouched is [`UNTOUCHED`].
    pub fn elements(&self, run: usize, place: Place, element: Element) -> Vec<f32> {
        if element != Element::Half {
            return self.of(run, place);
        }
        let value = |bits: u16| if bits == UNTOUCHED_HALF { UNTOUCHED } else { half::value(bits) };
        self.of(run, place).into_iter().map(value).collect()
    }

    /// Demands that accesses are coalesced: that every launch touched at most half as many sectors of memory again as its bytes need. What
    /// is above one are biases, whose rows are aligned to four bytes.
    #[track_caller]
    pub fn coalesced(&self) {
        for profile in &self.1 {
            let (found, ideal) = (profile.global_sectors, profile.ideal_global_sectors);
            assert!(2 * found <= 3 * ideal, "{} touches {found} sectors for {ideal}", profile.kernel);
        }
    }

    /// Demands that shared memory takes at most so many passes over the fewest possible, and over a warp's multiply-adds.
    #[track_caller]
    pub fn shared_passes(&self, over_ideal: f64, over_multiplications: f64) {
        for profile in &self.1 {
            let passes = profile.shared_wavefronts as f64;
            let ideal = passes / profile.ideal_shared_wavefronts as f64;
            let each = passes / (profile.flops as f64 / 64.0);
            println!(
                "{}: {ideal:.3} of the fewest passes, {each:.3} for each multiplication",
                profile.kernel
            );
            assert!(ideal <= over_ideal && each <= over_multiplications, "{}", profile.kernel);
        }
    }
}

thread_local! {
    /// A card for each schedule: loading a module takes longer than most launches.
    static CARDS: RefCell<Vec<Card>> = const { RefCell::new(Vec::new()) };
}

impl Work {
    /// A buffer with room for `capacity` values, of which each run has written the first ones.
    pub fn buffer<T: NoUninit>(&mut self, capacity: usize, contents: [&[T]; 2]) -> Place {
        assert!(contents.iter().all(|contents| contents.len() <= capacity));
        self.buffers.push(Buffer {
            bytes: (capacity * size_of::<T>()).max(1),
            contents: contents.map(|contents| bytemuck::cast_slice(contents).to_vec()),
        });
        Place(self.buffers.len() - 1)
    }

    /// The same of values that are an element's in memory.
    pub fn elements(&mut self, element: Element, capacity: usize, contents: [&[f32]; 2]) -> Place {
        if element != Element::Half {
            return self.buffer(capacity, contents);
        }
        let bits = |x: &f32| if x.to_bits() == UNTOUCHED.to_bits() { UNTOUCHED_HALF } else { half::bits(*x) };
        let [first, second] = contents.map(|contents| contents.iter().map(bits).collect::<Vec<u16>>());
        self.buffer(capacity, [&first, &second])
    }

    /// What a kernel writes: full of [`UNTOUCHED`].
    pub fn output(&mut self, capacity: usize) -> Place {
        let untouched = vec![UNTOUCHED; capacity];
        self.buffer(capacity, [&untouched, &untouched])
    }

    pub fn output_elements(&mut self, element: Element, capacity: usize) -> Place {
        let untouched = vec![UNTOUCHED; capacity];
        self.elements(element, capacity, [&untouched, &untouched])
    }

    pub fn output_wide(&mut self, capacity: usize) -> Place {
        let untouched = vec![UNTOUCHED_WIDE; capacity];
        self.buffer(capacity, [&untouched, &untouched])
    }

    /// Adds a launch; blockIdx.z and the last argument, the stride between runs, are filled in.
    pub fn launch(
        &mut self,
        (module, kernel): (&'static str, &'static str),
        grid: [usize; 2],
        (block, shared): (usize, usize),
        arguments: Vec<Arg>,
    ) {
        self.launches.push(Launch { module, kernel, grid, block, shared, arguments });
    }

    fn run(&self, card: &Card, runs: &[usize]) -> (Vec<Vec<Vec<u8>>>, Vec<Profile>) {
        let mut profiles = Vec::new();
        // As the engine places buffers: aligned to 256 bytes.
        let mut stride = 0;
        let offsets: Vec<usize> = self
            .buffers
            .iter()
            .map(|buffer| {
                let offset = stride;
                stride += buffer.bytes.next_multiple_of(256);
                offset
            })
            .collect();
        let together = runs.len() > 1;
        let allocations: Vec<u64> = if together {
            vec![card.allocate::<u8>(stride * runs.len())]
        } else {
            self.buffers.iter().map(|buffer| card.allocate::<u8>(buffer.bytes)).collect()
        };
        let address = |index: usize, place: usize| {
            if together {
                allocations[0] + (index * stride + offsets[place]) as u64
            } else {
                allocations[place]
            }
        };
        for (index, &run) in runs.iter().enumerate() {
            for (place, buffer) in self.buffers.iter().enumerate() {
                if !buffer.contents[run].is_empty() {
                    card.write(address(index, place), &buffer.contents[run]);
                }
            }
        }
        for launch in &self.launches {
            let mut arguments: Vec<Argument> = launch
                .arguments
                .iter()
                .map(|&argument| match argument {
                    Arg::At(Place(place)) => Argument::Address(address(0, place)),
                    Arg::Null => Argument::Address(0),
                    Arg::Unsigned(x) => Argument::Unsigned(x.try_into().unwrap()),
                    Arg::Float(x) => Argument::Float(x),
                    Arg::Double(x) => Argument::Wide(x.to_bits()),
                    Arg::Words(x) => Argument::Words(x),
                })
                .collect();
            arguments.push(Argument::Wide(stride as u64));
            let grid = [launch.grid[0] as u32, launch.grid[1] as u32, runs.len() as u32];
            let shape = (grid, launch.block as u32, launch.shared as u32);
            profiles.extend(card.launch(launch.module, launch.kernel, shape, &arguments));
        }
        let results = (0..runs.len()).map(|index| {
            let buffers = self.buffers.iter().enumerate();
            buffers.map(|(place, buffer)| card.read(address(index, place), buffer.bytes)).collect()
        });
        let results = results.collect();
        for allocation in allocations {
            card.free(allocation);
        }
        (results, profiles)
    }

    /// Runs everything in every way, demands the same bits each time, and returns them.
    pub fn check(&self) -> Results {
        CARDS.with_borrow_mut(|cards| {
            if cards.is_empty() {
                cards.extend(SEEDS.map(Card::new));
            }
            let mut profiles = Vec::new();
            let mut alone = Vec::new();
            for card in cards.iter() {
                alone.push([0, 1].map(|run| {
                    let (mut results, of_run) = self.run(card, &[run]);
                    if profiles.is_empty() {
                        profiles = of_run;
                    }
                    results.remove(0)
                }));
            }
            let same = |a: &[Vec<u8>], b: &[Vec<u8>], what: &str| {
                for (place, (a, b)) in a.iter().zip(b).enumerate() {
                    assert!(a == b, "{}: buffer {place} differs {what}", self.launches[0].kernel);
                }
            };
            for other in &alone[1..] {
                for run in 0..2 {
                    same(&alone[0][run], &other[run], "with another schedule");
                }
            }
            let (together, _) = self.run(&cards[1], &[0, 1]);
            for run in 0..2 {
                same(&alone[0][run], &together[run], "where two runs are launched at once");
            }
            Results(alone.swap_remove(0), profiles)
        })
    }
}

/// The precisions of a reference: f64 for the exact result, f32 for what the same computation loses when it is done plainly.
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::AddAssign
{
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn exp(self) -> Self;

    fn sigmoid(self) -> Self {
        Self::of(1.0) / (Self::of(1.0) + (Self::of(0.0) - self).exp())
    }
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn exp(self) -> f32 {
        self.exp()
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn wide(self) -> f64 {
        self
    }
    fn exp(self) -> f64 {
        self.exp()
    }
}

/// What a kernel has not to write, in a reference.
pub fn untouched<R: Real>(count: usize) -> Vec<R> {
    vec![R::of(f64::NAN); count]
}

/// Demands that `found` is at most twice as far from `exact` as `plain` is, the same computed in f32 one operation after the other,
/// and untouched where `exact` is NaN. Two units in the last place of the largest value are granted where `plain` happens to be exact.
#[track_caller]
pub fn close(what: &str, found: &[f32], exact: &[f64], plain: &[f32]) {
    close_elements(Element::Word, what, found, exact, plain);
}

/// The same of values that an element holds: a rounding to f16 may change them by half a unit of its last place besides.
#[track_caller]
pub fn close_elements(element: Element, what: &str, found: &[f32], exact: &[f64], plain: &[f32]) {
    let rounding = |exact: f64| match element {
        Element::Half => (exact.abs() * 2f64.powi(-11)).max(2f64.powi(-25)),
        _ => 0.0,
    };
    assert_eq!((found.len(), exact.len()), (exact.len(), plain.len()), "{what}");
    let largest = exact.iter().filter(|x| !x.is_nan()).fold(0.0, |most: f64, x| most.max(x.abs()));
    let mut least = 0.0f64;
    for (i, ((&found, &exact), &plain)) in found.iter().zip(exact).zip(plain).enumerate() {
        if exact.is_nan() {
            assert_eq!(found.to_bits(), UNTOUCHED.to_bits(), "{what}: element {i} was written: {found}");
        } else {
            least = least.max((f64::from(plain) - exact).abs());
        }
    }
    let bound = (2.0 * least).max(largest * 2.0 * f64::from(f32::EPSILON));
    for (i, (&found, &exact)) in found.iter().zip(exact).enumerate() {
        let error = (f64::from(found) - exact).abs();
        let bound = bound + rounding(exact);
        assert!(
            exact.is_nan() || error <= bound,
            "{what}: element {i} is {found}, not {exact}: off by {error:e}, not {bound:e}"
        );
    }
}

/// Demands the same bits.
#[track_caller]
pub fn same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}: element {i} is {found}, not {expected}");
    }
}
