//! Options of bind mounts that only runtimes of this project know.

use std::path::Path;

/// What the option begins with.
const SUB_PATH: &str = "x-magikrun.sub-path=";

/// The option that has a bind mount show what is at this path below its source, in place of the
/// source itself. It is looked up when the container is made, leads nowhere out of the source, and
/// is made a directory where there is nothing.
///
/// ```
/// use magik_oci::mounts::{sub_path, sub_path_option};
/// let option = sub_path_option("logs/web".as_ref()).unwrap();
/// assert_eq!(sub_path(&option), Some("logs/web".as_ref()));
/// assert_eq!(sub_path("ro"), None);
/// ```
#[must_use]
pub fn sub_path_option(path: &Path) -> Option<String> {
    Some(format!("{SUB_PATH}{}", path.to_str()?))
}

/// The path in such an option.
#[must_use]
pub fn sub_path(option: &str) -> Option<&Path> {
    option.strip_prefix(SUB_PATH).map(Path::new)
}
