//! The wire format: tags, varints, lengths. Nothing is copied and nothing is believed.
use super::ProtobufError;

/// What stands behind a tag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Payload<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// A field as it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Field<'a> {
    /// Its number.
    pub(super) number: u32,
    /// What it holds.
    pub(super) payload: Payload<'a>,
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first field.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Whether everything was read.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next field; `None` at the end. Groups, which proto2 once had, count as malformed.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, ProtobufError> {
        if self.is_done() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0).ok_or(ProtobufError::Malformed(start))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed(start))?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ProtobufError::Malformed(start)),
        };
        Ok(Some(Field { number, payload }))
    }

    /// A varint of at most ten bytes.
    pub(super) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(ProtobufError::Malformed(start))?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed(start))
    }

    /// Eight or four bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let start = self.at;
        self.take(N)?.try_into().map_err(|_| ProtobufError::Malformed(start))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let end = self.at.checked_add(length).ok_or(ProtobufError::Malformed(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(ProtobufError::Malformed(self.at))?;
        self.at = end;
        Ok(taken)
    }
}

/// Writes the fields of one message.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Appends to what is there.
    pub(crate) fn after(start: &[u8]) -> Self {
        Self { bytes: start.to_vec() }
    }

    /// What was written.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes what was written.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn tag(&mut self, number: u32, wire_type: u64) {
        self.varint(u64::from(number) << 3 | wire_type);
    }

    /// A varint field; negative numbers take ten bytes.
    pub(crate) fn number(&mut self, number: u32, value: i64) {
        self.tag(number, 0);
        self.varint(value as u64);
    }

    /// A 64-bit floating point field.
    pub(crate) fn double(&mut self, number: u32, value: f64) {
        self.tag(number, 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A message whose content `write` appends, in place.
    pub(crate) fn message<E>(&mut self, number: u32, write: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.tag(number, 2);
        let start = self.bytes.len();
        write(self)?;
        // The length stands before the content and is known behind it.
        let end = self.bytes.len();
        self.varint((end - start) as u64);
        let width = self.bytes.len() - end;
        self.bytes[start..].rotate_right(width);
        Ok(())
    }

    /// A field with a length: text or bytes.
    pub(crate) fn bytes(&mut self, number: u32, content: &[u8]) {
        self.tag(number, 2);
        self.varint(content.len() as u64);
        self.bytes.extend_from_slice(content);
    }
}

/// UTF-8 or an error with the field's name.
pub(super) fn text(bytes: &[u8], name: &str) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::Text(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for (bytes, want) in [
            (&[0x01][..], Some(1)),
            (&[0xac, 0x02], Some(300)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Some(u64::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], None),
            (&[0x80], None),
            (&[], None),
        ] {
            assert_eq!(Reader::new(bytes).varint().ok(), want, "{bytes:?}");
        }
    }

    #[test]
    fn lengths_stay_inside() {
        assert_eq!(Reader::new(&[0x0a, 1, b'x']).next().unwrap().unwrap().payload, Payload::Bytes(b"x"));
        for bad in [
            &[0x0a, 2, b'x'][..],
            &[0x02],
            &[0x0b],
            &[0x0d, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert!(Reader::new(bad).next().is_err(), "{bad:?}");
        }
    }
}
