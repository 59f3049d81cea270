//! Work that nobody waits for: threads that leave the processor and the disk to others.
//!
//! An unprivileged thread that has lowered its priority cannot raise it again, so such work gets threads of its own; those that they
//! start inherit it. On Linux the priority of a thread's disk accesses follows its niceness as long as none of their own is set
//! (`ioprio_set(2)`), and from 15 on it is the lowest of the class best effort. The class idle is not for us: such a thread may be kept
//! waiting for ever, and with it whoever waits for a lock that it holds.

use rustix::process::{getpriority_process, setpriority_process};

/// How nice such work is; what is nicer already stays so.
const NICE: i32 = 15;

/// Lowers the priority of the calling thread for good. Where the system refuses, nothing is lost but manners.
pub fn lower_this_thread() {
    // The call wants no process: without one it means the thread.
    let now = getpriority_process(None).unwrap_or(0);
    if now < NICE {
        setpriority_process(None, NICE).ok();
    }
}

/// Does work that may block away from the tasks: in the background on a thread of its own, else on one of the runtime's. None where
/// the work panicked or no thread could be had.
pub async fn blocking<T: Send + 'static>(background: bool, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !background {
        return tokio::task::spawn_blocking(work).await.ok();
    }
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let thread = move || {
        lower_this_thread();
        let _runtime = runtime.enter();
        done.send(work()).ok();
    };
    std::thread::Builder::new().name("background".to_owned()).spawn(thread).ok()?;
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice_of_this_thread() -> i32 {
        getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn only_work_in_the_background_is_nice_and_its_threads_are_too() {
        let before = nice_of_this_thread();
        let with_child = || (nice_of_this_thread(), std::thread::spawn(nice_of_this_thread).join().unwrap());
        let nice = before.max(NICE);
        assert_eq!(blocking(true, with_child).await, Some((nice, nice)));
        assert_eq!(blocking(false, with_child).await, Some((before, before)));
        assert_eq!(nice_of_this_thread(), before);
        let runtime_is_there = blocking(true, || tokio::runtime::Handle::try_current().is_ok()).await;
        assert_eq!(runtime_is_there, Some(true));
        assert_eq!(blocking(true, || panic!("on purpose")).await.map(|()| 1), None);
    }
}
