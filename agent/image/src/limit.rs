//! Bounds on what an image may make us do.

/// What an image may hold. One beyond is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries of one layer.
    pub entries: u64,
    /// Unpacked bytes of one layer.
    pub bytes: u64,
    /// Bytes of a configuration.
    pub document: u64,
    /// Bytes of a manifest or index. Registries themselves take no more than 4 MiB (distribution spec, "Pushing Manifests").
    pub manifest: u64,
    /// Packed bytes of one layer.
    pub blob: u64,
    /// How many times larger than its packed form a layer may become, once it is larger than `ratio_from`.
    pub ratio: u64,
    /// Unpacked bytes up to which any ratio will do: a file of zeros is honest and packs a thousandfold.
    pub ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            document: 8 << 20,
            manifest: 4 << 20,
            blob: 32 << 30,
            ratio: 200,
            ratio_from: 4 << 30,
        }
    }
}

impl Limits {
    /// The unpacked bytes that a blob of `packed` bytes may give.
    pub(crate) fn inflated(&self, packed: u64) -> u64 {
        packed.saturating_mul(self.ratio).max(self.ratio_from)
    }
}
