//! Where a model is computed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::config::{Config, Precision};
use crate::error::{Error, Result};

/// The processor, or a card by its number: written `cpu`, `cuda` (the first card) or `cuda:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    #[default]
    Cpu,
    Cuda(usize),
}

/// A device, and how many threads compute where it is the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    pub device: Device,
    pub threads: usize,
}

impl Compute {
    pub fn cpu(threads: usize) -> Self {
        Compute { device: Device::Cpu, threads }
    }

    /// The settings that a model which is there already is computed with: in float32, as its parameters are, where it was
    /// trained in mixed precision and there are no tensor cores.
    pub fn settings(self, config: &Config) -> Config {
        match (self.device, config.dtype) {
            (Device::Cpu, Precision::Mixed) => Config { dtype: Precision::F32, ..config.clone() },
            _ => config.clone(),
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Device::Cpu => write!(f, "threads: {}", self.threads),
            device => write!(f, "device: {device}"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(0) => f.write_str("cuda"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::input(format!("device is cpu, cuda or cuda:N with a card's number, not {text}"));
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(wrong)?;
                Ok(Device::Cuda(index.parse().map_err(|_| wrong())?))
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_as_they_are_read() {
        for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda:0".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""] {
            assert!(
                text.parse::<Device>().unwrap_err().to_string().contains("cpu, cuda or cuda:N"),
                "{text}"
            );
        }
    }
}
