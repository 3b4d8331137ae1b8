//! How much an evaluation may cost.
use super::EvaluationError;
use std::cell::Cell;

/// What one expression may cost (k8s.io/apiserver, pkg/apis/cel: `PerCallLimit` is 1,000,000 for admission and the
/// runtime limit of one expression of a custom resource's rules is 10,000,000 together).
pub const EXPRESSION_COST_LIMIT: u64 = 10_000_000;
/// What all expressions of one request may cost (`RuntimeCELCostBudget` is 10,000,000; ours counts more finely).
pub const REQUEST_COST_LIMIT: u64 = 100_000_000;
/// Steps between two looks at the clock.
const CLOCK_EVERY: u32 = 4096;

/// Steps that may be done yet, and a clock that may say stop. One unit is about one node of the syntax tree; what
/// makes or reads many values at once costs by their number.
pub struct Budget<'a> {
    total: Cell<u64>,
    expression: Cell<u64>,
    ticks: Cell<u32>,
    expired: Option<&'a dyn Fn() -> bool>,
}

impl Default for Budget<'_> {
    fn default() -> Self {
        Self::new(REQUEST_COST_LIMIT)
    }
}

impl<'a> Budget<'a> {
    /// For all expressions of a request.
    pub fn new(total: u64) -> Self {
        Self { total: Cell::new(total), expression: Cell::new(0), ticks: Cell::new(0), expired: None }
    }

    /// Evaluations end soon after `expired` says so. This crate reads no clock, so the caller brings one.
    pub fn with_clock(mut self, expired: &'a dyn Fn() -> bool) -> Self {
        self.expired = Some(expired);
        self
    }

    /// What is left for the request.
    pub fn remaining(&self) -> u64 {
        self.total.get()
    }

    /// A new expression begins.
    pub(super) fn begin(&self) {
        self.expression.set(EXPRESSION_COST_LIMIT);
    }

    /// Pays, or ends the evaluation.
    pub(super) fn charge(&self, cost: usize) -> Result<(), EvaluationError> {
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let left = |of: u64| of.checked_sub(cost).ok_or(EvaluationError::CostExceeded);
        let expression = left(self.expression.get());
        let total = left(self.total.get());
        self.total.set(total.clone().unwrap_or(0));
        self.expression.set(expression?);
        total?;
        let ticks = self.ticks.get().saturating_add(u32::try_from(cost).unwrap_or(u32::MAX));
        if ticks < CLOCK_EVERY {
            self.ticks.set(ticks);
            return Ok(());
        }
        self.ticks.set(0);
        match self.expired {
            Some(expired) if expired() => Err(EvaluationError::TimeExceeded),
            _ => Ok(()),
        }
    }
}
