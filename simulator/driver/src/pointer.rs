//! What the driver knows about a pointer.

use std::ffi::{c_uint, c_void};

use crate::error::{CUresult, Outcome, call};
use crate::state::{State, state};
use crate::types::*;

/// An attribute of a pointer, as the bytes that the caller gets.
fn pointer_attribute(state: &mut State, attribute: c_uint, address: u64) -> Outcome<Vec<u8>> {
    let number = |value: u64| Ok(value.to_le_bytes().to_vec());
    let word = |value: u32| Ok(value.to_le_bytes().to_vec());
    let flag = |value: bool| Ok(vec![u8::from(value)]);
    struct Found {
        start: u64,
        bytes: u64,
        context: usize,
        id: u64,
        pool: usize,
        device: bool,
    }
    let found = if let Some((start, allocation)) = state.allocation_at(address) {
        let pool = allocation.pool.map_or(0, |pool| pool.0);
        Found {
            start,
            bytes: allocation.bytes,
            context: allocation.context.0,
            id: allocation.id,
            pool,
            device: true,
        }
    } else if let Some((start, memory)) = state.host_at(address as usize) {
        let (start, bytes) = (start as u64, memory.bytes as u64);
        Found { start, bytes, context: memory.context.0, id: start, pool: 0, device: false }
    } else if let Some((start, bytes)) = state.device().allocation(address) {
        let context = state.current()?;
        Found { start, bytes, context: context.0, id: start, pool: 0, device: true }
    } else {
        return Err(CUresult::INVALID_VALUE);
    };
    match attribute {
        1 => number(found.context as u64),
        2 => word(if found.device { MEMORY_DEVICE } else { MEMORY_HOST }),
        3 if found.device => number(address),
        4 if !found.device => number(address),
        6 => word(0),
        7 => number(found.id),
        8 => flag(false),
        9 => word(0),
        10 => flag(false),
        11 => number(found.start),
        12 => number(found.bytes),
        13 => flag(true),
        14 => number(0),
        15 => flag(false),
        // `CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE`
        16 => word(3),
        17 => number(found.pool as u64),
        18 => number(found.bytes),
        19 => number(found.start),
        20 => number(found.id),
        21 => flag(false),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// One attribute of a pointer.
///
/// # Safety
/// `data` is null or has room for the attribute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: c_uint,
    address: CUdeviceptr,
) -> CUresult {
    call("cuPointerGetAttribute", || {
        let mut state = state()?;
        state.current()?;
        if data.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let bytes = pointer_attribute(&mut state, attribute, address)?;
        // SAFETY: the caller promises room for the attribute, and the bytes are as many as its type has.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len()) };
        Ok(())
    })
}

/// Several attributes of a pointer; for one that nobody knows they are 0.
///
/// # Safety
/// `attributes` and `data` have `count` places, and each of `data` has room for its attribute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttributes(
    count: c_uint,
    attributes: *const c_uint,
    data: *const *mut c_void,
    address: CUdeviceptr,
) -> CUresult {
    call("cuPointerGetAttributes", || {
        let mut state = state()?;
        state.current()?;
        if attributes.is_null() || data.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        for index in 0..count as usize {
            // SAFETY: the caller promises `count` places.
            let (attribute, to) = unsafe { (*attributes.add(index), *data.add(index)) };
            if to.is_null() {
                return Err(CUresult::INVALID_VALUE);
            }
            let bytes = match pointer_attribute(&mut state, attribute, address) {
                Ok(bytes) => bytes,
                Err(_) => match attribute {
                    8 | 10 | 13 | 15 | 21 => vec![0],
                    2 | 6 | 16 => vec![0; 4],
                    // `CU_DEVICE_INVALID` is -2.
                    9 => (-2_i32).to_le_bytes().to_vec(),
                    1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => vec![0; 8],
                    _ => return Err(CUresult::INVALID_VALUE),
                },
            };
            // SAFETY: the caller promises room for the attribute.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len()) };
        }
        Ok(())
    })
}
