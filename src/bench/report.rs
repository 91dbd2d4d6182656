//! Everything that was measured, as a table to read and as JSON to keep.

use std::fmt::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::machine::{Ceilings, Machine};
use super::statistics::Times;
use crate::atomic_file;
use crate::choice::choice;
use crate::device::work::{Unit, Work};
use crate::error::{Error, Result};
use crate::model::config::{Config, Precision};
use crate::ops::part::Part;

/// The form of the file; another one is refused.
pub const FORM: u32 = 1;

/// A run of `coin bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub coin_bench: u32,
    pub version: String,
    pub date: String,
    pub machine: Machine,
    pub data: Data,
    /// As the command was given them; precision and adversarial pass are each measurement's own.
    pub settings: Config,
    pub ceilings: Ceilings,
    pub measurements: Vec<Measurement>,
    /// What was left out, and why.
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_rss_bytes: Option<u64>,
}

/// The conversations that were computed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub source: String,
    pub conversations: usize,
    pub utterances: usize,
    pub features: usize,
    pub classes: usize,
}

choice! {
    /// What was timed.
    What, "what" {
        /// Reading the file of conversations.
        Read = "start-up: read",
        /// A model with its memory, its conversations standardised.
        Engine = "start-up: engine",
        /// The first step, which takes memory and on a card captures its launches.
        FirstStep = "start-up: first step",
        /// A training step, from a batch's targets to its losses on the host.
        Step = "step",
        /// The same on a card's own clock, with a cold L2 cache.
        OnTheCard = "step on the card",
        /// A step of several one behind the other, as in training.
        InARow = "steps in a row",
        /// A step of several runs side by side, or of one beside them.
        AtOnce = "step at once",
        /// A part of a step, or on a card a kernel of one.
        Piece = "part of a step",
        /// A batch of predictions.
        Predict = "predict",
        /// The answer to a line of standard input.
        Live = "live utterance"
    }
}

choice! {
    /// Which targets a batch is drawn from.
    Windows, "windows" {
        /// All that can be trained on: windows are as long as the conversations make them.
        Real = "real",
        /// Those with as many utterances before them as the model reads.
        Full = "full"
    }
}

/// What a measurement is of: the same in two files, it can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    pub what: What,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dtype: Option<Precision>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adversarial: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub windows: Option<Windows>,
    /// That were trained side by side.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub runs: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub part: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kernel: Option<String>,
}

impl Subject {
    pub fn of(what: What) -> Subject {
        Subject { what, dtype: None, adversarial: None, windows: None, runs: None, part: None, kernel: None }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for word in [
            self.dtype.map(|dtype| dtype.to_string()),
            self.adversarial.map(|on| passes(on).to_string()),
            self.windows.map(|windows| format!("{windows} windows")),
            self.runs.map(|runs| if runs == 1 { "1 run".to_string() } else { format!("{runs} runs") }),
            self.part.map(|part| part.to_string()),
            self.kernel.clone(),
        ]
        .into_iter()
        .flatten()
        {
            write!(f, ", {word}")?;
        }
        Ok(())
    }
}

fn passes(adversarial: bool) -> &'static str {
    if adversarial { "adversarial" } else { "clean" }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    pub of: Subject,
    /// Seconds.
    pub times: Times,
    /// Utterances that a repeat answers or learns from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub utterances: Option<usize>,
    /// Launches of a kernel in a step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub launches: Option<usize>,
    /// The least that has to be done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub work: Option<Work>,
    /// Seconds that the ceilings leave for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub floor: Option<f64>,
}

impl Measurement {
    pub fn new(of: Subject, seconds: &[f64]) -> Measurement {
        let times = Times::of(seconds);
        Measurement { of, times, utterances: None, launches: None, work: None, floor: None }
    }
}

impl Report {
    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::System(format!("cannot write as JSON: {error}")))?;
        text.push('\n');
        atomic_file::write(path, text.as_bytes())
    }

    /// Reads what [`Report::write`] wrote.
    ///
    /// # Errors
    /// `Error::Input` that names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Report> {
        #[derive(Deserialize)]
        struct Probe {
            coin_bench: Option<u32>,
        }
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
        let wrong = |message: String| Error::input(format!("{}: {message}", path.display()));
        let again = "measure again with coin bench --json FILE";
        let probe: Probe = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("is no report of coin bench ({error}): {again}")))?;
        match probe.coin_bench {
            Some(FORM) => {}
            Some(form) => {
                return Err(wrong(format!("its coin_bench is {form}, this coin reads {FORM}: {again}")));
            }
            None => return Err(wrong(format!("is no report of coin bench (it has no coin_bench): {again}"))),
        }
        let report: Report =
            serde_json::from_str(&text).map_err(|error| wrong(format!("{error}: {again}")))?;
        for Measurement { of, times, .. } in &report.measurements {
            let Times { median, low, high, .. } = *times;
            let fine = [median, low, high].iter().all(|x| x.is_finite() && *x >= 0.0);
            if !(fine && low <= median && median <= high) {
                return Err(wrong(format!(
                    "{of}: quartiles {low} and {high} around a median of {median} are none: {again}"
                )));
            }
        }
        Ok(report)
    }

    fn of(&self, what: What) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().filter(move |measurement| measurement.of.what == what)
    }

    /// The tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_head(&mut text).and_then(|()| self.write_tables(&mut text));
        text
    }

    fn write_head(&self, to: &mut String) -> fmt::Result {
        let Data { source, conversations, utterances, features, classes } = &self.data;
        let Config { embedding_size, history_length, stacks, batch_size, .. } = self.settings;
        let Machine { processor, instructions, threads, card } = &self.machine;
        writeln!(to, "coin {}, {}", self.version, self.date)?;
        write!(to, "processor   {processor} ({instructions})")?;
        match threads {
            Some(threads) => writeln!(to, ", {threads} threads")?,
            None => writeln!(to)?,
        }
        if let Some(card) = card {
            writeln!(
                to,
                "card        {}, compute capability {}, {} multiprocessors at up to {} MHz, memory at {} MHz, L2 {:.1} MB",
                card.name,
                card.compute_capability,
                card.multiprocessors,
                card.clock,
                card.memory_clock,
                f64::from(card.l2_bytes) / 1e6
            )?;
            let driver = card.driver.as_deref().unwrap_or("of unknown version");
            writeln!(to, "driver      {driver}, CUDA {}", card.cuda)?;
        }
        writeln!(
            to,
            "data        {source}: {utterances} utterances in {conversations} conversations, {features} features, {classes} classes"
        )?;
        writeln!(
            to,
            "model       d = {embedding_size}, K = {history_length}, L = {stacks}, batches of {batch_size}"
        )?;
        let Ceilings { bytes, fma, tensor, event } = self.ceilings;
        write!(to, "ceilings    ")?;
        if let Some(bytes) = bytes {
            write!(to, "copy {:.0} GB/s, ", bytes / 1e9)?;
        }
        write!(to, "multiply-adds {:.1} GFLOP/s", fma / 1e9)?;
        if let Some(tensor) = tensor {
            write!(to, ", tensor cores {:.1} GFLOP/s", tensor / 1e9)?;
        }
        if let Some(event) = event {
            write!(to, "; events around nothing {}", seconds(event))?;
        }
        writeln!(to)?;
        if let Some(bytes) = self.peak_rss_bytes {
            writeln!(to, "memory      {:.0} MB at most", bytes as f64 / 1e6)?;
        }
        for note in &self.notes {
            writeln!(to, "note        {note}")?;
        }
        Ok(())
    }

    fn write_tables(&self, to: &mut String) -> fmt::Result {
        writeln!(
            to,
            "\n{:<52} {:>10}  {:>24}  {:>12} {:>9} {:>7}",
            "time of", "median", "quartiles", "utterances/s", "GFLOP/s", "of peak"
        )?;
        for measurement in &self.measurements {
            let Measurement { of, times, utterances, work, .. } = measurement;
            if of.what == What::Piece {
                continue;
            }
            let quartiles = if times.repeats > 1 {
                format!("{} .. {}", seconds(times.low), seconds(times.high))
            } else {
                String::new()
            };
            write!(to, "{:<52} {:>10}  {quartiles:>24}  ", of.to_string(), seconds(times.median))?;
            match utterances {
                Some(count) => write!(to, "{:>12.0} ", *count as f64 / times.median)?,
                None => write!(to, "{:>12} ", "")?,
            }
            if let Some(work) = work {
                write!(to, "{:>9.1} ", work.flops / times.median / 1e9)?;
                write!(
                    to,
                    "{:>6.1}%",
                    100.0 * self.ceilings.floor(Work { bytes: 0.0, ..*work }) / times.median
                )?;
            }
            if let Some(p99) = times.p99 {
                write!(to, "99 in 100 within {}", seconds(p99))?;
            }
            let end = to.trim_end().len();
            to.truncate(end);
            writeln!(to)?;
        }
        let mut shown: Vec<Subject> = Vec::new();
        for measurement in self.of(What::Piece) {
            let whole = Subject { part: None, kernel: None, ..measurement.of.clone() };
            if !shown.contains(&whole) {
                self.write_pieces(to, &whole)?;
                shown.push(whole);
            }
        }
        Ok(())
    }

    /// A step's parts, the longest first.
    fn write_pieces(&self, to: &mut String, whole: &Subject) -> fmt::Result {
        let is_of = |of: &Subject| Subject { part: None, kernel: None, ..of.clone() } == *whole;
        let mut pieces: Vec<&Measurement> = self.of(What::Piece).filter(|piece| is_of(&piece.of)).collect();
        pieces.sort_by(|a, b| b.times.median.total_cmp(&a.times.median));
        let total: f64 = pieces.iter().map(|piece| piece.times.median).sum();
        let kernels = pieces.iter().any(|piece| piece.of.kernel.is_some());
        let dtype = whole.dtype.map_or(String::new(), |dtype| format!("{dtype}, "));
        let adversarial = whole.adversarial.map_or("", passes);
        let windows = whole.windows.map_or(String::new(), |windows| format!(", {windows} windows"));
        writeln!(to, "\na step by part: {dtype}{adversarial}{windows}")?;
        write!(to, "{:<24} ", "part")?;
        if kernels {
            write!(to, "{:<23} {:>8} ", "kernel", "launches")?;
        }
        write!(to, "{:>10}  {:>24}  {:>6} {:>9} ", "median", "quartiles", "share", "GFLOP")?;
        if kernels {
            writeln!(to, "{:>9} {:>9} {:>6}", "MB", "floor", "times")?;
        } else {
            writeln!(to, "{:>9} {:>7}", "GFLOP/s", "of peak")?;
        }
        let (mut floors, mut works) = (0.0, Work::default());
        for piece in &pieces {
            let Measurement { of, times, work, floor, launches, .. } = piece;
            let (work, floor) = (work.unwrap_or_default(), floor.unwrap_or(0.0));
            floors += floor;
            works.flops += work.flops;
            works.bytes += work.bytes;
            write!(to, "{:<24} ", of.part.unwrap_or(Part::Rest).to_string())?;
            if kernels {
                let kernel = of.kernel.as_deref().unwrap_or("");
                write!(to, "{kernel:<23} {:>8} ", launches.unwrap_or(1))?;
            }
            let quartiles = format!("{} .. {}", seconds(times.low), seconds(times.high));
            let share = 100.0 * times.median / total;
            write!(
                to,
                "{:>10}  {quartiles:>24}  {share:>5.1}% {:>9.3} ",
                seconds(times.median),
                work.flops / 1e9
            )?;
            if kernels {
                write!(to, "{:>9.3} {:>9} ", work.bytes / 1e6, seconds(floor))?;
                match floor > 0.0 {
                    true => write!(to, "{:>6.1}", times.median / floor)?,
                    false => write!(to, "{:>6}", "")?,
                }
                if work.flops > 0.0 && work.unit == Unit::Tensor {
                    write!(to, "  tensor")?;
                }
            } else if work.flops > 0.0 {
                write!(
                    to,
                    "{:>9.1} {:>6.1}%",
                    work.flops / times.median / 1e9,
                    100.0 * floor / times.median
                )?;
            }
            let end = to.trim_end().len();
            to.truncate(end);
            writeln!(to)?;
        }
        let kernel_columns = if kernels { 33 } else { 0 };
        write!(
            to,
            "{:<24} {:kernel_columns$}{:>10}  {:>24}  {:>6} {:>9.3} ",
            "together",
            "",
            seconds(total),
            "",
            "",
            works.flops / 1e9
        )?;
        if kernels {
            writeln!(to, "{:>9.3} {:>9} {:>6.1}", works.bytes / 1e6, seconds(floors), total / floors)
        } else {
            writeln!(to, "{:>9.1} {:>6.1}%", works.flops / total / 1e9, 100.0 * floors / total)
        }
    }
}

/// A time in the unit that suits it.
pub fn seconds(time: f64) -> String {
    match time {
        _ if time >= 0.9995 => format!("{time:.3} s"),
        _ if time >= 0.9995e-3 => format!("{:.3} ms", time * 1e3),
        _ => format!("{:.2} us", time * 1e6),
    }
}
