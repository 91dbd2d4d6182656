//! Whether the gradient is right: every derivative of the whole objective against central differences, in float64.
//!
//! The analytic side is a training step's own: both passes, the Gram identity, the folded products. The other side
//! is [`CpuEngine::plain_loss`], which knows none of that: it embeds the perturbed features as they are and takes
//! two losses. As the objective defines it, the perturbation is a constant of the second pass, so it is computed
//! once, where the derivative is taken, and held while a parameter or a feature is moved.
//!
//! The derivative is the five-point stencil's, `(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h`. Its truncation is
//! h^4 / 30 times the fifth derivative; its rounding is that of f, a few units of 2^-53 where f is near 1, over h.
//! At the largest of `STEPS` rounding is near 1e-12 and truncation mostly less. Where attention is sharp truncation
//! may be more, so an element that disagrees is taken again with smaller steps: truncation vanishes, what is wrong
//! stays. A relative 1e-6 then is a test of formulas, not of the step.

use std::sync::{Mutex, PoisonError};

use super::Engine;
use super::StepLoss;
use super::config::{AdversarialNorm, Config, Precision, StackInput};
use super::cpu::{CpuEngine, FeaturePerturbation};
use super::cuda::CudaEngine;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::data::{Conversation, Corpus, Modality, Split, Utterance};
use crate::device::cpu::pool::Pool;
use crate::error::{Error, Result};
use crate::ops::parameters::Spec;
use crate::random::{Stream, purpose};

/// h: powers of two, so that the step itself is not rounded.
const STEPS: [f64; 3] = [1.0 / 1024.0, 1.0 / 4096.0, 1.0 / 16384.0];

/// Relative error above which the next step is tried.
const SUSPECT: f64 = 1e-7;

/// A derivative smaller than this share of the configuration's largest is held to the share, not to itself. The
/// differences' error is *absolute*, near 1e-12 whatever the derivative (see above), and the largest is between 0.1
/// and a few: of a derivative of 1e-7, differences know no six digits. With this floor the error that rounding
/// alone leaves is below 1e-7, and at the tolerance of 1e-6 no derivative, however small, may be off by more than
/// 1e-10 of the largest.
const FLOOR: f64 = 1e-4;

/// [`FLOOR`] for a gradient in float32, whose sums have an absolute error too: near 1e-7 of the largest.
const FLOOR_F32: f64 = 1e-2;

/// Derivatives that one task takes.
const BLOCK: usize = 16;

/// The update whose dropout masks are drawn.
const UPDATE: u64 = 7;

/// A model with a batch: what is differentiated.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    pub what: &'static str,
    config: Config,
    features: usize,
    classes: usize,
    /// A letter an utterance: its speaker.
    conversations: Vec<&'static str>,
    targets: Targets,
    zero: Zero,
    /// Elements checked of a tensor, where it has more: one of each of so many equal parts.
    at_most: usize,
}

/// Which utterances are classified.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Targets {
    All,
    /// The utterance at this place of every conversation.
    At(usize),
    Last,
}

/// What is zero instead of random.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Zero {
    Nothing,
    Features,
    /// The weights of both embeddings: no gradient reaches a feature.
    Embeddings,
}

/// The configurations of a default run.
pub fn cases() -> Vec<Case> {
    let talk = || vec!["ABBABAAB", "BAAB", "A"];
    let base = Case {
        name: "paper",
        what: "two speakers, three stacks, the paper's settings in small",
        config: Config {
            embedding_size: 5,
            history_length: 40,
            stacks: 3,
            dropout_keep: 1.0,
            ..Config::default()
        },
        features: 7,
        classes: 6,
        conversations: talk(),
        targets: Targets::All,
        zero: Zero::Nothing,
        at_most: usize::MAX,
    };
    let small = |name, what| {
        let config = Config { embedding_size: 3, stacks: 2, ..base.config.clone() };
        Case { name, what, config, features: 4, classes: 3, ..base.clone() }
    };
    let with = |case: Case, set: fn(&mut Case)| {
        let mut case = case;
        set(&mut case);
        case
    };
    vec![
        base.clone(),
        with(small("no-history", "n = 0: nothing but first utterances"), |case| {
            case.conversations = vec!["A", "BA", "AA"];
            case.targets = Targets::At(0);
        }),
        with(small("one-step", "n = 1: the same speaker before the target, or the other"), |case| {
            case.conversations = vec!["AA", "AB", "BBA"];
            case.targets = Targets::At(1);
        }),
        with(small("others-silent", "every utterance of a window is the target's own speaker's"), |case| {
            case.conversations = vec!["AAAAA", "BBB"];
        }),
        with(small("own-silent", "every utterance of a window is somebody else's"), |case| {
            case.conversations = vec!["BBBBA", "AAB"];
            case.targets = Targets::Last;
        }),
        with(small("three-speakers", "three people, everybody but the target's speaker one role"), |case| {
            case.conversations = vec!["ABCACBBA", "CBA"];
        }),
        with(
            small("short-window", "K = 2, conversations longer than that, norm of the whole batch"),
            |case| {
                case.config.history_length = 2;
                case.config.adversarial_norm = AdversarialNorm::Batch;
                case.conversations = vec!["ABAABAB", "BBA"];
            },
        ),
        with(
            small("gru-utterance", "d = 7, four stacks that read the GRU's states, norm by utterance"),
            |case| {
                case.config.embedding_size = 7;
                case.config.stacks = 4;
                case.config.stack_input = StackInput::Gru;
                case.config.adversarial_norm = AdversarialNorm::Utterance;
                case.conversations = vec!["ABBA", "BA"];
            },
        ),
        with(small("wide", "d = 17, one stack"), |case| {
            case.config.embedding_size = 17;
            case.config.stacks = 1;
            case.conversations = vec!["ABBA"];
            case.targets = Targets::Last;
        }),
        with(small("wider", "d = 33, a part of every tensor"), |case| {
            case.config.embedding_size = 33;
            case.features = 37;
            case.conversations = vec!["ABBABAABAB", "BBA"];
            case.targets = Targets::Last;
            case.at_most = 12;
        }),
        with(small("no-interaction", "without the mutual interaction"), |case| {
            case.config.interaction = false;
        }),
        with(small("no-adversary", "without the adversarial pass"), |case| {
            case.config.adversarial = false;
        }),
        with(small("dropout", "dropout that keeps 0.6, its masks those of one update"), |case| {
            case.config.dropout_keep = 0.6;
        }),
        with(
            small("dropout-gru-batch", "dropout, stacks that read the GRU's states, norm of the whole batch"),
            |case| {
                case.config.dropout_keep = 0.7;
                case.config.stacks = 3;
                case.config.stack_input = StackInput::Gru;
                case.config.adversarial_norm = AdversarialNorm::Batch;
            },
        ),
        with(small("shards", "80 samples: three shards, each with sums of its own"), |case| {
            case.config.stacks = 1;
            case.config.dropout_keep = 0.8;
            case.conversations = ["ABBAB", "BA", "AABA", "ABAB", "A"].repeat(5);
            case.at_most = 40;
        }),
        with(small("laps", "560 samples: eighteen shards on sixteen sums, a part of every tensor"), |case| {
            case.config.stacks = 1;
            case.config.history_length = 3;
            case.conversations = ["ABBA", "BAB"].repeat(80);
            case.at_most = 8;
        }),
        with(small("epsilon-zero", "a perturbation of length zero"), |case| case.config.epsilon = 0.0),
        with(small("zero-features", "every feature zero"), |case| case.zero = Zero::Features),
        with(small("zero-embedding", "a zero gradient at the features: no perturbation, no NaN"), |case| {
            case.zero = Zero::Embeddings;
        }),
        with(small("smallest", "d = 1, K = 1, two classes, one feature"), |case| {
            case.config.embedding_size = 1;
            case.config.history_length = 1;
            case.config.stacks = 1;
            case.features = 1;
            case.classes = 2;
        }),
    ]
}

/// The configuration of that name.
///
/// # Errors
/// When there is none; the message lists those there are.
pub fn case(name: &str) -> Result<Case> {
    let cases = cases();
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    let names = names.join(", ");
    cases
        .into_iter()
        .find(|case| case.name == name)
        .ok_or_else(|| Error::input(format!("configuration {name:?} is unknown: it is one of {names}")))
}

/// What a configuration's check found.
#[derive(Debug, Clone)]
pub struct Report {
    pub samples: usize,
    pub loss: StepLoss,
    /// The input features last.
    pub tensors: Vec<Agreement>,
}

/// How one tensor's gradient agrees with differences.
#[derive(Debug, Clone)]
pub struct Agreement {
    pub tensor: String,
    pub elements: usize,
    /// Largest derivative among them.
    pub largest: f64,
    pub worst: Worst,
}

/// The element that agrees least.
#[derive(Debug, Clone, Copy)]
pub struct Worst {
    pub element: usize,
    pub analytic: f64,
    pub differences: f64,
    /// `|analytic - differences|` over the larger of the two and the floor.
    pub relative: f64,
}

impl Agreement {
    /// Not a number does not.
    pub fn within(&self, tolerance: f64) -> bool {
        self.worst.relative <= tolerance
    }
}

/// A scalar that the objective is differentiated by.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Variable {
    /// Index into the flat parameters.
    Parameter(usize),
    /// Index into the features.
    Feature(usize),
}

/// What is checked of one tensor.
struct Part {
    tensor: String,
    /// Index of the tensor's first element.
    first: usize,
    variables: Vec<Variable>,
}

/// What the gradient is held against: the differences of which model, and from which size on derivatives count.
struct Side {
    seed: u64,
    single: bool,
    floor: f64,
}

/// A derivative by differences, and how far it is from the analytic one.
#[derive(Debug, Clone, Copy, Default)]
struct Difference {
    value: f64,
    relative: f64,
}

/// A training step's gradient, and the perturbation that it held constant.
#[derive(Clone)]
struct Analytic {
    loss: StepLoss,
    parameters: Vec<f64>,
    features: Vec<f64>,
    perturbation: FeaturePerturbation<f64>,
}

impl Case {
    fn corpus(&self, stream: &mut Stream) -> Corpus {
        let mut conversations: Vec<Conversation> = Vec::new();
        let mut count = 0;
        for (number, speakers) in self.conversations.iter().enumerate() {
            let mut utterances = Vec::new();
            for (index, speaker) in speakers.chars().enumerate() {
                let label = Some(stream.below(self.classes));
                let (id, speaker) = (index.to_string(), speaker.to_string());
                utterances.push(Utterance { id, speaker, label, text: None });
            }
            let id = format!("{number:04}");
            count += utterances.len();
            conversations.push(Conversation {
                id,
                split: Split::Train,
                first: count - utterances.len(),
                utterances,
            });
        }
        let feature = |_| if self.zero == Zero::Features { 0.0 } else { stream.normal() };
        Corpus {
            source: self.name.to_string(),
            classes: (0..self.classes).map(|class| class.to_string()).collect(),
            modalities: vec![Modality { name: "text".to_string(), width: self.features }],
            features: (0..count * self.features).map(feature).collect(),
            conversations,
        }
    }

    fn targets(&self) -> Vec<u32> {
        let mut targets = Vec::new();
        let mut first = 0;
        for speakers in &self.conversations {
            let end = first + speakers.len() as u32;
            match self.targets {
                Targets::All => targets.extend(first..end),
                Targets::At(index) => targets.extend((first..end).nth(index)),
                Targets::Last => targets.push(end - 1),
            }
            first = end;
        }
        targets
    }

    /// A model far from a linear one: its gates are spread out and its attention makes distinctions (with small
    /// weights it is next to uniform, and its derivatives are next to nothing).
    ///
    /// With `single` its numbers are float32's, so that a card has the same model; the corpus goes with it.
    fn model(&self, seed: u64, single: bool) -> Result<(CpuEngine<f64>, Corpus)> {
        let rounded = |x: f64| if single { f64::from(x as f32) } else { x };
        let mut engine = CpuEngine::new(&self.config, self.features, self.classes, 1)?;
        let mut stream = Stream::new(seed, purpose::TEST);
        let mut corpus = self.corpus(&mut stream);
        corpus.features.iter_mut().for_each(|x| *x = rounded(*x));
        let windows = Windows::new(&corpus, self.config.history_length);
        engine.set_data(corpus.features.clone(), windows);
        let layout = engine.layout().clone();
        let embeddings = [layout.history_embedding.weight, layout.target_embedding.weight];
        for (index, spec) in layout.specs.iter().enumerate() {
            let is = |part| spec.name.contains(part);
            let gain = if is("query") || is("key") || is("value") {
                3.0
            } else if is("weight_ih") {
                2.0
            } else {
                1.3
            };
            let deviation = match spec.shape[..] {
                [_, fan] => (gain / (fan as f64).sqrt()).min(1.0),
                _ => 0.3,
            };
            for value in &mut engine.parameters_mut()[spec.range()] {
                *value = rounded(deviation * stream.normal());
                if self.zero == Zero::Embeddings && embeddings.contains(&index) {
                    *value = 0.0;
                }
            }
        }
        Ok((engine, corpus))
    }

    fn analytic(&self, engine: &mut CpuEngine<f64>) -> Analytic {
        let mask = engine.mask(UPDATE);
        Analytic {
            loss: engine.differentiate(&self.targets(), mask),
            parameters: engine.gradient().to_vec(),
            features: engine.feature_gradient(),
            perturbation: engine.feature_perturbation(),
        }
    }

    /// Checks every derivative; `threads` share them out.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn check(&self, seed: u64, threads: usize) -> Result<Report> {
        let analytic = self.analytic(&mut self.model(seed, false)?.0);
        self.compare(&analytic, &Side { seed, single: false, floor: FLOOR }, threads)
    }

    /// Checks the derivatives that card `index` computes, in float32: the same differences of the same objective in
    /// float64, on numbers that float32 has.
    ///
    /// # Errors
    /// When there is no such card, or it fails.
    pub fn check_on_card(&self, seed: u64, threads: usize, index: usize) -> Result<Report> {
        let (mut engine, corpus) = self.model(seed, true)?;
        let plain = self.analytic(&mut engine);
        let config = Config { dtype: Precision::F32, ..self.config.clone() };
        let mut card = CudaEngine::new(&config, &corpus, &Standardisation::none(self.features), index)?;
        card.restore(&engine.state()?)?;
        let loss = card.differentiate(&self.targets(), engine.mask(UPDATE))?;
        let analytic = Analytic {
            loss,
            parameters: card.gradient()?.iter().map(|&x| f64::from(x)).collect(),
            features: card.feature_gradient()?,
            perturbation: plain.perturbation,
        };
        self.compare(&analytic, &Side { seed, single: true, floor: FLOOR_F32 }, threads)
    }

    /// Holds `analytic` against differences.
    fn compare(&self, analytic: &Analytic, side: &Side, threads: usize) -> Result<Report> {
        let pool = Pool::new(threads)
            .map_err(|error| Error::System(format!("cannot start {threads} threads: {error}")))?;
        let engines: Vec<_> = (0..threads)
            .map(|_| self.model(side.seed, side.single).map(|model| Mutex::new(model.0)))
            .collect::<Result<_>>()?;
        let targets = self.targets();
        let parts = self.parts(&lock(&engines[0]).layout().specs, analytic.features.len(), side.seed);
        let variables: Vec<Variable> = parts.iter().flat_map(|part| part.variables.iter().copied()).collect();

        let derivatives: Vec<f64> = variables.iter().map(|&variable| analytic.by(variable)).collect();
        let floor = (side.floor * largest(&derivatives)).max(f64::MIN_POSITIVE);

        let mut differences = vec![Difference::default(); variables.len()];
        pool.chunks([&mut differences], BLOCK, |block, [differences], worker| {
            let engine = &mut *lock(&engines[worker]);
            let own = variables.iter().zip(&derivatives).skip(block * BLOCK);
            for (to, (&variable, &analytic_derivative)) in differences.iter_mut().zip(own) {
                for (i, step) in STEPS.into_iter().enumerate() {
                    let value = derivative(engine, &targets, &analytic.perturbation, variable, step);
                    let scale = analytic_derivative.abs().max(value.abs()).max(floor);
                    let relative = (analytic_derivative - value).abs() / scale;
                    if i == 0 || relative < to.relative {
                        *to = Difference { value, relative };
                    }
                    if relative <= SUSPECT {
                        break;
                    }
                }
            }
        });

        let (mut derivatives, mut differences) = (&derivatives[..], &differences[..]);
        let mut tensors = Vec::new();
        for Part { tensor, first, variables } in parts {
            let (own, numeric);
            (own, derivatives) = derivatives.split_at(variables.len());
            (numeric, differences) = differences.split_at(variables.len());
            let mut worst = Worst { element: 0, analytic: 0.0, differences: 0.0, relative: 0.0 };
            for ((variable, &analytic), &Difference { value, relative }) in
                variables.iter().zip(own).zip(numeric)
            {
                // A NaN is the worst of all: nothing is larger, so that it stays.
                if relative.is_nan() || relative > worst.relative {
                    let (Variable::Parameter(index) | Variable::Feature(index)) = variable;
                    worst = Worst { element: index - first, analytic, differences: value, relative };
                }
            }
            tensors.push(Agreement { tensor, elements: variables.len(), largest: largest(own), worst });
        }
        Ok(Report { samples: targets.len(), loss: analytic.loss, tensors })
    }

    /// What is checked of every tensor: all elements, or one of each of `at_most` equal parts.
    fn parts(&self, specs: &[Spec], features: usize, seed: u64) -> Vec<Part> {
        let mut stream = Stream::indexed(seed, purpose::TEST, 1);
        let mut choose = |tensor: &str, first: usize, len: usize, variable: fn(usize) -> Variable| {
            let count = len.min(self.at_most);
            let element = |part: usize| {
                let (from, to) = (part * len / count, (part + 1) * len / count);
                variable(first + from + stream.below(to - from))
            };
            Part { tensor: tensor.to_string(), first, variables: (0..count).map(element).collect() }
        };
        let mut parts: Vec<Part> = Vec::new();
        for spec in specs {
            parts.push(choose(&spec.name, spec.offset, spec.len(), Variable::Parameter));
        }
        parts.push(choose("features", 0, features, Variable::Feature));
        parts
    }
}

impl Analytic {
    fn by(&self, variable: Variable) -> f64 {
        match variable {
            Variable::Parameter(index) => self.parameters[index],
            Variable::Feature(index) => self.features[index],
        }
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, x| x.abs().max(largest))
}

/// By the five-point stencil with steps of `step`, the perturbation held.
fn derivative(
    engine: &mut CpuEngine<f64>,
    targets: &[u32],
    perturbation: &FeaturePerturbation<f64>,
    variable: Variable,
    step: f64,
) -> f64 {
    let at = |engine: &mut CpuEngine<f64>, value: Option<f64>| {
        let place = match variable {
            Variable::Parameter(index) => &mut engine.parameters_mut()[index],
            Variable::Feature(index) => &mut engine.features_mut()[index],
        };
        let before = *place;
        *place = value.unwrap_or(before);
        before
    };
    let middle = at(engine, None);
    let mut objective = |steps: f64| {
        at(engine, Some(middle + steps * step));
        let mask = engine.mask(UPDATE);
        let StepLoss { clean, adversarial } = engine.plain_loss(targets, mask, perturbation);
        clean + adversarial.unwrap_or(0.0)
    };
    let near = objective(1.0) - objective(-1.0);
    let far = objective(2.0) - objective(-2.0);
    at(engine, Some(middle));
    (8.0 * near - far) / (12.0 * step)
}

/// A panic in a task is passed on by the pool.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Side = Side { seed: 1, single: false, floor: FLOOR };

    const TOLERANCE: f64 = 1e-6;

    fn failed(report: &Report) -> Vec<&str> {
        let failed = report.tensors.iter().filter(|tensor| !tensor.within(TOLERANCE));
        failed.map(|tensor| tensor.tensor.as_str()).collect()
    }

    #[test]
    fn every_configuration_agrees() {
        for case in cases() {
            let report = case.check(1, 2).unwrap();
            assert!(failed(&report).is_empty(), "{}: {:?}", case.name, report.tensors);
            let elements: usize = report.tensors.iter().map(|tensor| tensor.elements).sum();
            let layout = case.model(1, false).unwrap().0.layout().clone();
            let all = layout.len + case.conversations.concat().len() * case.features;
            assert_eq!(elements < all, case.at_most < usize::MAX, "{}: a part, or every element", case.name);
            // Above the floor every tensor is held to its own derivatives.
            let largest = report.tensors.iter().map(|tensor| tensor.largest).fold(0.0, f64::max);
            for Agreement { tensor, largest: own, .. } in &report.tensors {
                assert!(*own == 0.0 || *own > FLOOR * largest, "{}: {tensor} {own:e} {largest:e}", case.name);
            }
        }
    }

    /// Off in one element by a hundred-thousandth: found, there and nowhere else.
    #[test]
    fn one_wrong_element_is_found() {
        let case = case("short-window").unwrap();
        let engine = &mut case.model(1, false).unwrap().0;
        let right = case.analytic(engine);
        let specs = engine.layout().specs.clone();
        for name in ["speaker_gru.b.bias_ih_l0_reverse", "context.1.value.weight", "target_embedding.weight"]
        {
            let spec = specs.iter().find(|spec| spec.name == name).unwrap();
            let largest =
                spec.range().max_by(|&i, &j| right.parameters[i].abs().total_cmp(&right.parameters[j].abs()));
            let mut wrong = right.clone();
            wrong.parameters[largest.unwrap()] *= 1.0 + 1e-5;
            let report = case.compare(&wrong, &PLAIN, 2).unwrap();
            assert_eq!(failed(&report), [name]);
            let tensor = report.tensors.iter().find(|tensor| tensor.tensor == name).unwrap();
            assert_eq!(tensor.worst.element + spec.offset, largest.unwrap());
        }
        let mut wrong = right.clone();
        wrong.features[5] = f64::NAN;
        assert_eq!(failed(&case.compare(&wrong, &PLAIN, 2).unwrap()), ["features"]);
    }

    /// The gradient of another objective: without the adversarial pass, with stacks that read something else.
    #[test]
    fn the_gradient_of_another_objective_is_found() {
        let right = case("three-speakers").unwrap();
        let change = |change: fn(&mut Config)| {
            let mut case = right.clone();
            change(&mut case.config);
            case.analytic(&mut case.model(1, false).unwrap().0)
        };
        let perturbation = right.analytic(&mut right.model(1, false).unwrap().0).perturbation;
        let wrong =
            Analytic { perturbation: perturbation.clone(), ..change(|config| config.adversarial = false) };
        let report = right.compare(&wrong, &PLAIN, 2).unwrap();
        assert_eq!(failed(&report).len(), report.tensors.len(), "{:?}", failed(&report));
        let wrong = Analytic { perturbation, ..change(|config| config.stack_input = StackInput::Gru) };
        let report = right.compare(&wrong, &PLAIN, 2).unwrap();
        assert!(failed(&report).contains(&"context.0.value.weight"), "{:?}", failed(&report));
    }

    #[test]
    fn the_configurations_are_what_they_say() {
        for case in cases() {
            let corpus = case.corpus(&mut Stream::new(1, purpose::TEST));
            corpus.validate().unwrap();
            let windows = Windows::new(&corpus, case.config.history_length);
            let targets = case.targets();
            let (mut own, mut others) = (0, 0);
            for &target in &targets {
                for utterance in windows.window(target) {
                    *(if windows.same_speaker(utterance, target) { &mut own } else { &mut others }) += 1;
                }
            }
            let lengths: Vec<usize> = targets.iter().map(|&target| windows.window(target).len()).collect();
            let holds = match case.name {
                "no-history" => lengths.iter().all(|&n| n == 0),
                "one-step" => lengths.iter().all(|&n| n == 1),
                "others-silent" => others == 0 && own > 0,
                "own-silent" => own == 0 && others > 0,
                "short-window" => lengths.iter().filter(|&&n| n == 2).count() > 4,
                "shards" => targets.len() == 80,
                "laps" => targets.len() == 560,
                _ => own + others > 0,
            };
            assert!(holds, "{}: {} targets, windows {lengths:?}", case.name, targets.len());
        }
    }

    /// Attention that were uniform would leave the way through it unchecked.
    #[test]
    fn attention_makes_distinctions() {
        let case = case("paper").unwrap();
        let report = case.check(1, 2).unwrap();
        let largest = report.tensors.iter().map(|tensor| tensor.largest).fold(0.0, f64::max);
        for tensor in report.tensors.iter().filter(|one| one.tensor.starts_with("context")) {
            assert!(tensor.largest > 5e-3 * largest, "{}: {:e}", tensor.tensor, tensor.largest);
        }
    }
}
