//! What is fixed before the first step: the settings, the conversations and how they are parted.

use super::checkpoint::Origin;
use super::partition::{self, Partition};
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::error::{Error, Result};
use crate::model::config::Config;

pub struct Setup<'a> {
    pub config: Config,
    pub corpus: &'a Corpus,
    pub partition: Partition,
    pub origin: Origin,
}

impl<'a> Setup<'a> {
    /// `fingerprint` is the corpus's: it is costly, and the same for every seed.
    pub fn new(config: Config, corpus: &'a Corpus, fingerprint: &str) -> Result<Self> {
        let partition = Partition::draw(corpus, &config)?;
        let standardisation = Standardisation::fit(corpus, partition.train.iter().copied());
        let mut scales = standardisation.mean.iter().zip(&standardisation.deviation);
        let overflown = scales.position(|(mean, deviation)| !(mean.is_finite() && deviation.is_finite()));
        if let Some(column) = overflown {
            return Err(Error::input(format!(
                "{}: feature {column} of the {} has values too large to standardise: mend or leave out its modality",
                corpus.source,
                corpus.width()
            )));
        }
        let origin = Origin {
            classes: corpus.classes.clone(),
            modalities: corpus.modalities.clone(),
            standardisation,
            validation: partition.validation_ids(corpus),
            fingerprint: fingerprint.to_string(),
        };
        Ok(Setup { config, corpus, partition, origin })
    }

    pub fn targets(&self, conversations: &[usize]) -> Vec<u32> {
        partition::targets(self.corpus, conversations)
    }
}
