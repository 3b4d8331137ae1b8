//! Bounds on what an image may make us do.

/// What one layer may hold. An image beyond is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries of one layer.
    pub entries: u64,
    /// Unpacked bytes of one layer.
    pub bytes: u64,
    /// Bytes of a manifest, index or configuration.
    pub document: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 64 << 30, document: 8 << 20 }
    }
}
