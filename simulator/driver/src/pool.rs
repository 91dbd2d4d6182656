//! Memory pools. They count and hold nothing back: freed memory always goes back to the device, whose late uses it can
//! then find.

use std::ffi::{c_int, c_void};

use crate::device::known;
use crate::error::{CUresult, call, explain};
use crate::state::{Pool, state};
use crate::types::*;

/// The device's first pool.
///
/// # Safety
/// `pool` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<CUmemoryPool>, device: CUdevice) -> CUresult {
    call("cuDeviceGetDefaultMemPool", || {
        let state = state()?;
        known(device)?;
        pool.set(state.default_pool)
    })
}

/// The pool that `cuMemAllocAsync` takes from.
///
/// # Safety
/// `pool` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: Out<CUmemoryPool>, device: CUdevice) -> CUresult {
    call("cuDeviceGetMemPool", || {
        let state = state()?;
        known(device)?;
        pool.set(state.current_pool)
    })
}

/// Sets the pool that `cuMemAllocAsync` takes from.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: CUdevice, pool: CUmemoryPool) -> CUresult {
    call("cuDeviceSetMemPool", || {
        let mut state = state()?;
        known(device)?;
        if !state.pools.contains_key(&pool) {
            return Err(CUresult::INVALID_VALUE);
        }
        state.current_pool = pool;
        Ok(())
    })
}

/// Makes a pool.
///
/// # Safety
/// `pool` is null or may be written; `properties` is null or may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(
    pool: Out<CUmemoryPool>,
    properties: *const CUmemPoolProps,
) -> CUresult {
    call("cuMemPoolCreate", || {
        let mut state = state()?;
        pool.check()?;
        // SAFETY: the caller promises that it may be read.
        let properties = unsafe { properties.as_ref() }.ok_or(CUresult::INVALID_VALUE)?;
        // Pinned memory on device 0 is all there is.
        if properties.allocType != 1 || properties.location != (CUmemLocation { kind: 1, id: 0 }) {
            return Err(CUresult::INVALID_VALUE);
        }
        if properties.handleTypes != 0 {
            explain("cuMemPoolCreate", "memory is not shared between processes");
            return Err(CUresult::NOT_SUPPORTED);
        }
        let handle = CUmemoryPool(state.fresh());
        state.pools.insert(handle, Pool { reuse: [1; 3], ..Pool::default() });
        pool.set(handle)
    })
}

/// Destroys a pool; what was allocated from it stays until it is freed.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: CUmemoryPool) -> CUresult {
    call("cuMemPoolDestroy", || {
        let mut state = state()?;
        if pool == state.default_pool {
            return Err(CUresult::INVALID_VALUE);
        }
        state.pools.remove(&pool).ok_or(CUresult::INVALID_VALUE)?;
        if state.current_pool == pool {
            state.current_pool = state.default_pool;
        }
        Ok(())
    })
}

/// Gives memory that a pool holds back to the device: it never holds any.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: CUmemoryPool, _bytes: usize) -> CUresult {
    call("cuMemPoolTrimTo", || state()?.pools.get(&pool).map(drop).ok_or(CUresult::INVALID_VALUE))
}

/// An attribute of a pool.
///
/// # Safety
/// `value` is null or has room for the attribute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    pool: CUmemoryPool,
    attribute: c_int,
    value: *mut c_void,
) -> CUresult {
    call("cuMemPoolGetAttribute", || {
        let state = state()?;
        let pool = state.pools.get(&pool).ok_or(CUresult::INVALID_VALUE)?;
        if value.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let number = match attribute {
            1..=3 => {
                // SAFETY: the caller promises room for the attribute, which is an `int`.
                unsafe { value.cast::<c_int>().write(pool.reuse[attribute as usize - 1]) };
                return Ok(());
            }
            4 => pool.release_threshold,
            // Nothing is held back, so what is reserved is what is used.
            5 | 7 => pool.used,
            6 | 8 => pool.used_high,
            _ => return Err(CUresult::INVALID_VALUE),
        };
        // SAFETY: the caller promises room for the attribute, which is a `cuuint64_t`.
        unsafe { value.cast::<u64>().write(number) };
        Ok(())
    })
}

/// Sets an attribute of a pool; only the high marks change anything, and they may only be set to 0.
///
/// # Safety
/// `value` is null or points to a value of the attribute's type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attribute: c_int,
    value: *const c_void,
) -> CUresult {
    call("cuMemPoolSetAttribute", || {
        let mut state = state()?;
        let pool = state.pools.get_mut(&pool).ok_or(CUresult::INVALID_VALUE)?;
        if value.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        match attribute {
            // SAFETY: the caller promises an `int` for these.
            1..=3 => pool.reuse[attribute as usize - 1] = unsafe { value.cast::<c_int>().read() },
            4 | 6 | 8 => {
                // SAFETY: the caller promises a `cuuint64_t` for these.
                let number = unsafe { value.cast::<u64>().read() };
                match (attribute, number) {
                    (4, _) => pool.release_threshold = number,
                    (_, 0) => pool.used_high = pool.used,
                    _ => return Err(CUresult::INVALID_VALUE),
                }
            }
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    })
}
