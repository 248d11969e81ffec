//! The guest kernel: libkrunfw's, read out of the library without executing it, in the form each monitor boots.
//!
//! libkrunfw exports a flat image of a Linux kernel as one data object. libkrun maps it as it is; QEMU wants an ELF file
//! with a PVH note (<https://xenbits.xen.org/docs/unstable/misc/pvh.html>), whose entry point is the image's first byte.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use object::{Architecture, Object, ObjectSymbol, read::elf::ElfFile64};

/// The longest library that is read, in bytes: today's have 21 MiB.
pub const MAX_LIBRARY_SIZE: u64 = 256 << 20;

/// The exported object that holds the kernel (libkrunfw's `bin2cbundle.py`).
const BUNDLE: &[u8] = b"KERNEL_BUNDLE";
/// Where libkrunfw's x86-64 kernels are linked to (`CONFIG_PHYSICAL_START`).
const LOAD_ADDRESS: u64 = 0x100_0000;
/// Room behind the image for the kernel's `.bss`, which a flat image does not show, in bytes.
const BSS: u64 = 16 << 20;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_ENTRY_NOTE: u32 = 18;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The library cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The library.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is longer than [`MAX_LIBRARY_SIZE`].
    #[error("{path} is longer than {MAX_LIBRARY_SIZE} bytes: it is no libkrunfw")]
    TooLong {
        /// The library.
        path: PathBuf,
    },
    /// It is no libkrunfw.
    #[error("{path} is no libkrunfw: {reason}")]
    NotLibkrunfw {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A guest kernel as libkrunfw has it.
#[derive(Debug, Clone)]
pub struct GuestKernel {
    image: Vec<u8>,
}

impl GuestKernel {
    /// Reads the kernel out of a `libkrunfw.so`.
    ///
    /// # Errors
    /// The file cannot be read, or is no libkrunfw for this machine's architecture.
    pub fn from_libkrunfw(path: &Path) -> Result<Self, KernelError> {
        let read = |source| KernelError::Read {
            path: path.to_owned(),
            source,
        };
        let mut library = Vec::new();
        let file = File::open(path).map_err(read)?;
        file.take(MAX_LIBRARY_SIZE + 1)
            .read_to_end(&mut library)
            .map_err(read)?;
        if u64::try_from(library.len()).is_ok_and(|n| n > MAX_LIBRARY_SIZE) {
            return Err(KernelError::TooLong {
                path: path.to_owned(),
            });
        }
        Self::parse(&library).map_err(|reason| KernelError::NotLibkrunfw {
            path: path.to_owned(),
            reason,
        })
    }

    fn parse(library: &[u8]) -> Result<Self, String> {
        let elf = ElfFile64::<object::Endianness>::parse(library).map_err(|e| e.to_string())?;
        if elf.architecture() != Architecture::X86_64 {
            return Err(format!("it is for {:?}, not for x86-64", elf.architecture()));
        }
        let symbol = elf
            .dynamic_symbols()
            .find(|s| s.name_bytes() == Ok(BUNDLE))
            .ok_or("it exports no KERNEL_BUNDLE")?;
        let image = symbol
            .section_index()
            .and_then(|index| {
                use object::ObjectSection;
                let section = elf.section_by_index(index).ok()?;
                section.data_range(symbol.address(), symbol.size()).ok()?
            })
            .filter(|image| !image.is_empty())
            .ok_or("its KERNEL_BUNDLE lies outside of the file")?;
        Ok(Self {
            image: image.to_vec(),
        })
    }

    /// The kernel as an ELF file that QEMU's `-kernel` boots.
    #[must_use]
    pub fn to_pvh_elf(&self) -> Vec<u8> {
        const HEADERS: usize = 64 + 2 * 56;
        const NOTE: usize = 20;
        const IMAGE: usize = 4096;
        let size = self.image.len() as u64;
        let mut elf = Vec::with_capacity(IMAGE + self.image.len());
        let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
        // ELF header: 64 bit, little endian, executable, x86-64.
        put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(&2_u16.to_le_bytes());
        put(&62_u16.to_le_bytes());
        put(&1_u32.to_le_bytes());
        for word in [LOAD_ADDRESS, 64, 0] {
            put(&word.to_le_bytes());
        }
        put(&0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 64, 0, 0] {
            put(&half.to_le_bytes());
        }
        // PT_LOAD, readable, writable and executable: type, flags, offset, two addresses, two sizes, alignment.
        put(&1_u32.to_le_bytes());
        put(&7_u32.to_le_bytes());
        for word in [IMAGE as u64, LOAD_ADDRESS, LOAD_ADDRESS, size, size + BSS, 4096] {
            put(&word.to_le_bytes());
        }
        // PT_NOTE.
        put(&4_u32.to_le_bytes());
        put(&4_u32.to_le_bytes());
        for word in [HEADERS as u64, 0, 0, NOTE as u64, NOTE as u64, 4] {
            put(&word.to_le_bytes());
        }
        // The note: lengths of name and value, type, name, 32-bit entry point.
        for word in [4_u32, 4, PVH_ENTRY_NOTE] {
            put(&word.to_le_bytes());
        }
        put(b"Xen\0");
        put(&u32::try_from(LOAD_ADDRESS).unwrap_or_default().to_le_bytes());
        elf.resize(IMAGE, 0);
        elf.extend_from_slice(&self.image);
        elf
    }
}

#[cfg(test)]
mod tests {
    use object::read::elf::ProgramHeader;

    use super::*;

    #[test]
    fn what_qemu_gets_is_an_elf_file_with_a_pvh_note() {
        let kernel = GuestKernel {
            image: b"a kernel".to_vec(),
        };
        let elf = kernel.to_pvh_elf();
        let read = ElfFile64::<object::Endianness>::parse(&*elf).unwrap();
        assert_eq!(read.entry(), LOAD_ADDRESS);
        let [load, note] = read.elf_program_headers() else {
            panic!("two segments")
        };
        let endian = object::Endianness::Little;
        assert_eq!(load.data(endian, &*elf).unwrap(), b"a kernel");
        assert_eq!(load.p_paddr(endian), LOAD_ADDRESS);
        let mut notes = note.notes(endian, &*elf).unwrap().unwrap();
        let note = notes.next().unwrap().unwrap();
        assert_eq!(note.name(), b"Xen");
        assert_eq!(note.n_type(endian), PVH_ENTRY_NOTE);
        assert_eq!(note.desc(), 0x100_0000_u32.to_le_bytes());
    }

    #[test]
    fn what_is_no_libkrunfw_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libkrunfw.so");
        assert!(matches!(
            GuestKernel::from_libkrunfw(&path),
            Err(KernelError::Read { .. })
        ));
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(
            GuestKernel::from_libkrunfw(&path),
            Err(KernelError::NotLibkrunfw { .. })
        ));
        let other = GuestKernel::from_libkrunfw("/proc/self/exe".as_ref());
        assert!(
            matches!(
                other,
                Err(KernelError::TooLong { .. } | KernelError::NotLibkrunfw { .. })
            ),
            "{other:?}"
        );
    }
}
