//! An ordinary user, who is not root: everything from init to recovery, through the setuid helper fusermount3. The suite runs in a mount
//! namespace in which /dev/fuse may be opened by everybody.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::support::{Home, Said, daemons_of, eventually, said};

/// Somebody whom no file of this machine belongs to.
const USER: u32 = 54_321;

/// A home of that user's.
fn home() -> Home {
    assert!(rustix::process::geteuid().is_root(), "this suite becomes another user, which only root can");
    let home = Home::new();
    for dir in [home.path(), &home.mount] {
        std::os::unix::fs::chown(dir, Some(USER), Some(USER)).unwrap();
    }
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Where the build lies, the user may not be able to go.
    std::fs::copy(env!("CARGO_BIN_EXE_ize"), home.path().join("ize")).unwrap();
    home
}

/// Runs a script as the user; `fuse_conf` stands in for /etc/fuse.conf.
fn as_user(home: &Home, fuse_conf: &str, script: &str) -> Said {
    std::fs::write(home.path().join("fuse.conf"), fuse_conf).unwrap();
    let node = home.path().join("fuse-node");
    if !node.exists() {
        let output = Command::new("mknod").args(["-m", "666"]).arg(&node).args(["c", "10", "229"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // The helper wants to know the user by name.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    std::fs::write(home.path().join("passwd"), format!("{passwd}somebody:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
    let d = home.path().display();
    let inner = "set -uo pipefail\ncd \"$HOME\"\nize() { \"$HOME/ize\" \"$@\"; }\n".to_owned() + script;
    std::fs::write(home.path().join("script"), inner).unwrap();
    let outer = format!(
        "set -e; mount --bind {d}/fuse-node /dev/fuse; mount --bind {d}/fuse.conf /etc/fuse.conf; mount --bind {d}/passwd /etc/passwd\n\
         exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all \
         env -i PATH=/usr/bin:/bin HOME={d} IZE_CENTRAL_DIR={d}/store bash {d}/script"
    );
    let said = said(Command::new("unshare").args(["--mount", "bash", "-c", &outer]).output().unwrap());
    eventually(&format!("the daemons end; {said:?}"), || daemons_of(home.path().to_str().unwrap()).is_empty());
    said
}

#[track_caller]
fn ok(said: &Said) -> &str {
    assert_eq!(said.code, 0, "{said:?}");
    &said.out
}

#[test]
fn a_user_inits_mounts_writes_is_killed_and_finds_everything_again() {
    let home = home();
    let script = r#"
        set -e
        ize init notes
        ize mount notes mnt
        grep "$HOME/mnt" /proc/mounts
        echo one > mnt/a; mkdir mnt/d; ln mnt/a mnt/d/b; chmod 600 mnt/a
        stat -c '%u %g %a' mnt mnt/a
        ize status notes --check
        ize commit notes -m first
        pid=$(ize status notes --json | sed 's/.*"pid":\([0-9]*\).*/\1/')
        echo two >> mnt/a
        kill -9 $pid
        while ls mnt >/dev/null 2>&1; do sleep 0.05; done
        ize status notes | grep -q 'daemon gone'
        ize mount notes
        cat mnt/a
        ize history notes | grep -q first
        (cd mnt; ! ize unmount notes 2> ../busy; grep -q cwd ../busy)
        ize unmount notes
        ize mount notes --read-only
        cat mnt/d/b
        ize unmount notes
        # The mount of a dead daemon is taken away, too.
        ize mount notes
        kill -9 $(ize status notes --json | sed 's/.*"pid":\([0-9]*\).*/\1/')
        while ls mnt >/dev/null 2>&1; do sleep 0.05; done
        ize unmount notes
        ls -A mnt | wc -l
    "#;
    let said = as_user(&home, "", script);
    let out = ok(&said);
    let line = out.lines().find(|l| l.starts_with("ize:notes ")).unwrap();
    assert!(line.contains(" fuse.ize ") && line.contains(&format!("user_id={USER}")) && !line.contains("allow_other"), "{line}");
    assert!(line.contains("nosuid") && line.contains("nodev") && line.contains("default_permissions"), "{line}");
    assert!(out.contains(&format!("{USER} {USER} 755\n{USER} {USER} 600\n")), "{out}");
    assert!(out.contains("one\ntwo\none\ntwo\n"), "{out}");
    assert!(out.ends_with("0\n"), "{out}");
    let store = home.central().join("projects");
    let project = std::fs::read_dir(store).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::metadata(&project).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_directory_that_ize_made_is_left_unwritable_and_can_be_mounted_on_again() {
    let home = home();
    let script = r#"
        set -e
        ize mount notes made --create
        echo x > made/f
        ize unmount notes
        stat -c %a made
        ! touch made/g 2>/dev/null
        ize mount notes
        cat made/f
        ize unmount notes
        stat -c %a made
    "#;
    let said = as_user(&home, "", script);
    assert_eq!(ok(&said), "555\nx\n555\n");
}

#[test]
fn allow_other_is_asked_for_and_refused_with_what_to_do_where_root_has_not_allowed_it() {
    let home = home();
    let said = as_user(&home, "# nothing\n", "ize init notes 2>/dev/null; ize mount notes mnt -o allow_other");
    assert_eq!(said.code, 9, "{said:?}");
    let hints: Vec<&str> = said.err.lines().filter(|l| l.starts_with("hint: ")).collect();
    assert_eq!(hints.len(), 1, "{said:?}");
    assert!(hints[0].contains("user_allow_other") && hints[0].contains("/etc/fuse.conf"), "{said:?}");
    let script = "ize mount notes mnt -o allow_other && grep \"$HOME/mnt\" /proc/mounts && ize unmount notes";
    let said = as_user(&home, "user_allow_other\n", script);
    assert!(ok(&said).contains("allow_other"), "{said:?}");
}

#[test]
fn what_a_user_cannot_do_is_refused_as_the_documentation_says() {
    let home = home();
    let script = r#"
        ize mount notes mnt --create -o dev,suid || exit 1
        grep "$HOME/mnt" /proc/mounts | grep -q nosuid,nodev || echo 'suid or dev'
        cd mnt
        echo x > f
        chown 0 f 2>/dev/null && echo chown
        mknod d c 1 3 2>/dev/null && echo mknod
        mkfifo p && echo fifo
        chmod u+s f && stat -c %a f
        cd ..
        ize unmount notes || exit 1
    "#;
    let said = as_user(&home, "", script);
    assert_eq!(ok(&said), "fifo\n4644\n");
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    let part = docs.split("## Not root\n").nth(1).expect("the section is there").split("\n## ").next().unwrap();
    for word in ["chown", "trusted", "device", "setuid", "user_allow_other"] {
        assert!(part.contains(word), "{word}");
    }
}

#[test]
fn root_comes_to_a_users_project_only_by_command_and_others_not_at_all() {
    let home = home();
    let script =
        "set -e; ize mount notes mnt --create; echo x > mnt/f; touch ready; while [ ! -e done ]; do sleep 0.05; done; ize unmount notes";
    std::thread::scope(|s| {
        let user = s.spawn(|| as_user(&home, "", script));
        eventually("the user's mount", || home.path().join("ready").exists() || user.is_finished());
        // Root in the namespace of everybody: the daemon hears it, as the project's owner would be heard.
        let status = home.ize(&["status", "notes", "--json"]);
        // Somebody else.
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "54322", "--regid", "54322", "--clear-groups"]).arg(home.path().join("ize"));
        let other = said(
            other
                .args(["sync", "notes"])
                .env("IZE_CENTRAL_DIR", home.central())
                .env("HOME", "/nonexistent")
                .current_dir("/")
                .output()
                .unwrap(),
        );
        std::fs::write(home.path().join("done"), "").unwrap();
        let ended = user.join().unwrap();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(status.code, 0, "{status:?}");
        assert!(status.out.contains("\"pid\":"), "{status:?}");
        assert_ne!(other.code, 0, "{other:?}");
    });
}
