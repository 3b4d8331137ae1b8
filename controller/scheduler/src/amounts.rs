//! Amounts of resources, as whole numbers.
use api::quantity::Quantity;
use std::collections::BTreeMap;

/// Amounts of resources: cpu in thousandths, everything else in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// Devices, huge pages and the like.
    pub extended: BTreeMap<Box<str>, i64>,
}

impl Amounts {
    pub(crate) fn read<'a>(entries: impl Iterator<Item = (&'a str, Quantity)>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in entries {
            match name {
                "cpu" => amounts.milli_cpu = quantity.milli(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral_storage = quantity.value(),
                "pods" => {}
                other => drop(amounts.extended.insert(other.into(), quantity.value())),
            }
        }
        amounts
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            match self.extended.get_mut(name) {
                Some(sum) => *sum = sum.saturating_add(*amount),
                None => drop(self.extended.insert(name.clone(), *amount)),
            }
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            if let Some(sum) = self.extended.get_mut(name) {
                *sum = sum.saturating_sub(*amount);
            }
        }
    }

    /// How much of a resource that has no field of its own.
    pub(crate) fn of(&self, name: &str) -> i64 {
        self.extended.get(name).copied().unwrap_or_default()
    }
}
