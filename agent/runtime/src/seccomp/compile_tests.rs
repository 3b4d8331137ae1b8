use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscall, LinuxSyscallBuilder};
use proptest::prelude::*;

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;

/// Runs a program as the kernel would.
fn evaluate(program: &[Instruction], number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(AUDIT_ARCH.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let step = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jump_true } else { step.jump_false });
        match step.code {
            LOAD => accumulator = u32::from_le_bytes(data[step.k as usize..][..4].try_into().unwrap()),
            AND => accumulator &= step.k,
            JUMP => at += step.k as usize,
            JUMP_EQUAL => at += jump(accumulator == step.k),
            JUMP_GREATER => at += jump(accumulator > step.k),
            JUMP_GREATER_EQUAL => at += jump(accumulator >= step.k),
            RETURN => return step.k,
            other => panic!("unknown code {other}"),
        }
    }
}

fn rule(name: &str, action: Action, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscallBuilder::default().names(vec![name.to_owned()]).action(action).args(args).build().unwrap()
}

fn arg(index: usize, op: Operator, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(two).build().unwrap()
}

fn program(rules: Vec<LinuxSyscall>) -> Vec<Instruction> {
    let profile = LinuxSeccompBuilder::default().default_action(Action::ScmpActErrno).syscalls(rules).build().unwrap();
    compile(&profile).unwrap().0
}

#[test]
fn the_default_profile_allows_and_denies() {
    let (program, _) = compile(&crate::seccomp::default_profile()).unwrap();
    let call = |name: &str, first: u64| evaluate(&program, syscall::number(name).unwrap(), [first, 0, 0, 0, 0, 0]);
    assert_eq!(call("read", 0), ALLOW);
    assert_eq!(call("execve", 0), ALLOW);
    assert_eq!(call("mount", 0), EPERM);
    assert_eq!(call("bpf", 0), EPERM);
    assert_eq!(call("clone3", 0), 0x0005_0000 | libc::ENOSYS as u32);
    assert_eq!(call("clone", 0), ALLOW);
    assert_eq!(call("clone", libc::CLONE_NEWUSER as u64), EPERM);
    assert_eq!(call("personality", 8), ALLOW);
    assert_eq!(call("personality", 1), EPERM);
    assert_eq!(call("socket", libc::AF_VSOCK as u64), EPERM);
    assert_eq!(call("socket", libc::AF_INET as u64), ALLOW);
    assert!(program.len() < 1000, "{}", program.len());
}

#[test]
fn unknown_names_are_skipped_and_bad_arguments_named() {
    assert_eq!(evaluate(&program(vec![rule("no_such_call", Action::ScmpActAllow, vec![])]), 0, [0; 6]), EPERM);
    let bad = rule("read", Action::ScmpActAllow, vec![arg(6, Operator::ScmpCmpEq, 0, 0)]);
    let profile = LinuxSeccompBuilder::default().default_action(Action::ScmpActErrno).syscalls(vec![bad]).build();
    let error = compile(&profile.unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "argument index 6 of read: expected 0 to 5");
}

proptest! {
    #[test]
    fn comparisons_mean_what_they_say(
        value in prop_oneof![any::<u64>(), 0..4u64],
        actual in prop_oneof![any::<u64>(), 0..4u64],
        two in 0..4u64,
        pair in any::<bool>(),
    ) {
        for (op, holds) in [
            (Operator::ScmpCmpEq, actual == value),
            (Operator::ScmpCmpNe, actual != value),
            (Operator::ScmpCmpLt, actual < value),
            (Operator::ScmpCmpLe, actual <= value),
            (Operator::ScmpCmpGt, actual > value),
            (Operator::ScmpCmpGe, actual >= value),
            (Operator::ScmpCmpMaskedEq, actual & value == two),
        ] {
            let mut args = vec![arg(1, op, value, two)];
            if pair {
                args.push(arg(2, Operator::ScmpCmpEq, 7, 0));
            }
            let program = program(vec![rule("read", Action::ScmpActAllow, args)]);
            let expected = if holds { ALLOW } else { EPERM };
            prop_assert_eq!(evaluate(&program, 0, [0, actual, 7, 0, 0, 0]), expected);
            let other = if pair { EPERM } else { expected };
            prop_assert_eq!(evaluate(&program, 0, [0, actual, 8, 0, 0, 0]), other);
        }
    }

    #[test]
    fn the_search_finds_every_call(chosen in proptest::collection::btree_set(0..300u32, 0..120)) {
        let names: Vec<_> = syscall::TABLE.iter().filter(|(_, n)| chosen.contains(&(*n as u32))).collect();
        let rules = names.iter().map(|(name, n)| {
            rule(name, if n % 3 == 0 { Action::ScmpActLog } else { Action::ScmpActAllow }, vec![])
        });
        let program = program(rules.collect());
        for number in 0..310u32 {
            let known = names.iter().any(|(_, n)| *n as u32 == number);
            let expected = if !known { EPERM } else if number % 3 == 0 { 0x7ffc_0000 } else { ALLOW };
            prop_assert_eq!(evaluate(&program, number, [0; 6]), expected);
        }
    }
}
