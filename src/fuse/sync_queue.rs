//! Group commit at the kernel's door: one sync answers everybody who waits for one. The thread that syncs is no session thread, so that
//! other requests go on meanwhile.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use fuser::{Errno, ReplyEmpty, ReplyWrite};

use crate::fs::{Fs, FsResult};

/// Somebody who waits.
pub(super) enum Waiting {
    /// fsync, fdatasync, fsyncdir.
    Fsync(ReplyEmpty),
    /// A write to a file opened with O_SYNC or O_DSYNC, of so many bytes.
    Write(ReplyWrite, u32),
    /// Anything else that is answered only when it is durable.
    Durable(Box<dyn FnOnce(Result<(), Errno>) + Send>),
}

/// The queue and its thread, which ends with it.
pub(super) struct SyncQueue {
    sender: Mutex<Option<Sender<Waiting>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SyncQueue {
    pub(super) fn start(fs: Arc<Fs>) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("ize-sync".to_owned()).spawn(move || run(&fs, &receiver))?;
        Ok(SyncQueue { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Adds one. Should the thread be gone, the reply is dropped, which answers EIO.
    pub(super) fn push(&self, waiting: Waiting) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(waiting);
        }
    }

    /// Answers everybody who still waits and ends the thread.
    pub(super) fn stop(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for SyncQueue {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(fs: &Fs, receiver: &Receiver<Waiting>) {
    while let Ok(first) = receiver.recv() {
        let mut group = vec![first];
        group.extend(receiver.try_iter());
        // A panic in the log must not leave programs hanging in fsync.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fs.sync())).unwrap_or_else(|_| {
            fs.mark_broken("a sync of the log stopped in the middle");
            Err(crate::fs::FsError::Io("sync stopped in the middle".to_owned()))
        });
        group.into_iter().for_each(|waiting| answer(waiting, &result));
    }
}

fn answer(waiting: Waiting, result: &FsResult) {
    let errno = |e: &crate::fs::FsError| Errno::from_i32(e.errno());
    match (waiting, result) {
        (Waiting::Fsync(reply), Ok(())) => reply.ok(),
        (Waiting::Fsync(reply), Err(e)) => reply.error(errno(e)),
        (Waiting::Write(reply, len), Ok(())) => reply.written(len),
        (Waiting::Write(reply, _), Err(e)) => reply.error(errno(e)),
        (Waiting::Durable(answer), Ok(())) => answer(Ok(())),
        (Waiting::Durable(answer), Err(e)) => answer(Err(errno(e))),
    }
}
