//! Named arrays in a safetensors file, with metadata.
//!
//! The header is written here, in a fixed order, so that equal content gives equal bytes (the crate's writer takes
//! the metadata in a hash map's order); reading and its checks are the crate's.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::json;

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::model::{Tensor, Values};

pub type Metadata = BTreeMap<String, String>;

/// An array to write.
pub struct Entry<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

pub enum Data<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    I64(&'a [i64]),
}

impl<'a> Entry<'a> {
    pub fn tensor(prefix: &str, tensor: &'a Tensor) -> Self {
        Entry {
            name: format!("{prefix}{}", tensor.name),
            shape: tensor.shape.clone(),
            data: Data::from(&tensor.values),
        }
    }

    /// A vector of `f64`.
    pub fn vector(name: &str, values: &'a [f64]) -> Self {
        Entry { name: name.to_string(), shape: vec![values.len()], data: Data::F64(values) }
    }
}

impl<'a> From<&'a Values> for Data<'a> {
    fn from(values: &'a Values) -> Self {
        match values {
            Values::F32(values) => Data::F32(values),
            Values::F64(values) => Data::F64(values),
        }
    }
}

impl Data<'_> {
    fn dtype(&self) -> &'static str {
        match self {
            Data::F32(_) => "F32",
            Data::F64(_) => "F64",
            Data::I64(_) => "I64",
        }
    }

    fn width(&self) -> usize {
        match self {
            Data::F32(_) => 4,
            Data::F64(_) | Data::I64(_) => 8,
        }
    }

    fn byte_len(&self) -> usize {
        self.width()
            * match self {
                Data::F32(values) => values.len(),
                Data::F64(values) => values.len(),
                Data::I64(values) => values.len(),
            }
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Data::F32(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Data::F64(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Data::I64(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
}

/// Writes the file atomically; names are distinct.
pub fn write(path: &Path, metadata: &Metadata, entries: Vec<Entry>) -> Result<()> {
    atomic_file::write(path, &encode(metadata, entries))
}

/// Header length, header, data. Wider numbers come first, so that all are aligned.
fn encode(metadata: &Metadata, mut entries: Vec<Entry>) -> Vec<u8> {
    entries.sort_by(|a, b| (b.data.width(), &a.name).cmp(&(a.data.width(), &b.name)));
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_string(), json!(metadata));
    let mut offset = 0;
    for entry in &entries {
        let end = offset + entry.data.byte_len();
        header.insert(
            entry.name.clone(),
            json!({"dtype": entry.data.dtype(), "shape": entry.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + offset);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for entry in &entries {
        entry.data.append_to(&mut bytes);
    }
    bytes
}

/// Reads a file's metadata and its floating-point arrays, by name; arrays of other types are refused.
pub fn read(path: &Path) -> Result<(Metadata, BTreeMap<String, Tensor>)> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
    let wrong = |message: String| Error::input(format!("{}: {message}", path.display()));
    let damaged = |error| match error {
        // The length of the header is the first 8 bytes: those of a text make one beyond all bounds.
        SafeTensorError::HeaderTooLarge => wrong("not a safetensors file".to_string()),
        error => wrong(format!("not a safetensors file, or one that is cut short or damaged: {error}")),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let values = match view.dtype() {
            Dtype::F32 => Values::F32(numbers(view.data(), f32::from_le_bytes)),
            Dtype::F64 => Values::F64(numbers(view.data(), f64::from_le_bytes)),
            other => {
                return Err(wrong(format!("tensor {name} is of type {other}; F32 and F64 are read")));
            }
        };
        let tensor = Tensor { name: name.to_string(), shape: view.shape().to_vec(), values };
        tensors.insert(name.to_string(), tensor);
    }
    Ok((metadata, tensors))
}

fn numbers<T, const N: usize>(bytes: &[u8], number: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| number(chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        [("b", "{\"x\": \"ü\"}"), ("a", "1")].map(|(key, value)| (key.into(), value.into())).into()
    }

    fn tensor(name: &str, shape: &[usize], values: Values) -> Tensor {
        Tensor { name: name.into(), shape: shape.to_vec(), values }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let narrow = tensor("a", &[3, 1], Values::F32(vec![1.0, -0.0, f32::MIN_POSITIVE / 2.0]));
        let wide = tensor("z", &[2], Values::F64(vec![0.1, f64::NAN]));
        write(
            &path,
            &metadata(),
            vec![Entry::tensor("", &narrow), Entry::tensor("p.", &wide), Entry::vector("empty", &[])],
        )
        .unwrap();
        let (back, tensors) = read(&path).unwrap();
        assert_eq!(back, metadata());
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "empty", "p.z"]);
        assert_eq!(tensors["a"], narrow);
        assert_eq!(tensors["empty"].shape, [0]);
        let Values::F64(values) = &tensors["p.z"].values else {
            panic!("not f64");
        };
        assert_eq!(values[0], 0.1);
        assert!(values[1].is_nan());
    }

    #[test]
    fn equal_content_gives_equal_bytes_in_any_order() {
        let (one, two) =
            (tensor("one", &[1], Values::F32(vec![1.0])), tensor("two", &[1], Values::F64(vec![2.0])));
        let index = [3i64];
        let entries = || {
            let index = Entry { name: "index".into(), shape: vec![1], data: Data::I64(&index) };
            vec![Entry::tensor("", &one), Entry::tensor("", &two), index]
        };
        let bytes = encode(&metadata(), entries());
        let mut turned = entries();
        turned.reverse();
        assert_eq!(bytes, encode(&metadata(), turned));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("index").unwrap().data(), 3i64.to_le_bytes());
        assert_eq!(file.tensor("one").unwrap().data(), 1.0f32.to_le_bytes());
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let values = [1.0, 2.0];
        let bytes = encode(&metadata(), vec![Entry::vector("v", &values)]);
        for damaged in [&bytes[..0], &bytes[..7], &bytes[..20], &bytes[..bytes.len() - 1], b"{}"] {
            std::fs::write(&path, damaged).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains("a.safetensors: not a safetensors file"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        let index = [1i64];
        let entry = Entry { name: "index".into(), shape: vec![1], data: Data::I64(&index) };
        std::fs::write(&path, encode(&metadata(), vec![entry])).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("tensor index is of type I64"));
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("none: cannot read"));
    }
}
