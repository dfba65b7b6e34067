//! The only FFI of tidegate: bindgen over the system's libdpdk, and a C shim for its inline functions.
//!
//! Everything here is as unsafe as C; `tidegate_dataplane::dpdk` is the layer to use. The registry's crate
//! of the same name bundles DPDK 18.05 and no longer builds, hence this one.
#![allow(unsafe_code)] // Bindings, written by bindgen at each build.
#![allow(
    missing_docs,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    improper_ctypes
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
