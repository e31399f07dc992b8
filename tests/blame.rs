//! `ize blame` over a mount: who each line is from, as the history and the real client have it.

#![cfg(all(feature = "pijul", feature = "fuse"))]
#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use serde_json::Value;
use support::pijul::pijul;
use support::{Home, Said, lines, sh};

fn blame(home: &Home, words: &[&str]) -> Vec<Value> {
    let words: Vec<&str> = ["blame", "--json"].iter().chain(words).copied().collect();
    let said = home.ize(&words);
    assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
    lines(&said.out)
}

/// Text and hash of each line, in the form of the client's JSON.
fn client(home: &Home, path: &str) -> Vec<(String, Vec<String>)> {
    let dir = tempfile::tempdir_in(home.path()).unwrap();
    let clone = dir.path().join("clone");
    pijul(home.path(), &["clone", home.project().to_str().unwrap(), clone.to_str().unwrap()]);
    let said = pijul(&clone, &["credit", path, "--output-format", "json"]);
    let mut out = Vec::new();
    for run in serde_json::from_str::<Vec<Value>>(&said).unwrap() {
        let changes: Vec<String> = run["changes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()).collect();
        out.extend(run["content"].as_str().unwrap().lines().map(|line| (line.to_owned(), changes.clone())));
    }
    out
}

#[test]
fn each_line_has_the_change_that_history_and_the_client_name() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir d; seq 1 10 > 'd/a b.txt'");
    home.ok(&["commit", "p", "-m", "a beginning"]);
    sh(m, "sed -i 's/^5$/five/' 'd/a b.txt'");
    home.ok(&["commit", "p"]);
    sh(m, "mv d e; echo eleven >> 'e/a b.txt'; printf 'no end' >> 'e/a b.txt'");
    home.ok(&["commit", "p"]);
    let found = blame(&home, &["p", "e/a b.txt"]);
    let history = home.history();
    let hash = |seq: u64| history.iter().find(|c| c["seq"] == seq).unwrap()["hash"].clone();
    let want = [1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 3, 3];
    assert_eq!(found.iter().map(|l| l["version"].as_u64().unwrap()).collect::<Vec<_>>(), want);
    for (line, n) in found.iter().zip(1..) {
        assert_eq!((line["line"].as_u64(), &line["hash"]), (Some(n), &hash(line["version"].as_u64().unwrap())), "{line}");
    }
    assert_eq!(
        (found[0]["label"].as_str(), found[1]["text"].as_str(), found[4]["text"].as_str()),
        (Some("a beginning"), Some("2"), Some("five"))
    );
    assert!(found[4]["process"].as_str().unwrap().contains("sed") && found[4]["time"].as_str().unwrap().ends_with('Z'), "{}", found[4]);
    let client = client(&home, "e/a b.txt");
    assert_eq!(client.len(), found.len());
    for (ours, (text, changes)) in found.iter().zip(client) {
        assert!(ours["text"] == text && changes.iter().any(|c| ours["hash"] == c.as_str()), "{ours}: {text} {changes:?}");
    }
    // For people, with a range, by the directory one stands in, and without a mount.
    let said = home.ize_in(&m.join("e"), &["blame", "a b.txt", "-L", "4,5"]);
    let shown: Vec<Vec<&str>> = said.out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(shown.len(), 2, "{said:?}");
    let short = |seq| hash(seq).as_str().unwrap()[..12].to_owned();
    assert_eq!((shown[0][0], shown[0][1], &shown[0][shown[0].len() - 2..]), (short(1).as_str(), "1", &["4)", "4"][..]));
    assert_eq!((shown[1][0], shown[1][1], &shown[1][shown[1].len() - 2..]), (short(2).as_str(), "2", &["5)", "five"][..]));
    home.unmount();
    assert_eq!(blame(&home, &["p", "e/a b.txt"]), found);
    assert_eq!(blame(&home, &["p", "e/a b.txt", "-L", "11,"]), found[10..]);
}

#[test]
fn what_has_no_lines_is_refused_and_what_is_newer_is_told() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "seq 1 5 > a.txt; printf 'a\\0b' > bin; ln -s a.txt link; mkdir d; head -c 1100000 /dev/zero | tr '\\0' x > large; : > empty");
    home.ok(&["commit", "p"]);
    let fails = |words: &[&str], code: i32, what: &str| {
        let words: Vec<&str> = ["blame", "p"].iter().chain(words).copied().collect();
        let Said { code: got, err, out, .. } = home.ize(&words);
        assert!(got == code && err.contains(what) && out.is_empty(), "{words:?}: {got} {err} {out}");
    };
    fails(&["bin"], 9, "ize history bin");
    fails(&["large"], 9, "ize history large");
    fails(&["link"], 9, "no regular file");
    fails(&["d"], 3, "no file `d`");
    fails(&["nowhere"], 3, "ize commit");
    fails(&["a.txt", "-L", "6,7"], 2, "has 5 lines");
    fails(&["a.txt", "-L", "3,2"], 2, "behind line 2");
    fails(&[], 2, "exactly one PATH");
    assert_eq!(blame(&home, &["p", "empty"]).len(), 0);
    sh(m, "echo 6 >> a.txt");
    let said = home.ize(&["blame", "p", "a.txt"]);
    assert!(said.code == 0 && said.out.lines().count() == 5 && said.err.contains("in no version yet"), "{said:?}");
    // Another file's are no news.
    assert_eq!(home.ize(&["blame", "p", "empty"]).err, "");
    home.ok(&["commit", "p"]);
    assert_eq!(blame(&home, &["p", "a.txt"]).len(), 6);
}

#[test]
fn a_file_that_was_founded_anew_has_the_credit_of_before() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "seq 1 9000 > a.txt");
    home.ok(&["commit", "p"]);
    // More than four thousand places at once, so that the edit after it founds the file anew.
    sh(m, "sed -i '1~2s/$/ odd/' a.txt");
    home.ok(&["commit", "p"]);
    let before = blame(&home, &["p", "a.txt"]);
    sh(m, "sed -i '5s/.*/five/; 10s/.*/ten/' a.txt");
    home.ok(&["commit", "p"]);
    let after = blame(&home, &["p", "a.txt"]);
    let newest = home.history()[0]["hash"].as_str().unwrap().to_owned();
    assert!(client(&home, "a.txt").iter().all(|(_, changes)| changes[..] == [newest.clone()]), "it was not founded anew");
    for (n, (old, new)) in before.iter().zip(&after).enumerate() {
        if n == 4 || n == 9 {
            assert_eq!((new["version"].as_u64(), &new["hash"]), (Some(3), &Value::from(newest.clone())));
        } else {
            assert_eq!(new, old);
        }
    }
    assert_eq!((before[0]["version"].as_u64(), before[1]["version"].as_u64(), after.len()), (Some(2), Some(1), 9000));
    home.ok(&["fsck", "p", "--deep"]);
    // Made anew from the versions it is the same.
    home.ok(&["pijul", "rebuild", "p"]);
    assert_eq!(blame(&home, &["p", "a.txt"]), after);
}
