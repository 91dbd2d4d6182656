//! What launches did, as the simulated GPU writes it (`--profile FILE`), and what larger ones of the same would do.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Counters of one launch: those of `simulator::Profile` that the model needs. Numbers need not be whole: they may be
/// extrapolated.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_memory: u32,
    pub warp_instructions: f64,
    pub global_sectors: f64,
    pub shared_wavefronts: f64,
    /// Distinct sectors read, by how many launches ago they were last touched; 0: never.
    pub sectors_read: BTreeMap<u32, f64>,
    pub sectors_written: f64,
    pub longest_block: f64,
    pub places: Vec<Place>,
}

/// Instructions of one class from one place in the sources.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub kernel_line: Option<u32>,
    pub class: String,
    pub warp_instructions: f64,
    pub most: f64,
}

impl Launch {
    /// Distinct bytes of global memory that it touched.
    pub fn footprint(&self) -> f64 {
        32.0 * (self.sectors_read.values().sum::<f64>() + self.sectors_written)
    }
}

/// What is `a` on `sizes.0` samples and `b` on `sizes.1`, on the line through both: on `size` samples.
pub fn line(sizes: (usize, usize), size: usize) -> impl Fn(f64, f64) -> f64 {
    let along = (size as f64 - sizes.0 as f64) / (sizes.1 as f64 - sizes.0 as f64);
    // Rounding to tiles may bend the line below zero.
    move |a, b| (a + (b - a) * along).max(0.0)
}

/// The launches of a step on `size` samples, on the line through those on `sizes.0` and `sizes.1` samples.
pub fn extrapolate(
    one: &[Launch],
    two: &[Launch],
    sizes: (usize, usize),
    size: usize,
) -> Result<Vec<Launch>, String> {
    if one.len() != two.len() {
        return Err(format!("one step has {} launches and the other {}", one.len(), two.len()));
    }
    let line = line(sizes, size);
    let extrapolated = |(a, b): (&Launch, &Launch)| {
        if (&a.kernel, a.grid, a.block) != (&b.kernel, b.grid, b.block) {
            return Err(format!(
                "one step launches {} {:?} where the other launches {} {:?}",
                a.kernel, a.grid, b.kernel, b.grid
            ));
        }
        let mut ages: BTreeMap<u32, f64> = (a.sectors_read.keys().chain(b.sectors_read.keys()))
            .map(|age| {
                let of = |launch: &Launch| launch.sectors_read.get(age).copied().unwrap_or(0.0);
                (*age, line(of(a), of(b)))
            })
            .collect();
        // Where sectors went from one age to another the line has too many of the one and none of the other. How many there are in
        // all is on a line of its own.
        let all = |launch: &Launch| launch.sectors_read.values().sum::<f64>();
        let continued = ages.values().sum::<f64>();
        if continued > 0.0 {
            let share = line(all(a), all(b)) / continued;
            ages.values_mut().for_each(|sectors| *sectors *= share);
        }
        let key = |place: &Place| (place.file.clone(), place.line, place.kernel_line, place.class.clone());
        let mut places: BTreeMap<_, [(f64, f64); 2]> = BTreeMap::new();
        for (which, launch) in [a, b].into_iter().enumerate() {
            for place in &launch.places {
                places.entry(key(place)).or_default()[which] = (place.warp_instructions, place.most);
            }
        }
        let places = places.into_iter().map(|((file, line_number, kernel_line, class), [x, y])| Place {
            file,
            line: line_number,
            kernel_line,
            class,
            warp_instructions: line(x.0, y.0),
            most: line(x.1, y.1),
        });
        Ok(Launch {
            kernel: a.kernel.clone(),
            grid: a.grid,
            block: a.block,
            shared_memory: a.shared_memory,
            warp_instructions: line(a.warp_instructions, b.warp_instructions),
            global_sectors: line(a.global_sectors, b.global_sectors),
            shared_wavefronts: line(a.shared_wavefronts, b.shared_wavefronts),
            sectors_read: ages,
            sectors_written: line(a.sectors_written, b.sectors_written),
            // Where blocks grow in number their own work stays; where they share out the batch it grows.
            longest_block: line(a.longest_block, b.longest_block).max(a.longest_block).max(b.longest_block),
            places: places.collect(),
        })
    };
    one.iter().zip(two).map(extrapolated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(scale: f64) -> Launch {
        Launch {
            kernel: "k".to_string(),
            grid: [4, 1, 1],
            block: [64, 1, 1],
            shared_memory: 0,
            warp_instructions: 10.0 + 3.0 * scale,
            global_sectors: scale,
            shared_wavefronts: 0.0,
            sectors_read: BTreeMap::from([(0, 5.0), (2, scale)]),
            sectors_written: scale,
            longest_block: 7.0,
            places: vec![Place {
                file: "k.cu".to_string(),
                line: 1,
                kernel_line: None,
                class: "f32".to_string(),
                warp_instructions: 2.0 * scale,
                most: scale,
            }],
        }
    }

    #[test]
    fn a_line_is_continued() {
        let whole = extrapolate(&[launch(32.0)], &[launch(64.0)], (32, 64), 512).unwrap();
        assert_eq!(whole, [launch(512.0)]);
    }

    /// Sectors that the first step has at one age and the second at another are no more than there are.
    #[test]
    fn sectors_are_not_made_by_changing_their_age() {
        let [mut one, mut two] = [launch(64.0), launch(128.0)];
        one.sectors_read = BTreeMap::from([(3, 100.0), (7, 20.0)]);
        two.sectors_read = BTreeMap::from([(3, 90.0), (7, 20.0), (8, 10.0)]);
        let whole = extrapolate(&[one], &[two], (64, 128), 512).unwrap();
        assert!((whole[0].sectors_read.values().sum::<f64>() - 120.0).abs() < 1e-9);
    }

    #[test]
    fn other_launches_are_refused() {
        let mut other = launch(64.0);
        other.grid = [5, 1, 1];
        assert!(extrapolate(&[launch(32.0)], &[other], (32, 64), 512).is_err());
        assert!(extrapolate(&[launch(32.0)], &[], (32, 64), 512).is_err());
    }
}
