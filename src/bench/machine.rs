//! The machine that was measured.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::device::cpu::peak as cpu_peak;
use crate::device::cpu::pool::Pool;
use crate::device::cpu::simd::InstructionSet;
use crate::device::cuda::card;
use crate::device::cuda::peak as card_peak;
use crate::device::work::{Unit, Work};
use crate::error::{Error, Result};
use crate::model::config::Precision;
use crate::model::device::{Compute, Device};

/// What computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub processor: String,
    pub instructions: String,
    /// That the engine computed with, where the processor is the device.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub card: Option<card::Details>,
}

impl Machine {
    pub fn this(compute: Compute) -> Result<Machine> {
        let (threads, card) = match compute.device {
            Device::Cpu => (Some(compute.threads), None),
            Device::Cuda(index) => (None, Some(card::details(index)?)),
        };
        let instructions = format!("{:?}", InstructionSet::current()).to_lowercase();
        Ok(Machine { processor: processor(), instructions, threads, card })
    }
}

/// The processor's name, where the system tells it.
fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |name| name.trim().to_string())
}

/// What the device reached in the same run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Bytes a second that a copy within a card's memory reads and writes; on the CPU unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<f64>,
    /// Operations a second of multiply-adds: on the CPU of products in the caches on all threads, in the run's precision.
    pub fma: f64,
    /// Operations a second of a card's tensor cores.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tensor: Option<f64>,
    /// Seconds between a card's events with nothing between them: part of every time that is measured with them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event: Option<f64>,
}

/// Repeats of each ceiling, of which the best counts.
const ROUNDS: usize = 10;

impl Ceilings {
    pub fn measure(compute: Compute, dtype: Precision) -> Result<Ceilings> {
        match compute.device {
            Device::Cpu => {
                let pool = Pool::new(compute.threads).map_err(|error| {
                    Error::System(format!("cannot start {} threads: {error}", compute.threads))
                })?;
                let gflops = match dtype {
                    Precision::F32 | Precision::Mixed => cpu_peak::gflops::<f32>(&pool, ROUNDS),
                    Precision::F64 => cpu_peak::gflops::<f64>(&pool, ROUNDS),
                };
                Ok(Ceilings { bytes: None, fma: gflops * 1e9, tensor: None, event: None })
            }
            Device::Cuda(index) => {
                let peak = card_peak::measure(index, ROUNDS)?;
                Ok(Ceilings {
                    bytes: Some(peak.bytes),
                    fma: peak.fma,
                    tensor: Some(peak.tensor),
                    event: Some(peak.event),
                })
            }
        }
    }

    /// Seconds that `work` takes where nothing but a ceiling holds it back.
    pub fn floor(&self, work: Work) -> f64 {
        let rate = match work.unit {
            Unit::Fma => self.fma,
            Unit::Tensor => self.tensor.unwrap_or(self.fma),
        };
        (work.flops / rate).max(self.bytes.map_or(0.0, |bytes| work.bytes / bytes))
    }
}

/// The date and time now, in UTC: `2026-11-25 04:40 UTC`.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    utc(seconds)
}

fn utc(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02} UTC", days + 1, time / 3600, time / 60 % 60)
}

/// The process's largest resident set so far in bytes, where the system tells it.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendar_s() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(utc(1_795_581_604), "2026-11-25 04:40 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00 UTC");
    }

    #[test]
    fn a_floor_is_the_higher_of_both() {
        let ceilings = Ceilings { bytes: Some(100.0), fma: 10.0, tensor: Some(40.0), event: None };
        let work = |unit| Work::moving(200).flops(120.0, unit);
        assert_eq!(ceilings.floor(work(Unit::Fma)), 12.0);
        assert_eq!(ceilings.floor(work(Unit::Tensor)), 3.0);
        assert_eq!(ceilings.floor(Work::moving(200)), 2.0);
    }
}
