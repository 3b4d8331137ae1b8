use std::collections::BTreeSet;

use e2e::client::within;
use e2e::neighbour::Neighbour;
use serde_json::Value;

use super::app::{App, LONG, done};

/// What a monitor says of the cluster.
fn status(app: &App, member: &str) -> Option<Value> {
    let said = app.shell(member, "timeout 10 ceph status -f json");
    serde_json::from_str(&said.out).ok()
}

/// Waits until every object is three times there.
fn is_clean(app: &App, member: &str) {
    let mut told = None;
    let clean = within(LONG, || {
        told = status(app, member);
        let map = &told.as_ref()?["pgmap"];
        let states = map["pgs_by_state"].as_array()?;
        let all: Vec<&str> = states.iter().filter_map(|state| state["state_name"].as_str()).collect();
        (told.as_ref()?["osdmap"]["num_up_osds"] == 3 && all == ["active+clean"]).then_some(())
    });
    assert!(clean.is_some(), "{}", app.told(&app.shell(member, "ceph status; ceph osd tree")));
}

/// Objects are written and read while one machine after the other ends and comes back: none that was acknowledged is lost, and
/// who is left goes on.
pub(crate) fn scene(app: &App, url: &str, machines: [(&mut Neighbour, &str); 2]) {
    app.whole("statefulset/ceph-mon");
    app.whole("statefulset/ceph-osd");
    let pods = app.get(&["pods"]);
    let on = |kind: &str, node: &str| {
        let items = pods["items"].as_array().expect("a list").iter();
        let mut there = items.filter(|pod| pod["metadata"]["labels"]["app"] == kind && pod["spec"]["nodeName"] == node);
        let name =
            there.next().and_then(|pod| pod["metadata"]["name"].as_str()).expect("one on each machine").to_owned();
        assert!(there.next().is_none(), "more than one {kind} on {node}");
        name
    };
    let lost = machines.each_ref().map(|(_, node)| on("ceph-osd", node));
    let mons = machines.each_ref().map(|(_, node)| on("ceph-mon", node));
    let stays = (0..3).map(|number| format!("ceph-mon-{number}")).find(|name| !mons.contains(name)).expect("three");
    for line in ["ceph osd pool create data 8", "ceph osd pool application enable data test"] {
        app.shell(&stays, line).ok();
    }
    is_clean(app, &stays);

    let (mut acknowledged, mut number) = (BTreeSet::new(), 0);
    let write = |acknowledged: &mut BTreeSet<u32>, number: &mut u32| {
        let enough = acknowledged.len() + 5;
        let mut refused = String::new();
        within(LONG, || {
            *number += 1;
            let line = format!("echo value-{number} | timeout 20 rados -p data put key-{number} -");
            match done(app.shell(&stays, &line)) {
                Ok(()) => drop(acknowledged.insert(*number)),
                Err(why) => refused = why,
            }
            (acknowledged.len() >= enough).then_some(())
        });
        assert!(acknowledged.len() >= enough, "nothing more is taken: {refused}");
    };
    let read = |acknowledged: &BTreeSet<u32>| {
        let keys: Vec<String> = acknowledged.iter().map(u32::to_string).collect();
        let line = format!("for n in {}; do timeout 20 rados -p data get key-$n - || exit; done", keys.join(" "));
        let values: String = keys.iter().map(|number| format!("value-{number}\n")).collect();
        let said = app.shell(&stays, &line);
        if said.out != values {
            let more = app.shell(&stays, "ceph health detail; ceph osd tree; ceph osd dump; ceph pg dump pgs_brief");
            panic!("{}{}{}", said.out, said.err, app.told(&more));
        }
    };
    write(&mut acknowledged, &mut number);
    for ((machine, node), osd) in machines.into_iter().zip(lost) {
        machine.lose(node);
        write(&mut acknowledged, &mut number);
        read(&acknowledged);
        machine.come_back(node, &["--server", url, "--node-name", node]);
        is_clean(app, &stays);
        app.whole("statefulset/ceph-osd");
        assert_eq!(app.get(&["pod", &osd])["spec"]["nodeName"], node, "its volume is there");
        read(&acknowledged);
    }
}
