//! The pod monitor from its birth to its end.

mod bundle;

use std::{io::Read, os::unix::net::UnixStream, path::PathBuf};

use agent_runtime::seal::Program;
use agent_runtime::{
    container::Status,
    monitor::{
        self,
        client::{Client, ClientError, StreamClient},
        protocol::{
            AttachRequest, Event, ExecRequest, IdRange, MonitorConfig, RequestBody, ResponseBody, Runtime, VERSION,
        },
        stream::{Channel, End},
    },
};
use bundle::{bundle, eventually, gantry_oci, missing, unique};
use oci_spec::runtime::{Process, ProcessBuilder};
use serde_json::json;

struct Pod {
    dir: tempfile::TempDir,
    name: String,
    config: MonitorConfig,
    monitor: monitor::SpawnedMonitor,
}

fn pod(change: impl FnOnce(&mut MonitorConfig)) -> Pod {
    let dir = tempfile::tempdir().unwrap();
    let name = unique();
    let mut config = MonitorConfig {
        version: VERSION,
        pod_uid: name.clone(),
        socket: dir.path().join("m.sock"),
        state_dir: dir.path().join("state"),
        cgroup: Some(format!("/gantry-oci/{name}/monitor")),
        hostname: Some("the-pod".to_owned()),
        new_net: true,
        new_ipc: true,
        new_uts: true,
        share_pid: false,
        sysctls: Default::default(),
        users: None,
        runtime: None,
    };
    change(&mut config);
    let monitor = monitor::spawn(&Program::open(&gantry_oci()).unwrap(), &config).unwrap();
    Pod { dir, name, config, monitor }
}

impl Pod {
    fn client(&self) -> Client {
        Client::connect(&self.config.socket).unwrap()
    }

    /// A bundle as the agent writes it: no namespaces but those of the container alone.
    fn bundle(&self, script: &str) -> bundle::Bundle {
        let mut bundle = bundle(script);
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
        if !self.config.share_pid {
            namespaces.push(json!({"type": "pid"}));
        }
        bundle.config["linux"]["namespaces"] = json!(namespaces);
        bundle.config.as_object_mut().unwrap().remove("hostname");
        bundle.config["linux"]["cgroupsPath"] = json!(format!("/gantry-oci/{}/{}", self.name, unique()));
        bundle.save();
        bundle
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("0.log")
    }

    fn create(&self, client: &mut Client, id: &str, bundle: &bundle::Bundle, stdin: bool, tty: bool) {
        let body = RequestBody::Create {
            container: id.to_owned(),
            bundle: bundle.path().to_owned(),
            log: Some(self.log()),
            log_limits: None,
            stdin,
            stdin_once: false,
            tty,
        };
        client.request(body).unwrap();
    }

    /// Asks for the end and checks that nothing is left.
    fn end(self) {
        self.client().request(RequestBody::Shutdown).unwrap();
        let status = rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.monitor.pidfd)),
            rustix::process::WaitIdOptions::EXITED,
        );
        assert_eq!(status.unwrap().unwrap().exit_status(), Some(0));
        assert!(!self.config.socket.exists());
        for mount in &agent_runtime::cgroup::detect().unwrap().v1 {
            let group = mount.mount.join("gantry-oci").join(&self.name);
            let _ = std::fs::remove_dir(group.join("monitor"));
            // The pod's own directories belong to whoever made them: here this test.
            let _ = std::fs::remove_dir(&group);
            assert!(!group.exists(), "{}", group.display());
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()));
        let log = std::fs::read_to_string(self.config.state_dir.join("monitor.log")).unwrap();
        assert_eq!(log, "", "the monitor complained");
    }
}

fn start(id: &str) -> RequestBody {
    RequestBody::Start { container: id.to_owned() }
}

fn process(args: &[&str]) -> Process {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let env = vec!["PATH=/bin".to_owned()];
    ProcessBuilder::default().args(args).env(env).cwd("/").terminal(false).build().unwrap()
}

fn exec(pod: &Pod, id: &str, args: &[&str], stdin: bool, tty: bool) -> Result<StreamClient, ClientError> {
    let request = ExecRequest { container: id.to_owned(), process: process(args), stdin, tty };
    StreamClient::exec(&pod.config.socket, request)
}

macro_rules! need {
    () => {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return;
        }
    };
}

#[test]
fn a_container_runs_logs_and_exits() {
    need!();
    let pod = pod(|_| {});
    let mut client = pod.client();
    let bundle = pod.bundle("hostname; echo oops >&2; printf end; exit 7");
    pod.create(&mut client, "a", &bundle, false, false);
    let ResponseBody::Container { state } = client.request(start("a")).unwrap() else { panic!() };
    assert_eq!(state.status, Status::Running);
    let Event::Exited { container, exit } = client.event().unwrap() else { panic!("expected an exit") };
    assert_eq!((container.as_str(), exit.code, exit.signal, exit.oom_killed), ("a", 7, None, false));
    let log = std::fs::read_to_string(pod.log()).unwrap();
    let lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert!(lines.contains(&"stdout F the-pod"), "{log}");
    assert!(lines.contains(&"stderr F oops"), "{log}");
    assert!(lines.contains(&"stdout F end"), "{log}");
    client.request(RequestBody::Delete { container: "a".to_owned() }).unwrap();
    pod.end();
}

#[test]
fn exec_has_input_output_and_a_code() {
    need!();
    let pod = pod(|_| {});
    let mut client = pod.client();
    let bundle = pod.bundle("sleep 1000");
    pod.create(&mut client, "a", &bundle, false, false);
    client.request(start("a")).unwrap();
    let mut stream = exec(&pod, "a", &["sh", "-c", "cat; echo err >&2; exit 5"], true, false).unwrap();
    stream.send(Channel::Stdin, &[b'x'; 300_000]).unwrap();
    stream.send(Channel::CloseStdin, b"").unwrap();
    let (output, errors, end) = stream.finish().unwrap();
    assert_eq!((output.len(), errors.as_slice(), end), (300_000, b"err\n".as_slice(), End::Code(5)));

    let stream = exec(&pod, "a", &["sh", "-c", "stty size; test -t 1 && echo tty"], false, true).unwrap();
    let (output, _, end) = stream.finish().unwrap();
    assert_eq!((String::from_utf8_lossy(&output).contains("tty"), end), (true, End::Code(0)));

    let Err(ClientError::Refused(error)) = exec(&pod, "a", &["nothing"], false, false) else { panic!() };
    assert!(error.message.contains("executable file not found in $PATH"), "{}", error.message);
    assert_eq!(error.kind, monitor::protocol::ErrorKind::MissingProgram);
    pod.end();
}

#[test]
fn clients_come_and_go_and_noise_hurts_nobody() {
    need!();
    let pod = pod(|_| {});
    let mut client = pod.client();
    let bundle = pod.bundle("read line; echo got $line; exit 3");
    pod.create(&mut client, "a", &bundle, true, false);
    client.request(start("a")).unwrap();
    drop(client);
    let mut noise = UnixStream::connect(&pod.config.socket).unwrap();
    std::io::Write::write_all(&mut noise, &[0xff; 64]).unwrap();
    assert_eq!(noise.read(&mut [0; 8]).unwrap_or(0), 0, "the connection is closed");
    let attach = AttachRequest { container: "a".to_owned(), stdin: true, stdout: true, stderr: true };
    let mut stream = StreamClient::attach(&pod.config.socket, attach).unwrap();
    stream.send(Channel::Stdin, b"it\n").unwrap();
    let (output, _, end) = stream.finish().unwrap();
    assert_eq!((output.as_slice(), end), (b"got it\n".as_slice(), End::Code(3)));
    // Nobody listened for events, and yet the exit is known: to a new client, and on disk.
    let ResponseBody::List { containers } = pod.client().request(RequestBody::List).unwrap() else { panic!() };
    assert_eq!(containers[0].exit.as_ref().unwrap().code, 3);
    let record = std::fs::read_to_string(pod.config.state_dir.join("containers/a.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["version"], &record["exit"]["code"]), (&json!(1), &json!(3)));
    // The log is still read by lines.
    assert!(std::fs::read_to_string(pod.log()).unwrap().contains("stdout F got it"));
    let log = pod.config.state_dir.join("monitor.log");
    assert!(std::fs::read_to_string(&log).unwrap().contains("close a connection"));
    std::fs::write(log, "").unwrap();
    pod.end();
}

#[test]
fn memory_kills_are_told() {
    need!();
    let pod = pod(|_| {});
    let mut client = pod.client();
    let mut bundle = pod.bundle("dd if=/dev/zero of=/dev/null bs=100M count=1");
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    bundle.config["process"]["args"] = json!(["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]);
    bundle.save();
    pod.create(&mut client, "a", &bundle, false, false);
    client.request(start("a")).unwrap();
    let Event::Exited { exit, .. } = client.event().unwrap() else { panic!("expected an exit") };
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
    pod.end();
}

#[test]
fn a_shared_pid_namespace_has_a_reaper() {
    need!();
    let pod = pod(|config| config.share_pid = true);
    let mut client = pod.client();
    let bundle = pod.bundle("readlink /proc/self/ns/pid; echo pid $$; sleep 1000");
    pod.create(&mut client, "a", &bundle, false, false);
    client.request(start("a")).unwrap();
    eventually("the log has two lines", || std::fs::read_to_string(pod.log()).is_ok_and(|t| t.lines().count() == 2));
    assert!(!std::fs::read_to_string(pod.log()).unwrap().contains("pid 1\n"));
    client.request(RequestBody::Signal { container: "a".to_owned(), signal: 15, all: true }).unwrap();
    let Event::Exited { exit, .. } = client.event().unwrap() else { panic!("expected an exit") };
    assert_eq!(exit.code, 143);
    pod.end();
}

#[test]
fn containers_die_with_their_monitor() {
    need!();
    let pod = pod(|_| {});
    let mut client = pod.client();
    let bundle = pod.bundle("sleep 1000");
    pod.create(&mut client, "a", &bundle, false, false);
    let ResponseBody::Container { state } = client.request(start("a")).unwrap() else { panic!() };
    let pid = state.pid.unwrap();
    rustix::process::pidfd_send_signal(&pod.monitor.pidfd, rustix::process::Signal::KILL).unwrap();
    let stat = format!("/proc/{pid}/stat");
    eventually("the container is gone", || {
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z") || stat.contains(") X"))
    });
    // A new monitor in the same place removes what the dead one left, and takes the name again.
    let mut pod = pod;
    pod.monitor = monitor::spawn(&Program::open(&gantry_oci()).unwrap(), &pod.config).unwrap();
    let mut client = pod.client();
    pod.create(&mut client, "a", &bundle, false, false);
    client.request(start("a")).unwrap();
    pod.end();
}

#[test]
fn a_setting_of_the_whole_machine_is_refused() {
    need!();
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let name = unique();
    let config = MonitorConfig {
        version: VERSION,
        pod_uid: name.clone(),
        socket: dir.path().join("m.sock"),
        state_dir: dir.path().join("state"),
        cgroup: None,
        hostname: None,
        new_net: true,
        new_ipc: true,
        new_uts: true,
        share_pid: false,
        sysctls: [("kernel.core_pattern".to_owned(), "|/bin/false".to_owned())].into(),
        users: None,
        runtime: None,
    };
    let error = monitor::spawn(&Program::open(&gantry_oci()).unwrap(), &config).unwrap_err().to_string();
    assert!(error.contains("kernel.core_pattern") && error.contains("expected net.*"), "{error}");
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn a_pod_with_users_of_its_own_has_all_namespaces_below_them() {
    need!();
    for share_pid in [false, true] {
        let range = IdRange { first: 131_072, size: 65_536 };
        let pod = pod(|config| {
            config.users = Some(range);
            config.share_pid = share_pid;
            config.sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_forward", "1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        });
        let pin = monitor::users::pin(&pod.config.state_dir);
        let mut client = pod.client();
        let mut bundle = pod.bundle(
            "cat /proc/self/uid_map; hostname; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward; \
             hostname changed && hostname; echo to-the-log > /proc/self/fd/1; readlink /proc/1/exe || echo denied; sleep 1000",
        );
        let user = json!({"type": "user", "path": pin});
        bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(user);
        let capabilities = json!(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
        for set in ["bounding", "permitted", "effective"] {
            bundle.config["process"]["capabilities"][set] = capabilities.clone();
        }
        bundle.save();
        let root = bundle.path().join("rootfs");
        let status = std::process::Command::new("chown").args(["-R", "131072:131072"]).arg(root).status();
        assert!(status.unwrap().success());
        pod.create(&mut client, "a", &bundle, false, false);
        let ResponseBody::Container { state } = client.request(start("a")).unwrap() else { panic!() };
        eventually("the log is whole", || std::fs::read_to_string(pod.log()).is_ok_and(|t| t.lines().count() == 7));
        let log = std::fs::read_to_string(pod.log()).unwrap();
        let said: Vec<&str> = log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect();
        assert_eq!(said[0].split_whitespace().collect::<Vec<_>>(), ["0", "131072", "65536"], "{log}");
        assert_eq!(said[1..6], ["the-pod", "1", "1", "changed", "to-the-log"], "{log}");
        // Process 1 of a shared namespace is still the machine's program.
        assert_eq!(said[6].contains("denied"), share_pid, "{log}");
        let ids = std::fs::read_to_string(format!("/proc/{}/status", state.pid.unwrap())).unwrap();
        assert!(ids.contains("\nUid:\t131072\t131072\t131072\t131072\n"), "{ids}");
        let monitor = std::fs::read_to_string(format!("/proc/{}/status", pod.monitor.pid)).unwrap();
        assert!(monitor.contains("\nUid:\t0\t0\t0\t0\n"), "{monitor}");
        let namespace = |pid: i32, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_eq!(namespace(pod.monitor.pid, "user"), namespace(std::process::id() as i32, "user"));
        assert_eq!(namespace(pod.monitor.pid, "net"), namespace(state.pid.unwrap(), "net"));

        let script = "id -u; cat /proc/self/uid_map; echo again > /proc/self/fd/1";
        let (said, _, end) = exec(&pod, "a", &["sh", "-c", script], false, false).unwrap().finish().unwrap();
        assert_eq!(end, End::Code(0));
        let said = String::from_utf8_lossy(&said);
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "131072", "65536", "again"]);
        let tty = exec(&pod, "a", &["sh", "-c", "readlink /proc/self/fd/0; id -g; exit 4"], false, true).unwrap();
        let (said, _, end) = tty.finish().unwrap();
        assert_eq!((String::from_utf8_lossy(&said).as_ref(), end), ("/dev/pts/0\r\n0\r\n", End::Code(4)));
        // Without input it read the machine's /dev/null, which stays the machine's.
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata("/dev/null").unwrap().uid(), 0);
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
        pod.end();
    }
}

/// The other runtimes of this machine.
fn others() -> Vec<Runtime> {
    let find = |name: &str| {
        let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
        let program = places.iter().map(|dir| PathBuf::from(dir).join(name)).find(|path| path.exists());
        if program.is_none() {
            println!("skipped: {name} is not on this machine");
        }
        Some(Runtime { name: name.to_owned(), program: program? })
    };
    ["runc", "crun"].into_iter().filter_map(find).collect()
}

#[test]
fn other_runtimes_run_containers_that_the_monitor_holds() {
    need!();
    for runtime in others() {
        println!("{}", runtime.name);
        let pod = pod(|config| config.runtime = Some(runtime.clone()));
        let mut client = pod.client();
        let bundle =
            pod.bundle("hostname; echo oops >&2; trap 'printf end; exit 7' TERM; while true; do sleep 0.1; done");
        pod.create(&mut client, "a.0", &bundle, false, false);
        let ResponseBody::Container { state } = client.request(start("a.0")).unwrap() else { panic!() };
        assert_eq!(state.status, Status::Running);
        eventually("it prints", || std::fs::read_to_string(pod.log()).is_ok_and(|log| log.contains("stderr F oops")));
        let mut stream = exec(&pod, "a.0", &["sh", "-c", "cat; echo $PATH; exit 3"], true, false).unwrap();
        stream.send(Channel::Stdin, b"hi ").unwrap();
        stream.send(Channel::CloseStdin, b"").unwrap();
        let (output, _, end) = stream.finish().unwrap();
        assert_eq!((output.as_slice(), end), (b"hi /bin\n".as_slice(), End::Code(3)));
        let Err(ClientError::Refused(missing)) = exec(&pod, "a.0", &["nowhere"], false, false) else { panic!() };
        assert_eq!(missing.kind, monitor::protocol::ErrorKind::MissingProgram, "{}", missing.message);
        let stream = exec(&pod, "a.0", &["sh", "-c", "stty size; test -t 1 && echo tty"], false, true).unwrap();
        let (output, _, end) = stream.finish().unwrap();
        assert_eq!((String::from_utf8_lossy(&output).contains("tty"), end), (true, End::Code(0)));
        let term = RequestBody::Signal { container: "a.0".into(), signal: 15, all: false };
        client.request(term).unwrap();
        let Event::Exited { container, exit } = client.event().unwrap() else { panic!("expected an exit") };
        assert_eq!((container.as_str(), exit.code, exit.signal), ("a.0", 7, None));
        let log = std::fs::read_to_string(pod.log()).unwrap();
        assert!(log.contains("stdout F the-pod") && log.contains("stdout F end"), "{log}");
        client.request(RequestBody::Delete { container: "a.0".to_owned() }).unwrap();
        let forever = pod.bundle("sleep 1000");
        pod.create(&mut client, "b.0", &forever, false, false);
        client.request(start("b.0")).unwrap();
        let mut wrong = pod.bundle("true");
        wrong.config["process"]["args"] = json!(["/nowhere"]);
        wrong.save();
        let body = RequestBody::Create {
            container: "c.0".to_owned(),
            bundle: wrong.path().to_owned(),
            log: None,
            log_limits: None,
            stdin: false,
            stdin_once: false,
            tty: false,
        };
        // runc looks for the program when it makes the container, crun when it starts it.
        let Err(ClientError::Refused(refused)) = client.request(body).and_then(|_| client.request(start("c.0"))) else {
            panic!("there is no such program")
        };
        let is_named = refused.message.starts_with(&runtime.name);
        assert_eq!(
            (is_named, refused.kind),
            (true, monitor::protocol::ErrorKind::MissingProgram),
            "{}",
            refused.message
        );
        drop(client.request(RequestBody::Delete { container: "c.0".to_owned() }));
        pod.end();
    }
}

#[test]
fn containers_of_other_runtimes_share_processes_and_do_not_outlive_a_dead_monitor_s_successor() {
    need!();
    for runtime in others() {
        let mut pod = pod(|config| {
            config.runtime = Some(runtime.clone());
            config.share_pid = true;
        });
        let mut client = pod.client();
        let bundle = pod.bundle("echo pid $$; exec sleep 1000");
        pod.create(&mut client, "a.0", &bundle, false, false);
        client.request(start("a.0")).unwrap();
        eventually("it prints", || std::fs::read_to_string(pod.log()).is_ok_and(|log| log.contains("stdout F pid")));
        assert!(!std::fs::read_to_string(pod.log()).unwrap().contains("pid 1\n"));
        rustix::process::pidfd_send_signal(&pod.monitor.pidfd, rustix::process::Signal::KILL).unwrap();
        pod.monitor = monitor::spawn(&Program::open(&gantry_oci()).unwrap(), &pod.config).unwrap();
        let mut client = pod.client();
        let again = pod.bundle("sleep 1000");
        pod.create(&mut client, "a.0", &again, false, false);
        client.request(start("a.0")).unwrap();
        pod.end();
    }
}
