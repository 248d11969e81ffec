//! Giving memory back once the pod runs.
//!
//! Starting containers touches most of the init's code and leaves holes in its heap; after that it mostly sleeps. There is
//! one init per pod, so what it maps counts.

#[allow(
    unsafe_code,
    reason = "neither std nor rustix can trim the heap or list the program's segments"
)]
/// Gives back what this process does not need while it sleeps.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: the callback only reads what it is given and calls madvise on the program's own segments.
    unsafe { libc::dl_iterate_phdr(Some(drop_segments), std::ptr::null_mut()) };
}

/// Unmaps the pages of the program's read-only segments; they are the file's, in the page cache, and come back when they
/// are used, as they would after the kernel had reclaimed them.
#[allow(unsafe_code, reason = "the C library's interface")]
unsafe extern "C" fn drop_segments(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library passes a valid structure, whose headers are an array of the length it says.
    let (info, headers) = unsafe {
        let info = &*info;
        (
            info,
            std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)),
        )
    };
    let page = rustix::param::page_size() as u64;
    for header in headers {
        // What is writable, or was before relocation, has pages that exist nowhere else.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (start, end) = (
            info.dlpi_addr + header.p_vaddr,
            info.dlpi_addr + header.p_vaddr + header.p_memsz,
        );
        let (start, end) = (start.next_multiple_of(page), end / page * page);
        let (Ok(at), Ok(length)) = (usize::try_from(start), usize::try_from(end.saturating_sub(start)))
        else {
            continue;
        };
        // SAFETY: whole pages of a private, unmodified mapping of a file: dropping them changes nothing but memory use.
        unsafe { libc::madvise(at as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    // The first object is the program; libraries are shared with every other process anyway.
    1
}

#[cfg(test)]
mod tests {
    use super::trim;

    #[test]
    fn the_program_goes_on_after_its_code_was_dropped() {
        let text: String = (0..1000).map(|n| n.to_string()).collect();
        trim();
        assert_eq!(text.len(), 2890);
        // Unwinding, which tests do and release builds do not, reads tables of the program.
        let panicked = std::thread::spawn(|| panic!("after the program's code was dropped")).join();
        assert!(panicked.is_err());
    }
}
