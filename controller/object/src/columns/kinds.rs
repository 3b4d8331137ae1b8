//! The columns of each kind (the printers of Kubernetes' `printers/internalversion`), as facts beside their cells.
use super::autoscaler::autoscaler;
use super::cells::{age, joined, labels, or_empty, or_none, plain, selector};
use super::policy::{flow_schema, param_kind, param_ref, priority_level};
use super::rows::{
    availability, claim, cron_job, daemon_set, deployment, endpoint_slice, endpoints, event, ingress, job, node,
    persistent_volume, pod_group, qualified, quota, ready_of, replicas, role_binding, service, signing_request,
    storage_driver, template, used,
};
use super::{Printer, boolean, narrow, number, pod, wide};
use crate::resource::Resource;
use crate::tree::{at, entries, integer, list, text};
use serde_json::{Value, json};

macro_rules! printer {
    ([$($column:expr),* $(,)?], $cells:expr) => {
        Printer { columns: const { &[$($column),*] }, cells: $cells }
    };
}

/// The printer of a kind; kinds without one of their own show their age.
pub(super) fn printer(resource: &Resource) -> Printer {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => printer!(
            [
                narrow("Ready"),
                narrow("Status"),
                narrow("Restarts"),
                narrow("Age"),
                wide("IP"),
                wide("Node"),
                wide("Nominated Node"),
                wide("Readiness Gates")
            ],
            pod::cells
        ),
        ("", "nodes") => printer!(
            [
                narrow("Status"),
                narrow("Roles"),
                narrow("Age"),
                narrow("Version"),
                wide("Internal-IP"),
                wide("External-IP"),
                wide("OS-Image"),
                wide("Kernel-Version"),
                wide("Container-Runtime")
            ],
            node
        ),
        ("metrics.k8s.io", _) => printer!([narrow("CPU"), narrow("Memory"), narrow("Window")], used),
        ("", "namespaces") => {
            printer!([narrow("Status"), narrow("Age")], |o, now| vec![or_empty(o, &["status", "phase"]), age(o, now)])
        }
        ("", "services") => printer!(
            [
                narrow("Type"),
                narrow("Cluster-IP"),
                narrow("External-IP"),
                narrow("Port(s)"),
                narrow("Age"),
                wide("Selector")
            ],
            service
        ),
        ("", "endpoints") => printer!([narrow("Endpoints"), narrow("Age")], |o, now| vec![endpoints(o), age(o, now)]),
        ("discovery.k8s.io", "endpointslices") => {
            printer!([narrow("AddressType"), narrow("Ports"), narrow("Endpoints"), narrow("Age")], endpoint_slice)
        }
        ("", "configmaps") => printer!([number("Data"), narrow("Age")], |o, now| {
            vec![(entries(o, &["data"]).count() + entries(o, &["binaryData"]).count()).into(), age(o, now)]
        }),
        ("", "secrets") => printer!([narrow("Type"), number("Data"), narrow("Age")], |o, now| {
            vec![or_empty(o, &["type"]), entries(o, &["data"]).count().into(), age(o, now)]
        }),
        ("", "serviceaccounts") => printer!([narrow("Age")], |o, now| vec![age(o, now)]),
        ("", "events") | ("events.k8s.io", "events") => printer!(
            [
                narrow("Last Seen"),
                narrow("Type"),
                narrow("Reason"),
                narrow("Object"),
                wide("Subobject"),
                wide("Source"),
                narrow("Message"),
                wide("First Seen"),
                wide("Count")
            ],
            event
        ),
        ("", "persistentvolumes") => printer!(
            [
                narrow("Capacity"),
                narrow("Access Modes"),
                narrow("Reclaim Policy"),
                narrow("Status"),
                narrow("Claim"),
                narrow("StorageClass"),
                narrow("VolumeAttributesClass"),
                narrow("Reason"),
                narrow("Age"),
                wide("VolumeMode")
            ],
            persistent_volume
        ),
        ("", "persistentvolumeclaims") => printer!(
            [
                narrow("Status"),
                narrow("Volume"),
                narrow("Capacity"),
                narrow("Access Modes"),
                narrow("StorageClass"),
                narrow("VolumeAttributesClass"),
                narrow("Age"),
                wide("VolumeMode")
            ],
            claim
        ),
        ("", "resourcequotas") => printer!([narrow("Request"), narrow("Limit"), narrow("Age")], quota),
        ("", "replicationcontrollers") => printer!(
            [
                number("Desired"),
                number("Current"),
                number("Ready"),
                narrow("Age"),
                wide("Containers"),
                wide("Images"),
                wide("Selector")
            ],
            |o, now| replicas(o, now, labels(o, &["spec", "selector"]))
        ),
        ("apps", "replicasets") => printer!(
            [
                number("Desired"),
                number("Current"),
                number("Ready"),
                narrow("Age"),
                wide("Containers"),
                wide("Images"),
                wide("Selector")
            ],
            |o, now| replicas(o, now, selector(o, &["spec", "selector"]))
        ),
        ("apps", "deployments") => printer!(
            [
                narrow("Ready"),
                narrow("Up-to-date"),
                narrow("Available"),
                narrow("Age"),
                wide("Containers"),
                wide("Images"),
                wide("Selector")
            ],
            deployment
        ),
        ("apps", "statefulsets") => {
            printer!([narrow("Ready"), narrow("Age"), wide("Containers"), wide("Images")], |o, now| {
                let (names, images) = template(o);
                vec![ready_of(o), age(o, now), names, images]
            })
        }
        ("apps", "daemonsets") => printer!(
            [
                number("Desired"),
                number("Current"),
                number("Ready"),
                number("Up-to-date"),
                number("Available"),
                narrow("Node Selector"),
                narrow("Age"),
                wide("Containers"),
                wide("Images"),
                wide("Selector")
            ],
            daemon_set
        ),
        ("apps", "controllerrevisions") => {
            printer!([narrow("Controller"), narrow("Revision"), narrow("Age")], |o, now| {
                let owner = list(o, &["metadata", "ownerReferences"]).iter().find(|r| r["controller"] == true);
                let told = owner.map_or_else(|| json!("<none>"), |r| qualified(r).into());
                vec![told, integer(o, &["revision"]).unwrap_or(0).to_string().into(), age(o, now)]
            })
        }
        ("batch", "jobs") => printer!(
            [
                narrow("Status"),
                narrow("Completions"),
                narrow("Duration"),
                narrow("Age"),
                wide("Containers"),
                wide("Images"),
                wide("Selector")
            ],
            job
        ),
        ("batch", "cronjobs") => printer!(
            [
                narrow("Schedule"),
                narrow("Timezone"),
                narrow("Suspend"),
                number("Active"),
                narrow("Last Schedule"),
                narrow("Age"),
                wide("Containers"),
                wide("Images"),
                wide("Selector")
            ],
            cron_job
        ),
        ("autoscaling", _) => printer!(
            [
                narrow("Reference"),
                narrow("Targets"),
                narrow("MinPods"),
                narrow("MaxPods"),
                narrow("Replicas"),
                narrow("Age")
            ],
            autoscaler
        ),
        ("networking.k8s.io", "ingresses") => {
            printer!([narrow("Class"), narrow("Hosts"), narrow("Address"), narrow("Ports"), narrow("Age")], ingress)
        }
        ("networking.k8s.io", "ingressclasses") => {
            printer!([narrow("Controller"), narrow("Parameters"), narrow("Age")], |o, now| {
                let parameters =
                    at(o, &["spec", "parameters"]).map_or_else(|| json!("<none>"), |p| qualified(p).into());
                vec![or_empty(o, &["spec", "controller"]), parameters, age(o, now)]
            })
        }
        ("networking.k8s.io", "networkpolicies") => {
            printer!([narrow("Pod-Selector"), narrow("Age")], |o, now| vec![
                selector(o, &["spec", "podSelector"]),
                age(o, now)
            ])
        }
        ("networking.k8s.io", "servicecidrs") => printer!([narrow("CIDRs"), narrow("Age")], |o, now| {
            vec![joined(list(o, &["spec", "cidrs"]).iter().filter_map(Value::as_str)), age(o, now)]
        }),
        ("networking.k8s.io", "ipaddresses") => printer!([narrow("ParentRef"), narrow("Age")], |o, now| {
            let parent = at(o, &["spec", "parentRef"]);
            let path = parent.map(|p| {
                ["resource", "namespace", "name"].iter().filter_map(|k| text(p, &[k])).collect::<Vec<_>>().join("/")
            });
            vec![path.unwrap_or_else(|| "<none>".to_owned()).into(), age(o, now)]
        }),
        ("policy", "poddisruptionbudgets") => printer!(
            [narrow("Min Available"), narrow("Max Unavailable"), number("Allowed Disruptions"), narrow("Age")],
            |o, now| vec![
                plain(o, &["spec", "minAvailable"], "N/A"),
                plain(o, &["spec", "maxUnavailable"], "N/A"),
                integer(o, &["status", "disruptionsAllowed"]).unwrap_or(0).into(),
                age(o, now),
            ]
        ),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            printer!([narrow("Created At")], |o, _| vec![or_empty(o, &["metadata", "creationTimestamp"])])
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => printer!(
            [narrow("Role"), narrow("Age"), wide("Users"), wide("Groups"), wide("ServiceAccounts")],
            role_binding
        ),
        ("coordination.k8s.io", "leases") => printer!([narrow("Holder"), narrow("Age")], |o, now| vec![
            or_empty(o, &["spec", "holderIdentity"]),
            age(o, now)
        ]),
        ("storage.k8s.io", "storageclasses") => printer!(
            [
                narrow("Provisioner"),
                narrow("ReclaimPolicy"),
                narrow("VolumeBindingMode"),
                narrow("AllowVolumeExpansion"),
                narrow("Age")
            ],
            |o, now| vec![
                or_empty(o, &["provisioner"]),
                text(o, &["reclaimPolicy"]).unwrap_or("Delete").into(),
                text(o, &["volumeBindingMode"]).unwrap_or("Immediate").into(),
                plain(o, &["allowVolumeExpansion"], "false"),
                age(o, now),
            ]
        ),
        ("storage.k8s.io", "volumeattachments") => printer!(
            [narrow("Attacher"), narrow("PV"), narrow("Node"), narrow("Attached"), narrow("Age")],
            |o, now| vec![
                or_empty(o, &["spec", "attacher"]),
                or_empty(o, &["spec", "source", "persistentVolumeName"]),
                or_empty(o, &["spec", "nodeName"]),
                plain(o, &["status", "attached"], "false"),
                age(o, now),
            ]
        ),
        ("storage.k8s.io", "csinodes") => printer!([number("Drivers"), narrow("Age")], |o, now| vec![
            list(o, &["spec", "drivers"]).len().into(),
            age(o, now)
        ]),
        ("scheduling.k8s.io", "priorityclasses") => printer!(
            [number("Value"), narrow("Global-Default"), narrow("Age"), narrow("PreemptionPolicy")],
            |o, now| vec![
                integer(o, &["value"]).unwrap_or(0).into(),
                plain(o, &["globalDefault"], "false"),
                age(o, now),
                or_empty(o, &["preemptionPolicy"])
            ]
        ),
        ("node.k8s.io", "runtimeclasses") => {
            printer!([narrow("Handler"), narrow("Age")], |o, now| vec![or_empty(o, &["handler"]), age(o, now)])
        }
        ("certificates.k8s.io", "certificatesigningrequests") => printer!(
            [
                narrow("Age"),
                narrow("SignerName"),
                narrow("Requestor"),
                narrow("RequestedDuration"),
                narrow("Condition")
            ],
            signing_request
        ),
        ("apiregistration.k8s.io", "apiservices") => {
            printer!([narrow("Service"), narrow("Available"), narrow("Age")], |o, now| {
                let service = at(o, &["spec", "service"]).filter(|s| s.is_object());
                let told = service.map_or_else(
                    || "Local".to_owned(),
                    |s| {
                        format!(
                            "{}/{}",
                            text(s, &["namespace"]).unwrap_or_default(),
                            text(s, &["name"]).unwrap_or_default()
                        )
                    },
                );
                vec![told.into(), availability(o), age(o, now)]
            })
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            printer!([number("Webhooks"), narrow("Age")], |o, now| vec![
                list(o, &["webhooks"]).len().into(),
                age(o, now)
            ])
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            printer!([number("Validations"), narrow("ParamKind"), narrow("Age")], |o, now| vec![
                list(o, &["spec", "validations"]).len().into(),
                param_kind(o),
                age(o, now)
            ])
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            printer!([number("Mutations"), narrow("ParamKind"), narrow("Age")], |o, now| vec![
                list(o, &["spec", "mutations"]).len().into(),
                param_kind(o),
                age(o, now)
            ])
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings") => {
            printer!([narrow("PolicyName"), narrow("ParamRef"), narrow("Age")], |o, now| {
                vec![or_empty(o, &["spec", "policyName"]), param_ref(o), age(o, now)]
            })
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => printer!(
            [
                narrow("PriorityLevel"),
                narrow("MatchingPrecedence"),
                narrow("DistinguisherMethod"),
                narrow("Age"),
                narrow("MissingPL")
            ],
            flow_schema
        ),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => printer!(
            [
                narrow("Type"),
                narrow("NominalConcurrencyShares"),
                narrow("Queues"),
                narrow("HandSize"),
                narrow("QueueLengthLimit"),
                narrow("Age")
            ],
            priority_level
        ),
        ("certificates.k8s.io", "clustertrustbundles") => {
            printer!([narrow("SignerName")], |o, _| vec![or_none(o, &["spec", "signerName"])])
        }
        ("storage.k8s.io", "csidrivers") => printer!(
            [
                boolean("AttachRequired"),
                boolean("PodInfoOnMount"),
                boolean("StorageCapacity"),
                narrow("TokenRequests"),
                boolean("RequiresRepublish"),
                narrow("Modes"),
                narrow("Age")
            ],
            storage_driver
        ),
        ("storage.k8s.io", "csistoragecapacities") => {
            printer!([narrow("StorageClassName"), narrow("Capacity")], |o, _| {
                vec![or_empty(o, &["storageClassName"]), text(o, &["capacity"]).unwrap_or("<unset>").into()]
            })
        }
        ("scheduling.k8s.io", "podgroups") => {
            printer!([narrow("Policy"), narrow("Workload"), narrow("Status"), narrow("Age")], pod_group)
        }
        ("apiextensions.k8s.io", _) | ("", "limitranges") => {
            printer!([narrow("Created At")], |o, _| vec![or_empty(o, &["metadata", "creationTimestamp"])])
        }
        _ => printer!([narrow("Age")], |o, now| vec![age(o, now)]),
    }
}
