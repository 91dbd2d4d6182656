//! Where a command's conversations come from.

use std::path::{Path, PathBuf};

use crate::data::synthetic::{self, SyntheticOptions};
use crate::data::{self, Corpus, Format, ReadOptions, conversations};
use crate::error::{Error, Result};

/// What stands for the synthetic conversations wherever a file of conversations may stand.
pub const SYNTHETIC: &str = "synthetic";

#[derive(Debug, clap::Args)]
pub struct Source {
    /// File of conversations, or `synthetic` for generated ones
    #[arg(long, value_name = "FILE")]
    pub data: String,
    /// Format of the file: iemocap, meld or conversations; told by its content when not given
    #[arg(long)]
    pub format: Option<String>,
}

impl Source {
    /// Demands that `out`, which is to be written, is none of the files that are read.
    pub fn spare(&self, out: &Path) -> Result<()> {
        spare(&files(&self.data), out)
    }

    /// With these modalities; all that there are when `None`.
    pub fn read(&self, modalities: Option<Vec<String>>) -> Result<Corpus> {
        read(&self.data, self.format.as_deref(), modalities)
    }
}

/// The files that conversations are read from.
pub fn files(data: &str) -> Vec<PathBuf> {
    if data == SYNTHETIC { Vec::new() } else { conversations::files(Path::new(data)) }
}

/// Demands that `out`, which is to be written, is none of `inputs`, which are read.
pub fn spare(inputs: &[PathBuf], out: &Path) -> Result<()> {
    let is_out = |input: &PathBuf| matches!((input.canonicalize(), out.canonicalize()), (Ok(one), Ok(other)) if one == other);
    if inputs.iter().any(is_out) {
        return Err(Error::input(format!(
            "{}: is an input, whose place the output would take; name another file to write",
            out.display()
        )));
    }
    Ok(())
}

/// Reads a file of conversations, or makes the synthetic ones.
pub fn read(data: &str, format: Option<&str>, modalities: Option<Vec<String>>) -> Result<Corpus> {
    if data == SYNTHETIC {
        return generate(SyntheticOptions::default(), modalities.as_deref());
    }
    let format = format.map(str::parse::<Format>).transpose()?;
    data::read(Path::new(data), &ReadOptions { format, modalities })
}

/// The synthetic conversations, with some of their modalities.
pub fn generate(mut options: SyntheticOptions, modalities: Option<&[String]>) -> Result<Corpus> {
    if let Some(wanted) = modalities {
        let known: Vec<String> = options.modalities.iter().map(|modality| modality.name.clone()).collect();
        if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
            return Err(Error::input(format!(
                "{SYNTHETIC}: there is no modality {unknown:?}; there are {}",
                known.join(", ")
            )));
        }
        options.modalities.retain(|modality| wanted.contains(&modality.name));
    }
    let corpus = synthetic::generate(&options);
    corpus.validate()?;
    Ok(corpus)
}
