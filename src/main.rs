//! The program `ize`; everything is in the library.

/// The daemon makes and drops many small things on several threads: a quarter of its own time went into the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ize::cli::main()
}
