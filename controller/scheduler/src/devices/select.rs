//! Which devices a selector is about: expressions in CEL over `device`, asked once for each device and remembered.
//! Kubernetes documentation, "Dynamic Resource Allocation", selectors.
use super::pool::Device;
use controller_cel::{Activation, Budget, Environment, Program, Value, compile, list, map, quantity, semver, total};
use k8s_openapi::api::resource::v1::{DeviceAttribute, DeviceSelector};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What one expression may cost for one device (`CELSelectorExpressionMaxCost`).
const MAX_COST: u64 = 1_000_000;
/// So many answers are remembered; beyond that all are forgotten.
const MOST_ANSWERS: usize = 1 << 18;
/// So many compiled expressions are kept.
const MOST_PROGRAMS: usize = 1 << 10;
/// One step of a search pays for so much of an expression.
const COST_PER_STEP: u64 = 50;

type Answer = Result<bool, Arc<str>>;

/// Programs and answers that were needed before. Forgetting them changes nothing but the time it takes.
#[derive(Debug, Default)]
pub(super) struct Answers {
    programs: HashMap<Arc<str>, Result<Arc<Program>, Arc<str>>>,
    known: HashMap<Arc<str>, HashMap<u64, Answer>>,
    count: usize,
}

impl Answers {
    /// Whether a device is among those that all selectors are about, and how many steps it took to find out. The error says
    /// which selector failed.
    pub(super) fn ask(&mut self, selectors: &[DeviceSelector], device: &Device) -> (Answer, u64) {
        let mut steps = 1;
        for (index, selector) in selectors.iter().enumerate() {
            let Some(cel) = &selector.cel else {
                return (
                    Err(format!("selector #{index}: CEL expression empty (unsupported selector type?)").into()),
                    steps,
                );
            };
            let (answer, cost) = self.ask_one(&cel.expression, device);
            steps += cost;
            match answer {
                Ok(true) => {}
                Ok(false) => return (Ok(false), steps),
                Err(why) => return (Err(format!("selector #{index}: {why}").into()), steps),
            }
        }
        (Ok(true), steps)
    }

    fn ask_one(&mut self, expression: &str, device: &Device) -> (Answer, u64) {
        if let Some(answer) = self.known.get(expression).and_then(|known| known.get(&device.serial)) {
            return (answer.clone(), 0);
        }
        let (answer, steps) = match self.program(expression) {
            Ok(program) => evaluate(&program, device),
            Err(why) => (Err(why), 1),
        };
        if self.count >= MOST_ANSWERS {
            self.known.clear();
            self.count = 0;
        }
        self.count += 1;
        self.known.entry(expression.into()).or_default().insert(device.serial, answer.clone());
        (answer, steps)
    }

    fn program(&mut self, expression: &str) -> Result<Arc<Program>, Arc<str>> {
        if let Some(known) = self.programs.get(expression) {
            return known.clone();
        }
        if self.programs.len() >= MOST_PROGRAMS {
            self.programs.clear();
        }
        let compiled = compile(expression, &Environment::new(&["device"]));
        let program = compiled.map(Arc::new).map_err(|error| Arc::from(format!("CEL compile error: {error}")));
        self.programs.insert(expression.into(), program.clone());
        program
    }
}

fn evaluate(program: &Program, device: &Device) -> (Answer, u64) {
    let mut variables = Activation::default();
    match value(device) {
        Ok(device) => variables.set("device", device),
        Err(why) => return (Err(why), 1),
    }
    let budget = Budget::new(MAX_COST);
    let answer = program.evaluate_bool(&variables, &budget);
    let steps = 1 + (MAX_COST - budget.remaining()) / COST_PER_STEP;
    (answer.map_err(|error| format!("runtime error: {error}").into()), steps)
}

/// A device as expressions see it: `driver`, and by their domains `attributes` and `capacity`.
fn value(device: &Device) -> Result<Value, Arc<str>> {
    let mut attributes: BTreeMap<&str, Vec<(&str, Value)>> = BTreeMap::new();
    for (name, attribute) in &device.attributes {
        let (domain, own) = split(name, device);
        let value = attribute_value(attribute);
        let value = value.ok_or_else(|| Arc::from(format!("attribute {name}: unsupported attribute value")))?;
        attributes.entry(domain).or_default().push((own, value));
    }
    let mut capacity: BTreeMap<&str, Vec<(&str, Value)>> = BTreeMap::new();
    for (name, text) in &device.capacity_text {
        let (domain, own) = split(name, device);
        let value = quantity(text).ok_or_else(|| Arc::from(format!("capacity {name}: {text:?} is no quantity")))?;
        capacity.entry(domain).or_default().push((own, value));
    }
    let by_domain = |all: BTreeMap<&str, Vec<(&str, Value)>>| {
        total(all.into_iter().map(|(domain, own)| (domain, map(own))).collect::<Vec<_>>(), map([]))
    };
    let text = |text: &str| Value::String(Arc::new(text.to_owned()));
    Ok(map([
        ("driver", text(&device.id.driver)),
        ("attributes", by_domain(attributes)),
        ("capacity", by_domain(capacity)),
        ("allowMultipleAllocations", Value::Bool(device.is_shared)),
    ]))
}

/// A name's domain, which is the driver's where it has none, and the rest.
fn split<'a>(name: &'a str, device: &'a Device) -> (&'a str, &'a str) {
    name.split_once('/').unwrap_or((&device.id.driver, name))
}

fn attribute_value(attribute: &DeviceAttribute) -> Option<Value> {
    let text = |text: &String| Value::String(Arc::new(text.clone()));
    if let Some(value) = attribute.bool {
        Some(Value::Bool(value))
    } else if let Some(value) = attribute.int {
        Some(Value::Int(value))
    } else if let Some(value) = &attribute.string {
        Some(text(value))
    } else if let Some(value) = &attribute.version {
        semver(value)
    } else if let Some(all) = &attribute.bools {
        Some(list(all.iter().map(|one| Value::Bool(*one))))
    } else if let Some(all) = &attribute.ints {
        Some(list(all.iter().map(|one| Value::Int(*one))))
    } else if let Some(all) = &attribute.strings {
        Some(list(all.iter().map(text)))
    } else {
        let all = attribute.versions.as_ref()?;
        Some(list(all.iter().map(|one| semver(one)).collect::<Option<Vec<_>>>()?))
    }
}
