//! What a project is on the outside: where its files are, what it is called, how it is set up, and who has it open.
//!
//! [`layout`] is the one place that knows every path; [`names`] says what a project may be called; [`units`] and [`config`] read
//! settings; [`identity`] is `meta/project.toml`, [`importing`] `meta/import.toml`; [`registry`] creates and finds projects; [`lock`] lets one daemon in; [`mounts`] says
//! what the kernel has mounted, [`holders`] who keeps a mount busy.

pub use config::Settings;
pub use layout::Layout;
pub use registry::Project;

pub mod atomic;
pub mod base64;
pub mod config;
pub mod config_edit;
pub mod holders;
pub mod identity;
pub mod importing;
pub mod layout;
pub mod lock;
pub mod max_store;
pub mod mounts;
pub mod names;
mod nearest;
pub mod registry;
pub mod units;
