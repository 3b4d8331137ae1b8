// npm's @kubernetes/client-node against a cluster: typed, watch, informer, patch, apply, objects of any kind.
// Prints one line "ok NAME" for each part; the first failure ends it.
import assert from "node:assert/strict";
import * as k8s from "@kubernetes/client-node";

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const made = await core.createNamespace({ body: { metadata: { generateName: "node-" } } });
const namespace = made.metadata.name;

async function part(name, run) {
  await run();
  console.log(`ok ${name}`);
}

function soon(what, promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`${what}: not in time`)), 60000).unref());
  return Promise.race([promise, late]);
}

await part("typed", async () => {
  const body = { metadata: { name: "typed", labels: { a: "b" } }, data: { k: "v" } };
  const map = await core.createNamespacedConfigMap({ namespace, body });
  assert.ok(map.metadata.creationTimestamp instanceof Date);
  map.data.k = "w";
  assert.equal((await core.replaceNamespacedConfigMap({ name: "typed", namespace, body: map })).data.k, "w");
  const patch = [{ op: "add", path: "/data/more", value: "x" }];
  const options = k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch);
  const patched = await core.patchNamespacedConfigMap({ name: "typed", namespace, body: patch }, options);
  assert.deepEqual(patched.data, { k: "w", more: "x" });
  const list = await core.listNamespacedConfigMap({ namespace, labelSelector: "a=b" });
  assert.deepEqual(list.items.map((item) => item.metadata.name), ["typed"]);
  await assert.rejects(core.createNamespacedConfigMap({ namespace, body }), (error) => error.code === 409);
});

await part("watch", async () => {
  const watch = new k8s.Watch(config);
  const seen = [];
  let finished;
  const ended = new Promise((resolve) => (finished = resolve));
  const request = await watch.watch(
    `/api/v1/namespaces/${namespace}/configmaps`,
    { labelSelector: "watched" },
    (kind, object) => {
      seen.push(`${kind} ${object.metadata.name}`);
      if (kind === "DELETED") finished();
    },
    () => {},
  );
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "w", labels: { watched: "yes" } } } });
  await core.deleteNamespacedConfigMap({ name: "w", namespace });
  await soon("the deletion", ended);
  request.abort();
  assert.deepEqual(seen, ["ADDED w", "DELETED w"]);
});

await part("informer", async () => {
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: "informed" });
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, "informed");
  const added = new Promise((resolve) => informer.on("add", (item) => item.metadata.name === "later" && resolve()));
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "later", labels: { informed: "yes" } } } });
  await soon("the addition", added);
  assert.equal(informer.get("later", namespace).metadata.name, "later");
  await informer.stop();
});

await part("apply", async () => {
  const map = (data) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "applied", namespace }, data });
  const apply = (manager, data, force) =>
    objects.patch(map(data), undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
  await apply("one", { a: "1", b: "1" });
  await assert.rejects(apply("two", { a: "2" }), (error) => error.code === 409 && /one/.test(error.body));
  assert.deepEqual((await apply("two", { a: "2" }, true)).data, { a: "2", b: "1" });
  const read = await objects.read({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "applied", namespace } });
  assert.equal(read.metadata.managedFields.length, 2);
});

await part("deployment", async () => {
  const deployment = {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "d", namespace },
    spec: {
      replicas: 0,
      selector: { matchLabels: { a: "b" } },
      template: { metadata: { labels: { a: "b" } }, spec: { containers: [{ name: "c", image: "busybox" }] } },
    },
  };
  await objects.create(deployment);
  const apps = config.makeApiClient(k8s.AppsV1Api);
  const scale = await apps.readNamespacedDeploymentScale({ name: "d", namespace });
  assert.equal(scale.spec.replicas ?? 0, 0);
  await objects.delete(deployment);
});

await core.deleteNamespace({ name: namespace });
