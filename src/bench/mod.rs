//! How fast it is: what `coin bench` measures, and how two measurements are compared.
//!
//! | module | holds |
//! |---|---|
//! | [`measure`] | training steps, their parts and kernels, prediction, live answers |
//! | [`statistics`] | median and quartiles of repeats |
//! | [`machine`] | the machine, its date, and the ceilings that were measured on it |
//! | [`report`] | everything measured, as a table and as JSON |
//! | [`compare`] | what got slower or faster beyond the noise |

pub mod compare;
pub mod machine;
pub mod measure;
pub mod report;
pub mod statistics;
