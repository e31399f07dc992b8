//! Serves a file system that keeps everything in memory, for trying POSIX test suites against the mount alone:
//! `memory_mount MOUNTPOINT [OPTIONS]`.

#[cfg(feature = "fuse")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use ize::fuse::{MountOptions, serve};
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let mountpoint = args.next().ok_or("usage: memory_mount MOUNTPOINT [OPTIONS]")?;
    let options = MountOptions::parse(args)?;
    let (fs, _journal) = ize::fs::testing::memory_fs()?;
    let ended = serve(fs, "memory", mountpoint.as_ref(), &options, || eprintln!("ready"))?;
    eprintln!("{ended:?}");
    Ok(())
}

#[cfg(not(feature = "fuse"))]
fn main() {}
