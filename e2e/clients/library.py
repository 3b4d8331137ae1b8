"""PyPI's kubernetes client against a cluster: typed, dynamic, watch, informer, apply, exec, logs.

Prints one line "ok NAME" for each part; the first failure ends it with a traceback."""

import base64
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer
from kubernetes.stream import stream

config.load_kube_config(sys.argv[1])
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
namespace = core.create_namespace({"metadata": {"generateName": "python-"}}).metadata.name


def part(function):
    function()
    print("ok", function.__name__, flush=True)


def until(what, ask, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(what)


@part
def typed():
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed", labels={"a": "b"}), data={"k": "v"})
    made = core.create_namespaced_config_map(namespace, body)
    assert made.metadata.uid and made.data == {"k": "v"}
    made.data["k"] = "w"
    assert core.replace_namespaced_config_map("typed", namespace, made).data["k"] == "w"
    patched = core.patch_namespaced_config_map("typed", namespace, {"data": {"more": "x"}})
    assert patched.data == {"k": "w", "more": "x"}
    listed = core.list_namespaced_config_map(namespace, label_selector="a=b")
    assert [item.metadata.name for item in listed.items] == ["typed"]
    secret = client.V1Secret(metadata={"name": "typed"}, string_data={"k": "v"})
    assert core.create_namespaced_secret(namespace, secret).data["k"] == base64.b64encode(b"v").decode()
    try:
        core.create_namespaced_config_map(namespace, body)
        raise AssertionError("made twice")
    except ApiException as error:
        assert (error.status, error.reason) == (409, "Conflict"), error
    version = client.VersionApi().get_code()
    assert int(version.minor) == 37, version
    pages, token = [], None
    for n in range(5):
        core.create_namespaced_config_map(namespace, {"metadata": {"name": f"page-{n}", "labels": {"page": "yes"}}})
    while True:
        page = core.list_namespaced_config_map(namespace, label_selector="page", limit=2, _continue=token)
        pages.append(len(page.items))
        token = page.metadata._continue
        if not token:
            break
    assert pages == [2, 2, 1], pages
    core.delete_collection_namespaced_config_map(namespace, label_selector="page")
    assert not core.list_namespaced_config_map(namespace, label_selector="page").items


@part
def generic():
    objects = dynamic.DynamicClient(client.ApiClient())
    deployments = objects.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.namespaced and "patch" in deployments.verbs
    kinds = {resource.kind for resource in objects.resources.search(group="batch")}
    assert {"Job", "CronJob"} <= kinds, kinds
    maps = objects.resources.get(api_version="v1", kind="ConfigMap")
    made = maps.create(body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"k": "v"}}, namespace=namespace)
    assert made.data.k == "v"
    assert maps.patch(name="dynamic", namespace=namespace, body={"data": {"k": "w"}}, content_type="application/merge-patch+json").data.k == "w"


@part
def watching():
    since = core.list_namespaced_config_map(namespace).metadata.resource_version
    seen = []

    def follow():
        for event in watch.Watch().stream(core.list_namespaced_config_map, namespace, resource_version=since, label_selector="watched", timeout_seconds=60):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                return

    follower = threading.Thread(target=follow)
    follower.start()
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "w", "labels": {"watched": "yes"}}})
    core.patch_namespaced_config_map("w", namespace, {"data": {"k": "v"}})
    core.delete_namespaced_config_map("w", namespace)
    follower.join(60)
    assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen


@part
def informed():
    informer = SharedInformer(core.list_namespaced_config_map, namespace=namespace, label_selector="informed")
    events = []
    for kind in ("ADDED", "MODIFIED", "DELETED"):
        informer.add_event_handler(kind, lambda item, kind=kind: events.append(kind))
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "before", "labels": {"informed": "yes"}}})
    informer.start()
    until("the list", lambda: len(informer.cache.list()) == 1)
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "after", "labels": {"informed": "yes"}}})
    until("what came", lambda: len(informer.cache.list()) == 2)
    core.delete_namespaced_config_map("before", namespace)
    until("what went", lambda: [item.metadata.name for item in informer.cache.list()] == ["after"])
    informer.stop()
    assert "DELETED" in events, events


@part
def applied():
    objects = dynamic.DynamicClient(client.ApiClient())
    maps = objects.resources.get(api_version="v1", kind="ConfigMap")

    def apply(manager, data, force=False):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": namespace}, "data": data}
        return maps.server_side_apply(body=body, namespace=namespace, field_manager=manager, force_conflicts=force)

    assert apply("one", {"a": "1", "b": "1"}).data.to_dict() == {"a": "1", "b": "1"}
    try:
        apply("two", {"a": "2"})
        raise AssertionError("no conflict")
    except ApiException as error:
        assert error.status == 409 and "one" in str(error.body), error
    assert apply("two", {"a": "2"}, force=True).data.to_dict() == {"a": "2", "b": "1"}
    assert apply("one", {}).data.to_dict() == {"a": "2"}


@part
def pods():
    until("the default account", lambda: any(a.metadata.name == "default" for a in core.list_namespaced_service_account(namespace).items))
    container = {"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", "echo started; sleep 600"]}
    core.create_namespaced_pod(namespace, {"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
    until("the pod runs", lambda: core.read_namespaced_pod("p", namespace).status.phase == "Running")
    said = stream(core.connect_get_namespaced_pod_exec, "p", namespace, command=["sh", "-c", "echo out; echo err >&2"], stdout=True, stderr=True, stdin=False, tty=False)
    assert set(said.split()) == {"out", "err"}, said
    session = stream(core.connect_get_namespaced_pod_exec, "p", namespace, command=["sh"], stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
    session.write_stdin("echo $((6*7)); exit 3\n")
    session.run_forever(timeout=60)
    assert session.read_stdout(timeout=5).strip() == "42" and session.returncode == 3
    until("the log", lambda: core.read_namespaced_pod_log("p", namespace) == "started\n")
    core.delete_namespaced_pod("p", namespace)
    until("the pod is gone", lambda: not core.list_namespaced_pod(namespace).items)


core.delete_namespace(namespace)
