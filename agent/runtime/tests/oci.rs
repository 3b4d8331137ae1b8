//! What an OCI runtime must do, proven on runc first and then asked of ours.

mod bundle;

use bundle::{Bundle, Runtime, bundle, eventually, gantry_oci, missing, unique};
use serde_json::json;

/// Every case runs on each runtime by name.
type Case = (&'static str, fn(&Runtime));

const CASES: &[Case] = &[
    ("exit codes", exit_codes),
    ("namespaces are distinct", namespaces_are_distinct),
    ("cgroup limits are applied", cgroup_limits),
    ("capabilities", capabilities),
    ("seccomp blocks", seccomp_blocks),
    ("paths are masked and read-only", masked_paths),
    ("the root is read-only", readonly_root),
    ("mounts", mounts),
    ("mount destinations stay inside", mount_escapes),
    ("user ids, groups and umask", user_ids),
    ("limits, no_new_privs and sysctl", limits),
    ("states", states),
    ("a missing command is an error", missing_command),
    ("hooks", hooks),
    ("exec", exec),
    ("devices", devices),
    ("user namespace", user_namespace),
    ("joined user namespace", joined_user_namespace),
    ("the runtime's program cannot be written", program_is_sealed),
    ("bad input", bad_input),
];

/// What version 1.2 of the specification brought and Debian's runc lacks.
const NEWER: &[Case] = &[("bad maps", bad_maps)];

/// What the specification asks for and older kernels cannot do.
const OWNERS: &[Case] = &[("owners of mounts are mapped", mapped_owners)];

fn suite(program: std::path::PathBuf, cases: &[&[Case]]) {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let runtime = Runtime::new(program);
    let mut failed = Vec::new();
    for (name, case) in cases.iter().copied().flatten() {
        println!("case: {name}");
        if std::panic::catch_unwind(|| case(&runtime)).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

#[test]
fn runc() {
    match ["/usr/sbin/runc", "/usr/bin/runc"].iter().find(|path| std::path::Path::new(path).exists()) {
        Some(path) => suite(path.into(), &[CASES]),
        None => println!("skipped: runc is not installed"),
    }
}

#[test]
fn gantry() {
    suite(gantry_oci(), &[CASES, NEWER]);
}

#[test]
fn gantry_maps_owners() {
    match maps_owners() {
        true => suite(gantry_oci(), &[OWNERS]),
        false => println!("skipped: this kernel maps no owners of a tmpfs"),
    }
}

fn output(runtime: &Runtime, bundle: &Bundle) -> String {
    let (code, output, errors) = runtime.run(bundle);
    assert_eq!(code, 0, "{output}{errors}");
    output
}

fn exit_codes(runtime: &Runtime) {
    for (script, code) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 0), ("sh -c 'kill -9 $$'; exit $?", 137)] {
        // Process 1 of a PID namespace cannot kill itself.
        assert_eq!(runtime.run(&bundle(script)).0, code, "{script}");
    }
}

fn namespaces_are_distinct(runtime: &Runtime) {
    let names = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let script = names.map(|name| format!("readlink /proc/self/ns/{name}")).join("; ");
    let found = output(runtime, &bundle(&format!("{script}; echo $$; hostname")));
    let lines: Vec<&str> = found.lines().collect();
    for (name, theirs) in names.iter().zip(&lines) {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(theirs.starts_with(name) && *theirs != ours.to_str().unwrap(), "{name}: {theirs}");
    }
    assert_eq!(&lines[6..], ["1", "gantry"]);
}

fn cgroup_limits(runtime: &Runtime) {
    let mut bundle = bundle("sleep 1000");
    let name = unique();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{name}"));
    bundle.config["linux"]["resources"] = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 33554432, "reservation": 16777216},
        "cpu": {"shares": 512, "quota": 20000, "period": 100000},
        "pids": {"limit": 17}
    });
    let path = bundle.save().to_str().unwrap().to_owned();
    let created = runtime.call(&["create", "-b", &path, &name]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let hierarchies = agent_runtime::cgroup::detect().unwrap();
    let group = |controller: &str| {
        let of = |hierarchy: &&agent_runtime::cgroup::Hierarchy| hierarchy.controllers.iter().any(|c| c == controller);
        let v1 = hierarchies.v1.iter().find(of).map(|hierarchy| hierarchy.mount.clone());
        v1.or_else(|| hierarchies.unified.clone()).unwrap().join(&name)
    };
    let v1 = [
        ("memory", "memory.limit_in_bytes", "33554432"),
        ("memory", "memory.soft_limit_in_bytes", "16777216"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("pids", "pids.max", "17"),
    ];
    let v2 = [
        ("memory", "memory.max", "33554432"),
        ("memory", "memory.low", "16777216"),
        ("cpu", "cpu.weight", "20"),
        ("cpu", "cpu.max", "20000 100000"),
        ("pids", "pids.max", "17"),
    ];
    for (controller, file, value) in if hierarchies.v1.is_empty() { v2 } else { v1 } {
        let read = std::fs::read_to_string(group(controller).join(file)).unwrap();
        assert_eq!(read.trim(), value, "{file}");
    }
    if !hierarchies.v1.is_empty() {
        // Version 2 has a program instead, which the case `devices` asks by using devices.
        let devices = std::fs::read_to_string(group("devices").join("devices.list")).unwrap();
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:* rwm"), "{devices}");
    }
    let memory = group("memory");
    assert!(memory.exists());
    assert!(runtime.call(&["delete", "--force", &name]).status.success());
    assert!(!memory.exists());
}

fn capabilities(runtime: &Runtime) {
    let mut bundle = bundle("grep Cap /proc/self/status");
    let set = ["CAP_CHOWN", "CAP_KILL"];
    bundle.config["process"]["capabilities"] =
        json!({"bounding": set, "effective": set, "permitted": set, "inheritable": set, "ambient": ["CAP_KILL"]});
    let found = output(runtime, &bundle);
    for (name, value) in [("CapPrm", "21"), ("CapEff", "21"), ("CapBnd", "21"), ("CapInh", "21"), ("CapAmb", "20")] {
        assert!(found.contains(&format!("{name}:\t00000000000000{value}")), "{name} {found}");
    }
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let found = output(runtime, &bundle);
    assert!(found.contains("CapEff:\t0000000000000020"), "ambient survives the user: {found}");
}

fn seccomp_blocks(runtime: &Runtime) {
    let mut bundle = bundle("mkdir /x && echo made; grep Seccomp: /proc/self/status");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    });
    let (_, found, errors) = runtime.run(&bundle);
    assert!(found.contains("Seccomp:\t2") && !found.contains("made"), "{found}");
    assert!(errors.contains("No space left"), "{errors}");
    for privileges in [true, false] {
        bundle.config["process"]["noNewPrivileges"] = json!(privileges);
        bundle.config["process"]["args"] = json!(["sh", "-c", "id; echo fine"]);
        bundle.config["linux"]["seccomp"] = serde_json::to_value(agent_runtime::seccomp::default_profile()).unwrap();
        assert!(output(runtime, &bundle).contains("fine"));
    }
}

fn masked_paths(runtime: &Runtime) {
    let mut bundle = bundle(
        "ls /hidden; cat /secret; (echo x > /fixed/file) 2>/dev/null || echo refused; echo 1 > /proc/sys/kernel/panic || echo ro",
    );
    let root = bundle.path().join("rootfs");
    for dir in ["hidden", "fixed"] {
        std::fs::create_dir(root.join(dir)).unwrap();
        std::fs::write(root.join(dir).join("file"), "text").unwrap();
    }
    std::fs::write(root.join("secret"), "text").unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/hidden", "/secret", "/nowhere"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/fixed", "/proc/sys", "/nowhere"]);
    assert_eq!(output(runtime, &bundle), "refused\nro\n");
}

fn readonly_root(runtime: &Runtime) {
    let mut bundle = bundle("mkdir /x 2>/dev/null || echo refused; mkdir /dev/x && echo made");
    bundle.config["root"]["readonly"] = json!(true);
    assert_eq!(output(runtime, &bundle), "refused\nmade\n");
}

fn mounts(runtime: &Runtime) {
    let mut bundle = bundle(
        "cat /data/file; mkdir /data/x 2>/dev/null || echo ro; cat /one; grep -E ' /(data|scratch) ' /proc/mounts",
    );
    let host = bundle.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let list = bundle.config["mounts"].as_array_mut().unwrap();
    list.push(json!({"destination": "/data", "source": host, "type": "bind", "options": ["rbind", "ro", "nosuid", "rprivate"]}));
    list.push(json!({"destination": "/one", "source": host.join("file"), "type": "none", "options": ["bind"]}));
    list.push(json!({"destination": "/scratch", "source": "tmpfs", "type": "tmpfs", "options": ["nodev", "size=1m", "mode=700"]}));
    let found = output(runtime, &bundle);
    assert!(found.starts_with("content\nro\ncontent\n"), "{found}");
    assert!(found.contains("tmpfs /scratch tmpfs rw,nodev,relatime,size=1024k,mode=700"), "{found}");
    let data = found.lines().find(|line| line.contains(" /data ")).unwrap();
    assert!(data.contains("ro,nosuid"), "{data}");
}

fn mount_escapes(runtime: &Runtime) {
    for (link, target, destination) in [
        ("up", "../../../../../../../..", "/up/escaped-gantry"),
        ("abs", "/", "/abs/escaped-gantry"),
        ("x", "y", "/x/../../../escaped-gantry"),
    ] {
        let mut bundle = bundle("ls -d /escaped-gantry");
        std::os::unix::fs::symlink(target, bundle.path().join("rootfs").join(link)).unwrap();
        let list = bundle.config["mounts"].as_array_mut().unwrap();
        list.push(json!({"destination": destination, "source": "tmpfs", "type": "tmpfs"}));
        let (_, found, _) = runtime.run(&bundle);
        assert_eq!(found, "/escaped-gantry\n", "{destination}");
        assert!(!std::path::Path::new("/escaped-gantry").exists());
    }
}

fn user_ids(runtime: &Runtime) {
    let mut bundle = bundle("id -u; id -g; id -G; umask; echo $HOME");
    std::fs::create_dir(bundle.path().join("rootfs/etc")).unwrap();
    std::fs::write(bundle.path().join("rootfs/etc/passwd"), "app:x:1000:2000::/home/app:/bin/sh\n").unwrap();
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 2000, "additionalGids": [3000, 4000], "umask": 63});
    assert_eq!(output(runtime, &bundle), "1000\n2000\n2000 3000 4000\n0077\n/home/app\n");
}

fn limits(runtime: &Runtime) {
    let mut bundle =
        bundle("ulimit -n; grep NoNew /proc/self/status; cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj");
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    assert_eq!(output(runtime, &bundle), "100\nNoNewPrivs:\t1\n1\n500\n");
}

fn status(runtime: &Runtime, id: &str) -> String {
    let state = runtime.call(&["state", id]);
    let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap_or_default();
    state["status"].as_str().unwrap_or("gone").to_owned()
}

fn states(runtime: &Runtime) {
    let bundle = bundle("sleep 1000");
    let path = bundle.save().to_str().unwrap().to_owned();
    let id = unique();
    let pid_file = bundle.path().join("pid");
    let ok = |args: &[&str]| {
        let output = runtime.call(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let refused = |args: &[&str]| assert!(!runtime.call(args).status.success(), "{args:?}");
    ok(&["create", "--bundle", &path, "--pid-file", pid_file.to_str().unwrap(), &id]);
    let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(status(runtime, &id), "created");
    refused(&["create", "--bundle", &path, &id]);
    ok(&["start", &id]);
    assert_eq!(status(runtime, &id), "running");
    refused(&["delete", &id]);
    refused(&["start", &id]);
    ok(&["pause", &id]);
    assert_eq!(status(runtime, &id), "paused");
    ok(&["resume", &id]);
    assert_eq!(status(runtime, &id), "running");
    ok(&["kill", &id, "KILL"]);
    eventually("the container is stopped", || status(runtime, &id) == "stopped");
    refused(&["kill", &id, "KILL"]);
    refused(&["start", &id]);
    ok(&["delete", &id]);
    refused(&["state", &id]);
    refused(&["delete", &id]);
    ok(&["delete", "--force", &id]);
    ok(&["create", "--bundle", &path, &id]);
    ok(&["delete", &id]);
}

fn missing_command(runtime: &Runtime) {
    for (command, text) in
        [("nothing", "executable file not found in $PATH"), ("/bin/nothing", "no such file or directory")]
    {
        let mut bundle = bundle("");
        bundle.config["process"]["args"] = json!([command]);
        let (code, _, errors) = runtime.run(&bundle);
        assert_eq!(code, 1);
        assert!(errors.contains(text), "{errors}");
    }
}

fn hooks(runtime: &Runtime) {
    let mut bundle = bundle("true");
    let log = bundle.path().join("hooks");
    let hook = |name: &str| {
        let line = format!("read -r state; echo {name} >> {}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", line], "timeout": 5}])
    };
    bundle.config["hooks"] = json!({
        "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop")
    });
    output(runtime, &bundle);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "createRuntime\npoststart\npoststop\n");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    assert_ne!(runtime.run(&bundle).0, 0);
}

fn exec(runtime: &Runtime) {
    let bundle = bundle("sleep 1000");
    let path = bundle.save().to_str().unwrap().to_owned();
    let id = unique();
    assert!(runtime.call(&["run", "--detach", "--bundle", &path, &id]).status.success());
    let output =
        runtime.call(&["exec", "--env", "A=b", "--cwd", "/bin", &id, "sh", "-c", "echo $A $PWD; hostname; exit 9"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b /bin\ngantry\n");
    assert_eq!(output.status.code(), Some(9));
    let output = runtime.call(&["exec", "--user", "5:6", &id, "id"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("uid=5 gid=6"));
    assert!(!runtime.call(&["exec", &id, "nothing"]).status.success());
    let processes = runtime.call(&["ps", "--format", "json", &id]);
    let pids: Vec<i32> = serde_json::from_slice(&processes.stdout).unwrap();
    assert_eq!(pids.len(), 1);
    assert!(runtime.call(&["delete", "--force", &id]).status.success());
}

fn devices(runtime: &Runtime) {
    let mut bundle =
        bundle("ls -l /dev/thing /dev/null; echo x > /dev/null && echo written; readlink /dev/fd; cat /dev/thing 2>&1");
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/thing", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 7, "gid": 8}]);
    let (_, found, _) = runtime.run(&bundle);
    assert!(found.contains("crw-rw-rw-    1 7        8          10, 229"), "{found}");
    assert!(found.contains("crw-rw-rw-"), "{found}");
    assert!(found.contains("written\n/proc/self/fd\n"), "{found}");
    assert!(found.contains("Operation not permitted"), "the device cgroup denies it: {found}");
}

fn user_namespace(runtime: &Runtime) {
    let mut bundle = bundle("id -u; cat /proc/self/uid_map; hostname; grep -c . /proc/mounts");
    let linux = bundle.config["linux"].as_object_mut().unwrap();
    linux["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    linux.insert("uidMappings".to_owned(), map.clone());
    linux.insert("gidMappings".to_owned(), map);
    // The mapped root must be able to reach the bundle.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let status = std::process::Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.path()).status();
    assert!(status.unwrap().success());
    let found = output(runtime, &bundle);
    let words: Vec<&str> = found.split_whitespace().collect();
    assert_eq!(words[..5], ["0", "0", "100000", "65536", "gantry"], "{found}");
}

/// A process in user, network, IPC and UTS namespaces of its own, whose id 0 is 200000 outside.
struct Users(std::process::Child);

impl Users {
    fn new() -> Users {
        let mut command = std::process::Command::new("unshare");
        let users = Users(command.args(["--user", "--net", "--ipc", "--uts", "sleep", "1000"]).spawn().unwrap());
        let own = std::fs::read_link("/proc/self/ns/uts").unwrap();
        eventually("it is in its namespaces", || {
            std::fs::read_link(users.path("uts")).is_ok_and(|theirs| theirs != own)
        });
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{}/{map}", users.0.id()), "0 200000 65536").unwrap();
        }
        users
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0.id())
    }

    /// Lets a bundle join them all.
    fn of(&self, bundle: &mut Bundle) {
        let path = |kind: &str, name: &str| json!({"type": kind, "path": self.path(name)});
        bundle.config["linux"]["namespaces"] = json!([path("user", "user"), path("network", "net"), path("ipc", "ipc"),
            path("uts", "uts"), {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]);
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Changes owners at and below a path.
fn give(path: &std::path::Path, id: u32) {
    let status = std::process::Command::new("chown").args(["-R", &format!("{id}:{id}")]).arg(path).status();
    assert!(status.unwrap().success());
}

fn joined_user_namespace(runtime: &Runtime) {
    let users = Users::new();
    let mut bundle = bundle(
        "cat /proc/self/uid_map; echo $$; for n in user net ipc uts; do readlink /proc/self/ns/$n; done; \
         cat /proc/self/oom_score_adj; echo x > /new; ls -n /new; ls /sys/class/net",
    );
    users.of(&mut bundle);
    bundle.config["process"]["oomScoreAdj"] = json!(300);
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    give(&bundle.path().join("rootfs"), 200_000);
    let found = output(runtime, &bundle);
    let mut lines = found.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
    assert_eq!(lines.next().unwrap(), "1", "the PID namespace is new");
    for name in ["user", "net", "ipc", "uts"] {
        let theirs = std::fs::read_link(users.path(name)).unwrap();
        assert_eq!(lines.next().unwrap(), theirs.to_str().unwrap());
    }
    assert_eq!(lines.next().unwrap(), "300");
    let file: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(file[2..4], ["0", "0"], "{found}");
    assert_eq!(lines.next(), Some("lo"), "proc and sysfs are its namespaces'");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::metadata(bundle.path().join("rootfs/new")).unwrap().uid(), 200_000);
}

/// Whether owners of files can be mapped wherever the tests are: also on a tmpfs, since Linux 6.3.
fn maps_owners() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
}

fn mapped_owners(runtime: &Runtime) {
    let users = Users::new();
    let mut bundle = bundle(
        "stat -c '%u:%g' /data/of-root /data/of-user /plain/of-root /other/of-root; cat /data/of-root; \
         echo x > /data/made; cat /plain/of-root 2>&1; true",
    );
    std::os::unix::fs::symlink("busybox", bundle.path().join("rootfs/bin/stat")).unwrap();
    users.of(&mut bundle);
    // Neither the bundle nor what is bound is open to others.
    give(&bundle.path().join("rootfs"), 200_000);
    let dir = tempfile::tempdir().unwrap();
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    for (name, id) in [("of-root", 0), ("of-user", 1000)] {
        let file = dir.path().join(name);
        std::fs::write(&file, "secret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        give(&file, id);
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mount = |destination: &str, options: &[&str]| json!({"destination": destination, "source": dir.path(), "options": options});
    let mut other = mount("/other", &["rbind", "ridmap"]);
    other["uidMappings"] = json!([{"containerID": 0, "hostID": 200_007, "size": 1}]);
    other["gidMappings"] = json!([{"containerID": 0, "hostID": 200_008, "size": 1}]);
    let list = bundle.config["mounts"].as_array_mut().unwrap();
    list.extend([mount("/data", &["rbind", "idmap"]), mount("/plain", &["rbind"]), other]);
    let found = output(runtime, &bundle);
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines[..5], ["0:0", "1000:1000", "65534:65534", "7:8", "secret"], "{found}");
    assert!(lines[5].contains("Permission denied"), "{found}");
    assert_eq!(std::fs::metadata(dir.path().join("made")).unwrap().uid(), 0, "on the disk it is root's");
}

fn bad_maps(runtime: &Runtime) {
    let refused = |change: &dyn Fn(&mut Bundle), text: &str| {
        let mut bundle = bundle("true");
        change(&mut bundle);
        let (code, _, errors) = runtime.run(&bundle);
        assert!(code != 0 && errors.contains(text), "{errors}");
    };
    let add = |mount: serde_json::Value| {
        move |bundle: &mut Bundle| bundle.config["mounts"].as_array_mut().unwrap().push(mount.clone())
    };
    refused(
        &add(json!({"destination": "/x", "source": "/usr", "options": ["bind", "idmap"]})),
        "without a user namespace",
    );
    // The kernel maps no owners in proc.
    let map = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
    let proc =
        json!({"destination": "/x", "source": "/proc", "options": ["bind"], "uidMappings": map, "gidMappings": map});
    refused(&add(proc), "map the owners of the files of /proc");
}

fn bad_input(runtime: &Runtime) {
    let mut broken = bundle("true");
    broken.config["process"]["args"] = json!([]);
    assert_ne!(runtime.run(&broken).0, 0);
    let mut broken = bundle("true");
    broken.config["linux"]["sysctl"] = json!({"kernel.panic": "1"});
    assert_ne!(runtime.run(&broken).0, 0);
    let broken = bundle("true");
    let path = broken.path().to_str().unwrap();
    assert!(!runtime.call(&["run", "--bundle", path, "no-config"]).status.success());
    std::fs::write(broken.path().join("config.json"), "{\"ociVersion\": 3").unwrap();
    assert!(!runtime.call(&["run", "--bundle", path, "bad-json"]).status.success());
    broken.save();
    assert!(!runtime.call(&["run", "--bundle", path, "../up"]).status.success());
}

/// CVE-2019-5736: a container that runs the runtime itself must not get hold of its file for writing.
fn program_is_sealed(runtime: &Runtime) {
    let mut bundle = bundle("true");
    let script = bundle.path().join("rootfs/attack");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // What runs is the runtime, with the script's path as its verb: it fails, and the file it ran from is not the host's.
    bundle.config["process"]["args"] = json!(["/attack"]);
    let before = runtime.program_bytes();
    assert_ne!(runtime.run(&bundle).0, 0);
    bundle.config["process"]["args"] = json!(["sh", "-c", "sleep 1000"]);
    let id = unique();
    let path = bundle.save().to_str().unwrap().to_owned();
    assert!(runtime.call(&["create", "--bundle", &path, &id]).status.success());
    let state = runtime.call(&["state", &id]);
    let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
    // The created process still is the runtime's program. Held by a descriptor it can be opened once nobody runs it.
    use std::os::fd::AsRawFd as _;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let exe = format!("/proc/{}/exe", state["pid"]);
    let held = rustix::fs::open(exe, flags, rustix::fs::Mode::empty()).unwrap();
    assert!(runtime.call(&["delete", "--force", &id]).status.success());
    let held = format!("/proc/self/fd/{}", held.as_raw_fd());
    let mut error = None;
    eventually("the program runs no more", || {
        let file = std::fs::OpenOptions::new().write(true).open(&held);
        error = file.and_then(|mut file| std::io::Write::write_all(&mut file, b"\x7f")).err();
        error.as_ref().is_none_or(|error| error.raw_os_error() != Some(libc::ETXTBSY))
    });
    assert!(error.is_some(), "it can be written");
    assert!(before == runtime.program_bytes());
}
