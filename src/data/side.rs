//! The file of features beside a file of conversations: `.safetensors` or `.npy`.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::Modality;
use super::number::Number;
use crate::error::{Error, Result};

/// Features by row, for each modality of the header.
#[derive(Debug)]
pub(super) struct Side {
    name: String,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
}

/// Where one modality's `[rows, width]` lies in the file. Checked: it lies within, and neither is 0.
#[derive(Debug)]
struct Block {
    number: Number,
    big_endian: bool,
    start: usize,
    rows: usize,
    width: usize,
    /// Bytes from an element to the next in its column and in its row.
    row_stride: usize,
    column_stride: usize,
}

impl Side {
    /// Reads the file at `path`, which holds `modalities`.
    ///
    /// # Errors
    /// `Error::Input`, naming the file and the tensor, when it is neither `.safetensors` nor `.npy`, is damaged or
    /// cut short, or has not the tensors, types and widths that the header announces.
    pub fn read(path: &Path, modalities: &[Modality]) -> Result<Side> {
        let name = path.display().to_string();
        type Blocks = fn(&[u8], &[Modality]) -> std::result::Result<Vec<Block>, String>;
        let blocks: Blocks = match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => safetensors,
            Some("npy") => npy,
            _ => {
                return Err(Error::input(format!(
                    "{name}: features are read from .safetensors and .npy files"
                )));
            }
        };
        let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
        let blocks = blocks(&bytes, modalities);
        match blocks {
            Ok(blocks) => Ok(Side { name, bytes, blocks }),
            Err(message) => Err(Error::input(format!("{name}: {message}"))),
        }
    }

    /// Appends row `row` of the modality that is `modality`th in the header; the message of an error has no place.
    pub fn row(&self, modality: usize, row: usize, out: &mut Vec<f64>) -> std::result::Result<(), String> {
        let block = &self.blocks[modality];
        if row >= block.rows {
            return Err(format!("row {row} is beyond the {} rows of {}", block.rows, self.name));
        }
        let size = block.number.size();
        let first = block.start + row * block.row_stride;
        if block.column_stride == size {
            block.number.decode(block.big_endian, &self.bytes[first..first + size * block.width], out);
        } else {
            for column in 0..block.width {
                let at = first + column * block.column_stride;
                block.number.decode(block.big_endian, &self.bytes[at..at + size], out);
            }
        }
        Ok(())
    }
}

/// Tensors named after the modalities, `[rows, width]` each; others are left alone.
fn safetensors(bytes: &[u8], modalities: &[Modality]) -> std::result::Result<Vec<Block>, String> {
    let damaged = || "this is no .safetensors file, or it is cut short".to_string();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
    let (header, content) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("its header is damaged: {error}"))?;
    if metadata.data_len() != content.len() {
        return Err(format!(
            "its tensors take {} bytes and {} are there: the file is cut short or damaged",
            metadata.data_len(),
            content.len()
        ));
    }
    let start = 8 + length;
    let block = |modality: &Modality| {
        let Modality { name, width } = modality;
        let info = metadata.info(name).ok_or_else(|| {
            format!("there is no tensor {name:?}: each modality of the header has a tensor of its name")
        })?;
        let number = match info.dtype {
            Dtype::F16 => Number::F16,
            Dtype::F32 => Number::F32,
            Dtype::F64 => Number::F64,
            other => return Err(format!("tensor {name:?} is {other:?}: F16, F32 and F64 are read")),
        };
        match *info.shape.as_slice() {
            [rows, found] if found == *width && rows > 0 => Ok(Block {
                number,
                big_endian: false,
                start: start + info.data_offsets.0,
                rows,
                width: found,
                row_stride: found * number.size(),
                column_stride: number.size(),
            }),
            _ => {
                Err(format!("tensor {name:?} has shape {:?}: [utterances, {width}] is announced", info.shape))
            }
        }
    };
    modalities.iter().map(block).collect()
}

/// One matrix `[rows, D]` with the modalities side by side.
fn npy(bytes: &[u8], modalities: &[Modality]) -> std::result::Result<Vec<Block>, String> {
    let array = NpyHeader::parse(bytes)?;
    let width = modalities.iter().try_fold(0usize, |sum, modality| sum.checked_add(modality.width));
    let (rows, found) = match *array.shape.as_slice() {
        [rows, found] if Some(found) == width && rows > 0 => (rows, found),
        _ => {
            let wanted = width.map_or_else(|| "?".to_string(), |width| width.to_string());
            return Err(format!(
                "the array has shape {:?}: [utterances, {wanted}] is announced",
                array.shape
            ));
        }
    };
    let size = array.number.size();
    let content = bytes.len() - array.start;
    if rows.checked_mul(found).and_then(|elements| elements.checked_mul(size)) != Some(content) {
        return Err(format!(
            "an array of shape {:?} with elements of {size} bytes has {content} bytes: the file is cut short or damaged",
            array.shape
        ));
    }
    let (row_stride, column_stride) = if array.fortran { (size, rows * size) } else { (found * size, size) };
    let mut start = array.start;
    let blocks = modalities.iter().map(|modality| {
        let block = Block {
            number: array.number,
            big_endian: array.big_endian,
            start,
            rows,
            width: modality.width,
            row_stride,
            column_stride,
        };
        start += modality.width * column_stride;
        block
    });
    Ok(blocks.collect())
}

/// What stands before the elements of a `.npy` file (numpy's `lib.format`, versions 1 to 3): a Python dict of the
/// element type, the order and the shape.
struct NpyHeader {
    number: Number,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Where the elements begin.
    start: usize,
}

impl NpyHeader {
    fn parse(bytes: &[u8]) -> std::result::Result<NpyHeader, String> {
        let damaged = || "this is no .npy file, or its header is cut short or damaged".to_string();
        let (version, rest) =
            bytes.strip_prefix(b"\x93NUMPY").and_then(|rest| rest.split_at_checked(2)).ok_or_else(damaged)?;
        let (length, rest) = match version[0] {
            1 => {
                let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
                (usize::from(u16::from_le_bytes(*length)), rest)
            }
            2 | 3 => {
                let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
                (u32::from_le_bytes(*length) as usize, rest)
            }
            version => {
                return Err(format!("version {version} of .npy is not read: save it with numpy.save"));
            }
        };
        let (header, content) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let mut header = Literal(std::str::from_utf8(header).map_err(|_| damaged())?);
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        header.token('{').ok_or_else(damaged)?;
        while header.token('}').is_none() {
            let key = header.text().ok_or_else(damaged)?;
            header.token(':').ok_or_else(damaged)?;
            match key {
                "descr" if header.token('[').is_some() => {
                    return Err(
                        "the array has a type of several fields: save plain float32 or float64".to_string()
                    );
                }
                "descr" => descr = Some(header.text().ok_or_else(damaged)?),
                "fortran_order" => fortran = Some(header.truth().ok_or_else(damaged)?),
                "shape" => shape = Some(header.sizes().ok_or_else(damaged)?),
                _ => return Err(damaged()),
            }
            let _ = header.token(',');
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err(damaged());
        };
        let number = descr.split_at_checked(1).and_then(|(_, name)| Number::named(name));
        let number = number.filter(|number| !number.is_whole());
        let number = number.ok_or_else(|| {
            format!("the array is of type {descr:?}: float16, float32 and float64 are read")
        })?;
        let big_endian = descr.starts_with('>');
        Ok(NpyHeader { number, big_endian, fortran, shape, start: bytes.len() - content.len() })
    }
}

/// What is left of a Python literal.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn take(&mut self, length: usize) -> Option<&'a str> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn token(&mut self, token: char) -> Option<()> {
        self.0 = self.0.trim_start();
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    /// Text between quotes, without escapes.
    fn text(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start();
        let quote = self.0.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        self.token(quote)?;
        let text = self.take(self.0.find(quote)?)?;
        self.token(quote)?;
        (!text.contains('\\')).then_some(text)
    }

    fn truth(&mut self) -> Option<bool> {
        self.0 = self.0.trim_start();
        let truth = self.0.starts_with("True");
        self.0 = self.0.strip_prefix(if truth { "True" } else { "False" })?;
        Some(truth)
    }

    fn sizes(&mut self) -> Option<Vec<usize>> {
        self.token('(')?;
        let mut sizes = Vec::new();
        while self.token(')').is_none() {
            self.0 = self.0.trim_start();
            let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
            sizes.push(self.take(digits)?.parse().ok()?);
            // Python 2 writes a long as 3L.
            let _ = self.0.strip_prefix('L').map(|rest| self.0 = rest);
            let _ = self.token(',');
        }
        Some(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modality(width: usize) -> [Modality; 1] {
        [Modality { name: "text".into(), width }]
    }

    fn npy_file(header: &str, content: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\0".as_slice(), &length, header.as_bytes(), content].concat()
    }

    fn safetensors_file(header: &str, content: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), content].concat()
    }

    /// Headers as numpy of Python 2 and other writers make them.
    #[test]
    fn headers_of_npy_in_other_hands() {
        for header in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 2L), }   \n",
            "{\"shape\":(3,2),\"fortran_order\":False,\"descr\":\"<f4\"}",
        ] {
            let blocks = npy(&npy_file(header, &[0; 24]), &modality(2)).unwrap();
            assert_eq!((blocks[0].rows, blocks[0].number, blocks[0].row_stride), (3, Number::F32, 8));
        }
    }

    #[test]
    fn damaged_npy_is_refused() {
        let cases = [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}",
                "elements of 4 bytes has 23 bytes",
                23,
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 2)}",
                "cut short or damaged",
                0,
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2)}", "shape [0, 2]: [utterances, 2]", 0),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 2)}",
                "no .npy file",
                0,
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -2)}", "no .npy file", 0),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, (2))}", "no .npy file", 0),
            ("{'descr': '<f4', 'fortran_order': None, 'shape': (3, 2)}", "no .npy file", 0),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}",
                "a type of several fields",
                0,
            ),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (3, 2)}", "of type \"|O\"", 0),
            ("{'descr': '', 'fortran_order': False, 'shape': (3, 2)}", "of type \"\"", 0),
            ("{'descr': '\u{e9}f4', 'fortran_order': False, 'shape': (3, 2)}", "of type \"\u{e9}f4\"", 0),
            ("{'descr': '<f4', 'shape': (3, 2)}", "no .npy file", 24),
            ("{'descr': '<f4', 'other': True}", "no .npy file", 24),
            ("{'descr': '<f4", "no .npy file", 24),
            ("", "no .npy file", 24),
        ];
        for (header, expected, length) in cases {
            let message = npy(&npy_file(header, &vec![0; length]), &modality(2)).unwrap_err();
            assert!(message.contains(expected), "{header}: {message}");
        }
        for bytes in
            [b"".as_slice(), b"\x93NUMPY", b"\x93NUMPY\x01\0\xff\xff", b"\x93NUMPY\x02\0\xff\xff\xff\xff{"]
        {
            assert!(npy(bytes, &modality(2)).unwrap_err().contains("no .npy file"));
        }
        assert!(npy(b"\x93NUMPY\x09\0\0\0", &modality(2)).unwrap_err().contains("version 9 of .npy"));
    }

    #[test]
    fn damaged_safetensors_are_refused() {
        let good = r#"{"text":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}}"#;
        assert_eq!(safetensors(&safetensors_file(good, &[0; 24]), &modality(2)).unwrap()[0].rows, 3);
        let bf16 = good.replace("F32", "BF16").replace("24", "12");
        let empty = good.replace("[3,2]", "[0,2]").replace("24", "0");
        // Eight tensors of 2^61 - 1 bytes: their end is beyond what a length can hold.
        let huge: Vec<String> = (0..8u64)
            .map(|index| {
                let size = (1u64 << 61) - 1;
                let (start, end) = (index * size, (index + 1) * size);
                format!(r#""t{index}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
            })
            .collect();
        let cases = [
            (safetensors_file(good, &[0; 23]), "take 24 bytes and 23 are there"),
            (safetensors_file(&bf16, &[0; 12]), "is BF16: F16, F32 and F64"),
            (safetensors_file(&empty, &[]), "has shape [0, 2]"),
            (safetensors_file(&format!("{{{}}}", huge.join(",")), &[0; 8]), "bytes and 8 are there"),
            (safetensors_file("{", &[]), "its header is damaged"),
            (safetensors_file(&"[".repeat(100_000), &[]), "its header is damaged"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff{}".to_vec(), "no .safetensors file, or it is cut short"),
            (b"\0\0".to_vec(), "no .safetensors file, or it is cut short"),
        ];
        for (bytes, expected) in cases {
            let message = safetensors(&bytes, &modality(2)).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
