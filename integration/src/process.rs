//! Child processes that cannot outlive the rig.
//!
//! Every child is started as `integration child -- program ...`, which asks the kernel to kill it
//! when its parent dies and then becomes the program. So a rig that is interrupted, or itself
//! killed with SIGKILL, leaves nothing behind, not even frozen processes. The kernel means the
//! parent *thread*, so one thread that never ends starts them all.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A running child; killed with SIGKILL and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
}

impl Child {
    /// Starts `program` with its output appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the process not started.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let output = open().with_context(|| format!("cannot open {}", log.display()))?;
        let errors = output.try_clone()?;
        let mut command = Command::new(own_binary()?);
        command.arg("child").arg("--").arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let inner =
            spawn(command).with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { inner })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.inner.id())?);
        nix::sys::signal::kill(pid, signal).with_context(|| format!("kill -{signal} {pid}"))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.inner.try_wait().ok().flatten()
    }

    /// Kills it (SIGKILL) and waits until the kernel has closed its sockets.
    pub fn kill(&mut self) {
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

type Job = (Command, mpsc::Sender<std::io::Result<std::process::Child>>);

fn spawn(command: Command) -> anyhow::Result<std::process::Child> {
    static STARTER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                let _ = answer.send(command.spawn());
            }
        });
        send
    });
    let (send, receive) = mpsc::channel();
    starter.send((command, send)).ok().context("the starter thread is gone")?;
    Ok(receive.recv().context("the starter thread is gone")??)
}

/// Becomes `command` after asking to die with the parent: the body of `integration child`.
///
/// # Errors
/// Always returns an error: on success it does not return.
pub fn become_child(command: &[String]) -> anyhow::Error {
    let Some((program, arguments)) = command.split_first() else {
        return anyhow::anyhow!("child: no program given");
    };
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return anyhow::anyhow!("child: prctl: {error}");
    }
    anyhow::Error::from(Command::new(program).args(arguments).exec()).context(program.clone())
}

/// The `integration` binary: this process, or the one that Cargo built beside a test.
///
/// # Errors
/// When there is none.
pub fn own_binary() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    if me.file_name().is_some_and(|name| name == "integration") {
        return Ok(me);
    }
    let beside = me.parent().and_then(Path::parent).map(|folder| folder.join("integration"));
    match beside {
        Some(path) if path.is_file() => Ok(path),
        _ => bail!("no integration binary beside {}; cargo build -p integration", me.display()),
    }
}

/// The last `lines` lines of a text file, or why it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
        }
        Err(error) => format!("(cannot read {}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_gives_the_last_lines_and_explains_a_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail(&path, 9), "a\nb\nc");
        assert!(tail(&folder.path().join("none"), 2).contains("cannot read"));
    }
}
