//! `tests/golden/*.safetensors`: batches with everything that one step computes, written by `benches/peers/make_golden.py` (its
//! head lists the tensors).

use std::collections::HashMap;

use coin::data::{Conversation, Corpus, Modality, Split, Utterance};
use coin::model::config::Config;
use coin::model::{State, Tensor, Values};
use safetensors::SafeTensors;

pub struct Golden {
    pub name: String,
    pub config: Config,
    pub classes: usize,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Golden {
    pub fn all() -> Vec<Golden> {
        // Where the test was built, or where `scripts/gpu-check pack` has put them.
        let packed = std::env::var("COIN_GOLDEN");
        let folder = packed.unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").to_string());
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
        assert!(files.len() >= 10, "golden files are missing from {folder}");
        files.iter().map(|file| Golden::read(file)).collect()
    }

    fn read(file: &std::path::Path) -> Golden {
        let bytes = std::fs::read(file).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().as_ref().unwrap();
        let mut settings: serde_json::Value = serde_json::from_str(&metadata["config"]).unwrap();
        let classes = settings.as_object_mut().unwrap().remove("classes").unwrap().as_array().unwrap().len();
        let config = serde_json::from_value(settings).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors
            .iter()
            .map(|(name, view)| {
                let scalars = view.data().chunks_exact(8).map(|bytes| bytes.try_into().unwrap());
                let values = match view.dtype() {
                    safetensors::Dtype::I64 => scalars.map(|b| i64::from_le_bytes(b) as f64).collect(),
                    safetensors::Dtype::F64 => scalars.map(f64::from_le_bytes).collect(),
                    other => panic!("{name} is {other:?}"),
                };
                (name.to_string(), (view.shape().to_vec(), values))
            })
            .collect();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        Golden { name, config, classes, tensors }
    }

    pub fn values(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name)).1
    }

    pub fn width(&self) -> usize {
        self.tensors["data.features"].0[1]
    }

    pub fn corpus(&self) -> Corpus {
        let mut conversations: Vec<Conversation> = Vec::new();
        for (i, &conversation) in self.values("data.conversation").iter().enumerate() {
            let id = format!("{conversation:04}");
            if conversations.last().is_none_or(|last| last.id != id) {
                conversations.push(Conversation {
                    id,
                    split: Split::Train,
                    first: i,
                    utterances: Vec::new(),
                });
            }
            conversations.last_mut().unwrap().utterances.push(Utterance {
                id: i.to_string(),
                speaker: self.values("data.speaker")[i].to_string(),
                label: Some(self.values("data.label")[i] as usize),
                text: None,
            });
        }
        Corpus {
            source: self.name.clone(),
            classes: (0..self.classes).map(|class| class.to_string()).collect(),
            modalities: vec![Modality { name: "text".into(), width: self.width() }],
            conversations,
            features: self.values("data.features").to_vec(),
        }
    }

    /// The parameters, with fresh moments.
    pub fn state(&self) -> State {
        let parameters: Vec<Tensor> = self
            .tensors
            .iter()
            .filter_map(|(name, (shape, values))| {
                let name = name.strip_prefix("parameter.")?.to_string();
                Some(Tensor { name, shape: shape.clone(), values: Values::F64(values.clone()) })
            })
            .collect();
        let zeros: Vec<Tensor> = parameters
            .iter()
            .map(|tensor| {
                let size = tensor.shape.iter().product();
                Tensor { values: Values::F64(vec![0.0; size]), ..tensor.clone() }
            })
            .collect();
        State { parameters, first_moment: zeros.clone(), second_moment: zeros, updates: 0, scaling: None }
    }

    pub fn targets(&self) -> Vec<u32> {
        self.values("targets").iter().map(|&target| target as u32).collect()
    }

    /// `tolerance` is relative to the largest value of the tensor.
    pub fn check(&self, name: &str, found: &[f64], tolerance: f64) {
        let expected = self.values(name);
        assert_eq!(found.len(), expected.len(), "{}: {name}", self.name);
        let scale = expected.iter().fold(0.0f64, |most, x| most.max(x.abs())).max(1e-6);
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max);
        assert!(worst <= tolerance, "{}: {name} is off by {worst:e}", self.name);
        assert!(found.iter().all(|x| x.is_finite()), "{}: {name} is not finite", self.name);
    }
}
