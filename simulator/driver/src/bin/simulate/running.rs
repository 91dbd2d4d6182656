//! Runs a program to its end, and hands it the signals that this one gets.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// What ends a program, or asks it for something; the rest keeps its meaning for this one alone.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Signals, which wait here until they are asked for.
pub struct Signals {
    waiting: SignalFd,
    /// What was held back before: the program's own start has that again.
    before: SigSet,
}

/// How a program ended.
pub struct End {
    pub code: u8,
    /// Whether a signal came in the meantime.
    pub signalled: bool,
}

impl Signals {
    /// Must be called before there is a second thread: those that there are hold nothing back.
    pub fn hold() -> Result<Signals, String> {
        let failed = |error: Errno| format!("cannot listen for signals: {error}");
        let mut held = SigSet::empty();
        PASSED_ON.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| held.add(signal));
        let before = held.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Signals { waiting: SignalFd::with_flags(&held, flags).map_err(failed)?, before })
    }

    /// Runs the program to its end.
    pub fn run(&self, command: Command) -> Result<End, String> {
        let name = command.get_program().display().to_string();
        let mut child = self.start(command)?;
        self.wait(&mut child).map_err(|error| format!("cannot wait for {name}: {error}"))
    }

    /// Runs the program to its end, with nothing to read; also gives what it wrote to stdout.
    pub fn capture(&self, mut command: Command) -> Result<(End, Vec<u8>), String> {
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = self.start(command)?;
        let output = child.stdout.take();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut bytes = Vec::new();
                output.map_or(Ok(0), |mut output| output.read_to_end(&mut bytes)).map(|_| bytes)
            });
            let end = self.wait(&mut child).map_err(|error| format!("cannot wait for {name}: {error}"))?;
            let bytes = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((end, bytes.map_err(|error| format!("cannot read what {name} writes: {error}"))?))
        })
    }

    fn start(&self, mut command: Command) -> Result<Child, String> {
        let before = self.before;
        // SAFETY: between fork and exec the closure makes one system call, and allocates nothing.
        unsafe { command.pre_exec(move || Ok(before.thread_set_mask()?)) };
        let name = command.get_program().display().to_string();
        command.spawn().map_err(|error| format!("cannot run {name}: {error}"))
    }

    fn wait(&self, child: &mut Child) -> std::io::Result<End> {
        let mut signalled = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(End { code: exit_code(status), signalled });
            }
            // A second, because the program's end is no signal where its parent was started with SIGCHLD ignored.
            let mut waiting = [PollFd::new(self.waiting.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waiting, PollTimeout::from(1000u16)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Some(signal) = self.waiting.read_signal()? {
                let Ok(number) = Signal::try_from(signal.ssi_signo as i32) else { continue };
                if number == Signal::SIGCHLD {
                    continue;
                }
                signalled = true;
                // What the kernel sends, as for a key at the terminal, the program gets too: it is of the same group.
                let from_the_kernel = signal.ssi_code > 0;
                if from_the_kernel {
                    continue;
                }
                // The program was not waited for yet, so its number is no other's. One that runs as somebody else can refuse.
                let _ = kill(Pid::from_raw(child.id() as i32), number);
            }
        }
    }
}

/// The program's exit code; for one that a signal ended, the shell's 128 and the signal.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128_u8.wrapping_add(signal as u8),
        (None, None) => 1,
    }
}
