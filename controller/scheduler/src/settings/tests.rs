//! What a file is read as, and what is said of one that cannot be used.
use super::*;
use crate::profile::{DefaultSpread, Filter, Resource, Strategy, Weights};

fn file(rest: &str) -> Result<Settings, String> {
    Settings::parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}"))
}

fn only(rest: &str) -> Profile {
    let settings = file(rest).unwrap();
    assert_eq!(settings.profiles.0.len(), 1);
    Profile::clone(&settings.profiles.0[0])
}

#[test]
fn an_empty_file_is_kubernetes_own() {
    let settings = file("").unwrap();
    assert_eq!(settings.profiles.find(None).map(|profile| &*profile.name), Some(DEFAULT_NAME));
    assert!(settings.profiles.find(Some("other")).is_none());
    assert_eq!(only("profiles: [{schedulerName: default-scheduler}]"), Profile::new(DEFAULT_NAME));
}

#[test]
fn plugins_and_their_arguments_are_read() {
    let profile = only(
        "
podInitialBackoffSeconds: 2
leaderElection: {leaderElect: true}
profiles:
- schedulerName: packing
  plugins:
    multiPoint:
      disabled: [{name: ImageLocality}]
    filter:
      disabled: [{name: NodePorts}]
    preScore:
      disabled: [{name: ImageLocality}]
    score:
      enabled: [{name: NodeResourcesFit, weight: 5}]
      disabled: [{name: NodeResourcesBalancedAllocation}]
    postFilter:
      disabled: [{name: DefaultPreemption}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResourceGroups: [example.com]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
  - name: PodTopologySpread
    args:
      defaultConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
      defaultingType: List
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7, ignorePreferredTermsOfExistingPods: true}
  - name: DefaultPreemption
    args: {minCandidateNodesAbsolute: 5}
",
    );
    assert_eq!(profile.weights, Weights { fit: 5, balance: 0, images: 0, ..Weights::default() });
    assert!(profile.skips(Filter::Ports) && !profile.skips(Filter::Taints) && !profile.preempts);
    assert_eq!(profile.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
    assert_eq!(profile.resources, [(Resource::Cpu, 3), (Resource::Other("example.com/gpu".into()), 1)]);
    assert!(profile.ignored.has("example.com/gpu"));
    let rack = DefaultSpread { topology: "rack".into(), max_skew: 2, is_hard: true };
    assert_eq!(profile.spread, Some(vec![rack]));
    assert_eq!((profile.hard_affinity_weight, profile.ignores_wishes_of_others), (7, true));
    assert_eq!((profile.min_candidates, profile.candidates_percent), (5, 10));
}

#[test]
fn a_specific_point_wins_over_all_points() {
    let profile = only(
        "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}]}, score: {enabled: [{name: TaintToleration}]},
          filter: {enabled: [{name: NodeResourcesFit}]}}}]",
    );
    let none = Weights { fit: 0, balance: 0, images: 0, preference: 0, taints: 3, relations: 0, spread: 0 };
    assert_eq!(profile.weights, none);
    assert!(profile.skips(Filter::Taints) && !profile.skips(Filter::Resources) && !profile.preempts);
}

#[test]
fn what_cannot_be_used_is_told_with_its_path() {
    let fit = |args: &str| format!("profiles: [{{pluginConfig: [{{name: NodeResourcesFit, args: {{{args}}}}}]}}]");
    for (rest, want) in [
        ("surprise: 1", "surprise: unknown field `surprise`"),
        ("extenders: [{urlPrefix: x}]", "extenders: not supported"),
        ("profiles: [{plugin: {}}]", "profiles[0].plugin: unknown field `plugin`"),
        (
            "profiles: [{}, {schedulerName: default-scheduler}]",
            "profiles[1].schedulerName: \"default-scheduler\" is there",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: Mine}]}}}]",
            "profiles[0].plugins.score.enabled[0].name: there is no plugin \"Mine\"",
        ),
        (
            "profiles: [{plugins: {filter: {disabled: [{name: VolumeBinding}]}}}]",
            "profiles[0].plugins.filter.disabled[0].name: VolumeBinding cannot be disabled here",
        ),
        (
            "profiles: [{plugins: {preFilter: {disabled: [{name: NodePorts}]}}}]",
            "profiles[0].plugins.preFilter.disabled[0].name: disable NodePorts of `filter` too",
        ),
        ("profiles: [{plugins: {permit: {enabled: [{name: Mine}]}}}]", "profiles[0].plugins.permit.enabled: nothing"),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: NodePorts, weight: 2}]}}}]",
            "profiles[0].plugins.filter.enabled[0].weight: NodePorts has none there",
        ),
        (
            "profiles: [{pluginConfig: [{name: Mine, args: {}}]}]",
            "profiles[0].pluginConfig[0].args: \"Mine\" takes no arguments here",
        ),
        (&fit("scoringStrategy: {type: Best}"), "profiles[0].pluginConfig[0].args.scoringStrategy.type: \"Best\""),
        (
            &fit("scoringStrategy: {kind: MostAllocated}"),
            "profiles[0].pluginConfig[0].args.scoringStrategy.kind: unknown field `kind`",
        ),
        (
            &fit("scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 101}]}"),
            "profiles[0].pluginConfig[0].args.scoringStrategy.resources[0].weight: resource weight of cpu not in",
        ),
        (
            &fit(
                "scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 5, score: 1}, {utilization: 5, score: 2}]}}",
            ),
            "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[1].utilization: values must be sorted",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringScheduling: {}}}}]}]",
            "profiles[0].pluginConfig[0].args.addedAffinity.requiredDuringScheduling: unknown field",
        ),
        ("podMaxBackoffSeconds: 0", "podMaxBackoffSeconds: expected no less than"),
    ] {
        let said = file(rest).err().unwrap_or_default();
        assert!(said.starts_with(want), "{rest}\n  said {said}\n  want {want}");
    }
    let other = Settings::parse("apiVersion: v1\nkind: ConfigMap").err();
    assert_eq!(
        other.as_deref(),
        Some("expected apiVersion kubescheduler.config.k8s.io/v1, kind KubeSchedulerConfiguration")
    );
}
