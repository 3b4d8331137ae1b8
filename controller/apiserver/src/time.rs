//! The server's clock in the forms the API uses.

use jiff::Timestamp;

/// Now, as metav1.Time prints it: RFC 3339, whole seconds, UTC.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// A time as metav1.Time prints it.
pub(crate) fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since the epoch.
pub(crate) fn epoch() -> i64 {
    Timestamp::now().as_second()
}
