//! The program `ize`; everything is in the library.

fn main() -> std::process::ExitCode {
    ize::cli::main()
}
