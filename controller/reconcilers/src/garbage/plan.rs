//! What becomes of an object whose owners are known: pure.

/// What a live look at an owner said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// There, and staying.
    Solid,
    /// Gone, or another object of that name.
    Absent,
    /// Being deleted, after its dependents.
    Waiting,
}

/// What to do with a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, without the references to owners that are not solid.
    Unlink,
    /// It goes, and its own dependents first.
    DeleteForeground,
    /// It goes, and its own dependents after it.
    DeleteBackground,
}

/// Decides.
pub(super) fn verdict(owners: &[Owner], has_dependents: bool) -> Verdict {
    let has = |state| owners.contains(&state);
    match (has(Owner::Solid), has(Owner::Absent) || has(Owner::Waiting)) {
        (_, false) => Verdict::Keep,
        (true, true) => Verdict::Unlink,
        (false, true) if has(Owner::Waiting) && has_dependents => Verdict::DeleteForeground,
        (false, true) => Verdict::DeleteBackground,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_solid_owner_is_enough() {
        use Owner::{Absent, Solid, Waiting};
        for (owners, has_dependents, want) in [
            (&[][..], true, Verdict::Keep),
            (&[Solid], true, Verdict::Keep),
            (&[Solid, Absent], false, Verdict::Unlink),
            (&[Solid, Waiting], true, Verdict::Unlink),
            (&[Absent], true, Verdict::DeleteBackground),
            (&[Waiting, Absent], true, Verdict::DeleteForeground),
            (&[Waiting], false, Verdict::DeleteBackground),
        ] {
            assert_eq!(verdict(owners, has_dependents), want, "{owners:?}");
        }
    }
}
