//! A text is no reference, or one that is written as it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use magik_image::{ImageSource, Reference, platform::Platform};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let written = reference.to_string();
        assert_eq!(written.parse::<Reference>().as_ref(), Ok(&reference), "{written}");
        assert!(!written.contains(|c: char| c.is_whitespace() || c.is_control()), "{written:?}");
    }
    let _ = text.parse::<ImageSource>();
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse().as_ref(), Ok(&platform));
    }
});
