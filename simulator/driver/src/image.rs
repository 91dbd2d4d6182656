//! Finds the PTX in what a program loads as a module: PTX text, or a fat binary of nvcc's.
//!
//! A fat binary begins with a header of 16 bytes (magic `0xBA55ED50`, version, length of the header, length of all entries)
//! and is followed by entries, each with a header of its own and a payload:
//!
//! | offset | bytes | entry's header |
//! | --- | --- | --- |
//! | 0 | 2 | kind: 1 is PTX, 2 a cubin |
//! | 4 | 4 | length of the header |
//! | 8 | 8 | length of the payload, padding included |
//! | 16 | 4 | length of the compressed payload without padding, 0 where it is not compressed |
//! | 28 | 4 | architecture: 75 is `compute_75` or `sm_75` |
//! | 40 | 8 | flags: `0x2000` compressed by LZ4 (a bare block), `0x8000` by zstd (a frame) |
//! | 56 | 8 | length when decompressed |
//!
//! What `nvcc` puts into a program is a wrapper (magic `0x466243B1`) that points to the fat binary.

use std::ffi::c_void;

use crate::device::CAPABILITY;
use crate::error::CUresult;

const WRAPPER: u32 = 0x4662_43b1;
const FAT_BINARY: u32 = 0xba55_ed50;
const ELF: u32 = 0x464c_457f;
const HEADER: usize = 16;
const ENTRY: usize = 64;
const KIND_PTX: u16 = 1;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// More than any module; a damaged length must not take all memory.
const LARGEST: u64 = 1 << 30;

/// Why there is nothing to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    /// What the function returns.
    pub code: CUresult,
    /// What is wrong and what helps.
    pub message: String,
}

fn invalid(message: impl Into<String>) -> ImageError {
    ImageError { code: CUresult::INVALID_IMAGE, message: message.into() }
}

fn no_ptx(what: &str) -> ImageError {
    let advice = "the simulated card runs PTX only; compile with -gencode arch=compute_75,code=compute_75";
    ImageError { code: CUresult::NO_BINARY_FOR_GPU, message: format!("{what} has no PTX for it: {advice}") }
}

/// The PTX of an image in memory.
///
/// # Safety
/// `image` is null, PTX that ends with a zero byte, a whole fat binary, a wrapper of one, or a cubin.
pub unsafe fn ptx_at(image: *const c_void) -> Result<String, ImageError> {
    let start: *const u8 = image.cast();
    if start.is_null() {
        return Err(ImageError { code: CUresult::INVALID_VALUE, message: "the image is null".to_owned() });
    }
    // Text may be shorter than a magic number: it is read up to the first zero byte only.
    let mut magic = [0; 4];
    for (index, byte) in magic.iter_mut().enumerate() {
        // SAFETY: no byte before was zero, so text has this one too; the other forms are longer than 4 bytes.
        *byte = unsafe { start.add(index).read() };
        if *byte == 0 {
            break;
        }
    }
    match u32::from_le_bytes(magic) {
        ELF => Err(no_ptx("a cubin")),
        // SAFETY: a wrapper is two words and the pointer to its fat binary.
        WRAPPER => unsafe { ptx_at(start.add(8).cast::<*const c_void>().read_unaligned()) },
        FAT_BINARY => {
            // SAFETY: a fat binary has its header, and as many bytes as the header says.
            unsafe {
                let header = std::slice::from_raw_parts(start, HEADER);
                let length =
                    whole_length(header).ok_or_else(|| invalid("a fat binary with a damaged header"))?;
                fat_binary(std::slice::from_raw_parts(start, length))
            }
        }
        _ => {
            // SAFETY: what is neither of these is text that ends with a zero byte.
            let text = unsafe { std::ffi::CStr::from_ptr(start.cast()) };
            text_of(text.to_bytes())
        }
    }
}

/// The PTX of an image in a file: PTX text or a fat binary.
pub fn ptx_in(bytes: &[u8]) -> Result<String, ImageError> {
    match number(bytes, 0) {
        Some(ELF) => Err(no_ptx("a cubin")),
        Some(FAT_BINARY) => fat_binary(bytes),
        _ => text_of(bytes.split(|byte| *byte == 0).next().unwrap_or_default()),
    }
}

/// Text that at least looks like PTX; the reader of PTX has better messages for what is wrong inside.
fn text_of(bytes: &[u8]) -> Result<String, ImageError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.trim().is_empty() => Ok(text.to_owned()),
        Ok(_) => Err(invalid("an empty image")),
        Err(_) => Err(invalid("neither PTX, nor a fat binary, nor a cubin")),
    }
}

/// A little-endian number of the image, if the image is long enough.
fn number<T: Number>(bytes: &[u8], offset: usize) -> Option<T> {
    T::read(bytes.get(offset..)?)
}

trait Number: Sized {
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl Number for $kind {
            fn read(bytes: &[u8]) -> Option<$kind> {
                bytes.first_chunk().map(|bytes| <$kind>::from_le_bytes(*bytes))
            }
        }
    )*};
}

numbers!(u16, u32, u64);

/// The length of a fat binary, its header included.
fn whole_length(header: &[u8]) -> Option<usize> {
    let length = usize::from(number::<u16>(header, 6)?);
    let entries = number::<u64>(header, 8).filter(|entries| *entries < LARGEST)?;
    (length >= HEADER).then_some(length + entries as usize)
}

/// The best PTX entry of a fat binary: the newest architecture that the card still has.
fn fat_binary(bytes: &[u8]) -> Result<String, ImageError> {
    let damaged = || invalid("a fat binary whose lengths do not agree");
    let end = whole_length(bytes).filter(|end| *end <= bytes.len()).ok_or_else(damaged)?;
    let mut at = usize::from(number::<u16>(bytes, 6).ok_or_else(damaged)?);
    let mut best: Option<(u32, &[u8], &[u8])> = None;
    let mut found = Vec::new();
    while at < end {
        let entry = &bytes[at..end];
        let header = number::<u32>(entry, 4).ok_or_else(damaged)? as usize;
        let payload =
            number::<u64>(entry, 8).filter(|length| *length < LARGEST).ok_or_else(damaged)? as usize;
        if header < ENTRY || header + payload > entry.len() {
            return Err(damaged());
        }
        let kind: u16 = number(entry, 0).ok_or_else(damaged)?;
        let architecture: u32 = number(entry, 28).ok_or_else(damaged)?;
        if kind == KIND_PTX {
            found.push(format!("compute_{architecture}"));
            if architecture <= CAPABILITY as u32 && best.is_none_or(|(newest, ..)| newest < architecture) {
                best = Some((architecture, &entry[..header], &entry[header..header + payload]));
            }
        } else {
            found.push(format!("sm_{architecture}"));
        }
        at += header + payload;
    }
    match best {
        Some((_, header, payload)) => decompress(header, payload),
        None => Err(no_ptx(&format!(
            "a fat binary with {}",
            if found.is_empty() { "nothing".into() } else { found.join(", ") }
        ))),
    }
}

/// The text of an entry.
fn decompress(header: &[u8], payload: &[u8]) -> Result<String, ImageError> {
    let damaged = |what: &str| invalid(format!("PTX of a fat binary {what}"));
    let flags: u64 = number(header, 40).ok_or_else(|| damaged("without flags"))?;
    let length: u64 = number(header, 56).ok_or_else(|| damaged("without a length"))?;
    if flags & (LZ4 | ZSTD) == 0 {
        // Padding is zeros.
        return text_of(payload.split(|byte| *byte == 0).next().unwrap_or_default());
    }
    let compressed = number::<u32>(header, 16).and_then(|length| payload.get(..length as usize));
    let compressed = compressed.ok_or_else(|| damaged("whose lengths do not agree"))?;
    if length >= LARGEST {
        return Err(damaged("whose lengths do not agree"));
    }
    let mut text = vec![0; length as usize];
    let written = if flags & ZSTD != 0 {
        ruzstd::decoding::FrameDecoder::new()
            .decode_all(compressed, &mut text)
            .map_err(|error| error.to_string())
    } else {
        lz4_flex::block::decompress_into(compressed, &mut text).map_err(|error| error.to_string())
    };
    match written {
        Ok(written) if written == text.len() => {
            text_of(text.split(|byte| *byte == 0).next().unwrap_or_default())
        }
        Ok(_) => Err(damaged("that is shorter than it should be")),
        Err(error) => Err(damaged(&format!("that cannot be decompressed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = include_bytes!("../tests/images/plain.fatbin");
    const LZ4: &[u8] = include_bytes!("../tests/images/lz4.fatbin");
    const ZSTD: &[u8] = include_bytes!("../tests/images/zstd.fatbin");
    const SEVERAL: &[u8] = include_bytes!("../tests/images/several.fatbin");
    const NEWER: &[u8] = include_bytes!("../tests/images/newer.fatbin");
    const CUBIN: &[u8] = include_bytes!("../tests/images/cubin.fatbin");
    const TEXT: &str = include_str!("../tests/images/double.ptx");

    /// The part of the text that does not depend on how it was packed; a fat binary leaves the comments out.
    fn body(text: &str) -> &str {
        &text[text.find(".visible .entry twice").unwrap()..]
    }

    #[test]
    fn ptx_is_found_however_it_is_compressed() {
        let plain = ptx_in(PLAIN).unwrap();
        assert!(plain.contains(".target sm_75"));
        assert_eq!(ptx_in(LZ4).unwrap().trim(), plain.trim());
        assert_eq!(ptx_in(ZSTD).unwrap().trim(), plain.trim());
        assert!(body(TEXT).contains("add.f32") && body(&plain).contains("add.f32"));
    }

    #[test]
    fn the_newest_architecture_that_the_card_has_is_taken() {
        let text = ptx_in(SEVERAL).unwrap();
        assert!(text.contains(".target sm_75") && !text.contains("sm_80"), "{text}");
    }

    #[test]
    fn without_ptx_for_the_card_the_message_says_what_helps() {
        for (image, has) in
            [(CUBIN, "sm_75"), (NEWER, "compute_80"), (b"\x7fELF\x02\x01\x01".as_slice(), "cubin")]
        {
            let error = ptx_in(image).unwrap_err();
            assert_eq!(error.code, CUresult::NO_BINARY_FOR_GPU);
            assert!(error.message.contains(has), "{}", error.message);
            assert!(error.message.contains("-gencode arch=compute_75,code=compute_75"), "{}", error.message);
        }
    }

    #[test]
    fn images_in_memory_are_told_apart() {
        let wrapper: [u64; 3] = [u64::from(WRAPPER) | 1 << 32, ZSTD.as_ptr().expose_provenance() as u64, 0];
        // SAFETY: each of these is what its first bytes say, text with a zero byte at the end.
        unsafe {
            assert_eq!(ptx_at(LZ4.as_ptr().cast()), ptx_in(LZ4));
            assert_eq!(ptx_at(wrapper.as_ptr().cast()), ptx_in(ZSTD));
            assert_eq!(ptx_at(c".version 9.0".as_ptr().cast()).as_deref(), Ok(".version 9.0"));
            assert_eq!(ptx_at(c"x".as_ptr().cast()).as_deref(), Ok("x"));
            assert_eq!(ptx_at(c"".as_ptr().cast()).unwrap_err().code, CUresult::INVALID_IMAGE);
            assert_eq!(ptx_at(std::ptr::null()).unwrap_err().code, CUresult::INVALID_VALUE);
        }
    }

    /// Whatever is damaged is an error: no panic, no endless loop, no memory without end.
    #[test]
    fn damaged_images_are_refused() {
        for image in [PLAIN, LZ4, ZSTD, SEVERAL] {
            for length in 0..image.len() {
                let code = ptx_in(&image[..length]).err().map(|error| error.code);
                // Less than a magic number is text for all that can be seen.
                assert!(length < 4 || code == Some(CUresult::INVALID_IMAGE), "{length}");
            }
            for byte in 0..image.len().min(160) {
                for value in [0, 0x7f, 0xff] {
                    let mut damaged = image.to_vec();
                    damaged[byte] = value;
                    let _ = ptx_in(&damaged);
                }
            }
        }
    }
}
