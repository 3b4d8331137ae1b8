use super::app::{App, done, numbers};

pub(crate) fn scene(app: &App) {
    app.whole("statefulset/etcd");
    let other = |lost: &str| if lost == "etcd-0" { "etcd-1" } else { "etcd-0" }.to_owned();
    let write = |via: &str, number: u32| {
        done(app.shell(via, &format!("etcdctl --command-timeout=5s put key-{number} {number}")))
    };
    // What this very member has, leader or not.
    let read =
        |member: &str| numbers(&app.shell(member, "etcdctl get --prefix key- --keys-only --consistency=s").out, "key-");
    app.keeps("etcd", other, write, read);
    let said = app.shell("etcd-0", "etcdctl endpoint health --cluster 2>&1").ok();
    assert_eq!(said.matches("is healthy").count(), 3, "{said}");
}
