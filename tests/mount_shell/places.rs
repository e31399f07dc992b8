//! Where a project is mounted, and where it may not be.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::{Home, Said, eventually, said, sh};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[track_caller]
fn refused(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    for word in words {
        assert!(said.err.contains(word), "{word}: {said:?}");
    }
    assert!(said.err.contains("hint: "), "{said:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A script in a mount namespace of its own, where `/usr/sbin` holds nothing but ize as the helper of mount(8).
fn in_namespace(home: &Home, script: &str) -> Said {
    let sbin = home.path().join("sbin");
    std::fs::create_dir_all(&sbin).unwrap();
    let _ = symlink(env!("CARGO_BIN_EXE_ize"), sbin.join("mount.fuse.ize"));
    let setup = format!("mount --bind {} $(readlink -f /sbin)\n", sbin.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-euo", "pipefail", "-c", &(setup + script)]).current_dir(home.path());
    command.env("HOME", home.path()).env("XDG_CONFIG_HOME", home.path()).env("IZE_CENTRAL_DIR", home.central());
    command.env("IZE", env!("CARGO_BIN_EXE_ize"));
    said(command.output().unwrap())
}

#[test]
fn a_directory_made_for_mounting_is_left_unwritable_and_one_that_was_there_as_it_was() {
    let home = Home::new();
    let made = home.path().join("a/b");
    home.ok(&["mount", "p", text(&made), "--create"]);
    std::fs::write(made.join("f"), "x").unwrap();
    assert_eq!(mode(&made), 0o755, "that of the project's root");
    home.unmount();
    assert_eq!(mode(&made), 0o555);
    assert_eq!(mode(made.parent().unwrap()) & 0o200, 0o200);
    // Where it was last, without being told.
    home.ok(&["mount", "p"]);
    assert!(made.join("f").exists());
    home.unmount();
    std::fs::set_permissions(&home.mount, std::fs::Permissions::from_mode(0o750)).unwrap();
    home.mount();
    home.unmount();
    assert_eq!(mode(&home.mount), 0o750);
    refused(&home.ize(&["mount", "p", text(&home.path().join("missing"))]), 3, &["missing", "--create"]);
    refused(&home.ize(&["mount", "q"]), 3, &["`q`", "--create"]);
    home.ok(&["init", "q"]);
    refused(&home.ize(&["mount", "q"]), 2, &["not mounted before"]);
}

#[test]
fn a_second_mount_is_refused_with_the_pid_and_a_place_that_is_taken_with_its_project() {
    let home = Home::new();
    home.mount();
    let pid = home.daemon().to_string();
    let other = home.path().join("other");
    refused(&home.ize(&["mount", "p", text(&other), "--create"]), 7, &[&pid]);
    refused(&home.ize(&["mount", "p", "--read-only"]), 7, &[&pid]);
    assert!(!other.exists(), "made although nothing was mounted");
    refused(&home.ize(&["mount", "q", text(&home.mount), "--create"]), 7, &["project p is already mounted"]);
    assert_eq!(home.ok(&["list"]).lines().count(), 1, "a project was left behind by a mount that failed");
}

#[test]
fn a_place_that_is_not_empty_is_refused_by_name_unless_one_insists() {
    let home = Home::new();
    for name in ["b", "a", "c\u{1b}[31m"] {
        std::fs::write(home.mount.join(name), "").unwrap();
    }
    let said = home.ize(&["mount", "p", text(&home.mount), "--create"]);
    refused(&said, 9, &["is not empty: a, b, c", "--over"]);
    assert!(!said.err.contains('\u{1b}'), "{said:?}");
    home.ok(&["mount", "p", text(&home.mount), "--create", "--over"]);
    assert_eq!(std::fs::read_dir(&home.mount).unwrap().count(), 0);
    home.unmount();
    assert_eq!(std::fs::read_dir(&home.mount).unwrap().count(), 3);
    let file = home.mount.join("a");
    refused(&home.ize(&["mount", "p", text(&file)]), 9, &["not a directory"]);
}

#[test]
fn store_and_mount_point_may_not_hold_each_other_by_whatever_name() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    let (store, project) = (home.central(), home.project());
    let alias = home.path().join("alias");
    symlink(&store, &alias).unwrap();
    let bound = home.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    sh(home.path(), "mkdir between; mkdir between/deep");
    let both = [store.to_str().unwrap(), "the store"];
    for (place, relation) in [
        (store.clone(), "is the store"),
        (project.join("wal"), "lies in"),
        (alias.clone(), "is the store"),
        (alias.join("projects"), "lies in"),
        (project.join("made"), "lies in"),
        (home.path().to_owned(), "lies above"),
    ] {
        let said = home.ize(&["mount", "p", text(&place), "--create", "--over"]);
        refused(&said, 9, &both);
        assert!(said.err.contains(relation), "{place:?}: {said:?}");
    }
    // A bind mount of something inside the store: another name, and none of the directories that lead to it is the store.
    sh(home.path(), &format!("mount --bind {} bound", project.join("wal").display()));
    refused(&home.ize(&["mount", "p", text(&bound), "--over"]), 9, &both);
    let inside = bound.join("new");
    refused(&home.ize(&["mount", "p", text(&inside), "--create"]), 9, &both);
    assert!(!inside.exists());
    sh(home.path(), "umount -l bound");
    assert_eq!(home.ize(&["status", "p"]).code, 0);
}

#[test]
fn a_store_on_a_mount_of_ize_is_refused_with_both_paths() {
    let home = Home::new();
    home.mount();
    std::fs::create_dir(home.mount.join("sub")).unwrap();
    let bound = home.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    sh(home.path(), "mount --bind mnt/sub bound");
    symlink(home.mount.join("sub"), home.path().join("link")).unwrap();
    for central in [home.mount.join("sub"), bound.clone(), home.path().join("link"), home.mount.join("not/there")] {
        for words in [&["init", "inner"][..], &["mount", "inner", "place", "--create"]] {
            let said = said(home.command(words).env("IZE_CENTRAL_DIR", &central).output().unwrap());
            refused(&said, 9, &["mount of ize", text(&central)]);
        }
    }
    sh(home.path(), "umount -l bound");
    // One that came there later, by being moved.
    // Its own files come and go meanwhile.
    sh(home.path(), "cp -r store/projects mnt/sub || true");
    let said = said(home.command(&["mount", "p", "place", "--create"]).env("IZE_CENTRAL_DIR", home.mount.join("sub")).output().unwrap());
    refused(&said, 9, &["mount of ize", text(&home.mount)]);
}

#[test]
fn a_mount_point_left_by_a_killed_daemon_is_detached_by_the_next_mount() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("f"), "kept").unwrap();
    home.kill();
    eventually("the mount is dead", || std::fs::read_dir(&home.mount).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)));
    home.mount();
    assert_eq!(std::fs::read(home.mount.join("f")).unwrap(), b"kept");
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert_eq!(table.lines().filter(|l| l.contains(text(&home.mount))).count(), 1, "{table}");
}

#[test]
fn the_options_of_mount_do_what_they_say() {
    let home = Home::new();
    let options = ["allow_other,dev", "suid,noexec", "noatime,nodiratime,x-systemd.automount,noauto,_netdev,nofail,user,defaults"];
    let flags: Vec<&str> = options.iter().flat_map(|o| ["-o", o]).collect();
    home.ok(&[&["mount", "p", text(&home.mount), "--create"][..], &flags].concat());
    let table = std::fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(text(&home.mount))).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("ize:p", "fuse.ize"));
    let set: Vec<&str> = fields[3].split(',').collect();
    for word in ["rw", "noexec", "noatime", "nodiratime", "allow_other", "default_permissions"] {
        assert!(set.contains(&word), "{word}: {line}");
    }
    assert!(!set.contains(&"nosuid") && !set.contains(&"nodev"), "{line}");
    sh(&home.mount, "cp /bin/true t; chmod 755 t; ! ./t 2>/dev/null; mknod null c 1 3; echo x > null");
    home.unmount();
    // sync: no write is answered before it is durable.
    home.ok(&["mount", "p", "-o", "sync"]);
    std::fs::write(home.mount.join("synced"), "x").unwrap();
    let status = home.status();
    assert_eq!(status["unsynced_bytes"], 0, "{status}");
    home.unmount();
    home.ok(&["mount", "p"]);
    assert!(sh(&home.mount, "./t && echo ran").contains("ran"), "exec is the default");
    assert!(
        Command::new("sh").args(["-c", "echo x > null"]).current_dir(&home.mount).output().unwrap().status.code() != Some(0),
        "nodev is"
    );
    refused(&home.ize(&["mount", "p", "-o", "alow_other"]), 2, &["did you mean `allow_other`?"]);
    refused(&home.ize(&["mount", "p", "-o", "remount,ro"]), 9, &["remounted"]);
}

#[test]
fn a_line_of_fstab_mounts_a_project_and_mount_by_type_too() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    let fstab = format!(
        "ize:p {} fuse.ize rw,noauto,nofail,_netdev,allow_other,x-systemd.automount,central-dir={} 0 0\n",
        home.mount.display(),
        home.central().display()
    );
    std::fs::write(home.path().join("fstab"), fstab).unwrap();
    // As at boot: nothing of a user's surroundings.
    let script = r#"
        env -i PATH="$PATH" mount -T fstab "$PWD/mnt"
        grep "$PWD/mnt" /proc/mounts
        echo 1 > mnt/f
        $IZE unmount p
        mount -t fuse.ize -o ro p "$PWD/mnt" 2>&1
        cat mnt/f
        ! touch mnt/g 2>/dev/null
        umount mnt
        mount -t fuse.ize -o noexec,rw ize:p "$PWD/mnt"
        echo 2 >> mnt/f
        grep "$PWD/mnt" /proc/mounts
        $IZE unmount p
        set +e
        mount -t fuse.ize nobody "$PWD/mnt"; echo "code $?"
        mount -t fuse.ize -o quota ize:p "$PWD/mnt"; echo "code $?"
        mount -t fuse.ize -s -o quota ize:p "$PWD/mnt"; echo "sloppy $?"
        $IZE unmount p
        mount -f -t fuse.ize ize:p "$PWD/mnt"; echo "fake $?"
        grep -c "$PWD/mnt" /proc/mounts
        true
    "#;
    let said = in_namespace(&home, script);
    assert_eq!(said.code, 0, "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    let mounted: Vec<&&str> = lines.iter().filter(|l| l.starts_with("ize:p ") && l.contains(" fuse.ize ")).collect();
    assert_eq!(mounted.len(), 2, "{said:?}");
    assert!(mounted[0].contains("allow_other") && mounted[1].contains("noexec"), "{said:?}");
    assert!(said.out.contains("code 32") && said.out.contains("code 1"), "{said:?}");
    assert!(said.out.contains("sloppy 0") && said.out.contains("fake 0") && said.out.ends_with("0\n"), "{said:?}");
    assert!(said.err.contains("no project `nobody`"), "{said:?}");
    home.mount();
    assert_eq!(std::fs::read_to_string(home.mount.join("f")).unwrap(), "1\n2\n");
}

#[test]
fn what_an_older_or_newer_ize_must_not_touch_is_refused_by_name() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    let file = home.project().join("meta/project.toml");
    let text_before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text_before.replace("write-compat = []", "write-compat = [\"sharded-log\"]")).unwrap();
    refused(&home.ize(&["mount", "p", text(&home.mount)]), 9, &["`sharded-log`", "--read-only"]);
    home.ok(&["mount", "p", text(&home.mount), "--read-only"]);
    home.ok(&["unmount", "p"]);
    eventually("the daemon ends", || crate::support::daemons_of(text(home.path())).is_empty());
}
