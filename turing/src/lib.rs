//! An RTX 2080 Ti without the card: how long a kernel would take there, and what bounds it.
//!
//! It brings two things together: the machine code for sm_75 ([`sass`], from NVIDIA's disassembler, which [`tools`] calls), and
//! what launches did ([`counters`], from the simulated GPU, which runs the PTX that the machine code was made of).
//! [`weights`] finds how often each basic block of the machine code ran, [`predict`] holds that against what the card can do
//! in a cycle ([`card`]), and [`report`] prints it. Nothing here knows of COIN.

pub mod card;
pub mod counters;
pub mod predict;
pub mod report;
pub mod sass;
pub mod tools;
pub mod weights;
