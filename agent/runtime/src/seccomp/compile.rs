//! The compiler.

use std::collections::BTreeMap;

use agent_sys::seccomp::Instruction;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator,
};

use super::syscall;

/// A profile that cannot become a filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeccompError {
    /// Notification needs a listener, which is not supported.
    #[error("action SCMP_ACT_NOTIFY of {name} is not supported")]
    Notify {
        /// The call or `defaultAction`.
        name: String,
    },
    /// The kernel has six arguments.
    #[error("argument index {index} of {name}: expected 0 to 5")]
    ArgumentIndex {
        /// The call.
        name: String,
        /// The index.
        index: usize,
    },
    /// More instructions than the kernel takes.
    #[error("the profile needs {0} instructions, the kernel takes 4096")]
    TooLong(usize),
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
/// Calls from here on are of the x32 ABI, which nobody uses and which would slip past checks of numbers.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

const RET_KILL_PROCESS: u32 = 0x8000_0000;

fn instruction(code: u16, k: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, k }
}

fn branch(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, k }
}

fn verdict(action: Action, errno: Option<u32>, name: &str) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => RET_KILL_PROCESS,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 | errno,
        Action::ScmpActTrace => 0x7ff0_0000 | errno,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
        Action::ScmpActNotify => return Err(SeccompError::Notify { name: name.to_owned() }),
    })
}

/// One rule of one call: when all conditions hold, the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<LinuxSeccompArg>,
    verdict: u32,
}

/// Compiles a profile; gives the program and the flags for loading it.
/// Rules of one call are tried in the profile's order, those with conditions first.
pub fn compile(profile: &LinuxSeccomp) -> Result<(Vec<Instruction>, u64), SeccompError> {
    let default = verdict(profile.default_action(), profile.default_errno_ret(), "defaultAction")?;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        for name in entry.names() {
            let verdict = verdict(entry.action(), entry.errno_ret(), name)?;
            let Some(number) = syscall::number(name) else { continue };
            let conditions = entry.args().clone().unwrap_or_default();
            if let Some(arg) = conditions.iter().find(|arg| arg.index() > 5) {
                return Err(SeccompError::ArgumentIndex { name: name.clone(), index: arg.index() });
            }
            // An unconditional rule equal to the default changes nothing.
            if conditions.is_empty() && verdict == default {
                continue;
            }
            // libseccomp's merging: several conditions on the same argument are alternatives.
            let repeated = conditions
                .iter()
                .enumerate()
                .any(|(at, arg)| conditions[..at].iter().any(|before| before.index() == arg.index()));
            let rules = calls.entry(number).or_default();
            if repeated {
                rules.extend(conditions.into_iter().map(|arg| Rule { conditions: vec![arg], verdict }));
            } else {
                rules.push(Rule { conditions, verdict });
            }
        }
    }
    let mut program = vec![
        instruction(LOAD, OFFSET_ARCH),
        branch(JUMP_EQUAL, AUDIT_ARCH, 1, 0),
        instruction(RETURN, default),
        instruction(LOAD, OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([branch(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), instruction(RETURN, 0x0005_0000 | libc::ENOSYS as u32)]);
    let mut bodies = Vec::new();
    for (number, rules) in calls {
        bodies.push((number, body(rules, default)));
    }
    // Neighbours with the same one-instruction verdict become one range.
    let mut ranges: Vec<(u32, Vec<Instruction>)> = vec![(0, vec![instruction(RETURN, default)])];
    for (number, body) in bodies {
        push_range(&mut ranges, number, body);
        push_range(&mut ranges, number + 1, vec![instruction(RETURN, default)]);
    }
    search(&ranges, &mut program);
    if program.len() > 4096 {
        return Err(SeccompError::TooLong(program.len()));
    }
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // One thread loads the filter; and there is no listener to wait for.
            Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    Ok((program, flags))
}

fn push_range(ranges: &mut Vec<(u32, Vec<Instruction>)>, start: u32, body: Vec<Instruction>) {
    if let Some(last) = ranges.last_mut()
        && last.0 == start
    {
        last.1 = body;
    } else {
        ranges.push((start, body));
    }
    if let [.., before, last] = ranges.as_slice()
        && before.1 == last.1
        && before.1.len() == 1
    {
        ranges.pop();
    }
}

/// The accumulator holds the number; every leaf ends in a return.
fn search(ranges: &[(u32, Vec<Instruction>)], program: &mut Vec<Instruction>) {
    let [single] = ranges else {
        let middle = ranges.len() / 2;
        let (low, high) = ranges.split_at(middle);
        let mut left = Vec::new();
        search(low, &mut left);
        match u8::try_from(left.len()) {
            Ok(skip) => program.push(branch(JUMP_GREATER_EQUAL, high[0].0, skip, 0)),
            Err(_) => {
                program.push(branch(JUMP_GREATER_EQUAL, high[0].0, 0, 1));
                program.push(instruction(JUMP, left.len() as u32));
            }
        }
        program.append(&mut left);
        search(high, program);
        return;
    };
    program.extend_from_slice(&single.1);
}

/// What one call leads to: its conditional rules, then its unconditional one, then the default.
fn body(rules: Vec<Rule>, default: u32) -> Vec<Instruction> {
    let mut program = Vec::new();
    let last = rules.iter().find(|rule| rule.conditions.is_empty()).map_or(default, |rule| rule.verdict);
    for rule in rules.iter().filter(|rule| !rule.conditions.is_empty()) {
        let checks: Vec<Vec<Instruction>> = rule.conditions.iter().map(check).collect();
        let mut rest: usize = checks.iter().map(Vec::len).sum::<usize>() + 1;
        for mut check in checks {
            rest -= check.len();
            // A check that fails goes past the verdict: `FAIL` marks those jumps.
            let len = check.len();
            for (at, step) in check.iter_mut().enumerate() {
                let distance = (len - at - 1 + rest) as u8;
                if step.jump_true == FAIL {
                    step.jump_true = distance;
                }
                if step.jump_false == FAIL {
                    step.jump_false = distance;
                }
            }
            program.append(&mut check);
        }
        program.push(instruction(RETURN, rule.verdict));
    }
    program.push(instruction(RETURN, last));
    program
}

/// Stands for "this condition does not hold" until distances are known; at most 6 conditions of 7 instructions follow.
const FAIL: u8 = 255;

/// The instructions of one condition on a 64-bit argument; falling off the end means it holds.
fn check(arg: &LinuxSeccompArg) -> Vec<Instruction> {
    let low_offset = OFFSET_ARGS + 8 * arg.index() as u32;
    let (low_offset, high_offset) =
        if cfg!(target_endian = "little") { (low_offset, low_offset + 4) } else { (low_offset + 4, low_offset) };
    let (low, high) = (arg.value() as u32, (arg.value() >> 32) as u32);
    let load_low = instruction(LOAD, low_offset);
    let load_high = instruction(LOAD, high_offset);
    match arg.op() {
        Operator::ScmpCmpEq => {
            vec![load_high, branch(JUMP_EQUAL, high, 0, FAIL), load_low, branch(JUMP_EQUAL, low, 0, FAIL)]
        }
        Operator::ScmpCmpNe => {
            vec![load_high, branch(JUMP_EQUAL, high, 0, 2), load_low, branch(JUMP_EQUAL, low, FAIL, 0)]
        }
        // value is the mask, valueTwo what must remain.
        Operator::ScmpCmpMaskedEq => {
            let wanted = arg.value_two().unwrap_or(0);
            vec![
                load_high,
                instruction(AND, high),
                branch(JUMP_EQUAL, (wanted >> 32) as u32, 0, FAIL),
                load_low,
                instruction(AND, low),
                branch(JUMP_EQUAL, wanted as u32, 0, FAIL),
            ]
        }
        Operator::ScmpCmpGt | Operator::ScmpCmpGe => {
            let code = if arg.op() == Operator::ScmpCmpGt { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            vec![
                load_high,
                branch(JUMP_GREATER, high, 3, 0),
                branch(JUMP_EQUAL, high, 0, FAIL),
                load_low,
                branch(code, low, 0, FAIL),
            ]
        }
        Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
            let code = if arg.op() == Operator::ScmpCmpLt { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
            vec![
                load_high,
                branch(JUMP_GREATER, high, FAIL, 0),
                branch(JUMP_EQUAL, high, 0, 2),
                load_low,
                branch(code, low, FAIL, 0),
            ]
        }
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
