//! An unmodified `cudarc` on the library. The test runs itself again under `simulate`: for `libcuda.so` the dynamic linker
//! searches LD_LIBRARY_PATH, which has to be set before a process begins, and where cargo's own value may lead to an older
//! build.

use std::process::Command;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

#[test]
fn cudarc_runs_on_the_simulated_card() {
    if std::env::var_os(simulated_cuda::settings::REPORT).is_none() {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
        command.arg("--").arg(own).args(["--exact", "cudarc_runs_on_the_simulated_card"]);
        let output = command.output().unwrap();
        let printed =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
        return;
    }

    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), "NVIDIA GeForce RTX 2080 Ti (simulated)");
    assert_eq!(context.compute_capability().unwrap(), (7, 5));
    assert_eq!(context.total_mem().unwrap(), 11 << 30);
    assert!(context.has_async_alloc());
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(context.attribute(attribute).unwrap(), 68);

    let stream = context.new_stream().unwrap();
    let module = context.load_module(Ptx::from_src(include_str!("kernels/kernels.ptx"))).unwrap();
    let add = module.load_function("add").unwrap();
    let left = stream.clone_htod(&[1.0_f32, 2.0, 3.0]).unwrap();
    let right = stream.clone_htod(&[0.5_f32; 3]).unwrap();
    let mut sum = stream.alloc_zeros::<f32>(3).unwrap();
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel.
    unsafe { stream.launch_builder(&add).arg(&left).arg(&right).arg(&mut sum).arg(&3_u32).launch(config) }
        .unwrap();
    assert_eq!(stream.clone_dtoh(&sum).unwrap(), [1.5, 2.5, 3.5]);

    // Work of another stream, ordered by events that cudarc keeps.
    let other = stream.fork().unwrap();
    let copy = other.clone_dtod(&sum).unwrap();
    assert_eq!(other.clone_dtoh(&copy).unwrap(), [1.5, 2.5, 3.5]);
    let mut factors = module.get_global("factors", &stream).unwrap();
    // SAFETY: the variable is an array of 4 such numbers.
    let mut numbers = unsafe { factors.transmute_mut::<u32>(4) }.unwrap();
    stream.memcpy_htod(&[5_u32, 6, 7, 8], &mut numbers).unwrap();

    assert!(module.load_function("nothing").is_err());
    let most = add.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap();
    assert_eq!(most, 4);
    // SAFETY: as before; a launch without threads is refused.
    let refused = unsafe {
        let none = LaunchConfig { block_dim: (0, 1, 1), ..config };
        stream.launch_builder(&add).arg(&left).arg(&right).arg(&mut sum).arg(&3_u32).launch(none)
    };
    assert_eq!(refused.err().map(|error| error.0), Some(sys::CUresult::CUDA_ERROR_INVALID_VALUE));
    context.synchronize().unwrap();
}
