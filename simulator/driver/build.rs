//! Gives the library the name that programs ask the dynamic linker for.

fn main() {
    // glibc takes a loaded library for a later request when the names agree, whatever file it came from.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rerun-if-changed=build.rs");
}
