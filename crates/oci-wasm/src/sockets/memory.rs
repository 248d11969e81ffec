//! A program's memory, as calls of preview 1 find it.

use super::Errno;

/// The most that one read or write moves, in bytes.
const CHUNK: usize = 64 * 1024;

/// The most buffers of one read or write (Linux's `IOV_MAX`).
const MAX_BUFFERS: u32 = 1024;

/// The program's memory, checked at every access.
pub(crate) struct Memory<'a>(pub(crate) &'a mut [u8]);

impl Memory<'_> {
    pub(crate) fn slice(&mut self, at: u32, len: u32) -> Result<&mut [u8], Errno> {
        let (at, len) = (at as usize, len as usize);
        self.0
            .get_mut(at..)
            .and_then(|m| m.get_mut(..len))
            .ok_or(Errno::Fault)
    }

    pub(super) fn read<const N: usize>(&mut self, at: u32) -> Result<[u8; N], Errno> {
        let bytes = self.slice(at, u32::try_from(N).map_err(|_| Errno::Fault)?)?;
        bytes.try_into().map_err(|_| Errno::Fault)
    }

    pub(crate) fn u32(&mut self, at: u32) -> Result<u32, Errno> {
        self.read(at).map(u32::from_le_bytes)
    }

    pub(super) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        self.slice(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    /// The first buffer of a list that is not empty: a short read or write is always allowed.
    pub(super) fn buffer(&mut self, list: i32, count: i32) -> Result<&mut [u8], Errno> {
        let (list, count) = (list.cast_unsigned(), count.cast_unsigned());
        if count > MAX_BUFFERS {
            return Err(Errno::Inval);
        }
        for i in 0..count {
            let entry = list.checked_add(i * 8).ok_or(Errno::Fault)?;
            let len = self.u32(entry.checked_add(4).ok_or(Errno::Fault)?)?;
            if len > 0 {
                let at = self.u32(entry)?;
                let slice = self.slice(at, len)?;
                let end = slice.len().min(CHUNK);
                return Ok(&mut slice[..end]);
            }
        }
        Ok(&mut [])
    }
}
