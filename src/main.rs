//! The program `ize`; everything is in the library.

use libmimalloc_sys::{mi_option_set_default, mi_option_t, mi_option_use_numa_nodes};

/// The daemon makes and drops many small things on several threads: a quarter of its own time went into the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which stands before this one there; the binding does not name it.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;
/// Milliseconds after which memory that is not used goes back to the kernel; mimalloc waits a second. While a file of gigabytes is written
/// the daemon takes 60 MB less with this, and no more time. `MIMALLOC_PURGE_DELAY` in the environment overrides it.
const PURGE_AFTER: std::ffi::c_long = 20;

fn main() -> std::process::ExitCode {
    // SAFETY: sets one number of an option that there is; before any other thread.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_AFTER) };
    ize::cli::main()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads one number of an option that there is.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(get(), 1000, "mimalloc's own delay");
        // SAFETY: as in main.
        unsafe { mi_option_set_default(PURGE_DELAY, PURGE_AFTER) };
        assert_eq!(get(), PURGE_AFTER);
    }
}
