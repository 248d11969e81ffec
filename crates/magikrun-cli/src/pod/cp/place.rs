//! What is copied, and where to, as the command line has it.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `POD:PATH`.
    Pod(InPod),
    /// A file or directory here.
    Host(PathBuf),
    /// `-`: a tar archive on standard input or output.
    Stream,
}

/// A path in a container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InPod {
    /// As `pod exec` takes it.
    pub(crate) pod: String,
    /// Absolute.
    pub(crate) path: String,
}

/// What a path means: a name in a directory, or all that is in a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    pub(super) dir: &'a str,
    /// Absent: the path ends with `/.`, or is the root.
    pub(super) name: Option<&'a str>,
}

impl Place {
    /// As docker has it: what begins with `/` or `.` is a path here, whatever colons it has.
    pub(super) fn parse(text: OsString) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err("give a path, POD:PATH or -".to_owned());
        }
        let pod = bytes
            .iter()
            .position(|b| *b == b':')
            .map(|colon| &bytes[..colon])
            .filter(|pod| is_pod(pod));
        let Some(pod) = pod else {
            return Ok(Self::Host(text.into()));
        };
        let length = pod.len();
        let mut text = String::from_utf8(text.into_vec())
            .map_err(|_| "paths in a container are given in UTF-8".to_owned())?;
        let path = text.split_off(length + 1);
        text.truncate(length);
        match path.as_str() {
            "" => Err(format!("give a path after the colon: {text}:PATH")),
            path if path.contains('\0') => Err("a path has no NUL".to_owned()),
            // As docker and podman have it.
            path => Ok(Self::Pod(InPod {
                path: format!("{}{path}", if path.starts_with('/') { "" } else { "/" }),
                pod: text,
            })),
        }
    }
}

/// Whether it may be the name of a pod, with its namespace or without.
fn is_pod(text: &[u8]) -> bool {
    let is_name = |name: &[u8]| {
        let first = name.first().is_some_and(u8::is_ascii_alphanumeric);
        first
            && name
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(b))
    };
    let mut names = text.split(|b| *b == b'/');
    names.next().is_some_and(is_name) && names.next().is_none_or(is_name) && names.next().is_none()
}

impl InPod {
    pub(super) fn split(&self) -> Split<'_> {
        let path = self.path.trim_end_matches('/');
        match path.rsplit_once('/') {
            None => Split { dir: "/", name: None },
            Some((_, "." | "..")) => Split {
                dir: path,
                name: None,
            },
            Some(("", name)) => Split {
                dir: "/",
                name: Some(name),
            },
            Some((dir, name)) => Split {
                dir,
                name: Some(name),
            },
        }
    }
}

impl std::fmt::Display for InPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.pod, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pod: &str, path: &str) -> Result<Place, String> {
        let (pod, path) = (pod.to_owned(), path.to_owned());
        Ok(Place::Pod(InPod { pod, path }))
    }

    #[test]
    fn a_place_is_a_pods_where_a_pods_name_is_before_the_colon() {
        for (text, place) in [
            ("-", Ok(Place::Stream)),
            ("web:/etc/hosts", pod("web", "/etc/hosts")),
            ("web:etc", pod("web", "/etc")),
            ("shop/web:/a:b", pod("shop/web", "/a:b")),
            ("file", Ok(Place::Host("file".into()))),
            ("./web:/x", Ok(Place::Host("./web:/x".into()))),
            ("/a:b", Ok(Place::Host("/a:b".into()))),
            ("a/b/c:d", Ok(Place::Host("a/b/c:d".into()))),
            (":x", Ok(Place::Host(":x".into()))),
            ("a b:x", Ok(Place::Host("a b:x".into()))),
        ] {
            assert_eq!(Place::parse(text.into()), place, "{text}");
        }
        assert!(Place::parse("web:".into()).unwrap_err().contains("web:PATH"));
        assert!(Place::parse("".into()).is_err());
        let not_utf8 = OsString::from_vec(b"web:/\xff".to_vec());
        assert!(Place::parse(not_utf8).is_err());
    }

    #[test]
    fn a_path_is_a_name_in_a_directory_or_what_is_in_one() {
        for (path, dir, name) in [
            ("/etc/hosts", "/etc", Some("hosts")),
            ("/etc/", "/", Some("etc")),
            ("/", "/", None),
            ("/etc/.", "/etc/.", None),
            ("/etc/..", "/etc/..", None),
            ("/-rf", "/", Some("-rf")),
        ] {
            let path = InPod {
                pod: "web".to_owned(),
                path: path.to_owned(),
            };
            assert_eq!(path.split(), Split { dir, name }, "{path}");
        }
    }
}
