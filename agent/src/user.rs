//! Which user a container runs as: the security context, or the image's USER looked up in the image.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use agent_pod::protocol::Failure;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Larger user databases are not read.
const LIMIT: u64 = 4 << 20;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Groups that the image gives the user.
    pub(crate) groups: Vec<u32>,
}

/// What the pod asks for; it overrides the image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) must_not_be_root: bool,
}

/// Settles the identity. `image_user` is the image's USER: `name`, `uid`, `name:group`, `uid:gid`.
pub(crate) fn identity(root: &Path, image_user: &str, wish: Wish) -> Result<Identity, Failure> {
    let fail = |message: String| Failure { reason: "CreateContainerConfigError".into(), message };
    let (user, group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let passwd = read(root, "etc/passwd");
    let groups_file = read(root, "etc/group");
    let account = match wish.uid {
        Some(uid) => Account { uid, entry: entry_by_id(&passwd, uid) },
        None if user.is_empty() => Account { uid: 0, entry: entry_by_id(&passwd, 0) },
        None => match (user.parse::<u32>(), entry_by_name(&passwd, user)) {
            (_, Some(entry)) => Account { uid: entry.uid, entry: Some(entry) },
            (Ok(uid), None) => Account { uid, entry: entry_by_id(&passwd, uid) },
            (Err(_), None) => return Err(fail(format!("the image's user {user:?} is not in its /etc/passwd"))),
        },
    };
    if wish.must_not_be_root && wish.uid.is_none() && account.uid == 0 {
        return Err(fail("container has runAsNonRoot and image will run as root".into()));
    }
    if wish.must_not_be_root && wish.uid == Some(0) {
        return Err(fail("container's runAsUser breaks non-root policy".into()));
    }
    // The image's group goes with the image's user only.
    let image_group = group.filter(|group| !group.is_empty() && wish.uid.is_none());
    let gid = match (wish.gid, image_group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => match (group_by_name(&groups_file, group), group.parse()) {
            (Some(gid), _) | (None, Ok(gid)) => gid,
            (None, Err(_)) => return Err(fail(format!("the image's group {group:?} is not in its /etc/group"))),
        },
        (None, None) => account.entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let groups = account.entry.map(|entry| groups_of(&groups_file, &entry.name)).unwrap_or_default();
    Ok(Identity { uid: account.uid, gid, groups })
}

struct Account {
    uid: u32,
    entry: Option<Entry>,
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
}

/// Reads a file of the image without following a link out of it. Anything unreadable counts as empty.
fn read(root: &Path, path: &str) -> String {
    let open = || -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let directory =
            rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(openat2(directory, path, flags, Mode::empty(), resolve).ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    };
    let mut bytes = Vec::new();
    match open().map(|file| file.take(LIMIT).read_to_end(&mut bytes)) {
        Some(Ok(_)) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => String::new(),
    }
}

/// Lines of passwd(5).
fn entries(passwd: &str) -> impl Iterator<Item = Entry> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        Some(Entry { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

fn entry_by_id(passwd: &str, uid: u32) -> Option<Entry> {
    entries(passwd).find(|entry| entry.uid == uid)
}

fn entry_by_name(passwd: &str, name: &str) -> Option<Entry> {
    entries(passwd).find(|entry| entry.name == name)
}

/// Lines of group(5): name, id, members.
fn groups(file: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, id, members) = (fields.next()?, fields.nth(1)?, fields.next().unwrap_or_default());
        Some((name, id.parse().ok()?, members))
    })
}

fn group_by_name(file: &str, wanted: &str) -> Option<u32> {
    groups(file).find(|(name, ..)| *name == wanted).map(|(_, id, _)| id)
}

fn groups_of(file: &str, user: &str) -> Vec<u32> {
    groups(file)
        .filter(|(.., members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, id, _)| id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34:w:/:/bin/false\nbroken\n")
            .unwrap();
        std::fs::write(root.path().join("etc/group"), "root:x:0:\nadm:x:4:web,other\nstaff:x:50:\n").unwrap();
        root
    }

    #[test]
    fn users_resolve_in_the_image() {
        let root = root();
        let of = |user: &str, wish: Wish| identity(root.path(), user, wish).map(|i| (i.uid, i.gid, i.groups));
        let free = Wish::default();
        assert_eq!(of("", free), Ok((0, 0, vec![])));
        assert_eq!(of("web", free), Ok((33, 34, vec![4])));
        assert_eq!(of("web:staff", free), Ok((33, 50, vec![4])));
        assert_eq!(of("1000:7", free), Ok((1000, 7, vec![])));
        assert_eq!(of("web", Wish { uid: Some(33), ..free }), Ok((33, 34, vec![4])));
        assert_eq!(of("web", Wish { uid: Some(5), gid: Some(6), ..free }), Ok((5, 6, vec![])));
        assert!(of("ghost", free).is_err());
        let nobody = Wish { must_not_be_root: true, ..free };
        assert!(of("", nobody).is_err() && of("web", nobody).is_ok());
        assert!(of("web", Wish { uid: Some(0), ..nobody }).is_err());
    }

    #[test]
    fn links_in_the_image_do_not_lead_out() {
        let root = root();
        std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/proc/self/environ", root.path().join("etc/passwd")).unwrap();
        assert_eq!(read(root.path(), "etc/passwd"), "");
    }
}
