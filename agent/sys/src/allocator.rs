//! Which allocator a process has: services a fast one, everything else the C library's, which is small. A process
//! has one from its first byte to its last, so memory never goes back to another than it came from.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicU8, Ordering};

use mimalloc::MiMalloc;
use rustix::fs::{Mode, OFlags};

const UNKNOWN: u8 = 0;
const SMALL: u8 = 1;
const FAST: u8 = 2;

/// `mi_option_purge_delay` of mimalloc.h: after how many milliseconds free pages go back to the system.
const PURGE_DELAY: c_int = 15;
/// Its own second, ten times that for whole arenas, keeps what a hundred threads had for a moment: a server that
/// has started a hundred pods at once would rest in three times the memory.
const SOON: c_long = 10;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// The allocator of the one binary.
pub struct Allocator {
    services: &'static [&'static str],
    choice: AtomicU8,
}

impl Allocator {
    /// For `#[global_allocator]`: the verbs that are services, which stand first on the command line.
    pub const fn new(services: &'static [&'static str]) -> Self {
        Self { services, choice: AtomicU8::new(UNKNOWN) }
    }

    fn is_fast(&self) -> bool {
        match self.choice.load(Ordering::Relaxed) {
            UNKNOWN => {
                // Whoever else comes here at the same time reads the same.
                let choice = if is_service(self.services) { FAST } else { SMALL };
                if choice == FAST {
                    // SAFETY: it sets a number and takes no memory. The first piece of memory is asked for before there
                    // are threads.
                    unsafe { mi_option_set(PURGE_DELAY, SOON) };
                }
                self.choice.store(choice, Ordering::Relaxed);
                choice == FAST
            }
            choice => choice == FAST,
        }
    }
}

/// Whether this is one of these; proc_pid_cmdline(5). Takes no memory, for there is nobody to give any.
fn is_service(verbs: &[&str]) -> bool {
    let mut text = [0; 256];
    let Ok(file) = rustix::fs::open(c"/proc/self/cmdline", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let length = rustix::io::read(&file, &mut text).unwrap_or(0);
    has_verb(text.get(..length).unwrap_or_default(), verbs)
}

/// A program that is called by a longer path than fits is none: it has less memory, and works.
fn has_verb(command_line: &[u8], verbs: &[&str]) -> bool {
    let given = command_line.split(|byte| *byte == 0).nth(1);
    given.is_some_and(|given| verbs.iter().any(|verb| verb.as_bytes() == given))
}

// SAFETY: both allocators keep the contract, and the choice between them never changes once it is made, so every call about a
// piece of memory goes to the one that gave it. A fork has its parent's choice.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if self.is_fast() { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { if self.is_fast() { MiMalloc.dealloc(pointer, layout) } else { System.dealloc(pointer, layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if self.is_fast() { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if self.is_fast() { MiMalloc.realloc(pointer, layout, size) } else { System.realloc(pointer, layout, size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_agents_are_told_from_the_rest() {
        let verb = |line: &[u8]| has_verb(line, &["server", "agent"]);
        assert!(verb(b"/usr/bin/gantry\0server\0--data-dir\0x\0"));
        assert!(verb(b"gantry\0agent\0"));
        for other in [
            &b"gantry\0get\0server\0"[..],
            b"gantry-oci\0create\0",
            b"gantry\0monitor\0/x\0",
            b"gantry\0",
            b"",
            b"gantry\0serv",
        ] {
            assert!(!verb(other), "{}", String::from_utf8_lossy(other));
        }
    }
}
