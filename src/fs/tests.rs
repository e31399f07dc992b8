use super::testing::memory_fs;
use super::*;
