//! A database on the mount, written by a process of its own, and looked at after a crash.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses its part, and stops where it cannot go on")]

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A database in a process of its own.
pub struct Sqlite {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Sqlite {
    /// Opens it, with a log that is synced at each commit, or with a rollback journal whose end is.
    pub fn open(file: &Path, wal: bool) -> io::Result<Self> {
        // Line by line, or answers stay in its buffer.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "sqlite3", "-bail"])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian package sqlite3");
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut one = Self { child, to, from };
        let (mode, sync) = if wal { ("wal", "full") } else { ("delete", "extra") };
        let table = "create table if not exists t (n integer primary key, v text);";
        one.ask(&format!("pragma journal_mode={mode}; pragma synchronous={sync}; {table}"))?;
        Ok(one)
    }

    /// Transaction `n`, answered when it is durable.
    pub fn transaction(&mut self, n: usize) -> io::Result<()> {
        let text = "y".repeat(n * 131 % 4000);
        self.ask(&format!("begin; insert into t values ({n}, '{text}'); update t set v = v || 'z' where n = {n} / 2; commit;"))
    }

    fn ask(&mut self, sql: &str) -> io::Result<()> {
        writeln!(self.to, "{sql} select 'done';")?;
        self.to.flush()?;
        let mut said = String::new();
        loop {
            said.clear();
            if self.from.read_line(&mut said)? == 0 {
                return Err(io::Error::other("the database stopped"));
            }
            if said.trim() == "done" {
                return Ok(());
            }
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks a database after a crash; the number of its transactions.
pub fn check_database(file: &Path, told: usize) -> usize {
    if !file.exists() {
        assert_eq!(told, 0, "the database is gone");
        return 0;
    }
    let ask = |sql: &str| {
        let output = Command::new("sqlite3").arg(file).arg(sql).output().expect("Debian package sqlite3");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        text
    };
    assert_eq!(ask("pragma integrity_check;"), "ok");
    if ask("select count(*) from sqlite_master;") == "0" {
        assert_eq!(told, 0, "the table is gone");
        return 0;
    }
    let said = ask("select count(*), coalesce(max(n), 0) from t;");
    let (count, last) = said.split_once('|').unwrap();
    assert_eq!(count, last, "a transaction is missing in the middle");
    let last: usize = last.parse().unwrap();
    assert!(last >= told, "{told} transactions were answered, {last} are there");
    last
}
