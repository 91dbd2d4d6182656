//! An ordinary program for a GPU, which uses the unmodified crate `cudarc`. Under `simulate` it runs without a card:
//!
//! ```sh
//! cargo build -p simulated-driver --example vector_add
//! target/debug/simulate -- target/debug/examples/vector_add
//! ```
//!
//! `vector_add leak` keeps memory, `vector_add beyond` lets the kernel write behind its array, and prints the error.

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const KERNEL: &str = "
.version 8.0
.target sm_75
.address_size 64

.visible .entry add(
    .param .u64 add_left,
    .param .u64 add_right,
    .param .u64 add_sum,
    .param .u32 add_count
)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<11>;

    ld.param.u64 %rd1, [add_left];
    ld.param.u64 %rd2, [add_right];
    ld.param.u64 %rd3, [add_sum];
    ld.param.u32 %r1, [add_count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd4, %rd1;
    cvta.to.global.u64 %rd5, %rd2;
    cvta.to.global.u64 %rd6, %rd3;
    mul.wide.u32 %rd7, %r5, 4;
    add.s64 %rd8, %rd4, %rd7;
    add.s64 %rd9, %rd5, %rd7;
    add.s64 %rd10, %rd6, %rd7;
    ld.global.f32 %f1, [%rd8];
    ld.global.f32 %f2, [%rd9];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd10], %f3;
DONE:
    ret;
}
";

const COUNT: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let task = std::env::args().nth(1).unwrap_or_default();
    let context = CudaContext::new(0)?;
    println!("{} {:?}", context.name()?, context.compute_capability()?);
    let stream = context.new_stream()?;
    let module = context.load_module(Ptx::from_src(KERNEL))?;
    let add = module.load_function("add")?;

    let numbers: Vec<f32> = (0..COUNT).map(|index| index as f32).collect();
    let left = stream.clone_htod(&numbers)?;
    let right = stream.clone_htod(&numbers)?;
    let mut sum = stream.alloc_zeros::<f32>(COUNT)?;
    let count = if task == "beyond" { COUNT as u32 + 1 } else { COUNT as u32 };
    let config = LaunchConfig::for_num_elems(count);

    let before = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    // SAFETY: the arguments are those of the kernel; whether it stays in its arrays is what the simulation checks.
    let launched = unsafe {
        stream.launch_builder(&add).arg(&left).arg(&right).arg(&mut sum).arg(&count).launch(config)
    };
    if let Err(DriverError(code)) = launched {
        println!("the launch failed: {code:?}");
        return Ok(());
    }
    let after = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    assert!(before.elapsed_ms(&after)? >= 0.0);
    let doubled: Vec<f32> = numbers.iter().map(|number| 2.0 * number).collect();
    assert_eq!(stream.clone_dtoh(&sum)?, doubled);

    // Captured, the same work adds the sum to itself at every launch.
    stream.synchronize()?;
    // SAFETY: everything that is captured uses one stream, whose order is enough.
    unsafe { context.disable_event_tracking() };
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    // SAFETY: as for the launch before; each thread reads and writes its own number.
    unsafe { stream.launch_builder(&add).arg(&sum).arg(&sum).arg(&sum).arg(&count).launch(config) }?;
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?.ok_or("nothing was captured")?;
    for _ in 0..3 {
        graph.launch()?;
    }
    let result = stream.clone_dtoh(&sum)?;
    assert!(result.iter().zip(&numbers).all(|(result, number)| *result == 16.0 * number));
    println!("sums {:?}", &result[..4]);
    if task == "leak" {
        std::mem::forget(sum);
    }
    Ok(())
}
