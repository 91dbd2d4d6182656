//! What is measured, and how.
//!
//! Batches are drawn from the targets that can be trained on, by the settings' seed: two runs time the same batches. With *real*
//! windows any target may be drawn; with *full* ones those that have K utterances before them, so that no window is short.
//! Whole steps are timed on a batch after the other, parts and kernels on one batch again and again. Everything is computed
//! twice before it is timed.

use std::time::Instant;

use super::machine::{Ceilings, Machine, now, peak_rss_bytes};
use super::report::{Data, FORM, Measurement, Report, Subject, What, Windows};
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::data::windows;
use crate::device::work::{Unit, Work};
use crate::error::{Error, Result};
use crate::model::config::{Config, Precision};
use crate::model::device::{Compute, Device};
use crate::model::{Engine, Piece, State, Step, engine, engines_of_seeds};
use crate::ops::part::Part;
use crate::random::{Stream, purpose};

/// What is timed twice before it counts.
const WARM_UP: usize = 2;

/// Live utterances for each step that is timed.
const LIVE: usize = 20;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    pub config: Config,
    pub dtypes: Vec<Precision>,
    /// With the adversarial pass and without.
    pub adversarial: Vec<bool>,
    pub windows: Vec<Windows>,
    /// Repeats.
    pub steps: usize,
    /// Whether parts and kernels, and prediction, are measured besides whole steps.
    pub parts: bool,
    pub predictions: bool,
    /// Runs side by side whose steps are held against those of one, where there are several.
    pub at_once: usize,
    pub compute: Compute,
}

/// Answers lines as `coin predict` does.
pub type Answering = Box<dyn FnMut(&str) -> Result<String>>;

/// Measures all of the plan. `samples` are the targets that can be trained on, `read` the seconds that reading the corpus took; `live`
/// makes what answers live utterances with a model of some settings and parameters; `note` is told what begins.
pub fn measure(
    plan: &Plan,
    corpus: &Corpus,
    samples: &[u32],
    read: f64,
    live: &dyn Fn(&Config, &Standardisation, State) -> Result<Answering>,
    note: &dyn Fn(&str),
) -> Result<Report> {
    let standardisation = Standardisation::fit(corpus, 0..corpus.conversations.len());
    let pools = pools(plan, corpus, samples)?;
    let mut notes = pools.notes;
    if let Device::Cuda(_) = plan.compute.device {
        notes.push("kernels and steps on the card are timed with a cold L2 cache".to_string());
    }
    let mut known = None;
    let mut all = vec![Measurement::new(Subject::of(What::Read), &[read])];
    for &dtype in &plan.dtypes {
        for (i, &adversarial) in plan.adversarial.iter().enumerate() {
            let config = Config { dtype, adversarial, ..plan.config.clone() };
            let subject = |what| Subject { dtype: Some(dtype), ..Subject::of(what) };
            let (made, engine) = timed(|| engine(&config, corpus, &standardisation, plan.compute))?;
            let mut bench = Bench { engine, config, steps: 0 };
            let first = bench.step(&Draw::new(&bench.config, &pools.pools[0].1).batch())?;
            if i == 0 {
                all.push(Measurement::new(subject(What::Engine), &[made]));
                all.push(Measurement::new(subject(What::FirstStep), &[first]));
            }
            // After the first engine, whose start-up wakes the device.
            let ceilings = match known {
                Some(ceilings) => ceilings,
                None => {
                    note("measuring: ceilings");
                    *known.insert(Ceilings::measure(plan.compute, dtype)?)
                }
            };
            let last = i + 1 == plan.adversarial.len();
            for (windows, pool) in &pools.pools {
                let subject = |what| Subject {
                    adversarial: Some(adversarial),
                    windows: Some(*windows),
                    ..subject(what)
                };
                note(&format!("measuring: {}", subject(What::Step)));
                bench.whole_steps(plan, &ceilings, pool, &subject, &mut all)?;
                // The adversarial step has every kernel that the clean one has.
                if plan.parts && last {
                    bench.parts(plan, &ceilings, pool, &subject, &mut all)?;
                }
            }
            if plan.at_once > 1 && last {
                let (windows, pool) = &pools.pools[0];
                let subject = |what| Subject {
                    adversarial: Some(adversarial),
                    windows: Some(*windows),
                    ..subject(what)
                };
                note(&format!("measuring: {}", subject(What::AtOnce)));
                bench.at_once(plan, corpus, &standardisation, pool, &subject, &mut all)?;
            }
            if plan.predictions && last {
                note(&format!("measuring: {}", subject(What::Predict)));
                bench.predictions(plan, corpus, &subject, &mut all)?;
                let state = bench.engine.state()?;
                let config = bench.config.clone();
                drop(bench);
                let mut answering = live(&config, &standardisation, state)?;
                all.push(live_answers(plan, corpus, &mut answering, subject(What::Live))?);
            }
        }
    }
    let Some(ceilings) = known else {
        return Err(Error::input("there is nothing to measure: no precision, or no pass"));
    };
    Ok(Report {
        coin_bench: FORM,
        version: env!("CARGO_PKG_VERSION").to_string(),
        date: now(),
        machine: Machine::this(plan.compute)?,
        data: Data {
            source: corpus.source.clone(),
            conversations: corpus.conversations.len(),
            utterances: corpus.len(),
            features: corpus.width(),
            classes: corpus.classes.len(),
        },
        settings: plan.config.clone(),
        ceilings,
        measurements: all,
        notes,
        peak_rss_bytes: peak_rss_bytes(),
    })
}

struct Pools {
    pools: Vec<(Windows, Vec<u32>)>,
    notes: Vec<String>,
}

/// Which targets batches are drawn from.
fn pools(plan: &Plan, corpus: &Corpus, samples: &[u32]) -> Result<Pools> {
    let Config { history_length, batch_size, .. } = plan.config;
    let known = windows::Windows::new(corpus, history_length);
    let (mut pools, mut notes) = (Vec::new(), Vec::new());
    for &wanted in &plan.windows {
        if wanted == Windows::Real {
            pools.push((wanted, samples.to_vec()));
            continue;
        }
        let full: Vec<u32> =
            samples.iter().copied().filter(|&target| known.window(target).len() == history_length).collect();
        let needed = batch_size.min(samples.len());
        if full.len() >= needed {
            pools.push((wanted, full));
            continue;
        }
        let few = format!(
            "full windows: of {}, {} targets have {history_length} utterances before them, fewer than a batch of {needed}",
            corpus.source,
            full.len()
        );
        if plan.windows.len() == 1 {
            return Err(Error::input(format!("{few}: take a smaller history_length or batch_size")));
        }
        notes.push(format!("{few}: left out"));
    }
    Ok(Pools { pools, notes })
}

/// A model under training that is timed.
pub struct Bench {
    pub engine: Box<dyn Engine>,
    pub config: Config,
    /// Updates made.
    pub steps: u64,
}

/// Draws batches of distinct targets, the same ones in each run.
pub struct Draw<'a> {
    from: &'a [u32],
    size: usize,
    stream: Stream,
}

impl<'a> Draw<'a> {
    pub fn new(config: &Config, from: &'a [u32]) -> Draw<'a> {
        Draw {
            from,
            size: config.batch_size.min(from.len()),
            stream: Stream::new(config.seed, purpose::TEST),
        }
    }

    pub fn batch(&mut self) -> Vec<u32> {
        let mut targets = self.from.to_vec();
        self.stream.shuffle(&mut targets);
        targets.truncate(self.size);
        targets
    }
}

/// Seconds that `work` takes.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let started = Instant::now();
    let result = work()?;
    Ok((started.elapsed().as_secs_f64(), result))
}

impl Bench {
    /// The next step, to its losses on the host.
    fn step(&mut self, targets: &[u32]) -> Result<f64> {
        let (seconds, _) =
            timed(|| self.engine.step_and_loss(targets, self.steps, self.config.learning_rate))?;
        self.steps += 1;
        Ok(seconds)
    }

    /// Whole steps.
    fn whole_steps(
        &mut self,
        plan: &Plan,
        ceilings: &Ceilings,
        pool: &[u32],
        subject: &impl Fn(What) -> Subject,
        all: &mut Vec<Measurement>,
    ) -> Result<()> {
        let mut draw = Draw::new(&self.config, pool);
        for _ in 0..WARM_UP {
            self.step(&draw.batch())?;
        }
        let batches: Vec<Vec<u32>> = (0..plan.steps).map(|_| draw.batch()).collect();
        let utterances = Some(batches[0].len());
        let (mut seconds, mut flops) = (Vec::new(), 0.0);
        for batch in &batches {
            seconds.push(self.step(batch)?);
            flops += self.engine.flops() / plan.steps as f64;
        }
        let work = Work { flops, unit: unit(self.config.dtype), ..Work::default() };
        let floor = ceilings.floor(work);
        let measured = |what, seconds: &[f64]| Measurement {
            utterances,
            work: Some(work),
            floor: Some(floor),
            ..Measurement::new(subject(what), seconds)
        };
        all.push(measured(What::Step, &seconds));
        if let Device::Cuda(_) = plan.compute.device {
            seconds.clear();
            for batch in &batches {
                seconds.push(self.engine.time_step(batch, self.steps, self.config.learning_rate)?);
                self.steps += 1;
            }
            all.push(measured(What::OnTheCard, &seconds));
            // As an epoch: the host runs ahead, and waits at the end.
            seconds.clear();
            for _ in 0..3 {
                let (time, ()) = timed(|| {
                    for batch in &batches {
                        self.engine.train_step(batch, self.steps, self.config.learning_rate)?;
                        self.steps += 1;
                    }
                    self.engine.losses(true).map(drop)
                })?;
                seconds.push(time / batches.len() as f64);
            }
            all.push(measured(What::InARow, &seconds));
        }
        Ok(())
    }

    /// One step again and again, piece by piece.
    fn parts(
        &mut self,
        plan: &Plan,
        ceilings: &Ceilings,
        pool: &[u32],
        subject: &impl Fn(What) -> Subject,
        all: &mut Vec<Measurement>,
    ) -> Result<()> {
        let batch = Draw::new(&self.config, pool).batch();
        let mut repeats: Vec<Vec<Together>> = Vec::new();
        for repeat in 0..plan.steps + 1 {
            let pieces = self.engine.profile_steps(&[Some(Step {
                targets: &batch,
                number: self.steps,
                learning_rate: self.config.learning_rate,
            })])?;
            self.steps += 1;
            // The first one warms up.
            if repeat > 0 {
                repeats.push(together(ceilings, &pieces));
            }
        }
        let card = matches!(plan.compute.device, Device::Cuda(_));
        for (i, first) in repeats[0].iter().enumerate() {
            let seconds: Vec<f64> =
                repeats.iter().filter_map(|pieces| Some(pieces.get(i)?.seconds)).collect();
            // A part that this step does not have.
            if seconds.iter().all(|&seconds| seconds == 0.0) {
                continue;
            }
            all.push(Measurement {
                launches: card.then_some(first.launches),
                work: Some(first.work),
                floor: Some(first.floor),
                ..Measurement::new(
                    Subject {
                        part: Some(first.part),
                        kernel: first.kernel.map(str::to_string),
                        ..subject(What::Piece)
                    },
                    &seconds,
                )
            });
        }
        Ok(())
    }

    /// Steps of one run and of several side by side, alternately. On a card by its own clock.
    fn at_once(
        &mut self,
        plan: &Plan,
        corpus: &Corpus,
        standardisation: &Standardisation,
        pool: &[u32],
        subject: &impl Fn(What) -> Subject,
        all: &mut Vec<Measurement>,
    ) -> Result<()> {
        let mut together =
            engines_of_seeds(&self.config, corpus, standardisation, plan.compute, plan.at_once)?;
        let mut draw = Draw::new(&self.config, pool);
        let learning_rate = self.config.learning_rate;
        let (mut alone, mut several) = (Vec::new(), Vec::new());
        for repeat in 0..WARM_UP + plan.steps {
            let batches: Vec<Vec<u32>> = (0..plan.at_once).map(|_| draw.batch()).collect();
            let steps: Vec<Option<Step>> = batches
                .iter()
                .map(|targets| Some(Step { targets, number: repeat as u64, learning_rate }))
                .collect();
            let one = self.engine.time_step(&batches[0], self.steps, learning_rate)?;
            self.steps += 1;
            let seconds = together.time_steps(&steps)?;
            if repeat >= WARM_UP {
                alone.push(one);
                several.push(seconds);
            }
        }
        let size = draw.size;
        for (runs, seconds) in [(1, alone), (plan.at_once, several)] {
            all.push(Measurement {
                utterances: Some(runs * size),
                ..Measurement::new(Subject { runs: Some(runs), ..subject(What::AtOnce) }, &seconds)
            });
        }
        Ok(())
    }

    /// Predictions batch by batch, as `coin predict --data` makes them.
    fn predictions(
        &mut self,
        plan: &Plan,
        corpus: &Corpus,
        subject: &impl Fn(What) -> Subject,
        all: &mut Vec<Measurement>,
    ) -> Result<()> {
        let targets: Vec<u32> = (0..corpus.len() as u32).collect();
        let size = self.config.batch_size.min(targets.len());
        let mut seconds = Vec::new();
        // A last batch that is shorter is left out.
        let batches: Vec<&[u32]> = targets.chunks_exact(size).collect();
        for (i, batch) in batches.iter().cycle().take(WARM_UP + plan.steps).enumerate() {
            let (time, _) = timed(|| self.engine.predict(batch))?;
            if i >= WARM_UP {
                seconds.push(time);
            }
        }
        all.push(Measurement {
            utterances: Some(size),
            ..Measurement::new(subject(What::Predict), &seconds)
        });
        Ok(())
    }
}

/// What computes most of a step's products.
fn unit(dtype: Precision) -> Unit {
    if dtype == Precision::Mixed { Unit::Tensor } else { Unit::Fma }
}

/// The pieces of a step that are of one part and one kernel.
struct Together {
    part: Part,
    kernel: Option<&'static str>,
    launches: usize,
    seconds: f64,
    work: Work,
    floor: f64,
}

/// In the order in which they come first.
fn together(ceilings: &Ceilings, pieces: &[Piece]) -> Vec<Together> {
    let mut all: Vec<Together> = Vec::new();
    for &Piece { part, kernel, seconds, work } in pieces {
        let floor = ceilings.floor(work);
        match all.iter_mut().find(|one| one.part == part && one.kernel == kernel) {
            Some(one) => {
                one.launches += 1;
                one.seconds += seconds;
                one.floor += floor;
                one.work = one.work.and(work);
            }
            None => all.push(Together { part, kernel, launches: 1, seconds, work, floor }),
        }
    }
    all
}

/// Conversations followed line by line.
fn live_answers(
    plan: &Plan,
    corpus: &Corpus,
    answering: &mut Answering,
    subject: Subject,
) -> Result<Measurement> {
    let count = WARM_UP + LIVE * plan.steps;
    let mut seconds = Vec::new();
    for (i, line) in lines(corpus).take(count).enumerate() {
        let (time, _) = timed(|| answering(&line?))?;
        if i >= WARM_UP {
            seconds.push(time);
        }
    }
    Ok(Measurement { utterances: Some(1), ..Measurement::new(subject, &seconds) })
}

/// The corpus as lines of standard input, conversation by conversation.
fn lines(corpus: &Corpus) -> impl Iterator<Item = Result<String>> {
    let width = corpus.width();
    corpus.conversations.iter().flat_map(move |conversation| {
        conversation.utterances.iter().enumerate().map(move |(i, utterance)| {
            let mut rest = &corpus.features[(conversation.first + i) * width..][..width];
            let mut features = serde_json::Map::new();
            for modality in &corpus.modalities {
                let (own, others) = rest.split_at(modality.width);
                rest = others;
                features.insert(modality.name.clone(), own.into());
            }
            let line = serde_json::json!({
                "conversation": conversation.id,
                "utterance": utterance.id,
                "speaker": utterance.speaker,
                "features": features,
            });
            serde_json::to_string(&line)
                .map_err(|error| Error::System(format!("cannot write as JSON: {error}")))
        })
    })
}
