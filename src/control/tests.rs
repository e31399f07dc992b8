//! With a real socket, at the end of a path of more than 300 bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::address::Address;
use super::message::{CommitRequest, Request, Response, UnmountRequest};
use super::server::Server;
use super::{Client, Handler};
use crate::error::{Class, Error, Result};
use crate::project::layout::{CONTROL_SOCKET, Layout};

fn far_away() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("x".repeat(150)).join("y".repeat(150)));
    std::fs::create_dir_all(layout.meta()).unwrap();
    assert!(layout.control_socket().as_os_str().len() > 300);
    (dir, layout)
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn echo(request: Request, uid: u32) -> Response {
    match request {
        Request::Sync => Error::new(Class::Full, "no room").hint("prune").into(),
        other => Response::ok((format!("{other:?}"), uid)),
    }
}

fn start(layout: &Layout, handler: impl Handler) -> Server {
    Server::start(layout, me(), handler).unwrap()
}

fn raw(layout: &Layout) -> UnixStream {
    Address::new(&layout.meta(), CONTROL_SOCKET).unwrap().connect().unwrap().into()
}

#[test]
fn a_request_is_answered_and_an_error_arrives_with_class_and_hint() {
    let (_dir, layout) = far_away();
    let server = start(&layout, echo);
    let mode = std::fs::metadata(layout.control_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Client::connect(&layout).unwrap();
    let (said, uid): (String, u32) =
        client.call(&Request::Commit(CommitRequest { message: Some("a\nb".into()), ..CommitRequest::default() })).unwrap();
    assert!(said.contains(r#"a\nb"#), "{said}");
    assert_eq!(uid, me());
    let e = client.call::<()>(&Request::Sync).unwrap_err();
    assert_eq!((e.class, &*e.message, e.hint.as_deref()), (Class::Full, "no room", Some("prune")));
    let (again, _): (String, u32) = client.call(&Request::Status).unwrap();
    assert_eq!(again, "Status");
    assert!(server.stop(Duration::from_secs(5)));
    assert!(!layout.control_socket().exists());
}

#[test]
fn a_slow_request_holds_up_nobody_else() {
    let (_dir, layout) = far_away();
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = start(&layout, move |r: Request, _| {
        if r == Request::Sync {
            let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(20));
        }
        Response::ok(())
    });
    let slow = std::thread::spawn({
        let layout = layout.clone();
        move || Client::connect(&layout).unwrap().call::<()>(&Request::Sync)
    });
    // The slow one is inside its handler when the others are served, or this test proves nothing.
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..5 {
        Client::connect(&layout).unwrap().call::<()>(&Request::Status).unwrap();
    }
    assert!(!slow.is_finished());
    assert!(begun.elapsed() < Duration::from_secs(10));
    release.send(()).unwrap();
    slow.join().unwrap().unwrap();
    assert!(server.stop(Duration::from_secs(5)));
}

#[test]
fn stop_waits_for_the_answer_that_is_on_its_way_and_says_when_it_gave_up() {
    let (_dir, layout) = far_away();
    let (began, begun) = mpsc::channel();
    let began = std::sync::Mutex::new(began);
    let server = start(&layout, move |_: Request, _| {
        began.lock().unwrap().send(()).unwrap();
        std::thread::sleep(Duration::from_millis(400));
        Response::ok("done")
    });
    let asking = std::thread::spawn({
        let layout = layout.clone();
        move || Client::connect(&layout).unwrap().call::<String>(&Request::Unmount(UnmountRequest::default()))
    });
    begun.recv().unwrap();
    assert!(server.stop(Duration::from_secs(10)));
    assert_eq!(asking.join().unwrap().unwrap(), "done");

    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = start(&layout, move |_: Request, _| {
        let _ = wait.lock().unwrap().recv();
        Response::ok(())
    });
    let _asking = std::thread::spawn({
        let layout = layout.clone();
        move || Client::connect(&layout).unwrap().call::<()>(&Request::Unmount(UnmountRequest::default()))
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!server.stop(Duration::from_millis(50)));
    drop(release);
}

#[test]
fn nobody_there_and_a_dead_daemons_socket_are_both_daemon_gone_and_the_dead_one_is_replaced() {
    let (_dir, layout) = far_away();
    assert_eq!(Client::connect(&layout).unwrap_err().class, Class::DaemonGone);
    drop(Address::new(&layout.meta(), CONTROL_SOCKET).unwrap().listen().unwrap());
    assert!(layout.control_socket().exists());
    assert_eq!(Client::connect(&layout).unwrap_err().class, Class::DaemonGone);
    let _server = start(&layout, echo);
    Client::connect(&layout).unwrap().call::<(String, u32)>(&Request::Status).unwrap();
    assert_eq!(Server::start(&layout, me(), echo).unwrap_err().class, Class::Busy);
}

#[test]
fn a_daemon_that_dies_in_a_request_is_daemon_gone() {
    let (_dir, layout) = far_away();
    let listener = std::os::unix::net::UnixListener::from(Address::new(&layout.meta(), CONTROL_SOCKET).unwrap().listen().unwrap());
    let dying = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        (&stream).write_all(line.as_bytes()).unwrap();
        lines.read_line(&mut line).unwrap();
    });
    let result: Result<()> = Client::connect(&layout).unwrap().call(&Request::Sync);
    assert_eq!(result.unwrap_err().class, Class::DaemonGone);
    dying.join().unwrap();
}

#[test]
fn another_protocol_another_user_and_nonsense_are_refused_in_words() {
    let (_dir, layout) = far_away();
    let server = start(&layout, echo);
    for (line, class) in [("{\"protocol\":99,\"version\":\"9\"}\n", "refused"), ("GET / HTTP/1.1\n", "usage")] {
        let mut stream = raw(&layout);
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(&format!("\"class\":\"{class}\"")), "{answer}");
    }
    let mut stream = raw(&layout);
    stream.write_all(b"{\"protocol\":1,\"version\":\"x\"}\n{\"request\":\"fly\"}\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    lines.next().unwrap().unwrap();
    assert!(lines.next().unwrap().unwrap().contains("\"class\":\"usage\""));
    assert!(server.stop(Duration::from_secs(5)));
    // Root may always, so this half shows something only for other users.
    if me() != 0 {
        let _server = Server::start(&layout, me() + 1, echo).unwrap();
        assert_eq!(Client::connect(&layout).unwrap_err().class, Class::Refused);
    }
}

#[test]
fn a_handler_that_panics_loses_its_own_connection_only() {
    let (_dir, layout) = far_away();
    let server = start(&layout, |r: Request, _| if r == Request::Sync { panic!("on purpose") } else { Response::ok(()) });
    assert_eq!(Client::connect(&layout).unwrap().call::<()>(&Request::Sync).unwrap_err().class, Class::DaemonGone);
    Client::connect(&layout).unwrap().call::<()>(&Request::Status).unwrap();
    assert!(server.stop(Duration::from_secs(5)));
}

#[test]
fn stop_hangs_up_on_those_who_say_nothing_and_lets_go_of_the_handler() {
    let (_dir, layout) = far_away();
    let held = std::sync::Arc::new(());
    let server = start(&layout, {
        let held = std::sync::Arc::clone(&held);
        move |_: Request, _| Response::ok(std::sync::Arc::strong_count(&held))
    });
    let mut silent = Client::connect(&layout).unwrap();
    silent.call::<usize>(&Request::Status).unwrap();
    let mut mute = raw(&layout);
    assert!(server.stop(Duration::from_secs(5)));
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
    assert_eq!(silent.call::<usize>(&Request::Status).unwrap_err().class, Class::DaemonGone);
    assert_eq!(mute.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_connection_beyond_the_limit_is_told_to_come_again() {
    let (_dir, layout) = far_away();
    let server = start(&layout, echo);
    let held: Vec<_> = (0..64).map(|_| Client::connect(&layout).unwrap()).collect();
    assert_eq!(Client::connect(&layout).unwrap_err().class, Class::Busy);
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Client::connect(&layout).is_err() {
        assert!(Instant::now() < deadline);
    }
    assert!(server.stop(Duration::from_secs(5)));
}
