//! A model on disk: a safetensors file with everything that using it again needs.
//!
//! | what | where |
//! |---|---|
//! | parameters | tensors under their PyTorch names, `[out, in]`, in the run's precision |
//! | standardisation | tensors `features.mean` and `features.deviation`, one value a feature, F64 |
//! | settings | metadata `config`: one flat JSON object |
//! | classes, modalities | metadata `classes`, `modalities`: JSON, in the order of the logits and of the features |
//! | held-out conversations | metadata `validation`: their ids, JSON |
//! | the data | metadata `fingerprint` |
//! | optimiser | tensors `optimizer.first_moment.<parameter>`, `optimizer.second_moment.<parameter>` |
//! | how far the run has come | metadata `progress`: JSON |
//! | who wrote it | metadata `coin.version`; `format` is `pt`, as loaders of PyTorch's names expect |
//!
//! The last two kinds are in a run's `last.safetensors` only.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::progress::Progress;
use super::tensor_file::{self, Entry, Metadata};
use crate::data::standardise::Standardisation;
use crate::data::{Corpus, Modality};
use crate::error::{Error, Result};
use crate::model::config::{Config, Precision};
use crate::model::{State, Tensor, Values};

const MEAN: &str = "features.mean";
const DEVIATION: &str = "features.deviation";
const FIRST_MOMENT: &str = "optimizer.first_moment.";
const SECOND_MOMENT: &str = "optimizer.second_moment.";

#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub config: Config,
    pub origin: Origin,
    pub parameters: Vec<Tensor>,
    /// `None` in a checkpoint that is for use, not for going on.
    pub training: Option<Training>,
}

/// What the data gave to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    pub classes: Vec<String>,
    pub modalities: Vec<Modality>,
    pub standardisation: Standardisation,
    /// Ids of the conversations held out.
    pub validation: Vec<String>,
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    pub first_moment: Vec<Tensor>,
    pub second_moment: Vec<Tensor>,
    pub progress: Progress,
}

impl Checkpoint {
    /// Writes it atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Origin { classes, modalities, standardisation, validation, fingerprint } = &self.origin;
        let modalities: Vec<(&str, usize)> =
            modalities.iter().map(|modality| (modality.name.as_str(), modality.width)).collect();
        let mut metadata = Metadata::from([
            ("coin.version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            ("format".to_string(), "pt".to_string()),
            ("config".to_string(), json(&self.config)?),
            ("classes".to_string(), json(classes)?),
            ("modalities".to_string(), json(&modalities)?),
            ("validation".to_string(), json(validation)?),
            ("fingerprint".to_string(), fingerprint.clone()),
        ]);
        let mut entries = vec![
            Entry::vector(MEAN, &standardisation.mean),
            Entry::vector(DEVIATION, &standardisation.deviation),
        ];
        entries.extend(self.parameters.iter().map(|tensor| Entry::tensor("", tensor)));
        if let Some(training) = &self.training {
            metadata.insert("progress".to_string(), json(&training.progress)?);
            let first = training.first_moment.iter().map(|tensor| Entry::tensor(FIRST_MOMENT, tensor));
            let second = training.second_moment.iter().map(|tensor| Entry::tensor(SECOND_MOMENT, tensor));
            entries.extend(first.chain(second));
        }
        tensor_file::write(path, &metadata, entries)
    }

    /// Reads one and checks what it says of itself; whether the parameters fit the settings is for the engine to
    /// say when it takes them over.
    pub fn read(path: &Path) -> Result<Self> {
        let (metadata, tensors) = tensor_file::read(path)?;
        let wrong = |message: String| Error::input(format!("{}: {message}", path.display()));
        let text = |key: &str| {
            let value = metadata.get(key);
            value.ok_or_else(|| wrong(format!("not a checkpoint of coin: its metadata has no {key}")))
        };
        let config: Config = parse(text("config")?, "config", path)?;
        config.validate().map_err(|error| wrong(format!("metadata config: {error}")))?;
        let modalities: Vec<(String, usize)> = parse(text("modalities")?, "modalities", path)?;
        let modalities: Vec<Modality> =
            modalities.into_iter().map(|(name, width)| Modality { name, width }).collect();
        let progress: Option<Progress> =
            metadata.get("progress").map(|text| parse(text, "progress", path)).transpose()?;

        let (mut mean, mut deviation) = (None, None);
        let (mut parameters, mut first_moment, mut second_moment) = (Vec::new(), Vec::new(), Vec::new());
        for (name, tensor) in tensors {
            let renamed = |name: &str, tensor: Tensor| Tensor { name: name.to_string(), ..tensor };
            if name == MEAN {
                mean = Some(tensor);
            } else if name == DEVIATION {
                deviation = Some(tensor);
            } else if let Some(name) = name.strip_prefix(FIRST_MOMENT) {
                first_moment.push(renamed(name, tensor));
            } else if let Some(name) = name.strip_prefix(SECOND_MOMENT) {
                second_moment.push(renamed(name, tensor));
            } else {
                parameters.push(tensor);
            }
        }
        let width: usize = modalities.iter().map(|modality| modality.width).sum();
        let vector = |name: &str, tensor: Option<Tensor>| {
            let tensor = tensor.ok_or_else(|| wrong(format!("tensor {name} is missing")))?;
            if tensor.shape != [width] {
                let shape = &tensor.shape;
                return Err(wrong(format!("tensor {name} is {shape:?}; its modalities are [{width}] wide")));
            }
            match tensor.values.to_precision(Precision::F64) {
                Values::F64(values) if values.iter().all(|value| value.is_finite()) => Ok(values),
                _ => Err(wrong(format!("tensor {name} is not finite"))),
            }
        };
        let standardisation =
            Standardisation { mean: vector(MEAN, mean)?, deviation: vector(DEVIATION, deviation)? };
        if standardisation.deviation.iter().any(|&deviation| deviation <= 0.0) {
            return Err(wrong(format!("tensor {DEVIATION} has a value that is not above 0")));
        }
        let odd = parameters.iter().find(|tensor| tensor.values.precision() != config.dtype.stored());
        if let Some(odd) = odd {
            return Err(wrong(format!(
                "tensor {} is not of the dtype {} of its config",
                odd.name, config.dtype
            )));
        }
        if let Some(broken) = parameters.iter().find(|tensor| !tensor.values.all_finite()) {
            return Err(wrong(format!("tensor {} has values that are not finite", broken.name)));
        }
        let classes: Vec<String> = parse(text("classes")?, "classes", path)?;
        if classes.is_empty() {
            return Err(wrong("metadata classes: there are none".to_string()));
        }
        Ok(Checkpoint {
            config,
            origin: Origin {
                classes,
                modalities,
                standardisation,
                validation: parse(text("validation")?, "validation", path)?,
                fingerprint: text("fingerprint")?.clone(),
            },
            parameters,
            training: progress.map(|progress| Training { first_moment, second_moment, progress }),
        })
    }

    /// For an engine to take over. A checkpoint without an optimiser gives a fresh one.
    pub fn state(&self) -> State {
        let zeros = || {
            let tensors = self.parameters.iter();
            let zero = tensors.map(|tensor| Tensor {
                values: Values::zeros(tensor.values.precision(), tensor.values.len()),
                ..tensor.clone()
            });
            zero.collect::<Vec<Tensor>>()
        };
        let parameters = self.parameters.clone();
        match &self.training {
            Some(training) => State {
                parameters,
                first_moment: training.first_moment.clone(),
                second_moment: training.second_moment.clone(),
                updates: training.progress.updates,
                scaling: training.progress.scaling,
            },
            None => {
                State { parameters, first_moment: zeros(), second_moment: zeros(), updates: 0, scaling: None }
            }
        }
    }

    /// The same model in another precision, without the optimiser.
    pub fn to_precision(&self, precision: Precision) -> Self {
        let converted = self
            .parameters
            .iter()
            .map(|tensor| Tensor { values: tensor.values.to_precision(precision), ..tensor.clone() });
        Checkpoint {
            config: Config { dtype: precision, ..self.config.clone() },
            origin: self.origin.clone(),
            parameters: converted.collect(),
            training: None,
        }
    }

    /// Names of the modalities, for reading data that fit.
    pub fn modality_names(&self) -> Vec<String> {
        self.origin.modalities.iter().map(|modality| modality.name.clone()).collect()
    }

    /// Refuses conversations whose features are not those the model reads.
    pub fn check_modalities(&self, corpus: &Corpus) -> Result<()> {
        let list = |modalities: &[Modality]| {
            let named = modalities.iter().map(|modality| format!("{} {}", modality.name, modality.width));
            named.collect::<Vec<_>>().join(", ")
        };
        if corpus.modalities == self.origin.modalities {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: its features are {} wide; the checkpoint reads {}",
            corpus.source,
            list(&corpus.modalities),
            list(&self.origin.modalities)
        )))
    }

    /// Refuses other conversations than those trained on; `folder` is the run's.
    pub fn check_fingerprint(&self, folder: &Path, source: &str, fingerprint: &str) -> Result<()> {
        if self.origin.fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: its checkpoint was trained on other data: {source} has fingerprint {fingerprint}, the run's data \
             have {}",
            folder.display(),
            self.origin.fingerprint
        )))
    }

    /// Refuses labels that mean something else than the model's.
    pub fn check_classes(&self, corpus: &Corpus) -> Result<()> {
        if corpus.classes == self.origin.classes {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: its classes are {}; the checkpoint's are {}",
            corpus.source,
            corpus.classes.join(", "),
            self.origin.classes.join(", ")
        )))
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::System(format!("cannot write as JSON: {error}")))
}

fn parse<T: DeserializeOwned>(text: &str, key: &str, path: &Path) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::input(format!("{}: metadata {key}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(training: bool) -> Checkpoint {
        let tensor = |value: f32| Tensor {
            name: "classifier.weight".into(),
            shape: vec![2, 1],
            values: Values::F32(vec![value, -value]),
        };
        Checkpoint {
            config: Config { learning_rate: 0.1 + 0.2, ..Config::default() },
            origin: Origin {
                classes: vec!["yes".into(), "no".into()],
                modalities: vec![
                    Modality { name: "text".into(), width: 2 },
                    Modality { name: "audio".into(), width: 1 },
                ],
                standardisation: Standardisation {
                    mean: vec![0.1, 0.2, 0.3],
                    deviation: vec![1.0, 2.0, 1.0 / 3.0],
                },
                validation: vec!["Ses01".into()],
                fingerprint: "abc".into(),
            },
            parameters: vec![tensor(0.1)],
            training: training.then(|| Training {
                first_moment: vec![tensor(0.2)],
                second_moment: vec![tensor(0.3)],
                progress: Progress { updates: 17, ..Progress::start() },
            }),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        for (training, dtype) in [
            (false, Precision::F32),
            (true, Precision::F32),
            (false, Precision::Mixed),
            (true, Precision::Mixed),
        ] {
            let mut written = checkpoint(training);
            written.config.dtype = dtype;
            written.write(&path).unwrap();
            assert_eq!(Checkpoint::read(&path).unwrap(), written);
            let again = std::fs::read(&path).unwrap();
            written.write(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), again);
        }
    }

    #[test]
    fn a_state_without_an_optimiser_starts_one() {
        let state = checkpoint(false).state();
        assert_eq!(state.updates, 0);
        assert_eq!(state.first_moment[0].name, "classifier.weight");
        assert_eq!(state.second_moment[0].values, Values::F32(vec![0.0, 0.0]));
        assert_eq!(checkpoint(true).state().updates, 17);
    }

    #[test]
    fn converted_to_f64_and_back_it_is_the_same_model() {
        let wide = checkpoint(true).to_precision(Precision::F64);
        assert_eq!(wide.config.dtype, Precision::F64);
        assert_eq!(wide.parameters[0].values, Values::F64(vec![f64::from(0.1f32), f64::from(-0.1f32)]));
        assert_eq!(wide.to_precision(Precision::F32), checkpoint(false));
        assert_eq!(wide.to_precision(Precision::Mixed).parameters, checkpoint(false).parameters);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        type Case = (fn(&mut Checkpoint), &'static str);
        let cases: [Case; 7] = [
            (|c| c.origin.classes.clear(), "metadata classes: there are none"),
            (
                |c| c.origin.modalities[0].width = 3,
                "tensor features.mean is [3]; its modalities are [4] wide",
            ),
            (
                |c| c.origin.standardisation.deviation[1] = 0.0,
                "features.deviation has a value that is not above 0",
            ),
            (|c| c.origin.standardisation.mean[1] = f64::NAN, "features.mean is not finite"),
            (|c| c.config.dtype = Precision::F64, "classifier.weight is not of the dtype f64"),
            (|c| c.config.batch_size = 0, "metadata config: batch_size is 0"),
            (
                |c| c.parameters[0].values = Values::F32(vec![f32::NAN, 0.0]),
                "classifier.weight has values that are not finite",
            ),
        ];
        for (change, expected) in cases {
            let mut changed = checkpoint(false);
            change(&mut changed);
            changed.write(&path).unwrap();
            let error = Checkpoint::read(&path).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().contains("c.safetensors: "), "{error}");
        }
        tensor_file::write(&path, &Metadata::new(), vec![Entry::vector("x", &[1.0])]).unwrap();
        let error = Checkpoint::read(&path).unwrap_err();
        assert!(
            error.to_string().contains("not a checkpoint of coin: its metadata has no config"),
            "{error}"
        );
    }
}
