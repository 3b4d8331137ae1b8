//! Names that the Kubernetes API fixes: labels, annotations, taints, finalizers.

/// Label on every namespace that carries its own name.
pub const LABEL_METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// Label with the host name of a node.
pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// Label with the processor architecture of a node, in Go's words (`amd64`).
pub const LABEL_ARCH: &str = "kubernetes.io/arch";
/// Label with the operating system of a node.
pub const LABEL_OS: &str = "kubernetes.io/os";
/// Label with the zone of a node.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Label with the region of a node.
pub const LABEL_REGION: &str = "topology.kubernetes.io/region";
/// Label with the machine type of a node.
pub const LABEL_INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Prefix of the labels that name a node's roles.
pub const LABEL_NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// Label that tells the ReplicaSets of one Deployment apart.
pub const LABEL_POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Label with the revision that a StatefulSet or DaemonSet pod was made from.
pub const LABEL_CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
/// Label with the name of a StatefulSet's pod.
pub const LABEL_STATEFULSET_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label with the ordinal of an indexed pod of a StatefulSet.
pub const LABEL_POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label with the uid of the Job that made a pod.
pub const LABEL_JOB_CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// Label with the name of the Job that made a pod.
pub const LABEL_JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Annotation and label with the completion index of a Job's pod.
pub const LABEL_JOB_COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The older label with the uid of the Job that made a pod.
pub const LABEL_JOB_CONTROLLER_UID_OLD: &str = "controller-uid";
/// The older label with the name of the Job that made a pod.
pub const LABEL_JOB_NAME_OLD: &str = "job-name";
/// Label that ties an EndpointSlice to its Service.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who writes an EndpointSlice.
pub const LABEL_ENDPOINTSLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label that selects another service proxy.
pub const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a Service without a cluster address.
pub const LABEL_HEADLESS_SERVICE: &str = "service.kubernetes.io/headless";
/// Label with the pod security level that a namespace enforces.
pub const LABEL_POD_SECURITY_ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Annotation with the revision of a Deployment and of its ReplicaSets.
pub const ANNOTATION_REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with earlier revisions that a ReplicaSet stood for.
pub const ANNOTATION_REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation with the replicas that the owning Deployment asks for.
pub const ANNOTATION_DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation with the replicas a ReplicaSet may have during a rollout.
pub const ANNOTATION_MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotation with how often a completion index failed before this pod.
pub const ANNOTATION_JOB_INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation with how often it failed in ways that the pod failure policy ignores.
pub const ANNOTATION_JOB_INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Annotation with the time that a CronJob's Job was due.
pub const ANNOTATION_CRONJOB_SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Annotation in which `kubectl apply` keeps what was applied last.
pub const ANNOTATION_LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotation by which `kubectl rollout restart` changes a template.
pub const ANNOTATION_RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Annotation that names the container kubectl talks to by default.
pub const ANNOTATION_DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Annotation with the cause that `kubectl rollout history` shows.
pub const ANNOTATION_CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotation that ties a token Secret to its ServiceAccount.
pub const ANNOTATION_SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Annotation with the uid of the ServiceAccount of a token Secret.
pub const ANNOTATION_SERVICE_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Annotation that marks the default StorageClass.
pub const ANNOTATION_DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Annotation on a claim, or a volume, whose binding was completed once.
pub const ANNOTATION_BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation on the side of a binding that the controller chose.
pub const ANNOTATION_BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation with the provisioner that made a volume.
pub const ANNOTATION_PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation on a claim with the provisioner that is to make its volume.
pub const ANNOTATION_STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same as older provisioners read it.
pub const ANNOTATION_BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Annotation on a claim with the node that the scheduler chose for its first pod.
pub const ANNOTATION_SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The name of our provisioner of directories on nodes.
pub const PROVISIONER_LOCAL_PATH: &str = "gantry.io/local-path";
/// The class that the cluster begins with, named as k3s names it.
pub const CLASS_LOCAL_PATH: &str = "local-path";
/// Annotation on a Node with the directory of its volumes.
pub const ANNOTATION_STORAGE_DIRECTORY: &str = "gantry.io/storage-directory";
/// Label on a volume with the node whose agent makes and removes its directory.
pub const LABEL_VOLUME_NODE: &str = "gantry.io/node";
/// Finalizer on a volume whose directory is still on its node.
pub const FINALIZER_LOCAL_PATH: &str = "gantry.io/local-path";
/// Annotation on a volume with the Secret that its driver needs to remove it.
pub const ANNOTATION_DELETION_SECRET_NAME: &str = "volume.kubernetes.io/provisioner-deletion-secret-name";
/// Annotation on a volume with the namespace of that Secret.
pub const ANNOTATION_DELETION_SECRET_NAMESPACE: &str = "volume.kubernetes.io/provisioner-deletion-secret-namespace";
/// Annotation on a VolumeAttachment with the driver's name of the node, as external attachers keep it.
pub const ANNOTATION_ATTACHED_NODE_ID: &str = "csi.alpha.kubernetes.io/node-id";
/// Finalizer on a volume that its driver still has to remove, as external provisioners set it.
pub const FINALIZER_PROVISIONER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Finalizer on a claim whose volume is copied, as external provisioners set it.
pub const FINALIZER_CLONING: &str = "provisioner.storage.kubernetes.io/cloning-protection";
/// Finalizer on a claim for which a driver may have made a volume that no PersistentVolume tells of yet.
pub const FINALIZER_PROVISIONING: &str = "gantry.io/csi-provisioning";
/// Prefix of the finalizer on a VolumeAttachment, and on its volume, that an attacher has to undo.
pub const FINALIZER_ATTACHER_PREFIX: &str = "external-attacher/";
/// Annotation that marks the default IngressClass.
pub const ANNOTATION_DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// Annotation by which a role is reconciled at start.
pub const ANNOTATION_RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Annotation that weighs a pod for removal when its ReplicaSet shrinks.
pub const ANNOTATION_POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// On the mirror of a static pod: the uid of the pod that it shows.
pub const ANNOTATION_MIRROR: &str = "kubernetes.io/config.mirror";
/// The condition of a pod that is ended for a reason that is not its own.
pub const CONDITION_DISRUPTED: &str = "DisruptionTarget";

/// Taint of a node that is not ready.
pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that stopped reporting.
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a cordoned node.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taint of a node short of memory.
pub const TAINT_MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
/// Taint of a node short of disk.
pub const TAINT_DISK_PRESSURE: &str = "node.kubernetes.io/disk-pressure";
/// Taint of a node short of process ids.
pub const TAINT_PID_PRESSURE: &str = "node.kubernetes.io/pid-pressure";
/// Taint of a node without a pod network.
pub const TAINT_NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";
/// Taint of a node that was shut down without draining.
pub const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Taint of a control-plane node.
pub const TAINT_CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Finalizer (in `metadata.finalizers`) that keeps an owner until its dependents are gone.
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that makes the garbage collector orphan the dependents.
pub const FINALIZER_ORPHAN: &str = "orphan";
/// Finalizer in a namespace's `spec.finalizers`.
pub const FINALIZER_KUBERNETES: &str = "kubernetes";
/// Finalizer that protects a claim in use.
pub const FINALIZER_PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer that protects a bound volume.
pub const FINALIZER_PV_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Finalizer that protects a group of pods while some of its pods have not ended.
pub const FINALIZER_POD_GROUP_PROTECTION: &str = "scheduling.k8s.io/podgroup-protection";
/// What `spec.managedBy` of a Job says where it is ours; other values are somebody else's.
pub const JOB_CONTROLLER: &str = "kubernetes.io/job-controller";
/// Finalizer on pods that a Job still counts.
pub const FINALIZER_JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// Namespace of the system's own workloads.
pub const NAMESPACE_SYSTEM: &str = "kube-system";
/// Namespace that everyone may read.
pub const NAMESPACE_PUBLIC: &str = "kube-public";
/// Namespace of the nodes' leases.
pub const NAMESPACE_NODE_LEASE: &str = "kube-node-lease";
/// The provisioner that stands for none: volumes of such a class are made by people.
pub const PROVISIONER_NONE: &str = "kubernetes.io/no-provisioner";
/// The annotation that named a claim's or volume's class before there was a field for it.
pub const ANNOTATION_OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Group of the bootstrap tokens by which machines join the cluster.
pub const GROUP_JOINING: &str = "system:bootstrappers:gantry:agent";
/// ConfigMap of kube-system that says what the cluster's network looks like: `cluster-cidr`, `service-cidr`,
/// `cluster-dns`, `cluster-domain`.
pub const CONFIG_MAP_CLUSTER: &str = "gantry-cluster";
/// Namespace used when none is named.
pub const NAMESPACE_DEFAULT: &str = "default";
/// Finalizer that keeps a ResourceClaim while it is allocated.
pub const FINALIZER_RESOURCE_CLAIM: &str = "resource.kubernetes.io/delete-protection";
/// Annotation of a ResourceClaim that was made for a pod: which of the pod's claims it is.
pub const ANNOTATION_POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
