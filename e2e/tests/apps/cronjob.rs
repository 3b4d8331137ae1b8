//! CronJobs.
