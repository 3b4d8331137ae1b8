use super::app::{App, done, numbers};

pub(crate) fn scene(app: &App) {
    app.whole("statefulset/zookeeper");
    let other = |lost: &str| if lost == "zookeeper-0" { "zookeeper-1" } else { "zookeeper-0" }.to_owned();
    let write =
        |via: &str, number: u32| done(app.shell(via, &format!("zkCli -server 127.0.0.1 create /key-{number} x")));
    let read = |member: &str| numbers(&app.shell(member, "zkCli -server 127.0.0.1 ls /").out, "key-");
    app.keeps("zookeeper", other, write, read);
    let modes: Vec<String> = (0..3)
        .map(|ordinal| app.shell(&format!("zookeeper-{ordinal}"), "echo srvr | nc 127.0.0.1 2181 | grep Mode").out)
        .collect();
    assert_eq!(modes.iter().filter(|mode| mode.contains("leader")).count(), 1, "{modes:?}");
    assert_eq!(modes.iter().filter(|mode| mode.contains("follower")).count(), 2, "{modes:?}");
}
