//! What happens before and in `cuInit`. One test, because there is one start in a process.

mod common;

use simulated_cuda::*;

#[test]
fn nothing_works_before_a_good_start() {
    let mut count = 0;
    let mut context = CUcontext::NULL;
    let mut address = 0;
    // SAFETY: the pointers are locals'.
    unsafe {
        assert_eq!(cuDeviceGetCount(Out::from(&mut count)), CUresult::NOT_INITIALIZED);
        assert_eq!(cuCtxGetCurrent(Out::from(&mut context)), CUresult::NOT_INITIALIZED);
        assert_eq!(cuMemAlloc_v2(Out::from(&mut address), 4), CUresult::NOT_INITIALIZED);
        assert_eq!(cuDevicePrimaryCtxRetain(Out::from(&mut context), 0), CUresult::NOT_INITIALIZED);
    }
    assert_eq!(cuStreamSynchronize(CUstream::NULL), CUresult::NOT_INITIALIZED);

    // The version can be asked for at any time.
    let mut version = 0;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuDriverGetVersion(Out::from(&mut version)) }, CUresult::SUCCESS);
    assert_eq!(version, 13000);

    assert_eq!(cuInit(1), CUresult::INVALID_VALUE);
    // SAFETY: no other thread of this process reads or writes the environment.
    unsafe { std::env::set_var(settings::SEED, "first") };
    assert_eq!(cuInit(0), CUresult::INVALID_VALUE);
    // SAFETY: as before.
    unsafe { std::env::remove_var(settings::SEED) };
    assert_eq!(cuInit(0), CUresult::SUCCESS);
    assert_eq!(cuInit(0), CUresult::SUCCESS);

    // SAFETY: the pointers are locals'.
    unsafe {
        assert_eq!(cuDeviceGetCount(Out::from(&mut count)), CUresult::SUCCESS);
        assert_eq!(count, 1);
        assert_eq!(cuMemAlloc_v2(Out::from(&mut address), 4), CUresult::INVALID_CONTEXT);
        assert_eq!(cuCtxGetCurrent(Out::from(&mut context)), CUresult::SUCCESS);
        assert_eq!(context, CUcontext::NULL);
    }
}
