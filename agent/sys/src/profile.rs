//! Where this process spends its CPU time: a timer of the kernel interrupts whatever runs, the handler writes the stack down.
//!
//! The handler takes no lock and no memory: it may interrupt an allocation. So it follows frame pointers instead of asking
//! an unwinder, whose tables lie behind a lock (docs/decisions/2026-11-25-profile-by-frame-pointers.md). Code built without
//! them shows its innermost function, and no more than that for certain.

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::{Errno, check};

/// The most addresses of one stack; what called them is left out.
pub const DEPTH: usize = 128;

/// Frames further above the stack pointer than this are no frames: the largest stack that Linux gives by default.
const REACH: u64 = 8 << 20;

/// What the handler writes to; null while no profile is taken.
static RECORDS: AtomicPtr<Records> = AtomicPtr::new(std::ptr::null_mut());

/// Handlers that may hold what `RECORDS` pointed to.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Room for stacks, each a length and so many addresses.
struct Records {
    words: Box<[AtomicU64]>,
    next: AtomicUsize,
    lost: AtomicU64,
}

/// What a profile came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stacks {
    /// Addresses of code, innermost first; all but the first are within the call that has not returned.
    pub stacks: Vec<Vec<u64>>,
    /// How many more there was no room for.
    pub lost: u64,
}

/// A profile that is being taken; ends when dropped. A process has one at a time.
#[derive(Debug)]
pub struct Profile {
    records: *mut Records,
}

// SAFETY: the pointer is this value's alone but for handlers, which share what they point to by atomics.
unsafe impl Send for Profile {}

impl Profile {
    /// Starts to write down a stack for each `interval` of CPU time that the process uses, with room for `words`
    /// addresses in all. `EBUSY` while another profile is taken, `ENOSYS` on a processor whose registers are not known.
    pub fn start(interval: Duration, words: usize) -> Result<Self, Errno> {
        if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
            return Err(Errno::NOSYS);
        }
        let words = std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect();
        let records = Box::into_raw(Box::new(Records { words, next: AtomicUsize::new(0), lost: AtomicU64::new(0) }));
        let none = std::ptr::null_mut();
        if RECORDS.compare_exchange(none, records, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: came from `Box::into_raw` above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(records) });
            return Err(Errno::BUSY);
        }
        // From here on the end of this value undoes all.
        let profile = Self { records };
        handle()?;
        set_timer(interval)?;
        Ok(profile)
    }

    /// Ends it and gives what was written down.
    pub fn stop(self) -> Stacks {
        self.quiet();
        // SAFETY: lives until this value is dropped; no handler writes any more.
        let records = unsafe { &*self.records };
        Stacks { stacks: records.stacks(), lost: records.lost.load(Ordering::SeqCst) }
    }

    /// Returns when no handler uses the records, nor will.
    fn quiet(&self) {
        // The timer may be another profile's by now.
        if !std::ptr::eq(RECORDS.load(Ordering::SeqCst), self.records) {
            return;
        }
        // A timer that is set can be unset; a late signal finds no records.
        let _ = set_timer(Duration::ZERO);
        let none = std::ptr::null_mut();
        // Handlers count themselves before they look: who counts himself after this finds nothing.
        let _ = RECORDS.compare_exchange(self.records, none, Ordering::SeqCst, Ordering::SeqCst);
        while INSIDE.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.quiet();
        // SAFETY: came from `Box::into_raw` in `start`; handlers have it no more.
        drop(unsafe { Box::from_raw(self.records) });
    }
}

impl Records {
    /// Called by the handler: neither locks nor allocates.
    fn keep(&self, stack: &[u64]) {
        let size = stack.len() + 1;
        let fits = |at: usize| at.checked_add(size).filter(|end| *end <= self.words.len());
        let Ok(at) = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits) else {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return;
        };
        for (word, address) in self.words[at + 1..at + size].iter().zip(stack) {
            word.store(*address, Ordering::Relaxed);
        }
        self.words[at].store(stack.len() as u64, Ordering::Release);
    }

    fn stacks(&self) -> Vec<Vec<u64>> {
        let used = &self.words[..self.next.load(Ordering::SeqCst)];
        let (mut stacks, mut rest) = (Vec::new(), used);
        while let Some((length, after)) = rest.split_first() {
            let (stack, after) = after.split_at(length.load(Ordering::Acquire) as usize);
            stacks.push(stack.iter().map(|word| word.load(Ordering::Relaxed)).collect());
            rest = after;
        }
        stacks
    }
}

/// Installs the handler, for good: a signal that is late by then must not end the process.
fn handle() -> Result<(), Errno> {
    // SAFETY: plain data for which zero is valid: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_tick;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a handler may.
    check(unsafe { libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) }.into()).map(drop)
}

/// Sets the timer of the process's CPU time, user's and system's; zero ends it.
fn set_timer(interval: Duration) -> Result<(), Errno> {
    let interval = libc::timeval {
        tv_sec: interval.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(interval.subsec_micros()),
    };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: reads one timer; the old one is not asked for.
    check(unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) }.into()).map(drop)
}

extern "C" fn on_tick(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: a valid pointer to this thread's errno. What was interrupted may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let records = RECORDS.load(Ordering::SeqCst);
    if !records.is_null() && !context.is_null() {
        // SAFETY: who frees the records takes the pointer away first and then waits for `INSIDE`.
        let records = unsafe { &*records };
        // SAFETY: the kernel passes a ucontext_t to a handler with SA_SIGINFO.
        let registers = Registers::of(unsafe { &*context.cast::<libc::ucontext_t>() });
        let mut stack = [0; DEPTH];
        let depth = walk(registers, text(), frame_at, &mut stack);
        records.keep(&stack[..depth]);
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Where a thread was interrupted.
#[derive(Clone, Copy)]
struct Registers {
    code: u64,
    frame: u64,
    stack: u64,
}

impl Registers {
    #[cfg(target_arch = "x86_64")]
    fn of(context: &libc::ucontext_t) -> Self {
        let register = |index: libc::c_int| context.uc_mcontext.gregs[index as usize] as u64;
        Self { code: register(libc::REG_RIP), frame: register(libc::REG_RBP), stack: register(libc::REG_RSP) }
    }

    #[cfg(target_arch = "aarch64")]
    fn of(context: &libc::ucontext_t) -> Self {
        let machine = &context.uc_mcontext;
        Self { code: machine.pc, frame: machine.regs[29], stack: machine.sp }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn of(_: &libc::ucontext_t) -> Self {
        Self { code: 0, frame: 0, stack: 0 }
    }
}

/// Follows frames outwards (a frame is the address of the next one, then the address to return to) while they make sense:
/// they rise, lie near above the stack pointer, and return into `text`. Gives how many addresses were found.
fn walk(
    from: Registers,
    text: (u64, u64),
    frame_at: impl Fn(u64) -> Option<[u64; 2]>,
    found: &mut [u64; DEPTH],
) -> usize {
    found[0] = from.code;
    let (mut depth, mut frame, mut lowest) = (1, from.frame, from.stack);
    while depth < DEPTH && frame >= lowest && frame - from.stack < REACH && frame.is_multiple_of(8) {
        let Some([outer, back]) = frame_at(frame) else { break };
        if back <= text.0 || back > text.1 {
            break;
        }
        // The call lies before the address that it returns to.
        found[depth] = back - 1;
        depth += 1;
        lowest = frame + 16;
        frame = outer;
    }
    depth
}

/// Where this program's own code lies.
fn text() -> (u64, u64) {
    unsafe extern "C" {
        // Both are made by the linker; only their addresses mean something.
        static __executable_start: u8;
        static etext: u8;
    }
    ((&raw const __executable_start).addr() as u64, (&raw const etext).addr() as u64)
}

/// The two words at an address that may be anything: the kernel copies them, and says so where nothing is there.
fn frame_at(address: u64) -> Option<[u64; 2]> {
    let mut words = [0_u64; 2];
    let size = size_of_val(&words);
    let into = libc::iovec { iov_base: (&raw mut words).cast(), iov_len: size };
    let from = libc::iovec { iov_base: std::ptr::without_provenance_mut(address as usize), iov_len: size };
    // SAFETY: writes at most `size` bytes into `words`; a bad address to read from is an error of the call.
    let got = unsafe { libc::process_vm_readv(libc::getpid(), &raw const into, 1, &raw const from, 1, 0) };
    (got == size as isize).then_some(words)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Frames as memory: address, outer frame, address to return to.
    fn walked(frames: &[(u64, u64, u64)], frame: u64) -> Vec<u64> {
        let at = |address| frames.iter().find(|(own, ..)| *own == address).map(|(_, outer, back)| [*outer, *back]);
        let mut found = [0; DEPTH];
        let depth = walk(Registers { code: 7, frame, stack: 0x1000 }, (0x100, 0x200), at, &mut found);
        found[..depth].to_vec()
    }

    #[test]
    fn frames_are_followed_while_they_make_sense() {
        assert_eq!(walked(&[(0x1010, 0x1040, 0x110), (0x1040, 0, 0x120)], 0x1010), [7, 0x10f, 0x11f]);
        assert_eq!(walked(&[(0x1010, 0x1010, 0x110)], 0x1010), [7, 0x10f], "a frame that names itself");
        assert_eq!(walked(&[(0x1010, 0x1040, 0x999), (0x1040, 0, 0x120)], 0x1010), [7], "returns to what is no code");
        assert_eq!(walked(&[(0x0ff0, 0, 0x110)], 0x0ff0), [7], "below the stack");
        assert_eq!(walked(&[(0x1011, 0, 0x110)], 0x1011), [7], "not aligned");
        assert_eq!(walked(&[(0x1000 + REACH, 0, 0x110)], 0x1000 + REACH), [7], "too far away");
        assert_eq!(walked(&[], 0x1010), [7], "not mapped");
        let endless: Vec<_> = (0..300).map(|i| (0x1010 + i * 16, 0x1020 + i * 16, 0x110)).collect();
        assert_eq!(walked(&endless, 0x1010).len(), DEPTH);
    }

    #[test]
    fn memory_that_is_not_there_is_no_frame() {
        let words = [3_u64, 4];
        assert_eq!(frame_at((&raw const words).addr() as u64), Some([3, 4]));
        assert_eq!(frame_at(0), None);
        assert_eq!(frame_at(u64::MAX - 7), None);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let words = std::iter::repeat_with(|| AtomicU64::new(0)).take(5).collect();
        let records = Records { words, next: AtomicUsize::new(0), lost: AtomicU64::new(0) };
        records.keep(&[1, 2]);
        records.keep(&[3, 4]);
        records.keep(&[5]);
        assert_eq!(records.stacks(), [vec![1, 2], vec![5]]);
        assert_eq!(records.lost.load(Ordering::SeqCst), 1);
    }

    /// Threads that allocate without end, which is where a handler that allocates would hang.
    fn allocate_for(time: Duration) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let start = Instant::now();
                    while start.elapsed() < time {
                        let many: Vec<Box<[u8]>> = (1..200).map(|size| vec![1; size * 7].into()).collect();
                        std::hint::black_box(many);
                    }
                });
            }
        });
    }

    #[test]
    fn a_process_under_load_is_sampled_and_goes_on() {
        let profile = Profile::start(Duration::from_millis(1), 1 << 20).unwrap();
        assert_eq!(Profile::start(Duration::from_millis(1), 16).unwrap_err(), Errno::BUSY);
        allocate_for(Duration::from_millis(500));
        let stacks = profile.stop();
        assert!(stacks.stacks.len() > 10, "{}", stacks.stacks.len());
        assert_eq!(stacks.lost, 0);
        let (start, end) = text();
        assert!(stacks.stacks.iter().any(|stack| (start..end).contains(&stack[0])));
        // None is taken any more, and a new one may be.
        allocate_for(Duration::from_millis(20));
        drop(Profile::start(Duration::from_millis(1), 16).unwrap());
    }
}
