//! Which devices a container may use: rules as lines for v1, as an eBPF program for v2.

use agent_sys::bpf::Instruction;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// One rule; `None` is "any".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: char,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: String,
}

/// What every container may do, whatever the spec says: make device files (using them is another thing), use the
/// standard devices and its terminals.
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 10] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// The spec's rules and the standing ones, in order: later ones win.
pub(super) fn rules(devices: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    let part = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let own = devices.iter().map(|device| Rule {
        allow: device.allow(),
        kind: match device.typ().unwrap_or_default() {
            LinuxDeviceType::B => 'b',
            LinuxDeviceType::C | LinuxDeviceType::U => 'c',
            LinuxDeviceType::A | LinuxDeviceType::P => 'a',
        },
        major: part(device.major()),
        minor: part(device.minor()),
        access: device.access().clone().filter(|access| !access.is_empty()).unwrap_or_else(|| "rwm".to_owned()),
    });
    let always =
        ALWAYS.map(|(kind, major, minor, access)| Rule { allow: true, kind, major, minor, access: access.to_owned() });
    let mut rules: Vec<Rule> = own.collect();
    // The standing rules follow the usual "deny all" and precede what the spec allows or denies in particular.
    let at = rules.iter().take_while(|rule| rule.kind == 'a').count();
    rules.splice(at..at, always);
    rules
}

impl Rule {
    /// As devices.allow and devices.deny take it.
    pub(super) fn line(&self) -> String {
        if self.kind == 'a' && self.major.is_none() && self.minor.is_none() {
            return "a".to_owned();
        }
        let part = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
        format!("{} {}:{} {}", self.kind, part(self.major), part(self.minor), self.access)
    }
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X, 32 bit
const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn step(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

/// The rules as a program on `bpf_cgroup_dev_ctx {access_type, major, minor}`; the last rule that matches decides, so
/// they are tried from the last to the first. Registers: 2 type, 3 access, 4 major, 5 minor.
pub(super) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        step(LOAD_WORD, 2, 1, 0, 0),
        step(AND, 2, 0, 0, 0xffff),
        step(LOAD_WORD, 3, 1, 0, 0),
        step(SHIFT_RIGHT, 3, 0, 0, 16),
        step(LOAD_WORD, 4, 1, 4, 0),
        step(LOAD_WORD, 5, 1, 8, 0),
    ];
    let mut complete = false;
    for rule in rules.iter().rev() {
        let mut checks = Vec::new();
        match rule.kind {
            'b' => checks.push(step(JUMP_NOT_EQUAL, 2, 0, 0, 1)),
            'c' => checks.push(step(JUMP_NOT_EQUAL, 2, 0, 0, 2)),
            _ => {}
        }
        let access = rule.access.chars().fold(0, |bits, c| {
            bits | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        if access != 7 {
            // Allowed only when all that is asked is covered.
            checks.push(step(MOVE, 1, 3, 0, 0));
            checks.push(step(AND, 1, 0, 0, access));
            checks.push(step(JUMP_NOT_EQUAL_REGISTER, 1, 3, 0, 0));
        }
        if let Some(major) = rule.major {
            checks.push(step(JUMP_NOT_EQUAL, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            checks.push(step(JUMP_NOT_EQUAL, 5, 0, 0, minor as i32));
        }
        complete |= checks.is_empty();
        let len = checks.len();
        for (at, check) in checks.iter_mut().enumerate() {
            if matches!(check.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
                check.offset = (len - at - 1 + 2) as i16;
            }
        }
        program.append(&mut checks);
        program.push(step(MOVE_IMMEDIATE, 0, 0, 0, i32::from(rule.allow)));
        program.push(step(EXIT, 0, 0, 0, 0));
        if complete {
            return program; // rules before this one cannot matter, and the verifier refuses what cannot be reached
        }
    }
    program.push(step(MOVE_IMMEDIATE, 0, 0, 0, 1));
    program.push(step(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    use super::*;

    #[test]
    fn the_kernel_takes_the_program() {
        let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap();
        let rules = rules(&[deny]);
        assert_eq!(rules[0].line(), "a");
        assert_eq!(rules[1].line(), "c *:* m");
        match agent_sys::bpf::load_device_program(&program(&rules)) {
            Ok(_) => {}
            Err(agent_sys::Errno::PERM | agent_sys::Errno::NOSYS) => println!("skipped: bpf is not permitted here"),
            Err(error) => panic!("{error}"),
        }
    }
}
