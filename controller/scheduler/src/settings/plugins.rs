//! Which plugins a profile leaves out, and how much the others count.
use crate::profile::{Filter, Profile, Weights};
use serde::Deserialize;

/// The plugins of one extension point.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Set {
    enabled: Vec<Plugin>,
    disabled: Vec<Plugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    weight: Option<i64>,
}

/// `plugins` of a profile. Points where plugins of others would come in have none here: they are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Plugins {
    multi_point: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    pre_enqueue: Set,
    queue_sort: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
}

/// What a plugin is here.
struct Known {
    name: &'static str,
    /// Its filter, if it may be left out.
    filter: Option<Filter>,
    /// Where its weight is, if it has one.
    weight: Option<fn(&mut Weights) -> &mut i64>,
}

const fn known(name: &'static str, filter: Option<Filter>, weight: Option<fn(&mut Weights) -> &mut i64>) -> Known {
    Known { name, filter, weight }
}

const PREEMPTION: &str = "DefaultPreemption";

/// The default plugins of kube-scheduler.
const ALL: [Known; 19] = [
    known("NodeUnschedulable", Some(Filter::Unschedulable), None),
    known("TaintToleration", Some(Filter::Taints), Some(|weights| &mut weights.taints)),
    known("NodeAffinity", Some(Filter::Affinity), Some(|weights| &mut weights.preference)),
    known("NodePorts", Some(Filter::Ports), None),
    known("NodeResourcesFit", Some(Filter::Resources), Some(|weights| &mut weights.fit)),
    known("PodTopologySpread", Some(Filter::Spread), Some(|weights| &mut weights.spread)),
    known("InterPodAffinity", Some(Filter::Relations), Some(|weights| &mut weights.relations)),
    known("NodeResourcesBalancedAllocation", None, Some(|weights| &mut weights.balance)),
    known("ImageLocality", None, Some(|weights| &mut weights.images)),
    known(PREEMPTION, None, None),
    known("NodeName", None, None),
    known("VolumeRestrictions", None, None),
    known("NodeVolumeLimits", None, None),
    known("VolumeBinding", None, None),
    known("VolumeZone", None, None),
    known("DynamicResources", None, None),
    known("SchedulingGates", None, None),
    known("GangScheduling", None, None),
    known("DefaultBinder", None, None),
];

/// The points that say something here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Point {
    Multi,
    Filter,
    Score,
    PostFilter,
}

impl Plugins {
    /// Changes a profile as the plugins say. The points of their own win over `multiPoint`, and there what is enabled
    /// over what is disabled.
    pub(super) fn apply(&self, profile: &mut Profile, path: &str) -> Result<(), String> {
        let points = [
            ("multiPoint", &self.multi_point, Point::Multi),
            ("filter", &self.filter, Point::Filter),
            ("score", &self.score, Point::Score),
            ("postFilter", &self.post_filter, Point::PostFilter),
        ];
        for (name, set, point) in points {
            set.apply(profile, point, &format!("{path}.{name}"))?;
        }
        // What prepares a plugin goes with it.
        for (name, set, of) in [("preFilter", &self.pre_filter, "filter"), ("preScore", &self.pre_score, "score")] {
            for (index, plugin) in set.disabled.iter().enumerate() {
                let path = format!("{path}.{name}.disabled[{index}].name");
                let is_left_out = |known: &Known| match of {
                    "filter" => known.filter.is_none_or(|filter| profile.skips(filter)),
                    _ => known.weight.is_none_or(|weight| *weight(&mut profile.weights.clone()) == 0),
                };
                let mut all = named(&plugin.name, &path)?;
                if !all.all(is_left_out) {
                    return Err(format!("{path}: disable {} of `{of}` too", plugin.name));
                }
            }
            set.none_enabled(&format!("{path}.{name}"))?;
        }
        let others = [
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
        ];
        for (name, set) in others {
            set.none_enabled(&format!("{path}.{name}"))?;
            if !set.disabled.is_empty() {
                return Err(format!("{path}.{name}.disabled: nothing can be disabled there"));
            }
        }
        Ok(())
    }
}

impl Set {
    fn none_enabled(&self, path: &str) -> Result<(), String> {
        match self.enabled.is_empty() {
            true => Ok(()),
            false => Err(format!("{path}.enabled: nothing can be enabled there; use multiPoint, filter or score")),
        }
    }

    fn apply(&self, profile: &mut Profile, point: Point, path: &str) -> Result<(), String> {
        for (index, plugin) in self.disabled.iter().enumerate() {
            let path = format!("{path}.disabled[{index}].name");
            let is_all = plugin.name == "*";
            for known in named(&plugin.name, &path)? {
                let mut changed = false;
                if matches!(point, Point::Multi | Point::Filter)
                    && let Some(filter) = known.filter
                {
                    profile.skip(filter);
                    changed = true;
                }
                if matches!(point, Point::Multi | Point::Score)
                    && let Some(weight) = known.weight
                {
                    *weight(&mut profile.weights) = 0;
                    changed = true;
                }
                if matches!(point, Point::Multi | Point::PostFilter) && known.name == PREEMPTION {
                    profile.preempts = false;
                    changed = true;
                }
                // What stays whatever is said is named, so that nobody relies on it.
                if !changed && !is_all {
                    return Err(format!("{path}: {} cannot be disabled here", plugin.name));
                }
            }
        }
        for (index, plugin) in self.enabled.iter().enumerate() {
            let name = format!("{path}.enabled[{index}]");
            if plugin.name == "*" {
                return Err(format!("{name}.name: expected the name of a plugin"));
            }
            for known in named(&plugin.name, &format!("{name}.name"))? {
                if matches!(point, Point::Multi | Point::Filter)
                    && let Some(filter) = known.filter
                {
                    profile.ask(filter);
                }
                if matches!(point, Point::Multi | Point::PostFilter) && known.name == PREEMPTION {
                    profile.preempts = true;
                }
                let counts = matches!(point, Point::Multi | Point::Score);
                match (known.weight.filter(|_| counts), plugin.weight.filter(|weight| *weight != 0)) {
                    (Some(_), Some(weight)) if !(1..=MAX_WEIGHT).contains(&weight) => {
                        return Err(format!("{name}.weight: expected 1 to {MAX_WEIGHT}"));
                    }
                    (Some(own), weight) => {
                        // Without a weight it has its own, or counts once where that was taken from it.
                        let default = *own(&mut Weights::default());
                        *own(&mut profile.weights) = weight.unwrap_or(default);
                    }
                    (None, Some(_)) => return Err(format!("{name}.weight: {} has none there", plugin.name)),
                    (None, None) => {}
                }
            }
        }
        Ok(())
    }
}

/// No weight is more, so that sums stay small.
const MAX_WEIGHT: i64 = 1_000_000;

/// The plugins that a name stands for; `*` stands for all.
fn named<'a>(name: &'a str, path: &str) -> Result<impl Iterator<Item = &'static Known> + use<'a>, String> {
    if name != "*" && !ALL.iter().any(|known| known.name == name) {
        return Err(format!("{path}: there is no plugin {name:?}"));
    }
    Ok(ALL.iter().filter(move |known| name == "*" || known.name == name))
}
