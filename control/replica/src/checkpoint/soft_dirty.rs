//! Which pages changed, asked of the kernel.
