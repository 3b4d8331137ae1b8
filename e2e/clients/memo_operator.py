"""A kopf operator: for each Memo it keeps a ConfigMap, counts changes in the status, and holds deletions by a finalizer."""

import kopf
from kubernetes import client, config

config.load_kube_config()
core = client.CoreV1Api()


@kopf.on.startup()
def configure(settings, **_):
    settings.posting.enabled = True
    settings.persistence.finalizer = "memos.example.com/kopf"
    settings.scanning.disabled = False


@kopf.on.create("example.com", "v1", "memos")
def created(spec, name, namespace, body, **_):
    data = {"metadata": {"name": f"memo-{name}"}, "data": {"text": spec["text"]}}
    kopf.adopt(data, owner=body)
    core.create_namespaced_config_map(namespace, data)
    kopf.info(body, reason="Kept", message="the memo is kept")
    return {"copies": 1}


@kopf.on.update("example.com", "v1", "memos", field="spec.text")
def changed(new, name, namespace, status, patch, **_):
    core.patch_namespaced_config_map(f"memo-{name}", namespace, {"data": {"text": new}})
    patch.status["changes"] = status.get("changes", 0) + 1


@kopf.on.delete("example.com", "v1", "memos")
def deleted(name, namespace, **_):
    core.delete_namespaced_config_map(f"memo-{name}", namespace)
