//! The file that asks to let go of the driver, and the one that says that it was let go of.
//!
//! A driver cannot be unloaded, a device not be given away and MIG not be changed while a library is attached to
//! it. Both files are shared with the commands `release` and `resume`.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weighbridge_meter::UtcMillis;

use crate::clock::Clock;

/// Whether somebody asked to let go.
pub(super) struct Release {
    file: Option<PathBuf>,
    /// Of a running agent. Without one, as in a check, the time in the file does not end it, and nothing is told.
    clock: Option<Arc<dyn Clock>>,
    /// What was told last.
    told: Option<bool>,
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Release").field(&self.file).finish()
    }
}

impl Release {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, clock: None, told: None }
    }

    pub(super) fn answer(&mut self, clock: Arc<dyn Clock>) {
        self.clock = Some(clock);
    }

    /// The file, if it counts now.
    pub(super) fn asked(&self) -> Option<&Path> {
        let file = self.file.as_deref()?;
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // It is there: whoever put it wants the driver to be free.
            Err(_) => return Some(file),
        };
        let now = self.clock.as_ref().map(|clock| clock.now().wall);
        counts(&text, now).then_some(file)
    }

    /// Says that everything was let go of, or that it is not, where that is news.
    pub(super) fn tell(&mut self, released: bool) {
        if self.clock.is_none() || self.told.replace(released) == Some(released) {
            return;
        }
        let Some(done) = self.file.as_deref().map(done_file) else { return };
        let told = match released {
            true => fs::write(&done, ""),
            false => fs::remove_file(&done),
        };
        match told {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %done.display(), %error, "cannot say whether the driver was let go of");
            }
            _ => {}
        }
    }
}

/// What is there beside the release file while everything is let go of.
pub fn done_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".done");
    name.into()
}

/// Whether a release file with this text counts: until the time in it, if there is one.
fn counts(text: &str, now: Option<UtcMillis>) -> bool {
    match (text.trim().parse::<UtcMillis>(), now) {
        (Ok(until), Some(now)) => now < until,
        // No time, none that can be read, or nobody to say what time it is: until it is taken away.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_file_counts_until_the_time_in_it_and_else_for_as_long_as_it_is_there() {
        let noon = UtcMillis(1_769_860_800_000);
        for (text, now, expected) in [
            ("2026-01-31T12:00:00.001Z\n", Some(noon), true),
            ("2026-01-31T12:00:00Z", Some(noon), false),
            ("2026-01-31T14:00:00+02:00", Some(noon), false),
            ("2026-01-31T11:00:00Z", None, true),
            ("", Some(noon), true),
            ("maintenance, ask Jo", Some(noon), true),
        ] {
            assert_eq!(counts(text, now), expected, "{text:?}");
        }
    }
}
